"""
How far keypoints lie beside what they mark, all to the same side.

    python benchmarks/position_bias.py PHOTOGRAPHS alike-t kp2d --out results/position_bias.jsonl

A detector may put every keypoint a little to the right of its corner. Between two upright views
that goes unseen, as both move. A photograph turned by half shows it: turned back, its keypoints
lie twice the offset away. `x` and `y` are the median offset over photographs in pixels, `spread`
the median distance of single photographs from it, `repeatability` the median share of keypoints
that are found again within 3 px in spite of it.
"""

import json
from pathlib import Path
from typing import Annotated, Optional

from common import provenance
import cv2
from kpfeat_core.errors import KpfeatError
from kpfeat_core.evaluation import find_photographs, parse_source
from kpfeat_core.evaluation.metrics import repeatability
from kpfeat_core.image import read_image
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
import torch
import typer

FARTHEST, BIN, BLUR = 10.0, 0.1, 0.5  # pixels, of twice the offset


def measure(extractor, path: Path) -> tuple[float, float, float]:
    """Return the offset (x, y) in pixels and the repeatability in one photograph."""
    image = read_image(path)
    height, width = image.shape[:2]
    points = extractor.extract(image).keypoints[0]
    turned = extractor.extract(np.ascontiguousarray(image[::-1, ::-1])).keypoints[0]
    half_turn = torch.tensor([[-1.0, 0, width - 1], [0, -1, height - 1], [0, 0, 1]])
    size = (width, height)
    share = repeatability(points, turned, half_turn, size, size).share
    x, y = most_common((points[:, None] + turned - half_turn[:2, 2]).flatten(0, 1).numpy())
    return x / 2, y / 2, share


def most_common(steps: np.ndarray) -> tuple[float, float]:
    """Return the most frequent of many displacements (K, 2), most of which mean nothing."""
    edges = np.arange(-FARTHEST, FARTHEST + BIN, BIN)
    counts = np.histogram2d(steps[:, 0], steps[:, 1], (edges, edges))[0]
    counts = cv2.GaussianBlur(counts, (0, 0), BLUR / BIN)
    i, j = np.unravel_index(counts.argmax(), counts.shape)
    return float(edges[i] + BIN / 2), float(edges[j] + BIN / 2)


def main(
    photographs: Annotated[Path, typer.Argument(help='folder')],
    models: Annotated[list[str], typer.Argument(help='as for `kpfeat evaluate`')],
    limit: Annotated[int, typer.Option(min=1, help='photographs')] = 20,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    out: Annotated[
        Optional[Path],  # noqa: UP045 - typer 0.9 knows no `|`
        typer.Option(help='append JSON lines to this file'),
    ] = None,
) -> None:
    """Measure the offset of every model."""
    torch.set_num_threads(threads)
    table = Table('model', 'x, px', 'y, px', 'spread, px', 'repeatability')
    try:
        paths = find_photographs(photographs)
        paths = paths[:: max(1, len(paths) // limit)][:limit]
        for text in models:
            source = parse_source(text, 'cpu', Path('.'))
            extractor = source.create(1024)
            rows = np.array([measure(extractor, path) for path in track(paths, source.label)])
            x, y, share = np.median(rows, 0)
            spread = float(np.median(np.hypot(rows[:, 0] - x, rows[:, 1] - y)))
            table.add_row(source.label, *(f'{value:.2f}' for value in (x, y, spread, share)))
            if out is not None:
                row = {'x': x, 'y': y, 'spread': spread, 'repeatability': share}
                told = {'benchmark': 'position_bias', 'model': source.label, 'images': len(paths)}
                with out.open('a', encoding='utf-8') as file:
                    file.write(json.dumps(told | row | provenance()) + '\n')
    except KpfeatError as error:
        raise SystemExit(f'position_bias.py: {error}') from error
    Console().print(table)


if __name__ == '__main__':
    typer.run(main)
