"""`kpfeat match`: match two images, verify the matches, draw them."""

from pathlib import Path
from typing import Annotated, Any, Optional, TYPE_CHECKING

import typer

from .common import (
    configured,
    DeviceOption,
    examples,
    load_extractor,
    ModelOption,
    SetOption,
    WeightsOption,
)
from ..config import DEFAULT_MODEL, ExtractorConfig, MatcherConfig
from ..errors import ImageError

if TYPE_CHECKING:
    from ..matching import PairMatches

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
        Optional[Path],  # noqa: UP045 - typer 0.9, which Ubuntu 24.04 has, knows no `|`
        typer.Option('--out', '-o', help='Picture to write, such as matches.png.'),
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
    from ..factory import create_matcher
    from ..image import read_image
    from ..matching import match_pair

    if out is not None:
        _check_ending(out)
    matcher = create_matcher(**matching)
    images = [read_image(path, all_bits=True) for path in (image0, image1)]
    extractor = load_extractor(model, weights, device, extraction, settings)
    features0, features1 = (extractor.extract(image) for image in images)
    pair = match_pair(matcher, features0, features1)
    typer.echo(f'{image0}: {features0.count()} keypoints')
    typer.echo(f'{image1}: {features1.count()} keypoints')
    typer.echo(_summary(pair, matcher.config.ransac_threshold_px))
    if out is not None:
        _draw(out, images, pair)


def _check_ending(out: Path) -> None:
    import cv2

    if not (out.suffix and cv2.haveImageWriter(out.name)):
        raise ImageError(f"--out is '{out}', expected a picture name such as matches.png")


def _summary(pair: 'PairMatches', threshold_px: float) -> str:
    if pair.geometry == 'none':
        return f'{len(pair)} matches'
    inliers = int(pair.inliers.sum())
    share = f' ({100 * inliers / len(pair):.0f} %)' if len(pair) else ''
    kind = 'fundamental matrix' if pair.geometry == 'fundamental' else pair.geometry
    return f'{len(pair)} matches, {inliers} inliers{share} of a {kind} within {threshold_px:g} px'


def _draw(out: Path, images: list, pair: 'PairMatches') -> None:
    from ..image import write_image
    from ..io import replacing
    from ..visualize import draw_matches

    verified = None if pair.geometry == 'none' else pair.inliers
    points = (pair.keypoints0, pair.keypoints1)
    picture = draw_matches(*images, *points, correct=verified, scores=pair.scores)
    with replacing(out) as temporary:
        write_image(temporary, picture)
    typer.echo(f'wrote {out}')
