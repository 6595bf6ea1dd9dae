"""From a score map to keypoints: non-maximum suppression, selection, sub-pixel refinement."""

from typing import NamedTuple

import torch
from torch import Tensor
import torch.nn.functional as F

from .axes import Bool, Float, Int
from .geometry import gather_rows


class Keypoints(NamedTuple):
    """
    Detected keypoints of a batch, padded; by the score of their pixel, best first.

    keypoints (B, N, 2) pixels, keypoint_scores (B, N), mask (B, N) true for real ones;
    dispersity (B, N): mean squared spread of the score around a keypoint, for training;
    orientations (B, N): radians from x towards y, where the detector gives them.
    """

    keypoints: Float[Tensor, 'b n 2']
    keypoint_scores: Float[Tensor, 'b n']
    mask: Bool[Tensor, 'b n']
    dispersity: Float[Tensor, 'b n'] | None = None
    orientations: Float[Tensor, 'b n'] | None = None

    @classmethod
    def at(cls, points: Float[Tensor, 'b n 2']) -> 'Keypoints':
        """Return keypoints at chosen points, such as those of ground truth: all real, scored 1."""
        ones = points.new_ones(points.shape[:2])
        return cls(points, ones, ones.bool())


def max_filter(maps: Tensor, radius: int) -> Tensor:
    """
    Return the maximum over the square window of 2 radius + 1 pixels around each pixel.

    maps (B, H, W), numbers or bool. Rows and columns go one after the other, and each doubles a
    window until it is wide enough: a few passes of elementwise maxima, much faster on a CPU than
    max_pool2d.
    """
    return _running_max(_running_max(maps, radius, 2), radius, 1)


def _running_max(maps: Tensor, radius: int, axis: int) -> Tensor:
    """Return the maximum over 2 radius + 1 neighbours along one axis; the border ends windows."""
    larger = torch.bitwise_or if maps.dtype == torch.bool else torch.maximum
    lowest = False if maps.dtype == torch.bool else -torch.inf
    length, size = maps.shape[axis], 2 * radius + 1
    padding = (radius, radius) if axis == 2 else (0, 0, radius, radius)
    window, width = F.pad(maps, padding, value=lowest), 1
    while width < size:  # window[i] covers `width` pixels from i on
        step = min(width, size - width)
        count = window.shape[axis] - step
        window = larger(window.narrow(axis, 0, count), window.narrow(axis, step, count))
        width += step
    return window.narrow(axis, 0, length)


def suppress_non_maxima(
    score_map: Float[Tensor, 'b h w'], radius: int, rounds: int = 2
) -> Float[Tensor, 'b h w']:
    """
    Zero every pixel that is not the maximum of its window of 2 radius + 1 pixels.

    Each further round also keeps the maxima among the pixels that no kept one suppresses, which
    brings the result close to greedy suppression without a loop over keypoints. Scores must not
    be negative.
    """
    if radius == 0:
        return score_map
    kept = score_map == max_filter(score_map, radius)
    for _ in range(rounds):
        free = ~max_filter(kept, radius)
        rest = score_map * free
        kept = kept | ((rest == max_filter(rest, radius)) & free)
    return score_map * kept


def suppress_greedily(
    score_map: Float[Tensor, 'b h w'], radius: int, threshold: float = 0.0
) -> Float[Tensor, 'b h w']:
    """
    Keep the best pixel, zero all within `radius` of it (in x and in y), and so on with the rest.

    Exact, also for equal scores: the first one in the order of rows counts as the best. Scores at
    or below the threshold are zeroed. Instead of one pixel, each round takes all that are the
    best of the windows around them: no other choice could have come before theirs.
    """
    flat = score_map.flatten()
    index = (flat > threshold).nonzero().squeeze(1)
    order = flat[index].argsort(descending=True, stable=True)
    # float32 counts to 2^24 only
    kind = torch.float32 if len(index) < 1 << 24 else torch.float64
    ranks = torch.zeros_like(flat, dtype=kind)
    ranks[index[order]] = torch.arange(len(index), 0, -1, dtype=kind, device=flat.device)
    left = ranks.view_as(score_map)
    kept = torch.zeros_like(left, dtype=torch.bool)
    while left.any():
        best = (left == max_filter(left, radius)) & (left > 0)
        kept |= best
        left = left * ~max_filter(best, radius)
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
    count = min(max_num_keypoints, flat.shape[1])
    if max_num_keypoints < 0:
        count = int((flat > threshold).sum(1).max())
    scores, index = flat.topk(count, dim=1)
    mask = scores > threshold  # best first, so that those to drop come last
    longest = int(mask.sum(1).max())
    scores, index, mask = scores[:, :longest], index[:, :longest], mask[:, :longest]
    width = score_map.shape[-1]
    xy = torch.stack([index % width, index.div(width, rounding_mode='floor')], -1)
    return xy * mask[..., None], scores * mask, mask


def best_first(found: Keypoints) -> Keypoints:
    """Put the keypoints in the order of their scores, padding last; refinement changes scores."""
    order = torch.where(found.mask, found.keypoint_scores, -torch.inf)
    return _in_order(found, order.argsort(dim=1, descending=True, stable=True))


def keep_first(found: Keypoints, kept: Bool[Tensor, 'b n'], most: int) -> Keypoints:
    """Keep some of the keypoints, in their order, and of those the first `most` (-1: all)."""
    kept = kept & found.mask
    longest = int(kept.sum(1).max())
    if most >= 0:
        longest = min(longest, most)
    order = kept.byte().argsort(dim=1, descending=True, stable=True)
    return _in_order(found._replace(mask=kept), order[:, :longest])


def _in_order(found: Keypoints, order: Int[Tensor, 'b m']) -> Keypoints:
    return Keypoints(*(None if values is None else gather_rows(values, order) for values in found))


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
    logarithmic: bool = False,
) -> tuple[Float[Tensor, 'b n 2'], Float[Tensor, 'b n']]:
    """
    Move keypoints to the mean of their window, weighted by the softmax of score / temperature.

    logarithmic: of log(score) instead, which weighs pixels by score^(1 / temperature), for
    probabilities: weak and strong keypoints then move alike.

    Returns keypoints (B, N, 2) and dispersity (B, N), the weighted mean squared distance to
    that mean in units of the radius. Differentiable in the score map. Only the N windows are
    read; the image is not unfolded. Source: ALIKE (Zhao et al. 2022), eq. 3 to 7.
    """
    windows = gather_windows(score_map, xy, radius)
    if logarithmic:
        windows = windows.clamp(min=torch.finfo(windows.dtype).tiny).log()
    peak = windows.detach().amax(-1, keepdim=True)
    weights = ((windows - peak) / temperature).softmax(-1)
    step = torch.arange(-radius, radius + 1, device=xy.device, dtype=windows.dtype)
    offsets = torch.stack(torch.meshgrid(step, step, indexing='xy'), -1).view(-1, 2)
    residual = weights @ offsets
    spread = (offsets - residual[..., None, :]).square().sum(-1) / radius**2
    return xy + residual, (weights * spread).sum(-1)
