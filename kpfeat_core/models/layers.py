"""Layers that several networks share."""

from collections.abc import Callable

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from ..axes import Float, Int

# Zeros around the maps: positions at least one pixel outside read nothing else.
BEFORE, AFTER = 1, 2
# Floats that one chunk of pixels may read: 4 MB, which stays in a CPU's cache.
CHUNK_ELEMENTS = 1 << 20


def normalized_conv(x: Tensor, conv: nn.Conv2d, bn: nn.BatchNorm2d) -> Tensor:
    """
    Convolve and normalise: (B, inputs, h, w) to (B, outputs, h2, w2).

    In evaluation the fixed statistics move into the kernel, which saves a pass over the maps.
    """
    if bn.training:
        return bn(conv(x))
    kernel, bias = folded(conv, bn)
    return F.conv2d(x, kernel, bias, conv.stride, conv.padding, conv.dilation)


def folded(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return (kernel, bias) of a convolution with the fixed statistics that follow it inside."""
    scale = (bn.running_var + bn.eps).rsqrt()
    if bn.weight is not None:
        scale = bn.weight * scale
    bias = -bn.running_mean * scale
    if conv.bias is not None:
        bias = bias + conv.bias * scale
    if bn.bias is not None:
        bias = bias + bn.bias
    return conv.weight * scale[:, None, None, None], bias


def infers_on_cpu(x: Tensor) -> bool:
    """Return whether maps are computed on a CPU, without gradients and without a compiler."""
    gradients = torch.is_grad_enabled()
    return x.device.type == 'cpu' and not gradients and not torch.compiler.is_compiling()


def strip_rows(x: Tensor, height: int, row_floats: int, floats: int, least: int = 1) -> int:
    """
    Return how many rows of maps to work on at once, so that they stay in the cache of a CPU.

    row_floats: numbers in a row of the widest map; floats: how many may be in work. All of the
    `height` rows where no CPU infers.
    """
    if not infers_on_cpu(x):
        return height
    return max(least, floats // row_floats)


def halve_in_strips(
    layers: Callable[[Tensor], Tensor], x: Float[Tensor, 'b c h w'], rows: int, reach: int
) -> Float[Tensor, 'b d h2 w2']:
    """
    Apply layers and halve their maps, strip by strip of `rows` rows, rounded down to be even.

    reach: how many rows above and below the layers see; strips have so many more, which take the
    error of their edges and are dropped. Equal to the whole at once.
    """
    height = x.shape[2]
    if rows >= height:
        return F.max_pool2d(layers(x), 2)
    rows -= rows % 2
    images = []
    for image in x.split(1):
        strips = []
        for start in range(0, height, rows):
            above = min(start, reach)
            y = layers(image[:, :, start - above : start + rows + reach])
            strips.append(F.max_pool2d(y[:, :, above : above + rows], 2))
        images.append(torch.cat(strips, 2))
    return torch.cat(images)


def deform_conv2d(
    x: Float[Tensor, 'b c h w'],
    offsets: Float[Tensor, 'b k2 h w'],
    amplitude: Float[Tensor, 'b k h w'],
    weight: Float[Tensor, 'd c kh kw'],
    bias: Float[Tensor, ' d'] | None = None,
) -> Float[Tensor, 'b d h w']:
    """
    Convolve with a kernel whose points read bilinearly at displaced positions; stride 1.

    offsets: (dy, dx) in pixels for each of the K = kh kw points, row after row of the kernel,
    whose sides are odd. amplitude: factor of what each point reads. Outside the maps
    everything is zero, which the values approach over one pixel. Differentiable in all five.
    Positions are computed in float32 at least, sums in the type of x.
    """
    batch, _, height, width = x.shape
    points = amplitude.shape[1]
    index, shares = _corners(offsets, tuple(weight.shape[2:]))
    shares = shares * amplitude.permute(0, 2, 3, 1).reshape(-1, points, 1)
    index, shares = index.flatten(0, 1), shares.flatten(0, 1).to(x.dtype)
    padded = F.pad(x, (BEFORE, AFTER, BEFORE, AFTER))
    rows = padded.permute(0, 2, 3, 1).flatten(0, 2)  # no copy where channels come last
    kernel = weight.flatten(2)[:, :, None]
    parts = []
    step = _chunk(x) * points
    for start in range(0, len(index), step):
        chunk = slice(start, start + step)
        # bilinear reading as a weighted sum of rows, in one pass over memory
        read = F.embedding_bag(index[chunk], rows, mode='sum', per_sample_weights=shares[chunk])
        # a convolution along the points: the same as a product of matrices, and faster on CPUs
        line = F.conv2d(read[None, None].permute(0, 3, 1, 2), kernel, bias, (1, points))
        parts.append(line.permute(0, 2, 3, 1))
    return torch.cat(parts, 2).view(batch, height, width, -1).permute(0, 3, 1, 2)


def _chunk(x: Tensor) -> int:
    """Return how many pixels are read at once."""
    elements = CHUNK_ELEMENTS
    if x.device.type != 'cpu' or torch.compiler.is_compiling():
        elements *= 64  # launches cost more than memory traffic saves
    return max(1, elements // (9 * x.shape[1]))


def _corners(
    offsets: Float[Tensor, 'b k2 h w'], kernel_size: tuple[int, ...]
) -> tuple[Int[Tensor, 'n k 4'], Float[Tensor, 'n k 4']]:
    """
    Return the four pixels around each point of all N = B H W pixels, and their bilinear shares.

    A pixel is its row in the flattened padded maps, where positions are moved to the zeros of the
    padding if they lie beyond.
    """
    batch, _, height, width = offsets.shape
    exact = torch.promote_types(offsets.dtype, torch.float32)
    moves = offsets.permute(0, 2, 3, 1).to(exact).unflatten(-1, (-1, 2))
    across, down = width + BEFORE + AFTER, height + BEFORE + AFTER

    def count(size: int) -> Tensor:
        return torch.arange(size, device=offsets.device)

    dy, dx = (count(size) - size // 2 for size in kernel_size)
    y = moves[..., 0] + (count(height)[:, None, None] + dy.repeat_interleave(len(dx)))
    x = moves[..., 1] + (count(width)[:, None] + dx.repeat(len(dy)))
    y, x = y.clamp(-BEFORE, height), x.clamp(-BEFORE, width)
    low_y, low_x = y.detach().floor(), x.detach().floor()
    below, right = y - low_y, x - low_x
    above, left = 1 - below, 1 - right
    shares = torch.stack([above * left, above * right, below * left, below * right], -1)
    first = count(batch).view(-1, 1, 1, 1) * down + BEFORE + low_y.long()
    first = first * across + BEFORE + low_x.long()
    # indices of NaN must not point outside the memory
    first = first.clamp(0, batch * down * across - across - 2)
    steps = torch.tensor([0, 1, across, across + 1], device=offsets.device)
    index = first[..., None] + steps
    return index.flatten(0, 2), shares.flatten(0, 2)
