"""
Draw where a model fails: its worst synthetic pairs, for the model's card.

    python benchmarks/failure_pictures.py alike-t keynet --photographs FOLDER --out docs/pictures

writes alike-t-failures.jpg and keynet-failures.jpg: one pair of each kind of change, the one with
the smallest share of matches within 3 px; right matches are green, wrong ones red. The photographs
end up in the pictures: give such as may be shown.
"""

from functools import partial
from pathlib import Path
from typing import Annotated

import common  # noqa: F401 - finds the repository
import cv2
from kpfeat_core.errors import KpfeatError
from kpfeat_core.evaluation import evaluate, find_photographs, parse_source, SyntheticPairs
from kpfeat_core.evaluation.report import draw_examples
import numpy as np
from rich.progress import track
import torch
import typer

GAP = 6  # pixels between pairs


def main(
    models: Annotated[list[str], typer.Argument(help='as for `kpfeat evaluate`')],
    photographs: Annotated[Path, typer.Option(help='folder')],
    out: Annotated[Path, typer.Option(help='folder for the pictures')] = Path('.'),
    pairs: Annotated[int, typer.Option(min=4, help='to choose the worst from')] = 120,
    threads: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Draw the worst pairs of every model."""
    torch.set_num_threads(threads)
    try:
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
    except KpfeatError as error:
        raise SystemExit(f'failure_pictures.py: {error}') from error


def stack(pictures: list[np.ndarray]) -> np.ndarray:
    """Put pictures below each other, on white."""
    width = max(picture.shape[1] for picture in pictures)
    rows = [
        np.pad(p, ((0, GAP), (0, width - p.shape[1]), (0, 0)), constant_values=255)
        for p in pictures
    ]
    return np.concatenate(rows)


if __name__ == '__main__':
    typer.run(main)
