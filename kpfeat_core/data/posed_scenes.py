"""Folders of photographs with depth and camera poses; docs/depth_pairs.md shows the layout."""

from collections.abc import Mapping
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..errors import DataError

CAMERA_FILES = ('cameras.json', 'cameras.npz')
DEPTH_ENDINGS = ('.npy', '.npz', '.png', '.h5')
PNG_UNIT = 1e-3  # of 16-bit depth images, as in ROS: millimetres


@dataclass(frozen=True)
class PosedScene:
    """
    The photographs of one scene.

    names: image files below `folder`/images; intrinsics (N, 3, 3): camera coordinates to pixels
    whose centers are integers; poses (N, 4, 4): world to camera (x right, y down, z forward);
    pairs: {(i, j): overlap}, i < j, where the folder says so, else None.
    """

    folder: Path
    names: tuple[str, ...]
    intrinsics: np.ndarray
    poses: np.ndarray
    depth_unit: float = PNG_UNIT
    pairs: Mapping[tuple[int, int], float] | None = None

    def image_path(self, index: int) -> Path:
        """Return where a photograph lies."""
        return self.folder / 'images' / self.names[index]

    def read_depth(self, index: int) -> np.ndarray:
        """
        Return the depth of a photograph, (H, W) float32 in units of the scene, 0 where unknown.

        Raises DataError if there is none, or it is no depth image.
        """
        stem = (self.folder / 'depth' / self.names[index]).with_suffix('')
        for ending in DEPTH_ENDINGS:
            path = stem.with_name(stem.name + ending)
            if path.is_file():
                return _clean(_read_depth_file(path, self.depth_unit), path)
        raise DataError(
            f"'{self.image_path(index)}' has no depth; expected '{stem}' with one of the endings "
            f'{", ".join(DEPTH_ENDINGS)}, or leave the image out of the camera file'
        )


def find_scenes(folder: Path | str) -> list[Path]:
    """List the folders with a camera file at or below a folder, sorted; [] if there are none."""
    folder = Path(folder)
    # unlike `**`, `*` follows links: large scenes often lie elsewhere
    patterns = [way + name for way in ('**/', '*/') for name in CAMERA_FILES]
    return sorted({path.parent for pattern in patterns for path in folder.glob(pattern)})


def read_scene(folder: Path | str) -> PosedScene:
    """Read cameras and pairs of one scene; raises DataError that says what is wrong where."""
    folder = Path(folder)
    path = next((folder / n for n in CAMERA_FILES if (folder / n).is_file()), None)
    if path is None:
        raise DataError(f"'{folder}' has no {' or '.join(CAMERA_FILES)}")
    try:
        content = _read_json(path) if path.suffix == '.json' else _read_arrays(path)
        names = tuple(str(name) for name in content['names'])
        intrinsics, poses = (np.array(content[k], np.float64) for k in ('K', 'world_to_camera'))
        center, unit = float(content['pixel_centre']), float(content.get('depth_unit', PNG_UNIT))
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise DataError(
            f"'{path}' is no camera file ({type(error).__name__}: {error}); expected pixel_centre "
            'and, for each image, K (3x3) and world_to_camera (4x4)'
        ) from error
    if center not in (0.0, 0.5):
        raise DataError(f"'{path}' has pixel_centre {center}, expected 0 or 0.5 (COLMAP's)")
    if not unit > 0:
        raise DataError(f"'{path}' has depth_unit {unit}, expected more than 0")
    _check_cameras(path, names, intrinsics, poses)
    intrinsics[:, :2, 2] -= center
    return PosedScene(folder, names, intrinsics, poses, unit, _read_pairs(folder, names))


def _read_json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding='utf-8'))
    images = content['images']
    lists = {key: [camera[key] for camera in images.values()] for key in ('K', 'world_to_camera')}
    return content | {'names': list(images)} | lists


def _read_arrays(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def _check_cameras(path: Path, names: tuple[str, ...], K: np.ndarray, poses: np.ndarray) -> None:
    """Raise DataError for arrays that are no pinhole cameras."""
    for what, array, side in (('K', K, 3), ('world_to_camera', poses, 4)):
        if array.shape != (len(names), side, side) or not names:
            raise DataError(
                f"'{path}' has {what} of shape {array.shape} for {len(names)} images, expected "
                f'{side}x{side} for each of at least one'
            )
        for name, matrix in zip(names, array, strict=True):
            problem = _problem(what, matrix)
            if problem:
                raise DataError(f"{what} of '{name}' in '{path}' {problem}")


def _problem(what: str, matrix: np.ndarray) -> str | None:
    """Return in words why a matrix is no K, or no pose; None where it is."""
    if not np.isfinite(matrix).all():
        return 'holds NaN or infinity; leave the image out where its camera is not known'
    last = np.eye(len(matrix))[-1]
    if not np.allclose(matrix[-1], last):
        return f'has the last row {matrix[-1].tolist()}, expected {last.tolist()}'
    if what == 'K':
        good = matrix[0, 0] > 0 and matrix[1, 1] > 0 and matrix[1, 0] == 0
        return None if good else 'is no pinhole; expected [[fx, s, cx], [0, fy, cy], [0, 0, 1]]'
    turn = matrix[:3, :3]
    rigid = np.allclose(turn @ turn.T, np.eye(3), atol=1e-3) and np.linalg.det(turn) > 0
    return None if rigid else 'does not rotate and move only; expected [R t; 0 0 0 1]'


def _read_pairs(folder: Path, names: tuple[str, ...]) -> dict[tuple[int, int], float] | None:
    """Read pairs.txt or overlap.npy, where there is one."""
    listed, matrix = folder / 'pairs.txt', folder / 'overlap.npy'
    if listed.is_file():
        return _parse_pairs(listed, {name: i for i, name in enumerate(names)})
    if not matrix.is_file():
        return None
    try:
        overlap = np.load(matrix, allow_pickle=False).astype(np.float64)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"'{matrix}' cannot be read: {error}") from error
    if overlap.shape != (len(names),) * 2 or not np.isfinite(overlap).all():
        raise DataError(
            f"'{matrix}' has shape {overlap.shape} and {np.isnan(overlap).sum()} NaN, expected a "
            f'finite share for each two of {len(names)} images'
        )
    both = np.triu(np.minimum(overlap, overlap.T), 1)
    rows, columns = np.nonzero(both)
    return {(int(i), int(j)): float(both[i, j]) for i, j in zip(rows, columns, strict=True)}


def _parse_pairs(path: Path, index: Mapping[str, int]) -> dict[tuple[int, int], float]:
    pairs = {}
    for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith('#'):
            continue
        try:
            i, j = sorted(index[name] for name in words[:2])
            overlap = float(words[2]) if len(words) > 2 else 1.0
        except (KeyError, ValueError):
            i = j = 0
        if i == j or len(words) > 3:
            raise DataError(
                f"line {number} of '{path}' is '{line}', expected two different images of the "
                'camera file and, if known, the share that both see'
            )
        pairs[i, j] = overlap
    return pairs


def _read_depth_file(path: Path, unit: float) -> np.ndarray:
    try:
        if path.suffix == '.png':
            counts = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
            if counts is None or counts.dtype != np.uint16:
                kind = 'no image' if counts is None else counts.dtype
                raise DataError(f"'{path}' is {kind}, expected a gray image of 16 bits")
            return counts.astype(np.float32) * np.float32(unit)
        if path.suffix == '.h5':
            return _read_h5(path)
        array = np.load(path, allow_pickle=False)
        if path.suffix == '.npz':
            with array as file:
                return file['depth'].astype(np.float32)
        return array.astype(np.float32)
    except (OSError, ValueError, KeyError, EOFError, cv2.error) as error:
        raise DataError(
            f"'{path}' cannot be read as depth ({error}); expected one array, named 'depth' in "
            '.npz and .h5 files'
        ) from error


def _read_h5(path: Path) -> np.ndarray:
    try:
        import h5py
    except ImportError:
        raise DataError(
            f"'{path}' needs h5py, which is not installed; pip install 'kpfeat[h5]', or convert "
            'the depth to .npy'
        ) from None
    with h5py.File(path, 'r') as file:
        return file['depth'][()].astype(np.float32)


def _clean(depth: np.ndarray, path: Path) -> np.ndarray:
    """Set what is no depth to 0: NaN, infinity (ROS) and negative labels (MegaDepth)."""
    if depth.ndim != 2:
        raise DataError(f"'{path}' has shape {depth.shape}, expected (H, W)")
    known = np.isfinite(depth) & (depth > 0)
    if not known.any():
        raise DataError(f"'{path}' has no depth at any pixel (finite and above 0); leave it out")
    return np.where(known, depth, 0)
