"""`kpfeat extract` and `kpfeat match`: features of images to files, matches of two images."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import enum
from pathlib import Path
import time
from typing import Annotated, Any, Optional, TYPE_CHECKING

import typer

from .common import (
    configured,
    DeviceOption,
    end_images,
    examples,
    load_extractor,
    ModelOption,
    PathOrNone,
    SetOption,
    tell,
    track,
    WeightsOption,
)
from ..config import DEFAULT_MODEL, ExtractorConfig, MatcherConfig
from ..errors import DataError, ImageError

if TYPE_CHECKING:
    from ..io import NamedImage
    from ..matching import PairMatches

EXTRACT_EPILOG = examples(
    'kpfeat extract photo.jpg --out features/',
    'kpfeat extract drive/ --model alike-n --max-keypoints 2048 --out features/',
    "kpfeat extract 'drive/**/*.png' --out features/ --device auto",
    'kpfeat extract images/ --out features.h5',
    'Exit code 0: all images done; 2: nothing was written; 3: some images were skipped.',
)
MATCH_EPILOG = examples(
    'kpfeat match a.jpg b.jpg --out matches.png',
    'kpfeat match a.jpg b.jpg --geometry fundamental --ransac-threshold-px 1',
    'kpfeat match a.jpg b.jpg --ratio-threshold 0.9 --max-keypoints 2048 --out matches.png',
    'In the picture green lines agree with the geometry and red ones do not.',
)
FLAGS = {'max_num_keypoints': '--max-keypoints'}
HLOC_ENDINGS = ('.h5', '.hdf5')


class ArrayFormat(str, enum.Enum):
    """How features are stored."""

    npz = 'npz'
    h5 = 'h5'


@configured(FLAGS, extraction=ExtractorConfig)
def extract(
    images: Annotated[
        list[str], typer.Argument(help='Image files, folders (with subfolders) or patterns.')
    ],
    out: Annotated[
        Path, typer.Option('--out', '-o', help='Folder for the files, or the .h5 file to write.')
    ],
    model: ModelOption = DEFAULT_MODEL,
    weights: WeightsOption = '',
    format: Annotated[
        Optional[ArrayFormat],  # noqa: UP045 - typer 0.9, which Ubuntu 24.04 has, knows no `|`
        typer.Option(
            '--format',
            help='npz: <stem>.npz for each image; h5: one file in the layout of hloc; by default '
            'the one of the ending of --out, else npz.',
        ),
    ] = None,
    device: DeviceOption = 'cpu',
    settings: SetOption = [],  # noqa: B006 - typer copies it
    *,
    extraction: dict[str, Any],
) -> None:
    """
    Extract keypoints and descriptors of images.

    An .npz file holds keypoints (N, 2), keypoint_scores (N,), descriptors (N, D) and image_size
    (2,). Keypoints are x, y in pixels; the centre of the top-left pixel is (0, 0). Photographs are
    turned by their EXIF data; not for h5, as hloc and COLMAP take pixels as they are stored.
    Images that cannot be read are named and skipped. Files that exist are replaced.
    """
    from ..io import expand_images

    chosen = _format_of(out) if format is None else format
    found = expand_images(images, by_stem=chosen is ArrayFormat.npz)
    extractor = load_extractor(model, weights, device, extraction, settings)
    start, keypoints, problems = time.perf_counter(), 0, []
    with _writer(out, chosen) as write:
        for item in track(found, len(found), 'extracting'):
            try:
                keypoints += _extract_one(extractor, item, chosen, write)
            except (ImageError, DataError) as error:
                problems.append(error)
                if len(found) > 1:
                    tell(f'skipped: {error}')
        if len(problems) == len(found):
            raise DataError(f'no image could be used: {problems[0]}')
    end_images(len(found), len(problems), keypoints, start, f'written to {out}')


def _format_of(out: Path) -> ArrayFormat:
    """Return the format of the ending of --out; raises DataError."""
    if out.suffix == '.npz':
        raise DataError(
            f"--out is '{out}'; expected a folder, which gets one .npz file for each image, or a "
            '.h5 file'
        )
    return ArrayFormat.h5 if out.suffix in HLOC_ENDINGS else ArrayFormat.npz


def _extract_one(
    extractor: Any, item: 'NamedImage', kind: ArrayFormat, write: Callable[..., None]
) -> int:
    from ..image import read_image

    try:
        image = read_image(item.path, upright=kind is not ArrayFormat.h5, all_bits=True)
        arrays = extractor.extract(image).numpy()
    except ImageError as error:
        named = str(error) if str(item.path) in str(error) else f"'{item.path}': {error}"
        raise ImageError(named) from error
    write(item.name, arrays)
    return len(arrays['keypoints'])


@contextmanager
def _writer(out: Path, kind: ArrayFormat) -> Iterator[Callable[..., None]]:
    """Yield a function that stores the arrays of one image."""
    from ..io import hloc_file, write_npz

    if kind is ArrayFormat.npz:
        _check_folder(out)
        yield lambda name, arrays: write_npz(out / name.with_suffix('.npz'), arrays)
        return
    path = out if out.suffix in HLOC_ENDINGS else out / 'features.h5'
    _check_folder(path.parent)
    with hloc_file(path) as add:
        yield lambda name, arrays: add(name.as_posix(), arrays)


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise DataError(f"--out is '{folder}', which is a file; expected a folder")


@configured(FLAGS, matching=MatcherConfig, extraction=ExtractorConfig)
def match(
    image0: Annotated[Path, typer.Argument(metavar='A', help='First image.')],
    image1: Annotated[Path, typer.Argument(metavar='B', help='Second image.')],
    out: Annotated[
        PathOrNone, typer.Option('--out', '-o', help='Picture to write, such as matches.png.')
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
