"""A folder of photographs, decoded once and kept as one tensor on the training device."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
import csv
from dataclasses import dataclass
import hashlib
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from rich.progress import track
import torch
from torch import Tensor

from ..errors import DataError, ImageError
from ..image import read_image, scaled_size

Row = TypeVar('Row')


@dataclass(frozen=True)
class ImageBank:
    """
    Photographs of different sizes in one array, at full and at half resolution.

    levels: (K, 3, S, S) and (K, 3, S/2, S/2) uint8 RGB, each image in the top left corner;
    sizes (K, 2): width and height in pixels of level 0; probabilities (K,): how often each is
    drawn; names: file names, for reports.
    """

    levels: tuple[Tensor, Tensor]
    sizes: Tensor
    probabilities: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sizes)

    def to(self, device: torch.device | str) -> 'ImageBank':
        """Move all photographs to a device."""
        levels = tuple(level.to(device) for level in self.levels)
        return ImageBank(levels, self.sizes.to(device), self.probabilities.to(device), self.names)


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
    progress: bool = True,
) -> ImageBank:
    """
    Decode photographs into memory, shrunk (never enlarged) to a long side of `side` pixels.

    Images that cannot be read are counted and left out. Raises DataError if none is
    left, or none that may be drawn.
    """
    full = np.zeros((len(paths), side, side, 3), np.uint8)
    half = np.zeros((len(paths), side // 2, side // 2, 3), np.uint8)
    sizes, kept, broken = [], [], []

    def load(path: Path) -> np.ndarray | None:
        try:
            image = read_image(path)
        except ImageError:
            return None
        height, width = image.shape[:2]
        size = scaled_size(height, width, min(side, max(height, width)))
        return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)

    with ThreadPoolExecutor(4) as pool:
        images = pool.map(load, paths)
        for path, image in track(
            zip(paths, images, strict=True),
            'reading photographs',
            len(paths),
            disable=not progress,
        ):
            if image is None or min(image.shape[:2]) < 32:
                broken.append(path)
                continue
            height, width = image.shape[:2]
            row = len(kept)
            full[row, :height, :width] = image
            # an odd last row or column is left out, so that the ratio is exactly two
            even = image[: height // 2 * 2, : width // 2 * 2]
            small = cv2.resize(even, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            half[row, : height // 2, : width // 2] = small
            sizes.append((width, height))
            kept.append(path)
    if broken:
        print(f'left out {len(broken)} unreadable or tiny images, the first: {broken[0]}')
    if not kept:
        raise DataError(f'none of {len(paths)} images could be read')
    weights = [(kind_weights or {}).get(find_row(p, kinds or {}) or '', 1.0) for p in kept]
    probabilities = torch.tensor(weights, dtype=torch.float32)
    if not probabilities.any():
        raise DataError(f'all {len(kept)} images have weight 0; expected one kind that has more')
    levels = tuple(
        torch.from_numpy(level[: len(kept)]).permute(0, 3, 1, 2).contiguous()
        for level in (full, half)
    )
    return ImageBank(
        levels,
        torch.tensor(sizes, dtype=torch.float32),
        probabilities / probabilities.sum(),
        tuple(path.name for path in kept),
    )
