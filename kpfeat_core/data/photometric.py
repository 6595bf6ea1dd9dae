"""
Photometric changes in plain torch: every image of a batch gets its own.

Those of a camera, made for all systems here, and the lists of the published trainings.
"""

from dataclasses import dataclass
import math

import torch
from torch import Tensor
import torch.nn.functional as F

from .colour import change_colour, COLOURS
from .light import change_light, LIGHTS
from ..axes import Float
from ..config import option
from ..image import LUMA, match_channels

CAMERA = 'camera'


@dataclass(frozen=True)
class PhotometricConfig:
    """How strongly light, colour, blur and noise change. Shares are of images."""

    photometric: str = option(
        CAMERA,
        'what changes: camera as the options below say, or a published list in their place (those '
        'of superpoint and aslfeat make gray images)',
        choices=(CAMERA, *LIGHTS, *COLOURS),
    )
    brightness: float = option(0.2, 'largest shift of brightness, full scale 1', 0.0, 1.0)
    contrast: float = option(0.5, 'largest log2 change of contrast', 0.0, 3.0)
    gamma: float = option(0.5, 'largest log2 change of gamma', 0.0, 3.0)
    saturation: float = option(0.6, 'largest change of saturation', 0.0, 1.0)
    tint: float = option(0.1, 'largest gain of a single channel', 0.0, 1.0)
    gray_share: float = option(0.2, 'share of gray images', 0.0, 1.0)
    shade: float = option(0.4, 'largest smooth shadow or glare', 0.0, 1.0)
    shade_share: float = option(0.4, 'share of images with it', 0.0, 1.0)
    blur_px: float = option(1.5, 'largest standard deviation of blur in pixels', 0.0, 10.0)
    motion_px: float = option(5.0, 'longest motion blur in pixels', 0.0, 20.0)
    blur_share: float = option(0.35, 'share of blurred images', 0.0, 1.0)
    noise: float = option(0.04, 'largest standard deviation of noise, full scale 1', 0.0, 1.0)
    noisy_share: float = option(0.6, 'share of noisy images', 0.0, 1.0)


def augment(
    images: Float[Tensor, 'b 3 h w'], config: PhotometricConfig, generator: torch.Generator
) -> Float[Tensor, 'b 3 h w']:
    """
    Change light, colour, shade, blur and noise at random, in the order of a camera.

    Or by a published list, some of which have views of a pair in common: images are the first
    views of all pairs, then the second ones.
    """
    if config.photometric in COLOURS:
        return change_colour(images, COLOURS[config.photometric], generator)
    if config.photometric in LIGHTS:
        gray = match_channels(images, 1)
        return match_channels(change_light(gray, LIGHTS[config.photometric], generator), 3)
    draw = _Draw(len(images), generator)
    images = _shade(images, config, draw)
    gain = 1 + draw.uniform(-config.tint, config.tint, 3)
    luma = (images * images.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    saturation = 1 + draw.uniform(-config.saturation, config.saturation)
    saturation = saturation.where(~draw.chance(config.gray_share), 0)
    images = (luma + (images - luma) * saturation) * gain.where(saturation != 0, 1)
    images = images.clamp(0, 1) ** draw.uniform(-config.gamma, config.gamma).exp2()
    mean = images.mean((1, 2, 3), keepdim=True)
    contrast = draw.uniform(-config.contrast, config.contrast).exp2()
    images = (images - mean) * contrast + mean
    images = images + draw.uniform(-config.brightness, config.brightness)
    images = _blur(images, config, draw)
    strength = draw.uniform(0, config.noise) * draw.chance(config.noisy_share)
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    return (images + noise * strength).clamp(0, 1)


class _Draw:
    """Random numbers of shape (B, n, 1, 1) for a batch."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count, self.generator = count, generator

    def uniform(self, low: float, high: float, n: int = 1) -> Tensor:
        """Uniform in [low, high]."""
        values = torch.rand(
            (self.count, n, 1, 1), generator=self.generator, device=self.generator.device
        )
        return low + (high - low) * values

    def chance(self, share: float) -> Tensor:
        """Return true for this share of images."""
        return self.uniform(0, 1) < share


def _shade(images: Tensor, config: PhotometricConfig, draw: _Draw) -> Tensor:
    """Multiply by a smooth random field: shadows and glare."""
    size = images.shape[-2:]
    coarse = draw.uniform(-1, 1, 25).view(-1, 1, 5, 5)
    field = F.interpolate(coarse, size, mode='bicubic', align_corners=False)
    strength = draw.uniform(0, config.shade) * draw.chance(config.shade_share)
    return images * (1 + field * strength).clamp(min=0.1)


def _blur(images: Tensor, config: PhotometricConfig, draw: _Draw) -> Tensor:
    """Blur some images with an oriented Gaussian: round is defocus, long is motion."""
    radius = max(1, math.ceil(max(config.blur_px * 2, config.motion_px / 2)))
    chosen = torch.nonzero(draw.chance(config.blur_share).flatten())[:, 0]
    wide = draw.uniform(0.3, max(config.blur_px, 0.3)).flatten()
    moving = draw.chance(0.4).flatten()
    long = draw.uniform(0.3, max(config.motion_px / 3.5, 0.3)).flatten()
    angle = draw.uniform(0, math.pi).flatten()
    if len(chosen) == 0 or (config.blur_px == 0 and config.motion_px == 0):
        return images
    across = torch.where(moving, 0.3, wide)[chosen, None, None]
    along = torch.where(moving, long, wide)[chosen, None, None]
    cos, sin = angle[chosen, None, None].cos(), angle[chosen, None, None].sin()
    step = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    y, x = torch.meshgrid(step, step, indexing='ij')
    u, v = x * cos + y * sin, y * cos - x * sin
    kernel = torch.exp(-((u / along) ** 2 + (v / across) ** 2) / 2)
    kernel = kernel / kernel.sum((1, 2), keepdim=True)
    kernel = kernel.repeat_interleave(3, 0)[:, None]
    rows = images[chosen].flatten(0, 1)[None]
    rows = F.pad(rows, (radius,) * 4, mode='reflect')
    blurred = F.conv2d(rows, kernel, groups=kernel.shape[0])
    images = images.clone()
    images[chosen] = blurred.view(len(chosen), 3, *images.shape[-2:])
    return images
