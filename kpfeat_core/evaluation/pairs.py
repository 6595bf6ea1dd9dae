"""
Pairs of images with known truth, as they lie on disk.

Planes: a folder of sequences in the HPatches layout; a sequence holds `1.png` … `6.png` (or .ppm,
.jpg) and text files `H_1_2` … `H_1_6`, 3x3, that take pixels of image 1 to image k. The name's
first letters say what changes: `v_` viewpoint, `i_` light, `x_` something else.
Numbers k may be missing.

Scenes: a text file in SuperGlue's layout, one pair a line: both image names, two rotations that
are not used here, both intrinsics (9 numbers each, row by row) and T_0to1 (16), which takes points
of camera 0 to camera 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
import re

import numpy as np

from ..errors import DataError

ENDINGS = ('.ppm', '.png', '.jpg', '.jpeg')
POSE_COLUMNS = 38  # two names, two rotations, 9 + 9 + 16 numbers

View = Path | np.ndarray


@dataclass(frozen=True)
class PlanarPair:
    """
    Two views of a plane.

    Each view is a file or an array (H, W, 3) uint8 RGB. H_0to1 (3, 3) float64 takes pixels of
    view 0 to view 1. The group is a sequence or a level of difficulty. origin: what the
    views show, where that is not the group; pairs of one origin resemble each other.
    """

    group: str
    name: str
    view0: View
    view1: View
    H_0to1: np.ndarray
    origin: str = ''


@dataclass(frozen=True)
class PosePair:
    """
    Two views of a scene.

    K0, K1 (3, 3): intrinsics in pixels of the views; T_0to1 (4, 4) takes points of camera 0 to
    camera 1, whose unit does not matter. float64. The group is a scene; origin as in PlanarPair.
    """

    group: str
    name: str
    view0: View
    view1: View
    K0: np.ndarray
    K1: np.ndarray
    T_0to1: np.ndarray
    origin: str = ''


Pair = PlanarPair | PosePair


def planar_pairs(folder: Path | str) -> list[PlanarPair]:
    """List the pairs (1, k) of all sequences of a folder in the HPatches layout; DataError."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"there is no folder '{folder}'")
    sequences = sorted({path.parent for path in folder.glob('*/H_1_*') if _number(path)})
    if not sequences:
        raise DataError(
            f"'{folder}' holds no sequences; expected folders with 1.png … 6.png and H_1_2 … "
            'H_1_6, as in HPatches'
        )
    return [pair for sequence in sequences for pair in _sequence_pairs(sequence)]


def pose_pairs(path: Path | str, images: Path | str = '') -> list[PosePair]:
    """
    Read pairs with intrinsics and relative pose from a text file in SuperGlue's layout.

    images: the folder that the names start from; '' is the file's own. Raises DataError.
    """
    path = Path(path)
    folder = Path(images) if images else path.parent
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read pairs from '{path}': {error}") from error
    rows = {number: line.split() for number, line in enumerate(lines, 1) if line.strip()}
    if not rows:
        raise DataError(f"'{path}' holds no pairs")
    scenes = _scenes([words[0] for words in rows.values()])
    return [
        _pose_pair(words, scene or folder.name, folder, f"'{path}', line {number}")
        for (number, words), scene in zip(rows.items(), scenes, strict=True)
    ]


def balanced_subset(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """Take `count` pairs (-1: all), an equal share of every group as far as that goes."""
    if count < 0 or count >= len(pairs):
        return list(pairs)
    rank: dict[str, int] = {}
    order = []
    for i, pair in enumerate(pairs):
        rank[pair.group] = rank.get(pair.group, -1) + 1
        order.append((rank[pair.group], i))
    return [pairs[i] for i in sorted(i for _, i in sorted(order)[:count])]


def resized_pixels(height: int, width: int, new_height: int, new_width: int) -> np.ndarray:
    """Return the (3, 3) matrix that moves pixels with a resized image: x' = (x+.5) w'/w - .5."""
    sx, sy = new_width / width, new_height / height
    return np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])


def _sequence_pairs(sequence: Path) -> list[PlanarPair]:
    pairs = []
    for path in sorted(filter(_number, sequence.glob('H_1_*')), key=_number):
        k = path.name[4:]
        pairs.append(
            PlanarPair(
                group=sequence.name,
                name=f'{sequence.name}/1-{k}',
                view0=_find_image(sequence, '1'),
                view1=_find_image(sequence, k),
                H_0to1=_read_homography(path),
            )
        )
    return pairs


def _number(path: Path) -> int:
    """Return k of a file H_1_k, 0 for any other file."""
    match = re.fullmatch(r'H_1_([0-9]+)', path.name)
    return int(match[1]) if match else 0


def _find_image(sequence: Path, stem: str) -> Path:
    for ending in ENDINGS:
        path = sequence / (stem + ending)
        if path.is_file():
            return path
    raise DataError(f"'{sequence}' has no image {stem} ending in {', '.join(ENDINGS)}")


def _read_homography(path: Path) -> np.ndarray:
    try:
        rows = [line.split() for line in path.read_text(encoding='utf-8-sig').splitlines()]
        matrix = np.array([row for row in rows if row], dtype=np.float64)
    except ValueError as error:
        raise DataError(f"'{path}' is not a table of numbers: {error}") from error
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        raise DataError(f"'{path}' has shape {matrix.shape}, expected 3x3 finite numbers")
    if np.linalg.matrix_rank(matrix) < 3:
        raise DataError(f"'{path}' is no homography: it moves the plane to a line or a point")
    return matrix


def _scenes(names: Sequence[str]) -> list[str]:
    """Return for each image the folders above it, without those that all images share."""
    folders = [Path(name).parts[:-1] for name in names]
    if len({len(parts) for parts in folders}) > 1:
        return ['/'.join(parts) for parts in folders]
    differ = [k for k, parts in enumerate(zip(*folders, strict=True)) if len(set(parts)) > 1]
    if not differ:
        return ['/'.join(parts[-1:]) for parts in folders]
    return ['/'.join(parts[k] for k in differ) for parts in folders]


def _pose_pair(words: Sequence[str], scene: str, folder: Path, where: str) -> PosePair:
    if len(words) != POSE_COLUMNS:
        raise DataError(
            f'{where}: {len(words)} columns, expected {POSE_COLUMNS}: two names, two rotations, '
            'K0 and K1 (9 numbers each) and T_0to1 (16)'
        )
    try:
        numbers = np.array([float(word) for word in words[4:]])
    except ValueError as error:
        raise DataError(f'{where}: {error}') from error
    K0, K1 = numbers[:18].reshape(2, 3, 3)
    T_0to1 = numbers[18:].reshape(4, 4)
    rotation = T_0to1[:3, :3]
    if not np.isfinite(numbers).all() or abs(np.linalg.det(rotation) - 1) > 0.01:
        raise DataError(f'{where}: the last 16 numbers are no pose (4x4, a rotation and a shift)')
    paths = [folder / word for word in words[:2]]
    for path in paths:
        if not path.is_file():
            raise DataError(f"{where}: there is no image '{path}'")
    return PosePair(scene, f'{words[0]} {words[1]}', *paths, K0, K1, T_0to1)
