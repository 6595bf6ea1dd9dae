"""
The losses of Key.Net (Barroso-Laguna et al., ICCV 2019, section 4) and of its descriptor, HardNet.

Key.Net's is M-SIP over index proposals. Score maps (B, H, W) are not negative. Positions are
(x, y) pixels of the map; windows tile it from the top left, and what is left over at the right
and bottom is not used.

HardNet's (Mishchuk et al., NeurIPS 2017, section 3) takes descriptors of unit length in sets: row
k of one view and row k of the other show the same point, all other rows of the set serve as
negatives. Give them in single precision.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .common import descriptor_distances, hardest_negatives, masked_mean, no_negatives, only_real
from ..axes import Bool, Float
from ..geometry import inside, pixel_grid, sample

FLAT = 1e-6  # weight of a pixel without score: a window of nothing else proposes its center
SCALE = 1000.0  # the published factor of the loss
SHARE_SCALE = 100.0  # the published factor of the weights by score
WINDOWS = (8, 16, 24, 32, 40)
WINDOW_WEIGHTS = (256.0, 64.0, 16.0, 4.0, 1.0)


def _tiles(maps: Tensor, window: int) -> Tensor:
    """Cut (B, H, W) into (B, H // window, W // window, window^2), each window row after row."""
    batch, rows, columns = len(maps), maps.shape[1] // window, maps.shape[2] // window
    whole = maps[:, : rows * window, : columns * window]
    return whole.reshape(batch, rows, window, columns, window).transpose(2, 3).flatten(3)


def _corners(tiles: Tensor, window: int) -> Tensor:
    """Return (rows, columns, 2), the (x, y) of the first pixel of each window."""
    grid = pixel_grid(*tiles.shape[1:3], tiles.device, tiles.dtype)
    return grid.view(*tiles.shape[1:3], 2) * window


def index_proposals(
    score_map: Float[Tensor, 'b h w'], window: int
) -> tuple[Float[Tensor, 'b r c 2'], Float[Tensor, 'b r c']]:
    """
    Propose one position in each window, and its score (the IP layer).

    Position and score are means over the window with the weights exp(s / max s) - 1, in which
    the maximum has no gradient. Returns (x, y) pixels of the map and scores, for H // window rows
    and W // window columns of windows.
    """
    tiles = _tiles(score_map, window)
    peak = tiles.detach().amax(-1, keepdim=True)
    weights = torch.expm1(tiles / (peak + FLAT)) + FLAT
    weights = weights / weights.sum(-1, keepdim=True)
    offsets = pixel_grid(window, window, score_map.device, score_map.dtype)
    return _corners(tiles, window) + weights @ offsets, (weights * tiles).sum(-1)


def window_maxima(
    score_map: Float[Tensor, 'b h w'], window: int
) -> tuple[Float[Tensor, 'b r c 2'], Float[Tensor, 'b r c']]:
    """Return (x, y) and score of the highest pixel in each window; the first of equal ones."""
    tiles = _tiles(score_map.detach(), window)
    scores, index = tiles.max(-1)
    offsets = torch.stack([index % window, index.div(window, rounding_mode='floor')], -1)
    return _corners(tiles, window) + offsets, scores


def read_seen(
    other: Float[Tensor, 'b h1 w1'],
    warped: Float[Tensor, 'b n 2'],
    size: Sequence[int],
    border: int = 16,
) -> tuple[Float[Tensor, 'b h w'], Bool[Tensor, 'b h w']]:
    """
    Return the score map of image 1 as image 0 of (height, width) sees it, and what both see.

    warped: where the pixels of image 0, row after row, lie in image 1. The mask is true for
    pixels of image 0 that lie at least `border` pixels from the edges of both images. The map has
    no gradient.
    """
    points = pixel_grid(*size, other.device, other.dtype).expand(len(other), -1, -1)
    both = inside(points, *size, border) & inside(warped, *other.shape[1:], border)
    scores = sample(other.detach()[:, None], warped.nan_to_num(nan=-1e4))
    return scores.view(-1, *size), both.view(-1, *size)


def index_proposal_loss(
    scores0: Float[Tensor, 'b h w'],
    scores1_in_0: Float[Tensor, 'b h w'],
    visible: Bool[Tensor, 'b h w'],
    window: int,
    weigh_by_score: bool = True,
) -> Float[Tensor, ' b']:
    """
    Return how far each window's proposal is from the maximum of the other image.

    scores1_in_0 is the score map of image 1 warped into image 0, a label without gradient;
    visible the pixels that count in both. The loss of an image is the mean over its windows of
    1000 w |(proposal - maximum) / window|^2, with w = 1, or with weigh_by_score 100 times the
    window's share in the softmax over the proposals' scores of all windows of the image (without
    gradient). w = 0 for windows in which nothing is visible or the other map is empty.
    """
    scores0 = torch.where(visible, scores0, 0)
    proposals, scores = index_proposals(scores0, window)
    if proposals.shape[1:3].numel() == 0:
        return scores.flatten(1).sum(1)  # smaller than a window: 0, and backward() still runs
    labels, heights = window_maxima(torch.where(visible, scores1_in_0, 0), window)
    weights = (_tiles(visible, window).any(-1) & (heights > 0)).to(scores.dtype)
    if weigh_by_score:
        share = scores.detach().flatten(1).softmax(1).view_as(scores)
        weights = weights * SHARE_SCALE * share
    error = ((proposals - labels) / window).square().sum(-1)
    return SCALE * (weights * error).mean((1, 2))


def proposal_losses(
    scores: Sequence[Float[Tensor, 'b _h _w']],
    labels: Sequence[tuple[Float[Tensor, 'b _h _w'], Bool[Tensor, 'b _h _w']]],
    windows: Sequence[int] = WINDOWS,
    window_weights: Sequence[float] = WINDOW_WEIGHTS,
    weigh_by_score: bool = True,
) -> Float[Tensor, ' b']:
    """
    M-SIP loss of each pair: both directions averaged, window sizes summed with weights.

    labels: what `read_seen` gives for either image. Both maps count only where both images see,
    at least its border from the edges: a proposal should not be drawn to a maximum that the other
    image could not have. A network without any score yet has nothing to learn from.
    """
    total = scores[0].new_zeros(len(scores[0]))
    for here, (label, visible) in zip(scores, labels, strict=True):
        for window, weight in zip(windows, window_weights, strict=True):
            loss = index_proposal_loss(here, label, visible, window, weigh_by_score)
            total = total + weight / 2 * loss
    return total


def hardest_in_batch_loss(
    descriptors0: Float[Tensor, 'b n d'],
    descriptors1: Float[Tensor, 'b n d'],
    mask: Bool[Tensor, 'b n'],
    same_point: Bool[Tensor, 'b n n'] | None = None,
    margin: float = 1.0,
    anchor_swap: bool = True,
) -> Float[Tensor, ' b']:
    """
    Triplet loss of each set, mean over its pairs of max(0, margin + d(a, p) - d_min).

    d_min is the distance of the hardest negative in the set: the nearest wrong partner of a and,
    with anchor_swap, also that of p. same_point (B, N, N) marks further pairs (row of view 0, row
    of view 1) that show one point and so are no negatives. Sets without any negative cost 0.
    """
    distance = descriptor_distances(only_real(descriptors0, mask), only_real(descriptors1, mask))
    excluded = no_negatives(distance, mask)
    if same_point is not None:
        excluded = excluded | same_point
    negative = hardest_negatives(distance, excluded, 2)
    if anchor_swap:
        negative = torch.minimum(negative, hardest_negatives(distance, excluded, 1))
    positive = distance.diagonal(dim1=1, dim2=2)
    return masked_mean((margin + positive - negative).clamp(min=0), mask)
