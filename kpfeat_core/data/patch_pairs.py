"""
Pairs of patches that show the same point in two views of a photograph, read as Key.Net reads them.

Key.Net describes a square of fixed size on one of a few levels of a pyramid, upright. What is left
for the descriptor to bear is therefore drawn here: up to half a step of the pyramid in scale, the
roll of a camera, positions that the detector does not repeat exactly, tilt, and light.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
import math
from typing import Annotated, NamedTuple

import torch
from torch import Generator, Tensor
import torch.nn.functional as F

from .homography_pairs import SampledViews
from .view_pairs import PairBatch
from ..axes import Bool, Float, Int
from ..config import option, Positive, Range
from ..geometry import sample, warp_points
from ..image import gaussian_blur, match_channels, rescale_points, resize
from ..keypoints import clear_borders, suppress_non_maxima
from ..patches import dominant_orientations, extract_patches

BORDER = 15  # pixels of a level in which Key.Net detects nothing
APART = 7  # radius in which a level has one corner
SPARE = 2  # so many times the patches wanted are looked at; part of them the other view hides


@dataclass(frozen=True)
class PatchPairConfig:
    """
    Where patches are, and how the two of a pair differ beside what the views do to them.

    patches: pairs of patches of each photograph in a step; random_share: share of patches at any
    place, others at corners; region_size: side of the described square in pixels; position_px:
    standard deviation of the position in the second view, in pixels of its level; scale_jitter:
    largest error of the scale, before the level nearest to it is taken; turn_deg: of upright
    patches, standard deviation of the angle between the two, and with gradient, pairs whose
    directions are wrong by more than three times this are left out.
    """

    patches: Annotated[int, Range(2)] = 128
    random_share: Annotated[float, Range(0.01, 1.0)] = 0.2
    region_size: Annotated[float, Range(4.0, 512.0)] = 44.0
    position_px: Positive = 1.2
    scale_jitter: Annotated[float, Range(1.0, 2.0)] = 1.1
    orientation: str = option(
        'upright',
        'how the patches will be used: upright, or gradient, along the strongest gradient',
        choices=('upright', 'gradient'),
    )
    turn_deg: Annotated[float, Range(0.0, 180.0)] = 10.0


@dataclass(frozen=True)
class PatchBatch:
    """
    N pairs of patches of several photographs.

    patches (2, N, 1, S, S) gray in 0..1; photograph (N,): which of the bank; keypoints (N, 2):
    (x, y) on it, and pixel (N,): how many of its pixels one of the level of view 0 covers.
    """

    patches: Float[Tensor, '2 n 1 s s']
    photograph: Int[Tensor, ' n']
    keypoints: Float[Tensor, 'n 2']
    pixel: Float[Tensor, ' n']

    def part(self, index: int, count: int) -> 'PatchBatch':
        """Return the index-th of `count` equal shares, for training in several processes."""
        own = slice(index, None, count)
        rest = (getattr(self, field.name)[own] for field in fields(self)[1:])
        return PatchBatch(self.patches[:, own], *rest)

    def same_place(self, distance_px: float) -> Bool[Tensor, 'n n']:
        """Return which pairs lie closer together than this, in pixels of the coarser level."""
        apart = (self.keypoints[:, None] - self.keypoints).norm(dim=-1)
        near = apart < distance_px * torch.maximum(self.pixel[:, None], self.pixel)
        return near & (self.photograph[:, None] == self.photograph)


class _Places(NamedTuple):
    """Keypoints (B, N, 2) of the views, the level (B, N) of each, and its orientation (B, N)."""

    keypoints: Tensor
    level: Tensor
    turn: Tensor


class PatchReader:
    """
    Reads patches of many levels of the same views at once.

    All levels lie side by side in one image, each with its border pixels going on around it, so
    that a patch never sees two of them. sizes: (height, width) of each level.
    """

    def __init__(
        self, views: Float[Tensor, 'b 1 h w'], sizes: Sequence[tuple[int, int]], side: float
    ) -> None:
        self.view_size = views.shape[-2:]
        self.side = side
        self.sizes = views.new_tensor(sizes)
        self.levels = [resize(views, size) for size in sizes]
        self.margin = math.ceil(side * 0.75)  # half of the diagonal and what a blur needs
        tallest = max(height for height, _ in sizes)
        padded = [
            F.pad(
                F.pad(level, (self.margin,) * 4, 'replicate'),
                (0, 0, 0, tallest - level.shape[-2]),
            )
            for level in self.levels
        ]
        self.atlas = torch.cat(padded, 3)
        widths = torch.tensor([part.shape[3] for part in padded], device=views.device)
        self.starts = widths.cumsum(0) - widths + self.margin

    @property
    def factors(self) -> Float[Tensor, ' k']:
        """Return how much wider than the view each level is."""
        return self.sizes[:, 1] / self.view_size[1]

    def on_levels(
        self, keypoints: Float[Tensor, 'b n 2'], level: Int[Tensor, 'b n']
    ) -> Float[Tensor, 'b n 2']:
        """Move (x, y) pixels of the views to the levels."""
        size = self.sizes[level].flip(-1)
        return (keypoints + 0.5) * size / size.new_tensor(self.view_size[::-1]) - 0.5

    def inside(
        self, keypoints: Float[Tensor, 'b n 2'], level: Int[Tensor, 'b n']
    ) -> Bool[Tensor, 'b n']:
        """Return which keypoints lie where Key.Net detects some on these levels."""
        points, last = self.on_levels(keypoints, level), self.sizes[level].flip(-1) - 1
        return ((points >= BORDER) & (points <= last - BORDER)).all(-1)

    def read(self, places: _Places, size: int) -> Float[Tensor, 'b n 1 s s']:
        """Read size x size patches."""
        points = self.on_levels(places.keypoints, places.level).nan_to_num()
        last = self.sizes[places.level].flip(-1) - 1
        points = torch.minimum(points.clamp(min=0), last)  # else they would see another level
        start = torch.stack(
            [self.starts[places.level], torch.full_like(places.level, self.margin)]
        )
        points = points + start.permute(1, 2, 0)
        return extract_patches(self.atlas, points, self.side, places.turn, size)


def make_patch_pairs(
    pairs: PairBatch,
    sampled: SampledViews,
    sizes: Sequence[tuple[int, int]],
    config: PatchPairConfig,
    generator: Generator,
    size: int = 32,
) -> PatchBatch:
    """
    Choose places in view 0, find them in view 1, and read size x size patches around both.

    sampled: what the pairs show; sizes: (height, width) of the levels of a view. There are
    config.patches for each pair of views on average, fewer where they have little in common.
    """
    views = match_channels(pairs.images.flatten(0, 1), 1).unflatten(0, (2, -1))
    readers = [PatchReader(view, sizes, config.region_size) for view in views]
    first = _propose(readers[0], config, generator)
    second, real = _follow(first, pairs, readers, config, generator)
    if config.orientation == 'gradient':
        first, second, agree = _orient((first, second), readers, config, size)
        real = real & agree
    chosen = _choose(real, config.patches * len(real), generator)
    patches = [
        reader.read(places, size).flatten(0, 1)[chosen]
        for reader, places in zip(readers, (first, second), strict=True)
    ]
    shown = warp_points(first.keypoints, sampled.homographies[0])
    scale = local_affinities(first.keypoints, sampled.homographies[0]).det().abs().sqrt()
    return PatchBatch(
        torch.stack(patches),
        sampled.photograph[chosen.div(real.shape[1], rounding_mode='floor')],
        shown.flatten(0, 1)[chosen],
        (scale / readers[0].factors[first.level]).flatten()[chosen],
    )


def _choose(real: Bool[Tensor, 'b n'], count: int, generator: Generator) -> Int[Tensor, ' k']:
    """Return the flat indices of `count` true entries, or of all where there are fewer."""
    found = real.flatten().nonzero()[:, 0]
    order = torch.randperm(len(found), generator=generator, device=found.device)
    return found[order[:count]].sort().values


def _propose(reader: PatchReader, config: PatchPairConfig, generator: Generator) -> _Places:
    """Draw places on every level, on large ones more: corners and any others."""
    shares = reader.factors / reader.factors.sum() * (SPARE * config.patches)
    keypoints, levels = [], []
    for index, (level, count) in enumerate(zip(reader.levels, shares.tolist(), strict=True)):
        weights = _where_to_look(level, config.random_share)
        height, width = level.shape[-2:]
        count = min(math.ceil(count), (height - 2 * BORDER) * (width - 2 * BORDER))
        drawn = weights.flatten(1).multinomial(count, generator=generator)
        xy = torch.stack([drawn % width, drawn.div(width, rounding_mode='floor')], -1)
        within = torch.rand(xy.shape, generator=generator, device=xy.device) - 0.5
        keypoints.append(rescale_points(xy + within, (height, width), reader.view_size))
        levels.append(torch.full_like(drawn, index))
    level = torch.cat(levels, 1)
    return _Places(torch.cat(keypoints, 1), level, torch.zeros_like(level, dtype=torch.float32))


def _where_to_look(image: Float[Tensor, 'b 1 h w'], random_share: float) -> Float[Tensor, 'b h w']:
    """Return how often each pixel is drawn: local maxima by how strong they are, others evenly."""
    peaks = suppress_non_maxima(cornerness(image), APART, rounds=0)
    peaks = clear_borders(peaks.sqrt(), BORDER, BORDER)  # the contrast: else the strongest alone
    evenly = clear_borders(torch.ones_like(peaks), BORDER, BORDER)
    total = peaks.sum((1, 2), keepdim=True).clamp(min=1e-12)
    evenly = evenly / evenly.sum((1, 2), keepdim=True)
    return (1 - random_share) * peaks / total + random_share * evenly


def cornerness(image: Float[Tensor, 'b 1 h w'], sigma: float = 2.0) -> Float[Tensor, 'b h w']:
    """Return the smaller eigenvalue of the gradients' covariance (Shi and Tomasi 1994)."""
    padded = F.pad(image, (1, 1, 1, 1), 'replicate')
    dx = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    dy = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    xx, xy, yy = gaussian_blur(torch.cat([dx * dx, dx * dy, dy * dy], 1), sigma).unbind(1)
    return ((xx + yy) / 2 - torch.hypot((xx - yy) / 2, xy)).clamp(min=0)


def local_affinities(
    points: Float[Tensor, 'b n 2'], H_0to1: Float[Tensor, 'b 3 3']
) -> Float[Tensor, 'b n 2 2']:
    """Return the derivatives of homographies at (x, y) pixels of image 0: [[x'x, x'y], …]."""
    moved = warp_points(points, H_0to1)
    depth = points @ H_0to1[:, 2:, :2].mT + H_0to1[:, 2:, 2:]
    tilt = moved[..., None] * H_0to1[:, None, 2:, :2]
    return (H_0to1[:, None, :2, :2] - tilt) / depth[..., None]


def _follow(
    places: _Places,
    pairs: PairBatch,
    readers: Sequence[PatchReader],
    config: PatchPairConfig,
    generator: Generator,
) -> tuple[_Places, Bool[Tensor, 'b n']]:
    """Return the same places in view 1, about, and which of them both views show."""
    device, shape = generator.device, places.level.shape
    keypoints = warp_points(places.keypoints, pairs.H_0to1)
    A = local_affinities(places.keypoints, pairs.H_0to1)
    turn = torch.atan2(A[..., 1, 0] - A[..., 0, 1], A[..., 0, 0] + A[..., 1, 1])
    if config.orientation == 'upright':
        turn = turn + torch.randn(shape, generator=generator, device=device) * math.radians(
            config.turn_deg
        )
    factors = readers[0].factors.log()
    jitter = torch.rand(shape, generator=generator, device=device) * 2 - 1
    wanted = factors[places.level] - 0.5 * torch.linalg.det(A).abs().log()
    wanted = wanted + jitter * math.log(config.scale_jitter)
    missed, level = (wanted[..., None] - factors).abs().min(-1)
    on_a_level = missed <= 0.5 * factors.diff().abs().amax() + 1e-3
    noise = torch.randn((*shape, 2), generator=generator, device=device) * config.position_px
    moved = keypoints + noise / factors[level, None].exp()
    seen = _shown(pairs.valid[0], places.keypoints) & _shown(pairs.valid[1], keypoints)
    real = seen & on_a_level & readers[1].inside(moved, level)
    return _Places(moved, level, turn.nan_to_num()), real


def _shown(valid: Bool[Tensor, 'b h w'], points: Float[Tensor, 'b n 2']) -> Bool[Tensor, 'b n']:
    """Return at which points a view shows its photograph; false outside, and for NaN."""
    return sample(valid[:, None].float(), points.nan_to_num(nan=-1e4))[..., 0] > 0.5


def _orient(
    views: Sequence[_Places],
    readers: Sequence[PatchReader],
    config: PatchPairConfig,
    size: int,
) -> tuple[_Places, _Places, Bool[Tensor, 'b n']]:
    """Turn the places of both views along their gradients, and return where these agree."""
    oriented = []
    for places, reader in zip(views, readers, strict=True):
        upright = reader.read(places._replace(turn=torch.zeros_like(places.turn)), size)
        found = dominant_orientations(upright.flatten(0, 1)[:, 0]).view_as(places.turn)
        oriented.append(places._replace(turn=found))
    first, second = oriented
    wrong = second.turn - first.turn - (views[1].turn - views[0].turn)
    agree = wrong.cos() >= math.cos(min(math.pi, 3 * math.radians(config.turn_deg)))
    return first, second, agree
