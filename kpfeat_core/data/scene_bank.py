"""Posed photographs with depth, kept on the training device, and which of them form pairs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
import math

import numpy as np
from rich.progress import track
import torch
from torch import Tensor

from .image_folder import ImageBank, load_bank
from .posed_scenes import PosedScene
from .view_pairs import DepthRules, read_inverse_depth, warp_by_depth
from ..axes import Float, Int
from ..config import option
from ..errors import DataError
from ..geometry import pixel_grid
from ..image import read_image, rescale_points

OVERLAP_POINTS = 16  # the overlap of two photographs is measured on 16 x 16 points of each


@dataclass(frozen=True)
class DepthConfig:
    """Which photographs with depth and poses form pairs, and when their depths agree."""

    min_overlap: float = option(
        0.15, 'posed photographs: smallest share of each that the other shows', 0.0, 1.0
    )
    max_overlap: float = option(1.0, 'posed photographs: largest such share', 0.0, 1.0)
    depth_tolerance: float = option(
        0.05, 'largest difference between depths of one point (published: 0.05 units)', low=0.0
    )
    depth_relative: bool = option(
        True, 'the tolerance is a share of the depth, whatever its unit; false: as published'
    )
    depth_edge: float = option(
        0.02,
        'depth that bends by more than this share within a pixel is an edge, beside which it is '
        'not used; noisy depth needs more, exact depth less',
        low=0.0,
    )

    @property
    def rules(self) -> DepthRules:
        """When two depths are the same."""
        return DepthRules(self.depth_tolerance, self.depth_relative, self.depth_edge)


@dataclass(frozen=True)
class SceneBank:
    """
    The photographs of all scenes and their geometry.

    inverse_depth (K, S, S): 1/z at the pixels of the images, 0 where unknown; intrinsics (K, 3, 3)
    of the images as kept; poses (K, 4, 4) float64, world to camera; pairs (P, 2): rows of images;
    probabilities (P,): how often each pair is drawn.
    """

    images: ImageBank
    inverse_depth: Float[Tensor, 'k s s']
    intrinsics: Float[Tensor, 'k 3 3']
    poses: Float[Tensor, 'k 4 4']
    pairs: Int[Tensor, 'p 2']
    probabilities: Float[Tensor, ' p']

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> 'SceneBank':
        """Move everything to a device."""
        return SceneBank(*(value.to(device) for value in vars(self).values()))

    def transform(self, source: Tensor, target: Tensor) -> Float[Tensor, 'b 4 4']:
        """Return camera `source` to camera `target` coordinates, for rows of images."""
        # of poses far from the world's origin only the difference fits into float32
        return (self.poses[target] @ torch.linalg.inv(self.poses[source])).float()


def load_scenes(
    scenes: Sequence[PosedScene],
    side: int = 480,
    config: DepthConfig = DepthConfig(),
    progress: bool = True,
) -> SceneBank:
    """
    Read images and depth, shrunk (never enlarged) to a long side of `side` pixels, and find pairs.

    Pairs without a given overlap are measured: the smaller of the shares of both photographs'
    points with depth that the other shows. Scenes without pairs are never drawn from. Raises
    DataError for images or depth that cannot be read or do not fit, and if there is no pair.
    """
    where = [(scene, i) for scene in scenes for i in range(len(scene.names))]
    paths = [scene.image_path(i) for scene, i in where]
    images = load_bank(paths, side, progress=progress)
    if len(images) != len(paths):
        kept = iter((*images.names, ''))
        name = next(kept)
        for path in paths:
            if path.name != name:
                raise DataError(
                    f"'{path}' is missing, no image, or smaller than 32 pixels; the camera file "
                    'beside its folder names it'
                )
            name = next(kept)
    inverse_depth = torch.zeros(len(paths), side, side)
    intrinsics = torch.zeros(len(paths), 3, 3)
    rows = track(list(enumerate(where)), 'reading depth', disable=not progress)
    for row, (scene, i) in rows:
        width, height = (int(n) for n in images.sizes[row])
        depth = _read_fitting(scene, i)
        inverse_depth[row, :height, :width] = _shrink(depth, (height, width), config.rules)
        scale = _shrinking(depth.shape, (height, width))
        intrinsics[row] = torch.from_numpy(scale @ scene.intrinsics[i])
    poses = torch.from_numpy(np.concatenate([scene.poses for scene in scenes]))
    none = torch.zeros(0, 2, dtype=torch.long), torch.zeros(0)
    bank = SceneBank(images, inverse_depth, intrinsics, poses, *none)
    return _with_pairs(bank, scenes, config, progress)


def _read_fitting(scene: PosedScene, index: int) -> np.ndarray:
    """Read a depth image and check that it has the size of its photograph."""
    depth = scene.read_depth(index)
    path = scene.image_path(index)
    size = read_image(path).shape[:2]
    if depth.shape != size:
        raise DataError(
            f"the depth of '{path}' has shape {depth.shape}, expected {size} as the image "
            '(turned as its EXIF data ask for): resize the depth, nearest neighbour'
        )
    return depth


def _shrinking(from_size: tuple[int, ...], to_size: tuple[int, int]) -> np.ndarray:
    """Return the matrix that takes pixels to those of the resized image, as `rescale_points`."""
    fy, fx = (to_size[axis] / from_size[axis] for axis in (0, 1))
    return np.array([[fx, 0, fx / 2 - 0.5], [0, fy, fy / 2 - 0.5], [0, 0, 1]])


def _shrink(depth: np.ndarray, size: tuple[int, int], rules: DepthRules) -> Tensor:
    """Return 1/z read at the pixels of the resized image; 0 where unknown."""
    inverse = torch.from_numpy(1 / np.where(depth > 0, depth, np.inf).astype(np.float64))
    points = rescale_points(pixel_grid(*size, dtype=torch.float64), size, depth.shape)
    values, known = read_inverse_depth(inverse[None], points[None], rules.edge)
    return torch.where(known, values, 0).view(size).float()


def _with_pairs(
    bank: SceneBank, scenes: Sequence[PosedScene], config: DepthConfig, progress: bool
) -> SceneBank:
    first, found, weights = 0, [], []
    for scene in track(scenes, 'finding pairs', disable=not progress):
        own = slice(first, first + len(scene.names))
        overlap = scene.pairs or measure_overlap(bank, own, config.rules)
        pairs = [
            (i + first, j + first)
            for (i, j), share in overlap.items()
            if config.min_overlap <= share <= config.max_overlap
        ]
        found += pairs
        weights += [1 / max(len(pairs), 1)] * len(pairs)  # scenes are drawn equally often
        first = own.stop
    if not found:
        names = ', '.join(f"'{scene.folder}'" for scene in scenes[:3])
        raise DataError(
            f'no two photographs in {names} share between {config.min_overlap} and '
            f'{config.max_overlap} of what they show: lower min_overlap, or check the poses '
            '(world to camera, z forward)'
        )
    probabilities = torch.tensor(weights, dtype=torch.float32)
    return replace(
        bank, pairs=torch.tensor(found), probabilities=probabilities / probabilities.sum()
    )


def measure_overlap(
    bank: SceneBank, rows: slice, rules: DepthRules
) -> dict[tuple[int, int], float]:
    """
    Return the overlap of all pairs of some rows, by their place (i, j), i < j, in the rows.

    It is the smaller of both shares: points with depth of one that the other one shows.
    """
    count = rows.stop - rows.start
    rules = replace(rules, edge=math.inf)  # a matter of single pixels, and slow for all pairs
    depths, intrinsics = bank.inverse_depth[rows], bank.intrinsics[rows]
    every = torch.arange(rows.start, rows.stop)
    shares = torch.zeros(count, count)
    unit = (pixel_grid(OVERLAP_POINTS, OVERLAP_POINTS) + 0.5) / OVERLAP_POINTS
    for i in range(count):
        points = unit * (bank.images.sizes[rows.start + i] - 1)
        known = read_inverse_depth(depths[i : i + 1], points[None], rules.edge)[1].sum()
        warped = warp_by_depth(
            points.expand(count, -1, -1),
            (depths[i].expand(count, -1, -1), depths),
            (intrinsics[i].expand(count, -1, -1), intrinsics),
            bank.transform(every[i : i + 1], every),
            rules,
        )
        shares[i] = warped.visible.sum(1) / known.clamp(min=1)
    both = torch.minimum(shares, shares.T).tolist()
    return {(i, j): both[i][j] for i in range(count) for j in range(i + 1, count)}
