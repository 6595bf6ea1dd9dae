"""Finding images by words, feature files, and files that are written whole or not at all."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
import glob
import os
from pathlib import Path
import tempfile
import zipfile
import zlib

import numpy as np

from .errors import DataError

# Detection noise in pixels that hloc's triangulation reads beside the keypoints.
KEYPOINT_UNCERTAINTY_PX = 1.0
ENDINGS = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.ppm', '.tif', '.tiff')
HIDDEN = '.'  # how names begin that are passed over


def walk(folder: Path) -> Iterator[tuple[Path, list[Path]]]:
    """
    Yield a folder and all below it with their folders, which may be removed from the list.

    Links are followed after all else, and each folder is visited once, by its own name where it
    has one here; links to a folder above are not followed. Hidden folders are passed over.
    """
    waiting, links, seen = deque([folder]), deque(), set()
    while waiting or links:
        current = waiting.popleft() if waiting else links.popleft()
        real = current.resolve()
        leads_up = current != folder and current.parent.resolve().is_relative_to(real)
        if real in seen or leads_up:
            continue
        seen.add(real)
        try:
            below = sorted(path for path in current.iterdir() if path.is_dir())
        except PermissionError as error:
            raise DataError(f"'{current}' cannot be read: {error.strerror}") from error
        below = [path for path in below if not path.name.startswith(HIDDEN)]
        yield current, below
        for path in below:
            (links if path.is_symlink() else waiting).append(path)


def find_images(folder: Path | str) -> list[Path]:
    """List the image files below a folder, sorted; raises DataError if there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"there is no folder '{folder}'; expected one with photographs")
    found = (path for below, _ in walk(folder) for path in below.iterdir())
    found = (path for path in found if path.suffix.lower() in ENDINGS and not path.is_dir())
    paths = sorted(path for path in found if not path.name.startswith(HIDDEN))
    if not paths:
        raise DataError(
            f"'{folder}' holds no images; expected files ending in {', '.join(ENDINGS)}"
        )
    return paths


@dataclass(frozen=True)
class NamedImage:
    """An image file, and the relative name under which its results are stored."""

    path: Path
    name: Path


def expand_images(words: Sequence[str], by_stem: bool = False) -> list[NamedImage]:
    """
    Find the images that files, folders and patterns such as 'drive/**/*.png' stand for.

    A file keeps its own name, a file in a folder its path below that folder. by_stem: names must
    also differ without their endings. Raises DataError if nothing is found, or for two images of
    one name.
    """
    taken: dict[Path, NamedImage] = {}
    for item in (item for word in words for item in _expand(word)):
        key = item.name.with_suffix('') if by_stem else item.name
        other = taken.setdefault(key, item)
        if other.path.resolve() != item.path.resolve():
            advice = 'give the folder above them instead, whose subfolders are kept'
            if other.path.parent.resolve() == item.path.parent.resolve():
                advice = 'rename one of them, write an .h5 file, whose names keep the endings'
            raise DataError(
                f"'{other.path}' and '{item.path}' would both be stored as '{key}'; {advice}, or "
                'make two runs'
            )
    return list(taken.values())


@contextmanager
def unpacked(path: Path | str) -> Iterator[Path]:
    """
    Yield a folder as it is, and a .zip file as a temporary folder with its content.

    Raises DataError for a .zip file that is damaged.
    """
    path = Path(path)
    if path.suffix.lower() != '.zip' or path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix='kpfeat-') as folder:
        try:
            with zipfile.ZipFile(path) as file:
                file.extractall(folder)
        except (zipfile.BadZipFile, EOFError, zlib.error) as error:
            raise DataError(f"'{path}' is not a complete .zip file: copy it again") from error
        yield Path(folder)


def _expand(word: str) -> list[NamedImage]:
    path = Path(word).expanduser()
    if path.is_dir():
        return [NamedImage(file, file.relative_to(path)) for file in find_images(path)]
    if path.exists():
        return [NamedImage(path, Path(path.name))]
    files = sorted(Path(file) for file in glob.glob(str(path), recursive=True))
    files = [file for file in files if file.is_file()]
    if not files:
        raise DataError(f"'{word}' is no file, no folder, and no pattern that matches a file")
    return [NamedImage(file, Path(file.name)) for file in files]


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """
    Yield a temporary path beside `path`, which replaces it when the block ends well.

    Folders are made where missing; after an error the old file, if any, is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.stem}.{os.getpid()}{path.suffix}')
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_npz(path: Path | str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the arrays of `Features.numpy` to one .npz file, all of it or nothing."""
    with replacing(path) as temporary:
        np.savez(temporary, **arrays)


def read_npz(path: Path | str) -> dict[str, np.ndarray]:
    """Read a file that `write_npz` wrote, for `Features.from_numpy`; raises DataError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = getattr(error, 'strerror', '') or 'it is cut off, damaged or no .npz file'
        raise DataError(f"cannot read features from '{path}': {reason}") from error


@contextmanager
def hloc_file(path: Path | str) -> Iterator[Callable[[str, Mapping[str, np.ndarray]], None]]:
    """
    Write features of many images to one HDF5 file in hloc's layout.

    One group per image name with keypoints (N, 2), descriptors (D, N), scores (N,), image_size
    (2,), and scales or orientations (N,) where there are any. Yields a function that adds the
    arrays of `Features.numpy` under a name such as 'query/night/1.jpg', and raises DataError for
    one that is not UTF-8. The file appears under its own name when the block ends well.
    """
    try:
        import h5py
    except ImportError:
        raise DataError(
            "the h5 format needs h5py, which is not installed; pip install 'kpfeat[h5]', or use "
            'the npz format'
        ) from None

    def add(name: str, arrays: Mapping[str, np.ndarray]) -> None:
        if any('\ud800' <= letter <= '\udfff' for letter in name):
            raise DataError(f'{name!a} cannot be a name in an HDF5 file; rename the image')
        group = file.create_group(name)
        group['keypoints'] = arrays['keypoints']
        group['keypoints'].attrs['uncertainty'] = KEYPOINT_UNCERTAINTY_PX
        group['descriptors'] = arrays['descriptors'].T
        group['scores'] = arrays['keypoint_scores']
        group['image_size'] = arrays['image_size']
        for extra in ('scales', 'orientations'):
            if extra in arrays:
                group[extra] = arrays[extra]

    with replacing(path) as temporary, h5py.File(temporary, 'w') as file:
        yield add
