"""Pairs of views of scenes with known depth and poses, cut out in batches on the device."""

from dataclasses import dataclass, replace
import math

import torch
from torch import Tensor

from .homography_pairs import PairConfig, render_views
from .photometric import augment, PhotometricConfig
from .scene_bank import SceneBank
from .view_pairs import DepthRules, read_inverse_depth, warp_by_depth, Warped
from ..axes import Bool, Float
from ..geometry import pixel_grid, warp_points

CANDIDATES = 256  # points among which one that both photographs show is chosen


@dataclass(frozen=True)
class DepthPairBatch:
    """
    Two views of each of B scenes, with their geometry.

    images (2, B, 3, V, V) RGB in [0, 1]; inverse_depth (2, B, V, V): 1/z, 0 where unknown;
    intrinsics (2, B, 3, 3): camera coordinates to view pixels; T_0to1 (B, 4, 4) takes coordinates
    of camera 0 to camera 1; valid (2, B, V, V): pixels that show the photograph.
    """

    images: Float[Tensor, '2 b 3 v v']
    inverse_depth: Float[Tensor, '2 b v v']
    intrinsics: Float[Tensor, '2 b 3 3']
    T_0to1: Float[Tensor, 'b 4 4']
    valid: Bool[Tensor, '2 b v v']
    rules: DepthRules

    def __len__(self) -> int:
        return len(self.T_0to1)

    def part(self, index: int, count: int) -> 'DepthPairBatch':
        """Return the index-th of `count` equal shares, for training in several processes."""
        own = slice(index, None, count)
        return DepthPairBatch(
            self.images[:, own],
            self.inverse_depth[:, own],
            self.intrinsics[:, own],
            self.T_0to1[own],
            self.valid[:, own],
            self.rules,
        )

    def warp(self, points: Float[Tensor, 'b n 2'], view: int) -> Warped:
        """
        Tell where points (x, y) of one view lie in the other; differentiable in them.

        What lies behind something else is outside; where the depth is not known, neither.
        """
        transform = self.T_0to1 if view == 0 else torch.linalg.inv(self.T_0to1)
        here, there = view, 1 - view
        return warp_by_depth(
            points,
            (self.inverse_depth[here], self.inverse_depth[there]),
            (self.intrinsics[here], self.intrinsics[there]),
            transform,
            self.rules,
        )


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
    centres = _common_points(bank, index, T_0to1, rules, generator)
    views, depths, cameras, seen = [], [], [], []
    for rows, center in zip(index, centres, strict=True):
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
