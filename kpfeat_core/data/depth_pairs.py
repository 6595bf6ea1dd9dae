"""
Pairs of views of photographs with depth and poses: kept in memory, chosen, and cut out.

Photographs and depth are on the training device; pairs of them whose views overlap are made into
batches there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .homography_pairs import PairConfig, render_views
from .image_folder import ImageBank, load_bank, no_progress, Progress
from .photometric import augment, PhotometricConfig
from .posed_scenes import PosedScene
from .view_pairs import DepthPairBatch, DepthRules, read_inverse_depth, warp_by_depth
from ..axes import Float, Int
from ..config import option, Positive, Share
from ..errors import DataError
from ..geometry import pixel_grid, warp_points
from ..image import read_image, rescale_points

CANDIDATES = 256  # points among which one that both photographs show is chosen
OVERLAP_POINTS = 16  # the overlap of two photographs is measured on 16 x 16 points of each


@dataclass(frozen=True)
class DepthConfig:
    """
    Which photographs with depth and poses form pairs, and when their depths agree.

    scenes_share: share of pairs that come from `scenes`; min_overlap, max_overlap: of posed
    photographs, smallest and largest share of each that the other shows; depth_tolerance: largest
    difference between depths of one point (published: 0.05 units); depth_relative: the tolerance
    is a share of the depth, whatever its unit (published: not); depth_edge: depth that bends by
    more than this share within a pixel is an edge, beside which it is not used, where noisy depth
    needs more, exact depth less.
    """

    scenes: str = option(
        '', 'folder of scenes with depth and poses to learn from beside the photographs of a run'
    )
    scenes_share: Share = 0.3
    min_overlap: Share = 0.15
    max_overlap: Share = 1.0
    depth_tolerance: Positive = 0.05
    depth_relative: bool = True
    depth_edge: Positive = 0.02

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

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the photographs."""
        return self.images.names

    def to(self, device: torch.device | str) -> 'SceneBank':
        """Move everything to a device."""
        return SceneBank(*(value.to(device) for value in vars(self).values()))

    def transform(self, source: Tensor, target: Tensor) -> Float[Tensor, 'b 4 4']:
        """Return camera `source` to camera `target` coordinates, for rows of images."""
        # of poses far from the world's origin only the difference fits into float32
        return (self.poses[target] @ torch.linalg.inv(self.poses[source])).float()


@dataclass(frozen=True)
class MixedBank:
    """Photographs, and scenes to learn from beside them."""

    photographs: ImageBank
    scenes: SceneBank

    def __len__(self) -> int:
        return len(self.photographs) + len(self.scenes)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of both."""
        return (*self.photographs.names, *self.scenes.names)

    @property
    def left_out(self) -> tuple[Path, ...]:
        """Return the photographs that could not be used."""
        return self.photographs.left_out

    def to(self, device: torch.device | str) -> 'MixedBank':
        """Move everything to a device."""
        return MixedBank(self.photographs.to(device), self.scenes.to(device))


def load_scenes(
    scenes: Sequence[PosedScene],
    side: int = 480,
    config: DepthConfig = DepthConfig(),
    progress: Progress = no_progress,
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
    for row, (scene, i) in progress(enumerate(where), len(where), 'reading depth'):
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
            '(turned as its EXIF data ask for): resize the depth, nearest neighbor'
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
    bank: SceneBank, scenes: Sequence[PosedScene], config: DepthConfig, progress: Progress
) -> SceneBank:
    first, found, weights = 0, [], []
    for scene in progress(scenes, len(scenes), 'finding pairs'):
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


def make_depth_pairs(
    bank: SceneBank,
    count: int,
    config: PairConfig,
    rules: DepthRules,
    photometric: PhotometricConfig,
    generator: torch.Generator,
) -> DepthPairBatch:
    """
    Draw pairs of photographs and cut a square view around a point that both show out of each.

    Of the config, view_size, coverage_min and coverage_max count: each view covers its own random
    share of the short side of its photograph. Photometric changes are independent.
    """
    drawn = bank.probabilities.multinomial(count, replacement=True, generator=generator)
    index = bank.pairs[drawn].T  # (2, B)
    T_0to1 = bank.transform(*index)
    centers = _common_points(bank, index, T_0to1, rules, generator)
    views, depths, cameras, seen = [], [], [], []
    for rows, center in zip(index, centers, strict=True):
        crop = _crop(center, bank.images.sizes[rows], config, generator)
        view, valid = render_views(bank.images, rows, crop, config.view_size)
        views.append(view)
        seen.append(valid)
        depths.append(_cut_depth(bank.inverse_depth[rows], crop, config.view_size, rules))
        cameras.append(torch.linalg.inv(crop) @ bank.intrinsics[rows])
    changed = augment(torch.cat(views), photometric, generator).unflatten(0, (2, count))
    return DepthPairBatch(
        changed, torch.stack(depths), torch.stack(cameras), T_0to1, torch.stack(seen), rules
    )


def _common_points(
    bank: SceneBank, index: Tensor, T_0to1: Tensor, rules: DepthRules, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Choose a point that both photographs show, (B, 2) in each; their middles if none is hit."""
    sizes = bank.images.sizes[index]
    shape = (index.shape[1], CANDIDATES, 2)
    unit = torch.rand(shape, generator=generator, device=generator.device)
    points = unit * (sizes[0] - 1)[:, None]
    depths, intrinsics = bank.inverse_depth[index], bank.intrinsics[index]
    rules = replace(rules, edge=math.inf)  # any point nearly common will do, and edges cost time
    warped = warp_by_depth(points, (*depths,), (*intrinsics,), T_0to1, rules)
    chosen = warped.visible.float().argmax(1)  # the points come in random order
    hit = warped.visible.any(1)[:, None]
    row = torch.arange(len(chosen), device=chosen.device)
    here, there = points[row, chosen], warped.points[row, chosen]
    middles = (sizes - 1) / 2
    return torch.where(hit, here, middles[0]), torch.where(hit, there, middles[1])


def _crop(
    center: Tensor, sizes: Tensor, config: PairConfig, generator: torch.Generator
) -> Float[Tensor, 'b 3 3']:
    """Return view pixels -> photograph pixels of squares around points, moved inside."""
    unit = torch.rand(len(center), generator=generator, device=generator.device)
    coverage = config.coverage_min + (config.coverage_max - config.coverage_min) * unit
    scale = coverage * sizes.amin(1) / config.view_size
    reach = (scale * (config.view_size - 1) / 2)[:, None]
    last = sizes - 1
    low, high = torch.minimum(reach, last / 2), torch.maximum(last - reach, last / 2)
    center = torch.minimum(torch.maximum(center, low), high)
    crop = torch.zeros(len(center), 3, 3, device=center.device)
    crop[:, 0, 0] = crop[:, 1, 1] = scale
    crop[:, :2, 2] = center - reach
    crop[:, 2, 2] = 1
    return crop


def _cut_depth(
    inverse_depth: Tensor, crop: Tensor, side: int, rules: DepthRules
) -> Float[Tensor, 'b v v']:
    grid = pixel_grid(side, side, crop.device).expand(len(crop), -1, -1)
    values, known = read_inverse_depth(inverse_depth, warp_points(grid, crop), rules.edge)
    return torch.where(known, values, 0).view(-1, side, side)
