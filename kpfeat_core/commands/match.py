"""`kpfeat match`: match two images, verify the matches, draw them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..config import DEFAULT_MODEL, ExtractorConfig, MatcherConfig
from ..errors import ImageError
from .common import (
    DeviceOption,
    ModelOption,
    SetOption,
    WeightsOption,
    configured,
    examples,
    load_extractor,
)

EPILOG = examples(
    'kpfeat match a.jpg b.jpg --out matches.png',
    'kpfeat match a.jpg b.jpg --geometry fundamental --ransac-threshold-px 1',
    'kpfeat match a.jpg b.jpg --ratio-threshold 0.9 --max-keypoints 2048 --out matches.png',
    'In the picture green lines agree with the geometry and red ones do not.',
)


@configured(
    {'max_num_keypoints': '--max-keypoints'}, matching=MatcherConfig, extraction=ExtractorConfig
)
def match(
    image0: Annotated[Path, typer.Argument(metavar='A', help='First image.')],
    image1: Annotated[Path, typer.Argument(metavar='B', help='Second image.')],
    out: Annotated[
        Path | None, typer.Option('--out', '-o', help='Picture to write, such as matches.png.')
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    weights: WeightsOption = '',
    device: DeviceOption = 'cpu',
    settings: SetOption = [],  # noqa: B006 - typer copies it
    *,
    matching: dict[str, Any],
    extraction: dict[str, Any],
) -> None:
    """Match two images, count the matches that agree with one geometry, and draw them."""
    from ..image import read_image
    from ..matchers import find_geometry
    from ..registry import create_matcher

    if out is not None:
        _check_ending(out)
    matcher = create_matcher(**matching)
    images = [read_image(image0), read_image(image1)]
    extractor = load_extractor(model, weights, device, extraction, settings)
    features0, features1 = (extractor.extract(image) for image in images)
    matches = matcher.match(features0, features1)
    pairs = matches.pairs().cpu().numpy()
    points0 = features0.numpy()['keypoints'][pairs[:, 0]]
    points1 = features1.numpy()['keypoints'][pairs[:, 1]]
    config = matcher.config
    _, inliers = find_geometry(points0, points1, config.geometry, config.ransac_threshold_px)
    typer.echo(f'{image0}: {features0.count()} keypoints')
    typer.echo(f'{image1}: {features1.count()} keypoints')
    typer.echo(_summary(len(pairs), int(inliers.sum()), config))
    if out is not None:
        verified = None if config.geometry == 'none' else inliers
        scores = matches.scores().cpu().numpy()
        _draw(out, images, points0, points1, verified, scores)


def _check_ending(out: Path) -> None:
    import cv2

    if not (out.suffix and cv2.haveImageWriter(out.name)):
        raise ImageError(f"--out is '{out}', expected a picture name such as matches.png")


def _summary(matches: int, inliers: int, config: MatcherConfig) -> str:
    if config.geometry == 'none':
        return f'{matches} matches'
    share = f' ({100 * inliers / matches:.0f} %)' if matches else ''
    return (
        f'{matches} matches, {inliers} inliers{share} of a {config.geometry} within '
        f'{config.ransac_threshold_px:g} px'
    )


def _draw(out: Path, images: list, points0: Any, points1: Any, verified: Any, scores: Any) -> None:
    from ..image import write_image
    from ..io import replacing
    from ..visualize import draw_matches

    picture = draw_matches(*images, points0, points1, correct=verified, scores=scores)
    with replacing(out) as temporary:
        write_image(temporary, picture)
    typer.echo(f'wrote {out}')
