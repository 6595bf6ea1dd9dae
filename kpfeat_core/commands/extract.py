"""`kpfeat extract`: one features file for each image, or one hloc file for all."""

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
    examples,
    load_extractor,
    ModelOption,
    SetOption,
    SOME_FAILED,
    tell,
    track,
    WeightsOption,
)
from ..config import DEFAULT_MODEL, ExtractorConfig
from ..errors import DataError, ImageError

if TYPE_CHECKING:
    from ..io import NamedImage

EPILOG = examples(
    'kpfeat extract photo.jpg --out features/',
    'kpfeat extract drive/ --model alike-n --max-keypoints 2048 --out features/',
    "kpfeat extract 'drive/**/*.png' --out features/ --device auto",
    'kpfeat extract images/ --out features.h5',
    'Exit code 0: all images done; 2: nothing was written; 3: some images were skipped.',
)


HLOC_ENDINGS = ('.h5', '.hdf5')


class ArrayFormat(str, enum.Enum):
    """How features are stored."""

    npz = 'npz'
    h5 = 'h5'


@configured({'max_num_keypoints': '--max-keypoints'}, extraction=ExtractorConfig)
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

    format = _format_of(out) if format is None else format
    found = expand_images(images, by_stem=format is ArrayFormat.npz)
    extractor = load_extractor(model, weights, device, extraction, settings)
    start, keypoints, problems = time.perf_counter(), 0, []
    with _writer(out, format) as write:
        for item in track(found, len(found), 'extracting'):
            try:
                keypoints += _extract_one(extractor, item, format, write)
            except (ImageError, DataError) as error:
                problems.append(error)
                if len(found) > 1:
                    tell(f'skipped: {error}')
        if len(problems) == len(found):
            raise DataError(f'no image could be used: {problems[0]}')
    done, seconds = len(found) - len(problems), time.perf_counter() - start
    images_done = '1 image' if done == 1 else f'{done} images'
    typer.echo(f'{images_done}, {keypoints} keypoints, {seconds:.1f} s, written to {out}')
    if problems:
        tell(f'{len(problems)} of {len(found)} images were skipped')
        raise typer.Exit(SOME_FAILED)


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
