"""
Pairs of images with known truth, as they lie on disk.

Planes: a folder of sequences in the HPatches layout; a sequence holds `1.png` … `6.png` (or .ppm,
.jpg) and text files `H_1_2` … `H_1_6`, 3x3, that take pixels of image 1 to image k. The name's
first letters say what changes: `v_` viewpoint, `i_` light, `x_` something else.
Numbers k may be missing.

Poses: a text file in SuperGlue's layout, one pair a line: both image names, two rotations that
are not used here, both intrinsics (9 numbers each, row by row) and T_0to1 (16), which takes points
of camera 0 to camera 1.

Scenes: folders with `images/` and three tables, whose lines begin with names of images:
`intrinsics.txt` (width height fx fy cx cy), `poses.txt` (rotation row by row and shift, world to
camera) and `pairs.txt` (two names; then, if it likes, columns that its first line names, or the
relative pose, 9 + 3 numbers). `depth/NAME.png` holds 16 bits, 0 where unknown, in units that
README.md says as `metres*N`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
import re

import cv2
import numpy as np
import torch
from torch import Tensor

from ..axes import Float
from ..errors import DataError

ENDINGS = ('.ppm', '.png', '.jpg', '.jpeg')
POSE_COLUMNS = 38  # two names, two rotations, 9 + 9 + 16 numbers
RELATIVE_COLUMNS = 14  # two names and 9 + 3 numbers

TABLES = INTRINSICS, POSES, PAIRS = ('intrinsics.txt', 'poses.txt', 'pairs.txt')  # of a scene
THIRDS = ('short baseline', 'middle baseline', 'long baseline')
PARALLAX = 'median_parallax_deg'  # the column of pairs.txt that sorts pairs, else the shift does

View = Path | np.ndarray


@dataclass(frozen=True)
class PlanarPair:
    """
    Two views of a plane.

    Each view is a file or an array (H, W, 3) uint8 RGB. H_0to1 (3, 3) float64 takes pixels of
    view 0 to view 1. The group is a sequence or a level of difficulty. origin: the thing that
    both views show, where that is not the group; pairs of one origin resemble each other.
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


@dataclass(frozen=True)
class MotionPair(PosePair):
    """
    Two frames of a moving camera, with depth where it is known.

    depth0, depth1: files of 16 bits in units of 1 / depth_scale, or arrays (H, W) in units of
    T_0to1, 0 where unknown. coarse: the truth is good to about 5 px and knows the rotation alone,
    as from a short baseline. part: which third of its scene by baseline, '' where not sorted.
    sizes: (width, height) of both views that the intrinsics are of, () where unknown.
    """

    depth0: View | None = None
    depth1: View | None = None
    depth_scale: float = 1.0
    coarse: bool = False
    part: str = ''
    sizes: tuple[tuple[int, int], ...] = ()

    @property
    def is_stereo(self) -> bool:
        """
        Return whether it is a rectified stereo pair with depth.

        Its disparity, which is the depth in pixels, judges matches; its pose, a short step
        sideways, hardly depends on them.
        """
        sideways = np.array_equal(self.T_0to1[:3, :3], np.eye(3)) and not self.T_0to1[1:3, 3].any()
        return sideways and (self.depth0 is not None or self.depth1 is not None)


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
    rows = _rows(path)
    if not rows:
        raise DataError(f"'{path}' holds no pairs")
    scenes = _scenes([words[0] for _, words in rows])
    return [
        _pose_pair(words, scene or folder.name, folder, where)
        for (where, words), scene in zip(rows, scenes, strict=True)
    ]


def find_scenes(folder: Path | str) -> list[Path]:
    """List the scenes with the three tables at or below a folder, sorted; [] if there are none."""
    found = {path.parent for path in Path(folder).glob(f'**/{POSES}')}
    return sorted(path for path in found if all((path / name).is_file() for name in TABLES))


def motion_pairs(folder: Path | str) -> list[MotionPair]:
    """Read the pairs of all scenes at or below a folder; raises DataError."""
    folder = Path(folder)
    scenes = find_scenes(folder)
    if not scenes:
        raise DataError(f"'{folder}' holds no scenes; expected folders with {', '.join(TABLES)}")
    return [pair for path in scenes for pair in _scene(path, folder)]


def load_depth(depth: View | None, scale: float, shape: tuple[int, int]) -> Float[Tensor, 'h w']:
    """Return depth (H, W) float64 from a file or an array, 0 where unknown; raises DataError."""
    if depth is None:
        return torch.zeros(shape, dtype=torch.float64)
    if isinstance(depth, Path):
        counts = cv2.imread(str(depth), cv2.IMREAD_UNCHANGED)
        if counts is None or counts.dtype != np.uint16 or counts.shape != shape:
            what = 'no image' if counts is None else f'{counts.dtype} of shape {counts.shape}'
            raise DataError(f"'{depth}' is {what}, expected 16 bits of shape {shape}")
        depth = counts / scale
    return torch.from_numpy(np.nan_to_num(depth.astype(np.float64), posinf=0))


def balanced_subset(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """Take `count` pairs (-1: all), an equal share of every group as far as that goes."""
    if count < 0 or count >= len(pairs):
        return list(pairs)
    seen: Counter[str] = Counter()
    order = []
    for i, pair in enumerate(pairs):
        order.append((seen[pair.group], i))
        seen[pair.group] += 1
    return [pairs[i] for i in sorted(i for _, i in sorted(order)[:count])]


def _sequence_pairs(sequence: Path) -> list[PlanarPair]:
    pairs = []
    for path in sorted(filter(_number, sequence.glob('H_1_*')), key=_number):
        k = path.name[4:]
        views = _find_image(sequence, '1'), _find_image(sequence, k)
        name = f'{sequence.name}/1-{k}'
        pairs.append(PlanarPair(sequence.name, name, *views, _read_homography(path)))
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
    numbers = _numbers(words[4:], POSE_COLUMNS - 4, where)
    K0, K1 = numbers[:18].reshape(2, 3, 3)
    T_0to1 = numbers[18:].reshape(4, 4)
    rotation = T_0to1[:3, :3]
    if abs(np.linalg.det(rotation) - 1) > 0.01:
        raise DataError(f'{where}: the last 16 numbers are no pose (4x4, a rotation and a shift)')
    paths = [_existing(folder / word, where) for word in words[:2]]
    return PosePair(scene, f'{words[0]} {words[1]}', *paths, K0, K1, T_0to1)


def _existing(path: Path, where: str) -> Path:
    if not path.is_file():
        raise DataError(f"{where}: there is no image '{path}'")
    return path


def _scene(folder: Path, above: Path) -> list[MotionPair]:
    """Read the pairs of a scene, whose name is its place below a folder."""
    scene = folder.name if folder == above else folder.relative_to(above).as_posix()
    cameras = {row[0]: _numbers(row[1:], 6, where) for where, row in _rows(folder / INTRINSICS)}
    poses = {row[0]: _pose(row[1:], where) for where, row in _rows(folder / POSES)}
    names = next((row for _, row in _rows(folder / PAIRS, comments=True)), [])
    depths = {path.stem: path for path in sorted(folder.glob('depth/*.png'))}
    scale = _depth_scale(folder) if depths else 1.0
    pairs, baselines = [], []
    for where, row in _rows(folder / PAIRS):
        for name in row[:2]:
            if name not in cameras or name not in poses:
                raise DataError(f"{where}: '{name}' has no line in {INTRINSICS} and {POSES}")
            _existing(folder / 'images' / name, where)
        if len(row) < 2:
            raise DataError(f'{where}: expected the names of two images')
        T_0to1 = poses[row[1]] @ np.linalg.inv(poses[row[0]])
        if own := len(row) >= RELATIVE_COLUMNS:
            T_0to1 = _pose(row[2:RELATIVE_COLUMNS], where)
        lenses = [cameras[name][2:] for name in row[:2]]
        pair = MotionPair(
            scene,
            f'{scene}/{row[0]} {row[1]}',
            *(folder / 'images' / name for name in row[:2]),
            *(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]]) for fx, fy, cx, cy in lenses),
            T_0to1,
            depth0=depths.get(Path(row[0]).stem),
            depth1=depths.get(Path(row[1]).stem),
            depth_scale=scale,
            coarse=own,
            sizes=tuple(tuple(cameras[name][:2].astype(int).tolist()) for name in row[:2]),
        )
        pairs.append(pair)
        baselines.append(_baseline(names, row, where, pair))
    if not pairs:
        raise DataError(f"'{folder / PAIRS}' holds no pairs")
    return _in_thirds(pairs, baselines)


def _in_thirds(pairs: list[MotionPair], baselines: list[float]) -> list[MotionPair]:
    """Name the third of each pair by its baseline; none of coarse or of fewer than three pairs."""
    if len(pairs) < len(THIRDS) or any(pair.coarse for pair in pairs):
        return pairs
    rank = np.argsort(np.argsort(baselines, kind='stable'))
    return [
        replace(pair, part=THIRDS[len(THIRDS) * k // len(pairs)])
        for pair, k in zip(pairs, rank, strict=True)
    ]


def _baseline(names: list[str], row: list[str], where: str, pair: MotionPair) -> float:
    """Return the parallax from its column, else the distance that the camera moved."""
    if PARALLAX not in names:
        return float(np.linalg.norm(pair.T_0to1[:3, 3]))
    # counted from the end: names of columns before may hold spaces
    after = len(names) - names.index(PARALLAX)
    return float(_numbers([row[-after]] if len(row) >= 2 + after else [], 1, where)[0])


def _rows(path: Path, comments: bool = False) -> list[tuple[str, list[str]]]:
    """Return where each line of a table stands and its words; lines with # are comments."""
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read '{path}': {error}") from error
    rows = [(f"'{path}', line {k}", line.split()) for k, line in enumerate(lines, 1)]
    return [(where, row) for where, row in rows if row and row[0].startswith('#') == comments]


def _numbers(words: Sequence[str], count: int, where: str) -> np.ndarray:
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError as error:
        raise DataError(f'{where}: {error}') from error
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise DataError(f'{where}: {len(numbers)} numbers, expected {count} finite ones')
    return numbers


def _pose(words: Sequence[str], where: str) -> np.ndarray:
    numbers, pose = _numbers(words, 12, where), np.eye(4)
    pose[:3, :3], pose[:3, 3] = numbers[:9].reshape(3, 3), numbers[9:]
    turn = pose[:3, :3]
    if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-2) or np.linalg.det(turn) < 0:
        raise DataError(f'{where}: the first 9 numbers are no rotation')
    return pose


def _depth_scale(folder: Path) -> float:
    readme = folder / 'README.md'
    text = readme.read_text(encoding='utf-8') if readme.is_file() else ''
    found = re.search(r'met(?:re|er)s\s*\*\s*(\d+(?:\.\d+)?)', text)
    if found is None or not float(found[1]):
        raise DataError(f"'{readme}' does not say the unit of depth/, expected metres*N in it")
    return float(found[1])
