"""Pairs of views, and where points of one lie in the other: by homography, by depth, or mixed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
import math
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
import torch.nn.functional as F

from ..axes import Bool, Float
from ..geometry import bilinear_neighbors, flat_index, inside, unwarp_points, warp_points


@dataclass(frozen=True)
class Warped:
    """
    Where points of one view lie in the other, and what is known about it.

    points (B, N, 2): (x, y) pixels of the other view, NaN where nothing there shows them;
    visible (B, N): the other view shows the point; outside (B, N): it certainly does not, since
    the point lies beside its frame or behind something. Where both are false nothing is known.
    """

    points: Float[Tensor, 'b n 2']
    visible: Bool[Tensor, 'b n']
    outside: Bool[Tensor, 'b n']


@runtime_checkable
class ViewPairs(Protocol):
    """
    Two views of each of B things, and the truth about which points are the same.

    images (2, B, 3, V, V) RGB in [0, 1]; valid (2, B, V, V): which pixels show a photograph.
    """

    @property
    def images(self) -> Float[Tensor, '2 b 3 v v']:
        """Return the views."""

    @property
    def valid(self) -> Bool[Tensor, '2 b v v']:
        """Which of their pixels are photographed."""

    def __len__(self) -> int:
        """Count the pairs."""

    def part(self, index: int, count: int) -> 'ViewPairs':
        """Return the index-th of `count` equal shares, for training in several processes."""

    def warp(self, points: Float[Tensor, 'b n 2'], view: int) -> Warped:
        """Return where points (x, y) of view 0 or 1 lie in the other; differentiable in them."""


@dataclass(frozen=True)
class BatchSource:
    """
    What a run learns from: material, and how a batch is made of it.

    material: photographs with their `names`, which `to` moves to a device; make(material, count,
    generator): gives a batch of which `part` gives shares, such as ViewPairs. All that is random
    comes from the generator, which is on that device.
    """

    material: Any
    make: Callable[[Any, int, torch.Generator], Any]

    def __len__(self) -> int:
        return len(self.material)

    @property
    def names(self) -> Sequence[str]:
        """Return the names of the photographs, by which the material of a run is known again."""
        return self.material.names

    @property
    def left_out(self) -> Sequence[Path]:
        """Return the files that could not be used."""
        return getattr(self.material, 'left_out', ())

    def to(self, device: torch.device | str) -> 'BatchSource':
        """Move the material to a device."""
        return replace(self, material=self.material.to(device))

    def sample(self, count: int, generator: torch.Generator) -> Any:
        """Make a batch of `count`."""
        return self.make(self.material, count, generator)


@dataclass(frozen=True)
class PairBatch:
    """
    Two views of each of B photographs.

    images (2, B, 3, H, W) RGB in [0, 1], squares as they are drawn here; H_0to1 (B, 3, 3) maps
    pixels of view 0 to view 1; valid (2, B, H, W) tells which pixels show the photograph (others
    mirror it to avoid edges).
    """

    images: Float[Tensor, '2 b 3 h w']
    H_0to1: Float[Tensor, 'b 3 3']
    valid: Bool[Tensor, '2 b h w']

    def __len__(self) -> int:
        return len(self.H_0to1)

    def part(self, index: int, count: int) -> 'PairBatch':
        """Return the index-th of `count` equal shares, for training in several processes."""
        own = slice(index, None, count)
        return PairBatch(self.images[:, own], self.H_0to1[own], self.valid[:, own])

    def warp(self, points: Float[Tensor, 'b n 2'], view: int) -> Warped:
        """
        Return where points (x, y) of one view lie in the other; differentiable in them.

        Nothing is known of points that are not on the photograph, in either view.
        """
        move = warp_points if view == 0 else unwarp_points
        there = move(points, self.H_0to1)
        within = inside(there, *self.images.shape[-2:])
        real = read_mask(self.valid[view], points)
        shown = read_mask(self.valid[1 - view], there)
        return Warped(there, real & within & shown, real & ~within)


@dataclass(frozen=True)
class DepthRules:
    """
    When two depths are the same.

    tolerance: largest difference between a point's depth and that of the surface that the other
    view shows there, a share of the depth where relative, else in units of the scene. edge: where
    depth bends by a larger share from one pixel to the next, another surface begins.
    """

    tolerance: float
    relative: bool
    edge: float


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
        Return where points (x, y) of one view lie in the other; differentiable in them.

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


@dataclass(frozen=True)
class MixedPairs:
    """
    The pairs of several batches one after the other.

    images (2, B, 3, V, V) and valid (2, B, V, V) are those of all; batches: what each tells of its
    own pairs, none of them empty; all views have one size.
    """

    images: Float[Tensor, '2 b 3 v v']
    valid: Bool[Tensor, '2 b v v']
    batches: tuple[ViewPairs, ...]

    def __len__(self) -> int:
        return self.images.shape[1]

    def part(self, index: int, count: int) -> ViewPairs:
        """Return the index-th of `count` equal shares, for training in several processes."""
        parts, start = [], 0
        for batch in self._whole():
            # every count-th pair, whichever batch it is in
            parts.append(batch.part((index - start) % count, count))
            start += len(batch)
        return mix(parts)

    def _whole(self) -> list[ViewPairs]:
        """Return the batches with the images and masks of this one, which may have changed."""
        sizes = [len(batch) for batch in self.batches]
        pieces = zip(
            self.batches, self.images.split(sizes, 1), self.valid.split(sizes, 1), strict=True
        )
        return [replace(batch, images=images, valid=valid) for batch, images, valid in pieces]

    def warp(self, points: Float[Tensor, 'b n 2'], view: int) -> Warped:
        """Return where points (x, y) of one view lie in the other; differentiable in them."""
        own = points.split([len(batch) for batch in self.batches])
        told = [
            (warped.points, warped.visible, warped.outside)
            for warped in (
                batch.warp(rows, view) for batch, rows in zip(self._whole(), own, strict=True)
            )
        ]
        return Warped(*(torch.cat(parts) for parts in zip(*told, strict=True)))


def mix(batches: Sequence[ViewPairs]) -> ViewPairs:
    """Join batches of pairs, some of which may be empty; one alone stays what it is."""
    full = [batch for batch in batches if len(batch)]
    if len(full) < 2:
        return full[0] if full else batches[0]
    images, valid = (
        torch.cat([getattr(b, name) for b in full], 1) for name in ('images', 'valid')
    )
    return MixedPairs(images, valid, tuple(full))


def sample_mixed(
    count: int,
    usual: Callable[[int], ViewPairs],
    others: Sequence[tuple[float, Callable[[int], ViewPairs]]],
    generator: torch.Generator,
) -> ViewPairs:
    """
    Sample `count` pairs, shares of which come from other sources, and the rest from the usual one.

    A share that is no whole number of pairs is met on average: chance decides. Where all shares
    are 0 no random number is taken, so that such runs are what they were without other sources.
    """
    ends = list(accumulate(share for share, _ in others))
    if not ends or ends[-1] == 0:
        return usual(count)
    chance = float(torch.rand((), generator=generator, device=generator.device))
    # rounding all sums alike keeps each share right on average; 1e-9 is for sums such as 0.7 + 0.3
    stops = [0, *(min(int(end * count + chance + 1e-9), count) for end in ends)]
    sizes = [stop - start for start, stop in pairwise(stops)]
    draws = [(count - stops[-1], usual)]
    draws += [(size, draw) for size, (_, draw) in zip(sizes, others, strict=True)]
    return mix([draw(size) for size, draw in draws if size])


def read_mask(mask: Bool[Tensor, 'b h w'], points: Float[Tensor, 'b n 2']) -> Bool[Tensor, 'b n']:
    """Read a mask at the pixels nearest to points (x, y); false outside."""
    height, width = mask.shape[-2:]
    x, y = points.nan_to_num(nan=-1.0).round().long().unbind(-1)
    within = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    return mask.flatten(1).gather(1, index) & within


def read_inverse_depth(
    inverse_depth: Float[Tensor, 'b h w'], points: Float[Tensor, 'b n 2'], edge: float
) -> tuple[Float[Tensor, 'b n'], Bool[Tensor, 'b n']]:
    """
    Return 1/z at points (x, y), 1 where it is not known, and where it is known.

    Between pixels it is bilinear, less what the surface bends there, unless `edge` is infinite.

    Known means that the point lies in the image, all four pixels around it have depths, and no
    `edge` runs between them (see `depth_edges`): between two surfaces there is no depth.
    """
    height, width = inverse_depth.shape[-2:]
    pixels, weights = bilinear_neighbors(points, height, width)
    index = flat_index(pixels, width)

    def read(values: Tensor, corners: list[int]) -> Tensor:
        chosen = index[..., corners]
        return values.flatten(1).gather(1, chosen.flatten(1)).view(chosen.shape)

    around = read(inverse_depth, [0, 1, 2, 3])
    used = weights > 0  # what has no weight need not be known
    known = ((around > 0) | ~used).all(-1) & inside(points, height, width)
    if edge < math.inf:
        right, down = depth_edges(inverse_depth, edge)
        # the corners are (0, 0), (1, 0), (0, 1), (1, 1)
        broken = read(right, [0, 2]) & used[..., [0, 2]] & used[..., [1, 3]]
        broken = broken | (read(down, [0, 1]) & used[..., [0, 1]] & used[..., [2, 3]])
        known = known & ~broken.any(-1)
    value = (around * weights).sum(-1)
    if edge < math.inf:
        x, y = weights[..., [1, 3]].sum(-1), weights[..., [2, 3]].sum(-1)
        along = read(_bends(inverse_depth, right), [0, 1, 2, 3])
        across = read(_bends(inverse_depth.mT, down.mT).mT, [0, 1, 2, 3])
        rows = torch.lerp(
            _smaller(along[..., 0], along[..., 1]), _smaller(along[..., 2], along[..., 3]), y
        )
        columns = torch.lerp(
            _smaller(across[..., 0], across[..., 2]), _smaller(across[..., 1], across[..., 3]), x
        )
        value = value - (x * (1 - x) * rows + y * (1 - y) * columns) / 2
    return torch.where(known, value, 1), known


def _smaller(a: Tensor, b: Tensor) -> Tensor:
    """Return the one nearer to 0, as a fold beside a plane does not bend it; 0 without any."""
    smaller = torch.where(a.abs() < b.abs(), a, b)
    return torch.where(smaller.isinf(), 0, smaller)


def _bends(inverse_depth: Tensor, broken: Tensor) -> Tensor:
    """Return second differences along rows; infinity beside an edge or the unknown."""
    before, here, after = (inverse_depth[..., i : i - 2 or None] for i in range(3))
    whole = (torch.minimum(before, after) > 0) & (here > 0)
    whole = whole & ~broken[..., :-2] & ~broken[..., 1:-1]
    return F.pad(torch.where(whole, before - 2 * here + after, torch.inf), (1, 1), value=torch.inf)


def depth_edges(
    inverse_depth: Float[Tensor, 'b h w'], edge: float
) -> tuple[Bool[Tensor, 'b h w'], Bool[Tensor, 'b h w']]:
    """
    Return behind which pixels one surface ends and another begins, to their right and below.

    There, 1/z misses the lines through the two pixels before and the two behind by more than the
    share `edge` of it; a slanted plane has no edges, however steep.
    """
    return _edges_right(inverse_depth, edge), _edges_right(inverse_depth.mT, edge).mT


def _edges_right(inverse_depth: Tensor, edge: float) -> Tensor:
    here, there = inverse_depth[..., :-1], inverse_depth[..., 1:]
    step = torch.where((here > 0) & (there > 0), there - here, torch.inf)
    beside = F.pad(step, (1, 1), value=torch.inf)
    bend = torch.minimum((step - beside[..., :-2]).abs(), (step - beside[..., 2:]).abs())
    # not a number beside unknown pixels, which are unknown already
    return F.pad(bend > edge * torch.minimum(here, there), (0, 1))


def warp_by_depth(
    points: Float[Tensor, 'b n 2'],
    inverse_depths: tuple[Float[Tensor, 'b h w'], Float[Tensor, 'b h w']],
    intrinsics: tuple[Float[Tensor, 'b 3 3'], Float[Tensor, 'b 3 3']],
    transform: Float[Tensor, 'b 4 4'],
    rules: DepthRules,
) -> Warped:
    """
    Move points (x, y) of one camera to another whose coordinates are `transform` times its own.

    inverse_depths and intrinsics: of the camera the points are in, then of the other. A point is
    visible where the other camera's depth agrees with it, outside where it falls beside the image,
    behind the camera, or behind a nearer surface. Where either depth is unknown, or the other one
    is larger, which cannot be for a true depth, nothing is known.
    """
    inverse, known = read_inverse_depth(inverse_depths[0], points, rules.edge)
    lifted = F.pad(points, (0, 1), value=1.0)
    rays = lifted @ torch.linalg.inv(intrinsics[0]).mT
    # in units of the point's own depth, so that nothing overflows far away
    moved = rays @ transform[:, :3, :3].mT + inverse[..., None] * transform[:, None, :3, 3]
    projected = moved @ intrinsics[1].mT
    ratio = projected[..., 2]
    front = ratio > 1e-6
    there = projected[..., :2] / torch.where(front, ratio, 1)[..., None]
    within = front & inside(there, *inverse_depths[1].shape[-2:])
    with torch.no_grad():
        surface, measured = read_inverse_depth(inverse_depths[1], there, rules.edge)
        depth, limit = ratio / inverse, 1 / surface
        slack = rules.tolerance * depth if rules.relative else rules.tolerance
        agrees = (depth - limit).abs() < slack
        visible = known & within & measured & agrees
        hidden = within & measured & (depth - limit >= slack)
        outside = known & (~within | hidden)
        told = visible | (known & front & ~within)
    return Warped(torch.where(told[..., None], there, torch.nan), visible, outside)
