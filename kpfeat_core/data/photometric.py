"""
Photometric changes in plain torch: every image of a batch gets its own.

`camera` is made for all systems here: what a camera does, in its order, within ranges that are
options. The others are the lists of the published trainings, most of whose changes come in an
order of each image's own. Sources: the open implementation of SuperPoint (DeTone et al. 2018)
with its configuration v6, as the paper names the kinds and gives no numbers, and the code of
Luo et al. 2020 (ASLFeat), Tang et al. 2020 (KP2D), Barroso-Laguna et al. 2019 (Key.Net) and Zhao
et al. 2022 (ALIKE). Values go from 0 to 1 here, to 255 in some of these.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
import math
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor
import torch.nn.functional as F

from ..axes import Float
from ..config import AUTO, option, Range, Share
from ..geometry import pixel_grid
from ..image import filter_separably, gaussian_blur, LUMA, match_channels

CAMERA = 'camera'
SHADE_GRID = 4  # the shade is so smooth that a grid this much coarser shows all of it
KERNELS = (1, 1, 3, 5)  # of the blur in color lists, drawn evenly; 1 is none


class GrayRanges(NamedTuple):
    """
    Ranges of the six changes in the lists of SuperPoint and ASLFeat, which make gray images.

    brightness: largest shift; contrast: factor around the mean of the image; noise: largest
    standard deviation; speckle: largest share of black, and of white pixels; ellipses: how many
    are shaded; shade: of all of them, 1 is black, below 0 is a glare; shade_blur_px: Gaussian
    kernel that softens them; motion_px: longest motion blur, odd, 1 is none. Full scale is 1.
    """

    brightness: float = 50 / 255
    contrast: tuple[float, float] = (0.5, 1.5)
    noise: float = 10 / 255
    speckle: float = 0.0035
    ellipses: int = 20
    shade: tuple[float, float] = (-0.5, 0.5)
    shade_blur_px: tuple[int, int] = (100, 150)
    motion_px: int = 3


class ColorRanges(NamedTuple):
    """
    Ranges of the changes in the lists of KP2D, Key.Net and ALIKE.

    share: of images with each change of light and color; shift: of the brightness; brightness,
    contrast, saturation: factors from 1 minus to 1 plus this; hue: largest turn, a full one is 1;
    noise: standard deviation in half of the images; blurred: three of four images, with a kernel
    of 1, 3 or 5 pixels; swap_share, gray_share: of pairs whose channels change places, and that
    are gray; one_view: change the second view alone. Full scale is 1.
    """

    share: float = 1.0
    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    noise: float = 0.0
    blurred: bool = False
    swap_share: float = 0.0
    gray_share: float = 0.0
    one_view: bool = False


# SuperPoint's stages are Synthetic Shapes, the detector on photographs, and the joint training.
GRAY_LISTS: Mapping[str, GrayRanges] = MappingProxyType(
    {
        'superpoint-synthetic': GrayRanges(
            brightness=75 / 255, contrast=(0.3, 1.8), noise=15 / 255, shade=(-0.5, 0.8),
            shade_blur_px=(50, 100), motion_px=7,
        ),
        'superpoint-augment': GrayRanges(contrast=(0.3, 1.5)),
        'superpoint-pair': GrayRanges(),
        'aslfeat': GrayRanges(contrast=(0.3, 1.5), noise=0.0, speckle=0.0, ellipses=0),
    }
)  # fmt: skip
COLOR_LISTS: Mapping[str, ColorRanges] = MappingProxyType(
    {
        'kp2d': ColorRanges(
            brightness=0.5, contrast=0.5, saturation=0.2, hue=0.05, noise=0.05, blurred=True,
            swap_share=0.5, gray_share=0.5,
        ),
        'keynet': ColorRanges(
            share=0.5, shift=36 / 255, contrast=0.5, saturation=0.5, hue=0.1, swap_share=0.5,
            one_view=True,
        ),
        'alike': ColorRanges(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1),
    }
)  # fmt: skip


@dataclass(frozen=True)
class PhotometricConfig:
    """
    How light, color, blur and noise change, each within its range.

    brightness: largest shift, full scale 1; contrast, gamma: largest log2 changes; saturation:
    largest change of it; tint: largest gain of a single channel; gray_share: share of gray images;
    shade, shade_share: largest smooth shadow or glare, and the share of images with it; blur_px:
    largest standard deviation of blur in pixels; motion_px: longest motion blur in pixels;
    blur_share: share of blurred images; noise: largest standard deviation of noise, full scale 1;
    noisy_share: share of noisy images.
    """

    photometric: str = option(
        CAMERA,
        'what changes: camera as the options below say; a published list in their place (those '
        'of superpoint and aslfeat make gray images); or auto, the one of this training',
        choices=(AUTO, CAMERA, *GRAY_LISTS, *COLOR_LISTS),
        old='light',
    )
    brightness: Share = 0.2
    contrast: Annotated[float, Range(0.0, 3.0)] = 0.5
    gamma: Annotated[float, Range(0.0, 3.0)] = 0.5
    saturation: Share = 0.6
    tint: Share = 0.1
    gray_share: Share = 0.2
    shade: Share = 0.4
    shade_share: Share = 0.4
    blur_px: Annotated[float, Range(0.0, 10.0)] = 1.5
    motion_px: Annotated[float, Range(0.0, 20.0)] = 5.0
    blur_share: Share = 0.35
    noise: Share = 0.04
    noisy_share: Share = 0.6


Sampler = Callable[..., Tensor]


def augment(
    images: Float[Tensor, 'b c h w'], config: PhotometricConfig, generator: torch.Generator
) -> Float[Tensor, 'b c h w']:
    """
    Change images in [0, 1] as the configuration says; the generator is on their device.

    images: the first views of all pairs, then the second ones, since both of a pair have some
    changes of the color lists in common. Gray ones are for the gray lists alone.
    """
    if config.photometric in GRAY_LISTS:
        gray = match_channels(images, 1)
        gray = change_gray(gray, GRAY_LISTS[config.photometric], generator)
        return match_channels(gray, images.shape[1])
    if config.photometric in COLOR_LISTS:
        return change_color(images, COLOR_LISTS[config.photometric], generator)
    return _change_as_camera(images, config, generator)


def change_gray(
    images: Float[Tensor, 'b c h w'], ranges: GrayRanges, generator: torch.Generator
) -> Float[Tensor, 'b c h w']:
    """Change light, noise and motion blur as SuperPoint and ASLFeat do."""
    changes = (
        lambda images, sample: images + sample(-ranges.brightness, ranges.brightness),
        lambda images, sample: _scale_contrast(images, sample(*ranges.contrast)),
        lambda images, sample: _add_noise(images, sample(0, ranges.noise), sample),
        lambda images, sample: _speckle(images, ranges.speckle, sample),
        lambda images, sample: _shade_ellipses(images, ranges, sample),
        lambda images, sample: _blur_lines(images, ranges.motion_px, sample),
    )
    return _in_random_order(images, changes, generator)


def change_color(
    images: Float[Tensor, 'b 3 h w'], ranges: ColorRanges, generator: torch.Generator
) -> Float[Tensor, 'b 3 h w']:
    """
    Change the colors of RGB images as KP2D, Key.Net and ALIKE do.

    images: the first views of all pairs, then the second ones; both of a pair share the order of
    their channels and whether they are gray, all else is independent.
    """
    pairs = -(-len(images) // 2)
    sample, shared = _sampler(len(images), generator), _sampler(pairs, generator)
    strength = ranges.noise * (sample(0, 1) < 0.5)
    changed = _add_noise(images, strength, sample).clamp(0, 1)
    if ranges.blurred:
        changed = _blur_little(changed, sample)
    changed = _swap_channels(changed, ranges.swap_share, shared)
    gray = match_channels(match_channels(changed, 1), 3)
    chosen = (shared(0, 1) < ranges.gray_share).repeat(2, 1, 1, 1)[: len(images)]
    changed = torch.where(chosen, gray, changed)

    def factor(limit: float, sample: Sampler) -> Tensor:
        return torch.where(sample(0, 1) < ranges.share, sample(1 - limit, 1 + limit), 1)

    def amount(limit: float, sample: Sampler) -> Tensor:
        return (sample(0, 1) < ranges.share) * sample(-limit, limit)

    changes = (
        lambda images, sample: images + amount(ranges.shift, sample),
        lambda images, sample: images * factor(ranges.brightness, sample),
        lambda images, sample: _scale_contrast(images, factor(ranges.contrast, sample)),
        lambda images, sample: _scale_saturation(images, factor(ranges.saturation, sample)),
        lambda images, sample: _turn_hue(images, amount(ranges.hue, sample)),
    )
    changed = _in_random_order(changed, changes, generator)
    if ranges.one_view:
        changed[:pairs] = images[:pairs]
    return changed


def _change_as_camera(
    images: Float[Tensor, 'b 3 h w'], config: PhotometricConfig, generator: torch.Generator
) -> Float[Tensor, 'b 3 h w']:
    """Change shade, color, light, blur and noise, in the order of a camera."""
    sample = _sampler(len(images), generator)
    images = _shade_smoothly(images, config, sample)
    gain = 1 + sample(-config.tint, config.tint, 3, 1, 1)
    luma = (images * images.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    saturation = 1 + sample(-config.saturation, config.saturation)
    saturation = saturation.where(sample(0, 1) >= config.gray_share, 0)
    images = (luma + (images - luma) * saturation) * gain.where(saturation != 0, 1)
    images = images.clamp(0, 1) ** sample(-config.gamma, config.gamma).exp2()
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + (images - mean) * sample(-config.contrast, config.contrast).exp2()
    images = images + sample(-config.brightness, config.brightness)
    images = _blur_along(images, config, sample)
    strength = sample(0, config.noise) * (sample(0, 1) < config.noisy_share)
    return _add_noise(images, strength, sample).clamp(0, 1)


def _sampler(count: int, generator: torch.Generator) -> Sampler:
    """Return what gives random numbers for `count` images."""

    def sample(low: float, high: float, *shape: int, normal: bool = False) -> Tensor:
        """(n, *shape), else (n, 1, 1, 1): even in [low, high], or normal: low, deviation high."""
        function = torch.randn if normal else torch.rand
        shape = (count, *(shape or (1, 1, 1)))
        values = function(shape, generator=generator, device=generator.device)
        return low + high * values if normal else low + (high - low) * values

    return sample


def _in_random_order(
    images: Float[Tensor, 'b c h w'],
    changes: Sequence[Callable[[Tensor, Sampler], Tensor]],
    generator: torch.Generator,
) -> Float[Tensor, 'b c h w']:
    """Apply each change to each image, in an order of its own."""
    order = torch.rand(len(images), len(changes), generator=generator, device=images.device)
    turns = order.argsort(1).argsort(1).cpu()  # the turn of each change, once for the batch
    images = images.clone()
    for turn in range(len(changes)):
        for place, change in enumerate(changes):
            rows = torch.nonzero(turns[:, place] == turn)[:, 0].to(images.device)
            if len(rows):
                sample = _sampler(len(rows), generator)
                images[rows] = change(images[rows], sample).clamp(0, 1)
    return images


def _scale_contrast(images: Tensor, factor: Tensor) -> Tensor:
    mean = match_channels(images, 1).mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * factor


def _scale_saturation(images: Tensor, factor: Tensor) -> Tensor:
    gray = match_channels(images, 1)
    return gray + (images - gray) * factor


def _turn_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue and keep saturation and value, as in the hexagonal cone of HSV."""
    red, green, blue = images.split(1, 1)
    value = images.amax(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    some = chroma.clamp(min=1e-6)
    sector = torch.where(value == green, (blue - red) / some + 2, (red - green) / some + 4)
    sector = torch.where(value == red, (green - blue) / some, sector)
    places = torch.tensor([5.0, 3.0, 1.0], device=images.device).view(1, 3, 1, 1)
    places = (places + sector + 6 * turn) % 6
    return value - chroma * torch.minimum(places, 4 - places).clamp(0, 1)


def _swap_channels(images: Tensor, share: float, sample: Sampler) -> Tensor:
    """Let the channels of some pairs change places, both views alike."""
    order = sample(0, 1, 3).argsort(1)
    still = torch.arange(3, device=images.device)
    order = torch.where((sample(0, 1) < share)[:, 0, 0], order, still)
    order = order.repeat(2, 1)[: len(images)]
    return images.take_along_dim(order[..., None, None], 1)


def _add_noise(images: Tensor, strength: Tensor, sample: Sampler) -> Tensor:
    return images + strength * sample(0, 1, *images.shape[1:], normal=True)


def _speckle(images: Tensor, largest: float, sample: Sampler) -> Tensor:
    share = sample(0, largest)
    place = sample(0, 1, 1, *images.shape[2:])
    return images.masked_fill(place < share, 0.0).masked_fill(place >= 1 - share, 1.0)


def _shade_smoothly(images: Tensor, config: PhotometricConfig, sample: Sampler) -> Tensor:
    """Multiply some images by a smooth random field: shadows and glare."""
    coarse = sample(-1, 1, 1, 5, 5)
    field = F.interpolate(coarse, images.shape[-2:], mode='bicubic', align_corners=False)
    strength = sample(0, config.shade) * (sample(0, 1) < config.shade_share)
    return images * (1 + field * strength).clamp(min=0.1)


def _shade_ellipses(images: Tensor, ranges: GrayRanges, sample: Sampler) -> Tensor:
    """Darken, or brighten, the soft union of some ellipses."""
    if ranges.ellipses == 0:
        return images
    height, width = images.shape[2:]
    rows, columns = -(-height // SHADE_GRID), -(-width // SHADE_GRID)
    largest = min(height, width) / 4
    radii = sample(0, largest, ranges.ellipses, 1, 2).clamp(min=largest / 5)
    room = radii.amax(-1, keepdim=True)
    size = radii.new_tensor([width, height])
    centers = room + sample(0, 1, ranges.ellipses, 1, 2) * (size - 2 * room)
    angles = sample(0, math.pi / 2, ranges.ellipses, 1)
    away = (pixel_grid(rows, columns, images.device) + 0.5) * SHADE_GRID - 0.5 - centers
    cos, sin = angles.cos(), angles.sin()
    along = (away[..., 0] * cos + away[..., 1] * sin) / radii[..., 0]
    across = (away[..., 1] * cos - away[..., 0] * sin) / radii[..., 1]
    soft = (along**2 + across**2 <= 1).any(1).view(-1, 1, rows, columns).float()
    sigma = _opencv_sigma(sample(*ranges.shade_blur_px)).flatten() / SHADE_GRID
    radius = ranges.shade_blur_px[1] // (2 * SHADE_GRID)
    soft = gaussian_blur(soft, sigma, radius)
    soft = F.interpolate(soft, scale_factor=SHADE_GRID, mode='bilinear', align_corners=False)
    return images * (1 - sample(*ranges.shade) * soft[..., :height, :width])


def _blur_lines(images: Tensor, longest_px: int, sample: Sampler) -> Tensor:
    """Blur along a row, a column or a diagonal, most in the middle."""
    radius = longest_px // 2
    length = 1 + 2 * sample(0, radius + 1).floor().clamp(max=radius)
    direction = sample(0, 4).floor().clamp(max=3)
    y, x = _offsets(radius, images)
    lines = torch.stack([y == 0, x == 0, y == x, y == -x]).float()
    reach = torch.maximum(x.abs(), y.abs())
    weight = (-(x**2 + y**2) / (2 * length**2 / 16)).exp() * (reach <= length // 2)
    weight = (weight * lines[direction.flatten().long()][:, None])[:, 0]
    return _filter(images, weight / weight.sum((1, 2), keepdim=True), 'replicate')


def _blur_little(images: Tensor, sample: Sampler) -> Tensor:
    """Blur with small Gaussian kernels."""
    kinds = images.new_tensor(KERNELS)
    size = kinds[sample(0, len(kinds), 1).floor().clamp(max=len(kinds) - 1).long()]  # (b, 1)
    radius = max(KERNELS) // 2
    step = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    line = torch.exp(-((step / _opencv_sigma(size)) ** 2) / 2) * (step.abs() <= size // 2)
    line = line / line.sum(1, keepdim=True)
    return filter_separably(images, line, 'reflect')


def _blur_along(images: Tensor, config: PhotometricConfig, sample: Sampler) -> Tensor:
    """Blur some images with an oriented Gaussian: round is defocus, long is motion."""
    radius = max(1, math.ceil(max(config.blur_px * 2, config.motion_px / 2)))
    chosen = torch.nonzero((sample(0, 1) < config.blur_share).flatten())[:, 0]
    wide = sample(0.3, max(config.blur_px, 0.3)).flatten()
    moving = (sample(0, 1) < 0.4).flatten()
    long = sample(0.3, max(config.motion_px / 3.5, 0.3)).flatten()
    angle = sample(0, math.pi).flatten()[chosen, None, None]
    if len(chosen) == 0 or (config.blur_px == 0 and config.motion_px == 0):
        return images
    across = torch.where(moving, 0.3, wide)[chosen, None, None]
    along = torch.where(moving, long, wide)[chosen, None, None]
    cos, sin = angle.cos(), angle.sin()
    y, x = _offsets(radius, images)
    u, v = x * cos + y * sin, y * cos - x * sin
    kernels = torch.exp(-((u / along) ** 2 + (v / across) ** 2) / 2)
    images = images.clone()
    images[chosen] = _filter(
        images[chosen], kernels / kernels.sum((1, 2), keepdim=True), 'reflect'
    )
    return images


def _offsets(radius: int, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return y and x of the pixels of a kernel, from its middle."""
    step = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    return torch.meshgrid(step, step, indexing='ij')


def _opencv_sigma(size: Any) -> Any:
    """Return the standard deviation that OpenCV takes for a Gaussian kernel of this size."""
    return 0.3 * ((size - 1) / 2 - 1) + 0.8


def _filter(
    images: Float[Tensor, 'b c h w'], kernels: Float[Tensor, 'b r s'], padding: str
) -> Float[Tensor, 'b c h w']:
    """Convolve each image with a kernel of its own, of odd sides."""
    count, channels = images.shape[:2]
    rows, columns = (side // 2 for side in kernels.shape[1:])
    padded = F.pad(images, (columns, columns, rows, rows), padding).flatten(0, 1)[None]
    weight = kernels.repeat_interleave(channels, 0)[:, None]
    return F.conv2d(padded, weight, groups=count * channels).view(images.shape)
