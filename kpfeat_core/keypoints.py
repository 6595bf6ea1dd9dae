"""From a score map to keypoints: non-maximum suppression, selection, sub-pixel refinement."""

from typing import NamedTuple

import torch
from torch import Tensor
import torch.nn.functional as F

from .shapes import Bool, Float, Int


class Keypoints(NamedTuple):
    """
    Detected keypoints of a batch, padded; best first.

    keypoints (B, N, 2) pixels, keypoint_scores (B, N), mask (B, N) true for real ones;
    dispersity (B, N): mean squared spread of the score around a keypoint, for training.
    """

    keypoints: Float[Tensor, 'b n 2']
    keypoint_scores: Float[Tensor, 'b n']
    mask: Bool[Tensor, 'b n']
    dispersity: Float[Tensor, 'b n'] | None = None


def max_filter(maps: Float[Tensor, 'b h w'], radius: int) -> Float[Tensor, 'b h w']:
    """Return the maximum over the square window of 2 radius + 1 pixels around each pixel."""
    size = 2 * radius + 1
    rows = F.max_pool2d(maps[:, None], (1, size), 1, (0, radius))
    return F.max_pool2d(rows, (size, 1), 1, (radius, 0))[:, 0]


def suppress_non_maxima(
    score_map: Float[Tensor, 'b h w'], radius: int, rounds: int = 2
) -> Float[Tensor, 'b h w']:
    """
    Zero every pixel that is not the maximum of its window of 2 radius + 1 pixels.

    Each further round also keeps the maxima among the pixels that no kept one suppresses, which
    brings the result close to greedy suppression without a loop over keypoints.
    """
    if radius == 0:
        return score_map
    kept = score_map == max_filter(score_map, radius)
    for _ in range(rounds):
        covered = max_filter(kept.to(score_map.dtype), radius) > 0
        rest = score_map.masked_fill(covered, 0)
        kept = kept | ((rest == max_filter(rest, radius)) & ~covered)
    return score_map * kept


def clear_borders(
    score_map: Float[Tensor, 'b h w'], before: int, after: int
) -> Float[Tensor, 'b h w']:
    """Zero the first `before` and the last `after` rows and columns."""
    height, width = score_map.shape[1:]
    kept = torch.zeros_like(score_map)
    inner = (..., slice(before, max(height - after, 0)), slice(before, max(width - after, 0)))
    kept[inner] = score_map[inner]
    return kept


def select_best(
    score_map: Float[Tensor, 'b h w'], threshold: float, max_num_keypoints: int
) -> tuple[Int[Tensor, 'b n 2'], Float[Tensor, 'b n'], Bool[Tensor, 'b n']]:
    """
    Take the pixels above the threshold, best first, at most max_num_keypoints (-1: all).

    Returns integer (x, y) (B, N, 2), scores (B, N), mask (B, N); N is the largest count.
    """
    flat = score_map.flatten(1)
    above = flat > threshold
    count = int(above.sum(1).max())
    if max_num_keypoints >= 0:
        count = min(count, max_num_keypoints)
    scores, index = torch.where(above, flat, -1.0).topk(count, dim=1)
    mask = scores >= 0
    width = score_map.shape[-1]
    xy = torch.stack([index % width, index.div(width, rounding_mode='floor')], -1)
    return xy * mask[..., None], scores * mask, mask


def gather_windows(
    score_map: Float[Tensor, 'b h w'], xy: Int[Tensor, 'b n 2'], radius: int
) -> Float[Tensor, 'b n k']:
    """Read the (2 radius + 1)^2 pixels around each keypoint, row after row, 0 outside."""
    batch = score_map.shape[0]
    padded = F.pad(score_map, (radius,) * 4)
    width = padded.shape[-1]
    step = torch.arange(2 * radius + 1, device=xy.device)
    offsets = (step[:, None] * width + step[None]).flatten()
    index = (xy[..., 1] * width + xy[..., 0])[..., None] + offsets
    return padded.flatten(1).gather(1, index.flatten(1)).view(batch, -1, len(offsets))


def refine_soft_argmax(
    score_map: Float[Tensor, 'b h w'],
    xy: Int[Tensor, 'b n 2'],
    radius: int = 2,
    temperature: float = 0.1,
) -> tuple[Float[Tensor, 'b n 2'], Float[Tensor, 'b n']]:
    """
    Move keypoints to the softmax-weighted mean of the scores in their window.

    Returns keypoints (B, N, 2) and dispersity (B, N), the weighted mean squared distance to
    that mean in units of the radius. Differentiable in the score map. Only the N windows are
    read; the image is not unfolded. Source: ALIKE (Zhao et al. 2022), eq. 3 to 7.
    """
    windows = gather_windows(score_map, xy, radius)
    peak = windows.detach().amax(-1, keepdim=True)
    weights = ((windows - peak) / temperature).softmax(-1)
    step = torch.arange(-radius, radius + 1, device=xy.device, dtype=windows.dtype)
    offsets = torch.stack(torch.meshgrid(step, step, indexing='xy'), -1).view(-1, 2)
    residual = weights @ offsets
    spread = (offsets - residual[..., None, :]).square().sum(-1) / radius**2
    return xy + residual, (weights * spread).sum(-1)
