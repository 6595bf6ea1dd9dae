"""Feature files, and writing any file so that nobody ever sees half of it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
import os
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError

# Detection noise in pixels that hloc's triangulation reads beside the keypoints.
KEYPOINT_UNCERTAINTY_PX = 1.0


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """
    Give a temporary path beside `path` that takes its place when the block ends well.

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
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read features from '{path}': {error}") from error


class HlocWriter:
    """
    Write features of many images to one HDF5 file in hloc's layout.

    One group per image name with keypoints (N, 2), descriptors (D, N), scores (N,), image_size
    (2,), and scales or orientations (N,) where there are any. Use as a context manager: the file
    appears under its name when the block ends well.
    """

    def __init__(self, path: Path | str) -> None:
        try:
            import h5py
        except ImportError:
            raise DataError(
                'the h5 format needs h5py, which is not installed; pip install h5py, or use the '
                'npz format'
            ) from None
        self._replacing = replacing(path)
        self._file: Any = h5py.File(self._replacing.__enter__(), 'w')

    def __enter__(self) -> 'HlocWriter':
        return self

    def __exit__(self, *error: Any) -> bool | None:
        self._file.close()
        return self._replacing.__exit__(*error)

    def add(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Add the arrays of `Features.numpy` under an image name such as 'query/night/1.jpg'."""
        group = self._file.create_group(name)
        group['keypoints'] = arrays['keypoints']
        group['keypoints'].attrs['uncertainty'] = KEYPOINT_UNCERTAINTY_PX
        group['descriptors'] = arrays['descriptors'].T
        group['scores'] = arrays['keypoint_scores']
        group['image_size'] = arrays['image_size']
        for extra in ('scales', 'orientations'):
            if extra in arrays:
                group[extra] = arrays[extra]
