"""A folder of photographs, decoded once and kept as one tensor on the training device."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
import csv
from dataclasses import dataclass, replace
from functools import partial
import hashlib
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, ImageError
from ..image import read_image, scaled_size

THREADS, READ_AHEAD = 4, 16  # photographs decoded at a time, and waiting to be kept
Row = TypeVar('Row')
Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]


def no_progress(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    """Stand for what shows how far a reader of `total` items is."""
    return items


@dataclass(frozen=True)
class ImageBank:
    """
    Photographs of different sizes in one array, at full and at half resolution.

    levels: (K, 3, S, S) and (K, 3, S/2, S/2) uint8 RGB, each image in the top left corner;
    sizes (K, 2): width and height in pixels of level 0; probabilities (K,): how often each is
    drawn; names: file names, for reports; left_out: files that could not be used.
    """

    levels: tuple[Tensor, Tensor]
    sizes: Tensor
    probabilities: Tensor
    names: tuple[str, ...]
    left_out: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.sizes)

    def to(self, device: torch.device | str) -> 'ImageBank':
        """Move all photographs to a device."""
        return replace(
            self,
            levels=tuple(level.to(device) for level in self.levels),
            sizes=self.sizes.to(device),
            probabilities=self.probabilities.to(device),
        )


def split_images(paths: Sequence[Path], share: float) -> tuple[list[Path], list[Path]]:
    """
    Split into training and validation images by a hash of the name: the same on every run.

    One photograph is for validation at least. Files named `<photo>_q0` to `_q3` (quarters of one
    photograph) stay together with it.
    """

    def number(path: Path) -> int:
        stem = path.stem
        group = stem[:-3] if stem[-3:-1] == '_q' else stem
        return int.from_bytes(hashlib.sha256(group.encode()).digest()[:4], 'big')

    limit = max(share * 2**32, min(map(number, paths)) + 1)
    validation = [path for path in paths if number(path) < limit]
    return [path for path in paths if number(path) >= limit], validation


def read_kinds(folder: Path | str) -> dict[str, str]:
    """
    Return the kinds that the manifest of a folder gives to files, for `find_row`.

    Returns {} if there is none, or one of other columns, which then is not about kinds.
    """
    rows = read_manifest(folder)
    return {file: row['kind'] or '' for file, row in rows.items() if 'kind' in row}


def read_manifest(folder: Path | str) -> dict[str, dict[str, str]]:
    """
    Return the rows of `manifest.csv` in or above the folder by their column file.

    Returns {} if there is none, or one without that column.
    """
    for place in (Path(folder), Path(folder).parent):
        if (place / 'manifest.csv').is_file():
            text = (place / 'manifest.csv').read_text(encoding='utf-8', errors='replace')
            return {row['file']: row for row in csv.DictReader(text.splitlines()) if 'file' in row}
    return {}


def find_row(path: Path, rows: Mapping[str, Row]) -> Row | None:
    """Return the row that names a file, with some of the folders it is in rather than without."""
    names = ('/'.join(path.parts[start:]) for start in range(len(path.parts)))
    return next((rows[name] for name in names if name in rows), None)


def load_bank(
    paths: Sequence[Path],
    side: int = 480,
    kinds: Mapping[str, str] | None = None,
    kind_weights: Mapping[str, float] | None = None,
    progress: Progress = no_progress,
) -> ImageBank:
    """
    Decode photographs into memory, shrunk (never enlarged) to a long side of `side` pixels.

    Images that cannot be read, and tiny ones, are left out. Raises DataError if none is left, or
    none that may be drawn.
    """
    levels = tuple(
        torch.zeros(len(paths), 3, length, length, dtype=torch.uint8)
        for length in (side, side // 2)
    )
    sizes, kept, left_out = [], [], []

    read = _read_shrunk(paths, side)
    for path, image in progress(read, len(paths), 'reading photographs'):
        if image is None or min(image.shape[:2]) < 32:
            left_out.append(path)
            continue
        height, width = image.shape[:2]
        # an odd last row or column is left out, so that the ratio is exactly two
        even = image[: height // 2 * 2, : width // 2 * 2]
        small = cv2.resize(even, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        for level, pixels in zip(levels, (image, small), strict=True):
            view = level[len(kept), :, : pixels.shape[0], : pixels.shape[1]]
            view.copy_(torch.from_numpy(pixels).permute(2, 0, 1))
        sizes.append((width, height))
        kept.append(path)
    if not kept:
        raise DataError(f'none of {len(paths)} images could be read')
    weights = [(kind_weights or {}).get(find_row(p, kinds or {}) or '', 1.0) for p in kept]
    probabilities = torch.tensor(weights, dtype=torch.float32)
    if not probabilities.any():
        raise DataError(f'all {len(kept)} images have weight 0; expected one kind that has more')
    return ImageBank(
        tuple(level[: len(kept)] for level in levels),
        torch.tensor(sizes, dtype=torch.float32),
        probabilities / probabilities.sum(),
        tuple(path.name for path in kept),
        tuple(left_out),
    )


def read_small(path: Path, side: int) -> np.ndarray | None:
    """Read a picture with a long side of at most `side` pixels; None for a damaged one."""
    try:
        image = read_image(path)
    except ImageError:
        return None
    height, width = image.shape[:2]
    size = scaled_size(height, width, min(side, max(height, width)))
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def _read_shrunk(paths: Sequence[Path], side: int) -> Iterator[tuple[Path, np.ndarray | None]]:
    """Decode photographs in threads, a few ahead, as large as they are kept; None if broken."""
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(paths), READ_AHEAD):
            chosen = paths[start : start + READ_AHEAD]
            yield from zip(chosen, pool.map(partial(read_small, side=side), chosen), strict=True)
