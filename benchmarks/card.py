"""
What the card of a model says beside its accuracy: where it fails, and where its keypoints lie.

    python benchmarks/card.py failures alike-t keynet --photographs FOLDER --out docs/pictures
    python benchmarks/card.py bias PHOTOGRAPHS alike-t kp2d --out results/position_bias.jsonl

`failures` writes alike-t-failures.jpg and keynet-failures.jpg: one synthetic pair of each kind of
change, the one with the smallest share of matches within 3 px; right matches are green, wrong ones
red. The photographs end up in the pictures: give such as may be shown.

`bias` measures how far keypoints lie beside what they mark, all to the same side. A detector may
put every keypoint a little to the right of its corner. Between two upright views that goes unseen,
as both move. A photograph turned by half shows it: turned back, its keypoints lie twice the offset
away. `x` and `y` are the median offset over photographs in pixels, `spread` the median distance of
single photographs from it, `repeatability` the median share of keypoints that are found again
within 3 px in spite of it.
"""

from functools import partial
import json
from pathlib import Path
import sys
from typing import Annotated

from common import provenance
import cv2
from kpfeat_core.errors import KpfeatError
from kpfeat_core.evaluation import evaluate, find_photographs, parse_source, SyntheticPairs
from kpfeat_core.evaluation.metrics import repeatability
from kpfeat_core.evaluation.report import draw_examples
from kpfeat_core.image import read_image
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
import torch
import typer

GAP = 6  # pixels between pairs
FARTHEST, BIN, BLUR = 10.0, 0.1, 0.5  # pixels, of twice the offset
ModelsArgument = Annotated[list[str], typer.Argument(help='as for `kpfeat evaluate`')]
app = typer.Typer(help=__doc__.strip().partition('\n')[0])


@app.command()
def failures(
    models: ModelsArgument,
    photographs: Annotated[Path, typer.Option(help='folder')],
    out: Annotated[Path, typer.Option(help='folder for the pictures')] = Path('.'),
    pairs: Annotated[int, typer.Option(min=4, help='to choose the worst from')] = 120,
    threads: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Draw the worst pairs of every model."""
    torch.set_num_threads(threads)
    known = SyntheticPairs(find_photographs(photographs), pairs)
    for text in models:
        source = parse_source(text, 'cpu', out)
        results = evaluate(source, known, progress=partial(track, total=pairs))
        worst = list(draw_examples(source, results, known, best=0, worst=len(known.levels)))
        picture = cv2.cvtColor(stack([w.picture for w in worst]), cv2.COLOR_RGB2BGR)
        out.mkdir(parents=True, exist_ok=True)
        path = out / f'{source.label}-failures.jpg'
        path.write_bytes(cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, 75])[1])
        for example in worst:
            numbers = {k: round(example.values[k], 3) for k in ('MMA@3', 'matches')}
            print(source.label, example.name, numbers)


def stack(pictures: list[np.ndarray]) -> np.ndarray:
    """Put pictures below each other, on white."""
    width = max(picture.shape[1] for picture in pictures)
    rows = [
        np.pad(p, ((0, GAP), (0, width - p.shape[1]), (0, 0)), constant_values=255)
        for p in pictures
    ]
    return np.concatenate(rows)


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


@app.command()
def bias(
    photographs: Annotated[Path, typer.Argument(help='folder')],
    models: ModelsArgument,
    limit: Annotated[int, typer.Option(min=1, help='photographs')] = 20,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    out: Annotated[Path | None, typer.Option(help='append JSON lines to this file')] = None,
) -> None:
    """Measure the offset of the keypoints of every model."""
    torch.set_num_threads(threads)
    table = Table('model', 'x, px', 'y, px', 'spread, px', 'repeatability')
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
    Console().print(table)


if __name__ == '__main__':
    try:
        app()
    except KpfeatError as error:
        sys.exit(f'card.py: {error}')
