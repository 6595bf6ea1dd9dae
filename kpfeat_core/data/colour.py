"""
How colours change in the published trainings of KP2D, Key.Net and ALIKE.

Sources: the code of Tang et al. 2020, Barroso-Laguna et al. 2019 and Zhao et al. 2022; the papers
name the kinds. Greys go from 0 to 1 here. SuperPoint's and ASLFeat's lists are in `light`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
import torch.nn.functional as F

from .light import Draw, drawer, in_random_order
from ..axes import Float
from ..config import option
from ..image import match_channels

KERNELS = (1, 1, 3, 5)  # of the blur, drawn evenly; 1 is none


@dataclass(frozen=True)
class ColourConfig:
    """Ranges that each image draws from, all of them evenly. Shares are of images."""

    share: float = option(1.0, 'share of images with each change of light and colour', 0.0, 1.0)
    shift: float = option(0.0, 'largest shift of the brightness, full scale 1', 0.0, 1.0)
    brightness: float = option(0.0, 'brightness times 1 plus or minus this at most', 0.0, 1.0)
    contrast: float = option(0.0, 'contrast times 1 plus or minus this at most', 0.0, 1.0)
    saturation: float = option(0.0, 'saturation times 1 plus or minus this at most', 0.0, 1.0)
    hue: float = option(0.0, 'largest turn of the hue, a full one is 1', 0.0, 0.5)
    noise: float = option(0.0, 'standard deviation of noise, full scale 1', 0.0, 1.0)
    noise_share: float = option(0.5, 'share of noisy images', 0.0, 1.0)
    blurred: bool = option(False, 'blur three of four images with a kernel of 1, 3 or 5 pixels')
    swap_share: float = option(0.0, 'share of pairs whose channels change places', 0.0, 1.0)
    gray_share: float = option(0.0, 'share of gray pairs', 0.0, 1.0)
    one_view: bool = option(False, 'change the second view alone')


COLOURS: Mapping[str, ColourConfig] = MappingProxyType(
    {
        'kp2d': ColourConfig(
            brightness=0.5, contrast=0.5, saturation=0.2, hue=0.05, noise=0.05, blurred=True,
            swap_share=0.5, gray_share=0.5,
        ),
        'keynet': ColourConfig(
            share=0.5, shift=36 / 255, contrast=0.5, saturation=0.5, hue=0.1, swap_share=0.5,
            one_view=True,
        ),
        'alike': ColourConfig(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1),
    }
)  # fmt: skip


def change_colour(
    images: Float[Tensor, 'b 3 h w'], config: ColourConfig, generator: torch.Generator
) -> Float[Tensor, 'b 3 h w']:
    """
    Change the colours of RGB images in [0, 1]; the generator is on their device.

    images: the first views of all pairs, then the second ones; both of a pair share the order of
    their channels and whether they are gray, all else is independent.
    """
    pairs = -(-len(images) // 2)
    draw, shared = drawer(len(images), generator), drawer(pairs, generator)
    changed = images + config.noise * _chosen(config.noise_share, draw) * (
        draw(0, 1, *images.shape[1:], normal=True)
    )
    changed = changed.clamp(0, 1)
    if config.blurred:
        changed = _blur(changed, draw)
    changed = _swap(changed, config, shared)
    gray = match_channels(match_channels(changed, 1), 3)
    lot = _chosen(config.gray_share, shared).repeat(2, 1, 1, 1)[: len(images)]
    changed = torch.where(lot, gray, changed)
    changes = (_shift, _brighten, _contrast, _saturate, _turn_hue)
    changed = in_random_order(changed, changes, config, generator)
    if config.one_view:
        changed[:pairs] = images[:pairs]
    return changed


def _chosen(share: float, draw: Draw) -> Tensor:
    return draw(0, 1) < share


def _factor(limit: float, config: ColourConfig, draw: Draw) -> Tensor:
    return torch.where(_chosen(config.share, draw), draw(1 - limit, 1 + limit), 1)


def _shift(images: Tensor, config: ColourConfig, draw: Draw) -> Tensor:
    return images + _chosen(config.share, draw) * draw(-config.shift, config.shift)


def _brighten(images: Tensor, config: ColourConfig, draw: Draw) -> Tensor:
    return images * _factor(config.brightness, config, draw)


def _contrast(images: Tensor, config: ColourConfig, draw: Draw) -> Tensor:
    mean = match_channels(images, 1).mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * _factor(config.contrast, config, draw)


def _saturate(images: Tensor, config: ColourConfig, draw: Draw) -> Tensor:
    gray = match_channels(images, 1)
    return gray + (images - gray) * _factor(config.saturation, config, draw)


def _turn_hue(images: Tensor, config: ColourConfig, draw: Draw) -> Tensor:
    """Turn the hue and keep saturation and value, as in the hexagonal cone of HSV."""
    turn = _chosen(config.share, draw) * draw(-config.hue, config.hue)
    red, green, blue = images.split(1, 1)
    value = images.amax(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    some = chroma.clamp(min=1e-6)
    sector = torch.where(value == green, (blue - red) / some + 2, (red - green) / some + 4)
    sector = torch.where(value == red, (green - blue) / some, sector)
    places = torch.tensor([5.0, 3.0, 1.0], device=images.device).view(1, 3, 1, 1)
    places = (places + sector + 6 * turn) % 6
    return value - chroma * torch.minimum(places, 4 - places).clamp(0, 1)


def _swap(images: Tensor, config: ColourConfig, draw: Draw) -> Tensor:
    """Let the channels of some pairs change places, both views alike."""
    order = draw(0, 1, 3).argsort(1)
    still = torch.arange(3, device=images.device)
    order = torch.where(_chosen(config.swap_share, draw)[:, 0, 0], order, still)
    order = order.repeat(2, 1)[: len(images)]
    return images.take_along_dim(order[..., None, None], 1)


def _blur(images: Tensor, draw: Draw) -> Tensor:
    """Blur with small Gaussian kernels, of the deviations that OpenCV takes for their sizes."""
    count, channels = images.shape[:2]
    kinds = images.new_tensor(KERNELS)
    size = kinds[draw(0, len(kinds), 1).floor().clamp(max=len(kinds) - 1).long()]  # (b, 1)
    radius = max(KERNELS) // 2
    step = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    sigma = 0.3 * ((size - 1) / 2 - 1) + 0.8
    line = torch.exp(-((step / sigma) ** 2) / 2) * (step.abs() <= size // 2)
    line = line / line.sum(1, keepdim=True)
    kernel = (line[:, :, None] * line[:, None]).repeat_interleave(channels, 0)[:, None]
    rows = F.pad(images, (radius,) * 4, mode='reflect').flatten(0, 1)[None]
    return F.conv2d(rows, kernel, groups=count * channels).view(images.shape)
