"""`kpfeat adapt`: pseudo-labels for a folder of photographs."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import fields
import os
from pathlib import Path
import time
from typing import Annotated, Any, TypeVar

import typer

from .common import (
    configured,
    DeviceOption,
    end_images,
    examples,
    load_extractor,
    ModelOption,
    tell,
    track,
    WeightsOption,
)
from ..config import DEFAULT_MODEL, make_config, parse_options
from ..data.config import AdaptConfig, AffineConfig, homography_config, PatchConfig
from ..errors import DataError

T = TypeVar('T')

TELL_EVERY_S = 60  # where no progress bar can be drawn

EPILOG = examples(
    'kpfeat adapt photos/ --model alike-t --out labels/',
    'kpfeat adapt photos/ --model magicpoint --weights round0.safetensors --out labels1/',
    'kpfeat adapt photos/ --model magicpoint --weights round1.safetensors --out labels2/',
    'kpfeat adapt photographs.zip --model alike-t --out labels/',
    'kpfeat adapt photos/ --num 50 --height 240 --width 320 --out labels/ --device cuda',
    'kpfeat adapt photos/ --set max_angle_deg=45 --set patch_ratio=0.7 --out labels/',
    'The same command goes on with a run that was stopped. Each further round takes the detector '
    'that was trained with the labels of the round before.',
    'Exit code 0: all images done; 2: nothing was written; 3: some images were skipped.',
)


@configured(adaptation=AdaptConfig)
def adapt(
    images: Annotated[
        list[str],
        typer.Argument(help='Image files, folders (with subfolders), a .zip of one, or patterns.'),
    ],
    out: Annotated[Path, typer.Option('--out', '-o', help='Folder for the labels.')],
    model: ModelOption = DEFAULT_MODEL,
    weights: WeightsOption = '',
    device: DeviceOption = 'cpu',
    settings: Annotated[
        list[str],
        typer.Option(
            '--set',
            metavar='KEY=VALUE',
            help='Any option of the adaptation, of its homographies, or of the model.',
            show_default=False,
        ),
    ] = [],  # noqa: B006 - typer copies it
    *,
    adaptation: dict[str, Any],
) -> None:
    """
    Label photographs with the keypoints that a detector finds in many views of each.

    Homographic adaptation: labels to train another detector with, or a better one of the same
    kind. One .npz for each image holds keypoints (N, 2), x and y in pixels of the photograph,
    keypoint_scores (N,), image_size (2,) and work_size (2,); index.json holds what they were made
    with. Images that have labels there keep them; images that cannot be read are named and
    skipped.
    """
    from ..adaptation import make_labels
    from ..io import expand_images, unpacked
    from ..weights.files import find_weights, sha256

    for_labels, for_views, rest = _sort_settings(settings)
    config = make_config(AdaptConfig, {**adaptation, **for_labels})
    homographies = homography_config(config.homographies, for_views)
    digest = sha256(find_weights(model, weights))
    start, done = time.perf_counter(), []
    with ExitStack() as stack:
        words = [str(stack.enter_context(unpacked(word))) for word in images]
        found = expand_images(words, by_stem=True)
        extractor = load_extractor(model, weights, device, {}, rest)
        labels = make_labels(extractor, found, out, config, homographies, digest)
        for item in _report(labels, len(found)):
            done.append(item)
            if item.problem and len(found) > 1:
                tell(f'skipped: {item.problem}')
    problems = [item.problem for item in done if item.problem]
    if len(problems) == len(done):
        raise DataError(f'no image could be used: {problems[0]}')
    keypoints, kept = sum(item.keypoints for item in done), sum(item.kept for item in done)
    end_images(len(done), len(problems), keypoints, start, f'labels in {out}', kept)


def _sort_settings(words: list[str]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Split options into those of the labels, of the homographies and of the model."""

    def of(*classes: type) -> list[str]:
        names = {f.name for cls in classes for f in fields(cls)}
        return [word for word in words if word.partition('=')[0] in names]

    labels, views = of(AdaptConfig), of(PatchConfig, AffineConfig)
    rest = [word for word in words if word not in (*labels, *views)]
    return (
        parse_options(labels, AdaptConfig),
        parse_options(views, PatchConfig, AffineConfig),
        rest,
    )


def _report(items: Iterable[T], total: int) -> Iterator[T]:
    """Iterate with a progress bar, or with a line a minute where there is no terminal."""
    start = last = time.monotonic()
    for count, item in enumerate(track(items, total, 'adapting'), 1):
        yield item
        now = time.monotonic()
        if now - last > TELL_EVERY_S and not os.isatty(2):
            minutes = (now - start) / count * (total - count) / 60
            tell(f'{count} of {total} images, about {minutes:.0f} minutes left')
            last = now
