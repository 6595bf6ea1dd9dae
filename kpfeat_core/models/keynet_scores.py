"""
The networks of Key.Net: handcrafted filters, shared learned blocks, three levels, one score map.

Barroso-Laguna et al., "Key.Net: Keypoint Detection by Handcrafted and Learned CNN Filters", ICCV
2019. There are two published networks, which differ in more than their weights: 'tf', that of the
paper, and 'torch', a later one.
"""

import itertools
import math
import re
from typing import NamedTuple

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from .layers import folded
from ..axes import Float

# One over the root mean square of each handcrafted map, in their order, over photographs with
# values from 0 to 1: products of derivatives are a hundred times smaller than derivatives, and
# random weights would make nothing of them.
FILTER_GAINS = (24.0, 22.0, 170.0, 160.0, 370.0, 80.0, 2000.0, 36.0, 33.0, 900.0)
FACTOR = 1.2  # from one level to the next
WINDOW_RADIUS = 32  # of the local normalisation
BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


class KeyNetSize(NamedTuple):
    """How many learned blocks, of how many filters, on how many levels inside the network."""

    blocks: int
    filters: int
    levels: int


def sobel(maps: Float[Tensor, 'b 1 h w'], padding: str) -> tuple[Tensor, Tensor]:
    """Return the derivatives to x and y, (B, 1, H, W) each: Sobel's filters divided by 8."""
    maps = F.pad(maps, (1, 1, 1, 1), padding)
    dx = maps[..., 2:] - maps[..., :-2]
    dx = dx[..., :-2, :] + 2 * dx[..., 1:-1, :] + dx[..., 2:, :]
    dy = maps[..., 2:, :] - maps[..., :-2, :]
    dy = dy[..., :-2] + 2 * dy[..., 1:-1] + dy[..., 2:]
    return dx / 8, dy / 8


def handcrafted_maps(image: Float[Tensor, 'b 1 h w'], padding: str) -> Float[Tensor, 'b 10 h w']:
    """Return derivatives of first and second order, and the products that show corners."""
    dx, dy = sobel(image, padding)
    dxx, dxy = sobel(dx, padding)
    dyy = sobel(dy, padding)[1]
    maps = (dx, dy, dx * dx, dy * dy, dx * dy, dxy, dxy * dxy, dxx, dyy, dxx * dyy)
    return torch.cat(maps, 1)


def smooth(
    maps: Float[Tensor, 'b c h w'], weights: tuple[float, ...], padding: str
) -> Float[Tensor, 'b c h w']:
    """Apply the same one-dimensional filter to rows and columns."""
    radius = len(weights) // 2
    padded = F.pad(maps, (radius,) * 4, padding)
    count = padded.shape[-1] - 2 * radius
    rows = sum(w * padded.narrow(3, k, count) for k, w in enumerate(weights))
    count = padded.shape[-2] - 2 * radius
    return sum(w * rows.narrow(2, k, count) for k, w in enumerate(weights))


def _reflect(maps: Tensor, radius: int) -> Tensor:
    """Mirror the maps at their borders, again and again where they are smaller than the radius."""
    while radius > 0:
        step = min(radius, min(maps.shape[-2:]) - 1)
        maps = F.pad(maps, (step,) * 4, 'reflect')
        radius -= step
    return maps


def _window_mean(maps: Tensor, radius: int) -> Tensor:
    """Average the windows of 2 radius + 1 pixels that lie inside the maps; rows, then columns."""
    size = 2 * radius + 1
    return F.avg_pool2d(F.avg_pool2d(maps, (1, size), stride=1), (size, 1), stride=1)


def normalize_locally(image: Float[Tensor, 'b 1 h w']) -> Float[Tensor, 'b 1 h w']:
    """Subtract the mean of the surroundings, and divide by 1 + their standard deviation."""
    padded = _reflect(image, WINDOW_RADIUS)
    mean = _window_mean(padded, WINDOW_RADIUS)
    variance = (_window_mean(padded.square(), WINDOW_RADIUS) - mean.square()).abs()
    return (image - mean) / (1 + variance.clamp(min=1e-20).sqrt())  # sqrt has no slope at 0


def torch_levels(image: Float[Tensor, 'b 1 h w'], count: int) -> list[Tensor]:
    """Shrink each level from the one before it; pixel areas align."""
    levels = [image]
    for _ in range(count - 1):
        size = [int(side / FACTOR) for side in levels[-1].shape[-2:]]
        blurred = smooth(levels[-1], BINOMIAL, 'reflect')
        levels.append(F.interpolate(blurred, size, mode='bilinear', align_corners=False))
    return levels


def tf_levels(image: Float[Tensor, 'b 1 h w'], count: int) -> list[Tensor]:
    """
    Shrink every level from the image, corner pixels aligned, and normalise it locally.

    The Gaussian (sigma 1.5) is divided by sqrt(2 pi) sigma once and not twice, as published: it
    makes levels brighter by that factor, which the trained weights expect.
    """
    sigma = 1.5
    norm = math.sqrt(math.sqrt(2 * math.pi) * sigma)
    weights = tuple(math.exp(-(x**2) / (2 * sigma**2)) / norm for x in range(-3, 4))
    blurred = smooth(image, weights, 'constant')
    levels = [image]
    for k in range(1, count):
        size = [int(side / FACTOR**k) for side in image.shape[-2:]]
        levels.append(F.interpolate(blurred, size, mode='bilinear', align_corners=True))
    return [normalize_locally(level) for level in levels]


def _pair_kernel(weight: Tensor) -> Tensor:
    """
    Turn a kernel (O, C, k, 5) into (2 O, 2 C, k, 3), for columns taken two by two.

    Output column q of a pair reads input column p of the pair at step s: 2 s + p - q columns away.
    """
    outputs, inputs, rows, columns = weight.shape
    pairs = weight.new_zeros(2, outputs, 2, inputs, rows, 3)
    for q in range(2):
        for p in range(2):
            for step in range(3):
                column = 2 * (step - 1) + p - q + columns // 2
                if 0 <= column < columns:
                    pairs[q, :, p, :, :, step] = weight[..., column]
    kernel = pairs.view(2 * outputs, 2 * inputs, rows, 3)
    return kernel.contiguous(memory_format=torch.channels_last)


def narrow_conv(x: Float[Tensor, 'b c h w'], weight: Tensor, bias: Tensor) -> Tensor:
    """
    Apply a 5x5 convolution of few channels, (B, C, H, W) to (B, O, H, W).

    Eight channels fill half of the registers of a CPU. There, without gradients, two columns side
    by side count as one of twice the channels, which costs no copy where channels come last: a
    fifth more multiplications in about half of the time.
    """
    if x.device.type != 'cpu' or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.conv2d(x, weight, bias, padding=2)
    batch, _, height, width = x.shape
    x = F.pad(x, (0, width % 2)).permute(0, 2, 3, 1)
    x = x.reshape(batch, height, x.shape[2] // 2, -1).permute(0, 3, 1, 2)
    y = F.conv2d(x, _pair_kernel(weight), bias.repeat(2), padding=(2, 1)).permute(0, 2, 3, 1)
    return y.reshape(batch, height, -1, len(weight))[:, :, :width].permute(0, 3, 1, 2)


class ScoreNetwork(nn.Module):
    """
    Gray image to score map.

    variant 'torch': derivatives replicate the border, levels come from one another, areas align.
    variant 'tf': zeros at the border, levels normalised locally, corners align, and one more
    normalisation before the last convolution.

    `filter_gains` multiplies the handcrafted maps. It comes with the weights: published ones have
    it within their first convolution, and 1 here.
    """

    def __init__(self, size: KeyNetSize, variant: str) -> None:
        super().__init__()
        self.levels = size.levels
        self.variant = variant
        widths = [len(FILTER_GAINS)] + [size.filters] * size.blocks
        self.register_buffer('filter_gains', torch.tensor(FILTER_GAINS).view(-1, 1, 1))
        pairs = list(itertools.pairwise(widths))
        self.convs = nn.ModuleList(nn.Conv2d(*pair, 5, padding=2) for pair in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _, outputs in pairs)
        joined = size.filters * size.levels
        self.norm_last = nn.BatchNorm2d(joined) if variant == 'tf' else None
        self.conv_last = nn.Conv2d(joined, 1, 5, padding=2)
        # a network whose last ReLU is shut everywhere would never learn
        nn.init.uniform_(self.conv_last.weight, 0, self.conv_last.weight.abs().max().item())

    def forward(self, image: Float[Tensor, 'b 1 h w']) -> Float[Tensor, 'b h w']:
        """Compute scores, not negative and without an upper bound, for any size from 32 on."""
        tf = self.variant == 'tf'
        levels = (tf_levels if tf else torch_levels)(image.float(), self.levels)
        maps = [
            F.interpolate(
                self._learned(level), image.shape[-2:], mode='bilinear', align_corners=tf
            )
            for level in levels
        ]
        joined = torch.cat(maps, 1)
        if self.norm_last is not None:
            joined = self.norm_last(joined)
        scores = narrow_conv(joined, self.conv_last.weight, self.conv_last.bias)
        return F.relu(scores, inplace=True)[:, 0]

    def _learned(self, level: Float[Tensor, 'b 1 h w']) -> Float[Tensor, 'b m h w']:
        """Apply the filters and the blocks that all levels share."""
        maps = handcrafted_maps(level, 'constant' if self.variant == 'tf' else 'replicate')
        maps = maps * self.filter_gains  # before the maps may become half precision
        maps = maps.to(self.conv_last.weight.dtype, memory_format=torch.channels_last)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            maps = norm(conv(maps)) if norm.training else narrow_conv(maps, *folded(conv, norm))
            maps = F.relu(maps, inplace=True)
        return maps


TORCH_NAMES = (
    (r'^feature_extractor\.lb_block\.conv(\d)\.0\.', r'convs.\1.'),
    (r'^feature_extractor\.lb_block\.conv(\d)\.1\.', r'norms.\1.'),
    (r'^last_conv\.0\.', 'conv_last.'),
)
TF_PREFIX = 'model_deep_detector_'
TF_NORM = {
    'gamma': 'weight',
    'beta': 'bias',
    'moving_mean': 'running_mean',
    'moving_variance': 'running_var',
}
# Where our ten filters stand in TensorFlow's order: dx, dx^2, dxx, dy, dy^2, dyy, dx dy,
# dxx dyy, dxy, dxy^2.
TF_ORDER = (0, 3, 1, 4, 6, 8, 9, 2, 5, 7)
# How many derivatives multiply to one of ours; TensorFlow's are not divided by 8.
DERIVATIVES = (1, 1, 2, 2, 2, 2, 4, 2, 2, 4)
PLAIN = {'filter_gains': torch.ones(len(DERIVATIVES), 1, 1)}  # the handcrafted maps as they are
EPSILON_DIFFERENCE = 1e-3 - 1e-5  # of the normalisations: TensorFlow's minus ours


def from_torch(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of the PyTorch checkpoint."""
    renamed = {}
    for name, value in state.items():
        for pattern, ours in TORCH_NAMES:
            name = re.sub(pattern, ours, name)
        renamed[name] = value
    return renamed | PLAIN


def from_tf(state: dict[str, Tensor], statistics: str) -> dict[str, Tensor]:
    """
    Convert the variables of the TensorFlow checkpoint; the optimizer's are left out.

    statistics: 'stored', or 'unit' for mean 0 and variance 1. The published extraction program
    restores the trainable variables alone, hence it normalises with the latter.
    """
    ours = dict(PLAIN)
    for name, value in state.items():
        parts = re.fullmatch(TF_PREFIX + r'(conv|batch)_(\d|last_layer|final)/(\w+)', name)
        if parts is None:
            continue
        kind, which, what = parts.groups()
        if kind == 'conv':
            module = f'convs.{int(which) - 1}' if which.isdigit() else 'conv_last'
            if what == 'kernel':
                what, value = 'weight', value.permute(3, 2, 0, 1).contiguous()
        else:
            module = f'norms.{int(which) - 1}' if which.isdigit() else 'norm_last'
            what = TF_NORM[what]
            value = _statistic(what, value, statistics)
        ours[f'{module}.{what}'] = value
    first = ours['convs.0.weight'][:, list(TF_ORDER)]
    units = torch.tensor([8.0**count for count in DERIVATIVES])
    ours['convs.0.weight'] = first * units[:, None, None]
    return ours


def _statistic(what: str, value: Tensor, statistics: str) -> Tensor:
    if what == 'running_mean' and statistics == 'unit':
        return torch.zeros_like(value)
    if what == 'running_var':
        value = torch.ones_like(value) if statistics == 'unit' else value
        return value + EPSILON_DIFFERENCE
    return value
