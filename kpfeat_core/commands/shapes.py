"""`kpfeat shapes`: draw Synthetic Shapes, to train with or to look at."""

from pathlib import Path
import time
from typing import Annotated, Any, Optional

import typer

from .common import configured, examples, track
from ..config import make_config
from ..data.config import check_split, PRIMITIVES, ShapesConfig, SPLITS
from ..errors import ConfigError

EPILOG = examples(
    'kpfeat shapes --out shapes/',
    'kpfeat shapes --out shapes/ --train-images 1000 --split train --split val --workers -1',
    'kpfeat shapes --sheet shapes.png',
    'The same command goes on with a run that was stopped. As published, 10000 training images of '
    'each primitive take 1.7 GB.',
)


@configured(shapes=ShapesConfig)
def shapes(
    out: Annotated[
        Optional[Path],  # noqa: UP045 - typer 0.9
        typer.Option('--out', '-o', help='Folder for the images and labels.', show_default=False),
    ] = None,
    split: Annotated[
        list[str], typer.Option('--split', help='Split to draw; may be repeated.')
    ] = list(SPLITS),  # noqa: B006 - typer copies it
    workers: Annotated[int, typer.Option(help='Processes; -1 takes all cores.')] = 1,
    sheet: Annotated[
        Optional[Path],  # noqa: UP045 - typer 0.9
        typer.Option(help='Picture of the first images with their labels.', show_default=False),
    ] = None,
    columns: Annotated[int, typer.Option(min=1, help='Images of each primitive in it.')] = 6,
    *,
    shapes: dict[str, Any],
) -> None:
    """
    Draw Synthetic Shapes: nine primitives with exact corners, to train a detector from nothing.

    Each split becomes <split>.npy, images (K, H, W) uint8, and <split>.safetensors, keypoints and
    their counts, x and y in pixels. The images depend on the options alone, not on the workers.
    """
    from ..data.synthetic_shapes import draw_sheet, write_shapes
    from ..image import write_image

    if out is None and sheet is None:
        raise ConfigError('there is nothing to do; give a folder with --out, or --sheet FILE')
    config = make_config(ShapesConfig, shapes)
    config.check()
    for name in split:
        check_split(name)
    if sheet is not None:
        write_image(sheet, draw_sheet(config, split[0], columns))
        typer.echo(f'{columns} images of each primitive, drawn in {sheet}')
    if out is None:
        return
    for name in split:
        start = time.perf_counter()
        fresh = write_shapes(out, name, config, workers, track)
        seconds = f'{time.perf_counter() - start:.1f} s' if fresh else 'was there already'
        count = config.count(name) * len(PRIMITIVES)
        typer.echo(f'{name}: {count} images, {seconds}, in {out}')
