"""
ASLFeat's detector: peakiness of three levels of features, an edge test, Newton's method.

Luo et al., "ASLFeat: Learning Local Features of Accurate Shape and Localization", CVPR 2020,
section 3.2; edge test and refinement as in SIFT (Lowe, IJCV 2004, section 4).
"""

import torch
from torch import Tensor
import torch.nn.functional as F

from ..keypoints import gather_windows
from ..shapes import Bool, Float, Int

# Floats of a layer that are in work at once on a CPU: 1 MB.
STRIP_ELEMENTS = 1 << 18
EDGE_STEP = 3  # pixels between the scores that the edge test compares


def peakiness(
    maps: Float[Tensor, 'b c h w'], largest: Tensor, dilation: int
) -> Float[Tensor, 'b h w']:
    """
    Score each pixel by how much a channel stands out from its surroundings and from the others.

    maps are divided by `largest`. The surroundings are 3x3 pixels, `dilation` apart, reflected
    at the borders. Equations 6 to 8 of the paper. Computed in float32 at least.

    On a CPU without gradients this goes in strips of rows that stay in the cache.
    """
    rows = maps.permute(0, 2, 3, 1).contiguous()  # no copy where channels come last
    batch, height, width, channels = rows.shape
    step = height
    strips = maps.device.type == 'cpu' and not torch.is_grad_enabled()
    if strips and not torch.compiler.is_compiling():
        step = max(1, STRIP_ELEMENTS // (batch * width * channels))
    down, across = (_reflected(size, dilation, maps.device) for size in (height, width))
    parts = []
    for start in range(0, height, step):
        stop = min(start + step, height)
        near = rows.index_select(1, down[start : stop + 2 * dilation])
        near = near.to(torch.promote_types(near.dtype, torch.float32)) / largest
        parts.append(_stand_out(near, across, dilation))
    return torch.cat(parts, 1)


def _reflected(size: int, margin: int, device: torch.device) -> Int[Tensor, ' n']:
    """Return 0..size - 1 with a margin on both sides that runs back from the ends."""
    index = torch.arange(-margin, size + margin, device=device).abs()
    return torch.minimum(index, 2 * (size - 1) - index)


def _stand_out(
    near: Float[Tensor, 'b h1 w c'], across: Int[Tensor, ' w1'], dilation: int
) -> Float[Tensor, 'b h w']:
    """Return the peakiness of all rows but `dilation` at both ends."""
    count = near.shape[1] - 2 * dilation
    middle = near[:, dilation : dilation + count]
    sums = _three(near, dilation, 1)
    sums = _three(sums.index_select(2, across), dilation, 2)
    local = F.softplus(torch.add(middle, sums, alpha=-1 / 9))
    among = F.softplus(middle - middle.mean(-1, keepdim=True))
    return (local * among).amax(-1)


def _three(values: Tensor, dilation: int, axis: int) -> Tensor:
    """Add up three neighbours along an axis, `dilation` apart; 2 dilation fewer come out."""
    count = values.shape[axis] - 2 * dilation
    first, second, third = (values.narrow(axis, i * dilation, count) for i in range(3))
    total = first + second
    total += third
    return total


def enlarge(maps: Float[Tensor, 'b h w'], factor: int) -> Float[Tensor, 'b h2 w2']:
    """
    Enlarge maps bilinearly so that pixel i comes to lie on pixel factor * i.

    The first version of TensorFlow did so; the last rows and columns repeat the border.
    """
    if factor == 1:
        return maps
    height, width = maps.shape[1:]
    more = F.pad(maps[:, None], (0, 1, 0, 1), mode='replicate')
    size = (factor * height + 1, factor * width + 1)
    more = F.interpolate(more, size, mode='bilinear', align_corners=True)
    return more[:, 0, :-1, :-1]


def off_edges(score_map: Float[Tensor, 'b h w'], threshold: float) -> Bool[Tensor, 'b h w']:
    """
    Tell where the curvature in one direction is below `threshold` times that in the other.

    Second differences are taken over EDGE_STEP pixels; the border is repeated outside.
    """
    step = EDGE_STEP
    padded = F.pad(score_map[:, None], (step,) * 4, mode='replicate')[:, 0]
    height, width = score_map.shape[1:]

    def at(dy: int, dx: int) -> Tensor:
        top, left = (1 + dy) * step, (1 + dx) * step
        return padded[:, top : top + height, left : left + width]

    twice = 2 * score_map
    dyy, dxx = at(-1, 0) + at(1, 0) - twice, at(0, -1) + at(0, 1) - twice
    dxy = (at(-1, -1) - at(-1, 1) - at(1, -1) + at(1, 1)) / 4
    determinant = dyy * dxx - dxy.square()
    trace = dyy + dxx
    limit = (threshold + 1) ** 2 / threshold
    return (determinant > 0) & (trace.square() <= limit * determinant)


def refine_newton(
    score_map: Float[Tensor, 'b h w'], xy: Int[Tensor, 'b n 2'], most: float = 0.5
) -> Float[Tensor, 'b n 2']:
    """
    Move keypoints to the extremum of the parabola through the 3x3 scores around them.

    They move by at most `most` pixels along each axis, and stay where the parabola has no
    extremum. Differentiable in the score map.
    """
    padded = F.pad(score_map[:, None], (1,) * 4, mode='replicate')[:, 0]
    window = gather_windows(padded, xy + 1, 1)
    nw, n, ne, w, c, e, sw, s, se = window.unbind(-1)
    dx, dy = (e - w) / 2, (s - n) / 2
    dxx, dyy, dxy = e + w - 2 * c, s + n - 2 * c, (nw - ne - sw + se) / 4
    determinant = dxx * dyy - dxy.square()
    exists = determinant != 0
    inverse = 1 / torch.where(exists, determinant, 1)
    step = torch.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], -1) * inverse[..., None]
    moved = xy + torch.where(exists[..., None], step, 0).clamp(-most, most)
    last = moved.new_tensor([score_map.shape[2] - 1, score_map.shape[1] - 1])
    return moved.clamp(torch.zeros_like(last), last)
