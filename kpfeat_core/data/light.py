"""
How light, noise and motion blur change in the published trainings of SuperPoint and ASLFeat.

Six changes, each image in an order of its own: brightness, contrast, noise, speckle, shade and
motion blur; ASLFeat has the first two and the last. Sources: the open implementation of DeTone et
al. 2018 with its configuration v6, as the paper names the kinds and gives no numbers, and the code
of Luo et al. 2020. Greys go from 0 to 1 here, to 255 there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
import math
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
import torch.nn.functional as F

from ..axes import Float
from ..config import option
from ..geometry import pixel_grid

SHADE_GRID = 4  # the shade is so smooth that a grid this much coarser shows all of it


@dataclass(frozen=True)
class LightConfig:
    """Ranges that each image draws from, all of them evenly."""

    brightness: float = option(50 / 255, 'largest shift, full scale 1', 0.0, 1.0)
    contrast_min: float = option(0.5, 'smallest factor around the mean of the image', 0.0, 10.0)
    contrast_max: float = option(1.5, 'largest factor around the mean of the image', 0.0, 10.0)
    noise: float = option(10 / 255, 'largest standard deviation, full scale 1', 0.0, 1.0)
    speckle: float = option(0.0035, 'largest share of black, and of white pixels', 0.0, 0.5)
    ellipses: int = option(20, 'ellipses that are shaded', low=0)
    shade_min: float = option(-0.5, 'shade of the least dark; below 0 it is a glare', -1.0, 1.0)
    shade_max: float = option(0.5, 'shade of the darkest; 1 is black', -1.0, 1.0)
    shade_blur_min_px: int = option(100, 'smallest Gaussian kernel that softens them', 1, 1000)
    shade_blur_max_px: int = option(150, 'largest Gaussian kernel that softens them', 1, 1000)
    motion_px: int = option(3, 'longest motion blur, odd; 1 is none', 1, 99)


# SuperPoint's stages are Synthetic Shapes, the detector on photographs, and the joint training.
LIGHTS: Mapping[str, LightConfig] = MappingProxyType(
    {
        'superpoint-synthetic': LightConfig(
            brightness=75 / 255,
            contrast_min=0.3,
            contrast_max=1.8,
            noise=15 / 255,
            shade_max=0.8,
            shade_blur_min_px=50,
            shade_blur_max_px=100,
            motion_px=7,
        ),
        'superpoint-augment': LightConfig(contrast_min=0.3),
        'superpoint-pair': LightConfig(),
        'aslfeat': LightConfig(contrast_min=0.3, noise=0.0, speckle=0.0, ellipses=0),
    }
)


Draw = Callable[..., Tensor]


def change_light(
    images: Float[Tensor, 'b c h w'], config: LightConfig, generator: torch.Generator
) -> Float[Tensor, 'b c h w']:
    """Apply all changes to images in [0, 1]; the generator is on their device."""
    changes = (_brighten, _contrast, _noise, _speckle, _shade, _move)
    return in_random_order(images, changes, config, generator)


def in_random_order(
    images: Float[Tensor, 'b c h w'],
    changes: Sequence[Callable[[Tensor, Any, Draw], Tensor]],
    config: Any,
    generator: torch.Generator,
) -> Float[Tensor, 'b c h w']:
    """Apply each change(images, config, draw) to each image, in an order of its own."""
    order = torch.rand(len(images), len(changes), generator=generator, device=images.device)
    turns = order.argsort(1).argsort(1).cpu()  # the turn of each change, once for the batch
    images = images.clone()
    for turn in range(len(changes)):
        for place, change in enumerate(changes):
            rows = torch.nonzero(turns[:, place] == turn)[:, 0].to(images.device)
            if len(rows):
                draw = drawer(len(rows), generator)
                images[rows] = change(images[rows], config, draw).clamp(0, 1)
    return images


def drawer(count: int, generator: torch.Generator) -> Draw:
    """Return what draws random numbers for `count` images."""

    def draw(low: float, high: float, *shape: int, normal: bool = False) -> Tensor:
        """Draw evenly in [low, high], (n, 1, 1, 1) or (n, *shape); or around low, spread high."""
        function = torch.randn if normal else torch.rand
        shape = shape or (1, 1, 1)
        values = function((count, *shape), generator=generator, device=generator.device)
        return low + high * values if normal else low + (high - low) * values

    return draw


def _brighten(images: Tensor, config: LightConfig, draw: Draw) -> Tensor:
    return images + draw(-config.brightness, config.brightness)


def _contrast(images: Tensor, config: LightConfig, draw: Draw) -> Tensor:
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * draw(config.contrast_min, config.contrast_max)


def _noise(images: Tensor, config: LightConfig, draw: Draw) -> Tensor:
    return images + draw(0, config.noise) * draw(0, 1, *images.shape[1:], normal=True)


def _speckle(images: Tensor, config: LightConfig, draw: Draw) -> Tensor:
    share = draw(0, config.speckle)
    lot = draw(0, 1, 1, *images.shape[2:])
    return images.masked_fill(lot < share, 0.0).masked_fill(lot >= 1 - share, 1.0)


def _shade(images: Tensor, config: LightConfig, draw: Draw) -> Tensor:
    """Darken, or brighten, the soft union of some ellipses."""
    if config.ellipses == 0:
        return images
    height, width = images.shape[2:]
    rows, columns = -(-height // SHADE_GRID), -(-width // SHADE_GRID)
    largest = min(height, width) / 4
    radii = draw(0, largest, config.ellipses, 1, 2).clamp(min=largest / 5)
    room = radii.amax(-1, keepdim=True)
    size = radii.new_tensor([width, height])
    centres = room + draw(0, 1, config.ellipses, 1, 2) * (size - 2 * room)
    angles = draw(0, math.pi / 2, config.ellipses, 1)
    away = (pixel_grid(rows, columns, images.device) + 0.5) * SHADE_GRID - 0.5 - centres
    cos, sin = angles.cos(), angles.sin()
    along = (away[..., 0] * cos + away[..., 1] * sin) / radii[..., 0]
    across = (away[..., 1] * cos - away[..., 0] * sin) / radii[..., 1]
    inside = (along**2 + across**2 <= 1).any(1).view(-1, 1, rows, columns).float()
    kernel = draw(config.shade_blur_min_px, config.shade_blur_max_px)
    # the standard deviation that OpenCV takes for a kernel of that size
    sigma = 0.3 * ((kernel - 1) / 2 - 1) + 0.8
    soft = _soften(inside, sigma.flatten() / SHADE_GRID, config)
    soft = F.interpolate(soft, scale_factor=SHADE_GRID, mode='bilinear', align_corners=False)
    return images * (1 - draw(config.shade_min, config.shade_max) * soft[..., :height, :width])


def _soften(maps: Tensor, sigma: Tensor, config: LightConfig) -> Tensor:
    """Blur maps (n, 1, h, w) with a Gaussian of their own each (n,); edges go on beyond them."""
    radius = config.shade_blur_max_px // (2 * SHADE_GRID)
    step = torch.arange(-radius, radius + 1, device=maps.device)
    kernel = (-((step / sigma[:, None]) ** 2) / 2).softmax(1)[:, None]
    for shape, pad in (((-1, 1), (0, 0, radius, radius)), ((1, -1), (radius, radius, 0, 0))):
        weight = kernel.view(len(maps), 1, *shape)
        rows = F.pad(maps, pad, mode='replicate').transpose(0, 1)
        maps = F.conv2d(rows, weight, groups=len(maps)).transpose(0, 1)
    return maps


def _move(images: Tensor, config: LightConfig, draw: Draw) -> Tensor:
    """Blur along a row, a column or a diagonal, most in the middle."""
    count, channels = images.shape[:2]
    radius = config.motion_px // 2
    length = 1 + 2 * draw(0, radius + 1).floor().clamp(max=radius)
    direction = draw(0, 4).floor().clamp(max=3)
    step = torch.arange(-radius, radius + 1, device=images.device)
    y, x = torch.meshgrid(step, step, indexing='ij')
    lines = torch.stack([y == 0, x == 0, y == x, y == -x]).float()
    reach = torch.maximum(x.abs(), y.abs())
    weight = (-(x**2 + y**2) / (2 * length**2 / 16)).exp() * (reach <= length // 2)
    weight = weight * lines[direction.flatten().long()][:, None]
    weight = weight / weight.sum((2, 3), keepdim=True)
    rows = F.pad(images, (radius,) * 4, mode='replicate').flatten(0, 1)[None]
    weight = weight.repeat_interleave(channels, 0)
    return F.conv2d(rows, weight, groups=count * channels).view(images.shape)
