"""Pairs of views of one photograph under random homographies, made in batches on the device."""

from dataclasses import dataclass
import math
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from .config import HOMOGRAPHIES, homography_config
from .homographies import all_in_front, view_homographies
from .image_folder import ImageBank
from .photometric import augment, CAMERA, PhotometricConfig
from .view_pairs import PairBatch
from ..axes import Bool, Float, Int
from ..config import AUTO, option, Range, Share
from ..geometry import normalize_points, pixel_grid, warp_points


@dataclass(frozen=True)
class PairConfig:
    """
    How two views of a photograph differ.

    view_size: side of a view in pixels; coverage_min, coverage_max: smallest and largest view, as
    a share of the short side; max_zoom: largest ratio of scale between the views; max_tilt:
    largest foreshortening in one direction; perspective: largest change of depth across a view;
    rotation_deg: standard deviation of in-plane rotation; any_rotation: share of pairs turned by
    any angle; shift: largest shift between views, as a share of a view.
    """

    geometry: str = option(
        CAMERA,
        'camera: as the options from max_zoom to shift say; a published sampler in their place: '
        'view 0 upright, view 1 moved; or auto, the one of this training',
        choices=(AUTO, CAMERA, *HOMOGRAPHIES),
        old='homographies',
    )
    view_size: Annotated[int, Range(32)] = 224
    coverage_min: Annotated[float, Range(0.1, 1.0)] = 0.6
    coverage_max: Annotated[float, Range(0.1, 2.0)] = 1.0
    max_zoom: Annotated[float, Range(1.0, 8.0)] = 2.0
    max_tilt: Annotated[float, Range(1.0, 4.0)] = 1.6
    perspective: Annotated[float, Range(0.0, 0.9)] = 0.35
    rotation_deg: Annotated[float, Range(0.0, 180.0)] = 30.0
    any_rotation: Share = 0.3
    shift: Share = 0.2


class SampledViews(NamedTuple):
    """
    Which photographs (B,) of a bank are shown, and how.

    homographies (2, B, 3, 3) take the pixels of the views to those of the photographs, H_0to1
    (B, 3, 3) those of view 0 to view 1.
    """

    photograph: Int[Tensor, ' b']
    homographies: Float[Tensor, '2 b 3 3']
    H_0to1: Float[Tensor, 'b 3 3']


def _uniform(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    values = torch.rand(count, generator=generator, device=generator.device)
    return low + (high - low) * values


def _matrix(rows: list[list[Tensor | float]], like: Tensor) -> Tensor:
    """Stack scalars and (B,) tensors into (B, 3, 3)."""
    return torch.stack(
        [torch.stack([torch.zeros_like(like) + value for value in row], -1) for row in rows], -2
    )


def sample_view_homographies(
    sizes: Float[Tensor, 'b 2'], config: PairConfig, generator: torch.Generator
) -> Float[Tensor, '2 b 3 3']:
    """
    Draw, for each photograph (width, height), homographies from view pixels to its pixels.

    A view is a square of the photograph that covers a random share of its short side; view 1
    differs from view 0 by shift, zoom, rotation, tilt (foreshortening along a random axis) and
    perspective. Half of the zoom goes to each view. All of either view is in front of the other's
    horizon: draws of another kind, which strong perspective makes, are drawn again.
    """
    homographies = _sample_views(sizes, config, generator)
    while len(hidden := (~_in_front_of_each_other(homographies, config)).nonzero()[:, 0]):
        homographies[:, hidden] = _sample_views(sizes[hidden], config, generator)
    return homographies


def _in_front_of_each_other(
    homographies: Float[Tensor, '2 b 3 3'], config: PairConfig
) -> Bool[Tensor, ' b']:
    """Return in which pairs the camera of each view sees all of the other, as far as it goes."""
    there = torch.linalg.inv(homographies.flip(0)) @ homographies
    return all_in_front(there, config.view_size - 1).all(0)


def _sample_views(
    sizes: Float[Tensor, 'b 2'], config: PairConfig, generator: torch.Generator
) -> Float[Tensor, '2 b 3 3']:
    count, side = len(sizes), config.view_size
    short = sizes.amin(1)
    covered = _uniform(config.coverage_min, config.coverage_max, count, generator) * short
    log_zoom = math.log(config.max_zoom) / 2
    zoom = _uniform(-log_zoom, log_zoom, count, generator)
    spun = torch.randn(count, generator=generator, device=generator.device)
    spun = spun * math.radians(config.rotation_deg)
    anywhere = _uniform(-math.pi, math.pi, count, generator)
    free = _uniform(0, 1, count, generator) < config.any_rotation
    turn = torch.where(free, anywhere, spun)
    first_turn = _uniform(-0.3, 0.3, count, generator)  # cameras are rarely level
    unit = torch.stack([_uniform(0, 1, count, generator) for _ in range(2)], -1)
    half = covered[:, None] / 2
    room = (sizes - 1 - 2 * half).clamp(min=0)
    center = (sizes - 1 - room) / 2 + unit * room
    views = []
    for index, angle in enumerate((first_turn, first_turn + turn)):
        sign = 1 - 2 * index
        scale = covered / side * (sign * zoom).exp()
        if index == 1:
            shift = [_uniform(-config.shift, config.shift, count, generator) for _ in range(2)]
            center = center + torch.stack(shift, -1) * covered[:, None]
        views.append(_view_homography(center, scale, angle, config, generator))
    return torch.stack(views)


def sample_geometry(
    sizes: Float[Tensor, 'b 2'], config: PairConfig, generator: torch.Generator
) -> tuple[Float[Tensor, '2 b 3 3'], Float[Tensor, 'b 3 3']]:
    """
    Draw two views of each photograph (width, height) as the configuration says.

    Returns the homographies from the views' pixels to those of the photograph, and H_0to1. Of
    KP2D, whose paper takes one view out of the other, view 1 is here a part of view 0.
    """
    if config.geometry in (AUTO, CAMERA):
        homographies = sample_view_homographies(sizes, config, generator)
        return homographies, torch.linalg.inv(homographies[1]) @ homographies[0]
    coverage = (config.coverage_min, config.coverage_max)
    published = homography_config(config.geometry)
    return view_homographies(sizes, config.view_size, coverage, published, generator)


def _view_homography(
    center: Tensor, scale: Tensor, angle: Tensor, config: PairConfig, generator: torch.Generator
) -> Tensor:
    """Build view pixels -> photograph pixels: center, lean, tilt, rotate and scale, move."""
    count, side = len(center), config.view_size
    zero = torch.zeros_like(scale)
    middle = (side - 1) / 2
    to_center = _matrix([[1, 0, -middle], [0, 1, -middle], [0, 0, 1]], zero)
    lean = [_uniform(-1, 1, count, generator) * config.perspective / side for _ in range(2)]
    lean = _matrix([[1, 0, 0], [0, 1, 0], [lean[0], lean[1], 1]], zero)
    tilt = _uniform(-0.5, 0.5, count, generator) * math.log(config.max_tilt)
    axis = _uniform(0, math.pi, count, generator)
    cos, sin = axis.cos(), axis.sin()
    a, b = tilt.exp(), (-tilt).exp()
    stretch = _matrix(
        [
            [a * cos**2 + b * sin**2, (a - b) * cos * sin, 0],
            [(a - b) * cos * sin, a * sin**2 + b * cos**2, 0],
            [0, 0, 1],
        ],
        zero,
    )
    cos, sin = scale * angle.cos(), scale * angle.sin()
    place = _matrix([[cos, -sin, center[:, 0]], [sin, cos, center[:, 1]], [0, 0, 1]], zero)
    return place @ stretch @ lean @ to_center


def render_views(
    bank: ImageBank, index: Tensor, homographies: Float[Tensor, 'b 3 3'], side: int
) -> tuple[Float[Tensor, 'b 3 v v'], Bool[Tensor, 'b v v']]:
    """
    Sample photographs `index` (B,) under view-to-photograph homographies.

    Returns views and the mask of pixels inside the photograph; outside, it is mirrored. Views
    that shrink a photograph by more than 1.4 read its half-resolution copy, against aliasing.
    """
    count = len(index)
    grid = pixel_grid(side, side, homographies.device).expand(count, -1, -1)
    points = warp_points(grid, homographies)
    size = bank.sizes[index][:, None]
    seen = ((points >= 0) & (points <= size - 1)).all(-1)
    period = 2 * (size - 1)
    folded = points.nan_to_num().remainder(period)
    folded = torch.minimum(folded, period - folded)
    shrink = homographies[:, :2, :2].det().abs().sqrt()
    views = folded.new_empty(count, 3, side, side)
    for level, chosen in enumerate((shrink < 1.4, shrink >= 1.4)):
        rows = torch.nonzero(chosen)[:, 0]
        if len(rows) == 0:
            continue
        images = bank.levels[level][index[rows]].float() / 255
        # pixel areas align between levels; the last odd row or column has no half pixel
        where = (folded[rows] + 0.5) / 2**level - 0.5
        last = (size[rows] / 2**level).floor() - 1
        where = torch.minimum(where.clamp(min=0), last)
        flow = normalize_points(where, *images.shape[-2:]).view(len(rows), side, side, 2)
        views[rows] = torch.nn.functional.grid_sample(images, flow, align_corners=True)
    return views, seen.view(count, side, side)


def make_pairs(
    bank: ImageBank,
    count: int,
    config: PairConfig,
    photometric: PhotometricConfig,
    generator: torch.Generator,
) -> PairBatch:
    """Draw photographs and render two views of each; photometric changes are independent."""
    drawn = sample_views(bank, count, config, generator)
    return render_pairs(bank, drawn, config.view_size, photometric, generator)


def sample_views(
    bank: ImageBank, count: int, config: PairConfig, generator: torch.Generator
) -> SampledViews:
    """Draw photographs, of which some may come twice, and two views of each."""
    index = bank.probabilities.multinomial(count, replacement=True, generator=generator)
    return SampledViews(index, *sample_geometry(bank.sizes[index], config, generator))


def render_pairs(
    bank: ImageBank,
    drawn: SampledViews,
    side: int,
    photometric: PhotometricConfig,
    generator: torch.Generator,
) -> PairBatch:
    """Render the two views of each photograph and change their light."""
    rendered = [render_views(bank, drawn.photograph, h, side) for h in drawn.homographies]
    views = torch.cat([view for view, _ in rendered])
    views = augment(views, photometric, generator).unflatten(0, (2, -1))
    return PairBatch(views, drawn.H_0to1, torch.stack([seen for _, seen in rendered]))
