"""Non-maximum suppression among keypoints between the pixels, one for each cell of a grid."""

import torch
from torch import Tensor
import torch.nn.functional as F

from ..shapes import Bool, Float


def _windows(values: Tensor, reach: int, outside: float) -> Tensor:
    """View the neighbourhood of each cell: (B, h, w) to (B, h, w, 2 reach + 1, 2 reach + 1)."""
    padded = F.pad(values, (reach,) * 4, value=outside)
    size = 2 * reach + 1
    return padded.unfold(1, size, 1).unfold(2, size, 1)


def suppress_near(
    score_map: Float[Tensor, 'b h w'],
    positions: Float[Tensor, 'b h w 2'],
    radius: int,
    reach: int,
) -> Float[Tensor, 'b h w']:
    """
    Zero the cells whose keypoint has a better one within `radius` pixels in x and in y.

    Exactly greedy: best first, each keypoint that stays removes those around it. Of equal scores
    the first cell's is the better. reach: how many cells apart keypoints so near can be.
    """
    if radius == 0:
        return score_map
    rivals = _better_and_near(score_map, positions, radius, reach)
    open_cells = score_map > 0
    kept = torch.zeros_like(open_cells)
    while open_cells.any():  # at least the best one of those left is settled in each round
        beaten = (rivals & _windows(open_cells, reach, False)).any(-1).any(-1)
        kept |= open_cells & ~beaten
        removed = (rivals & _windows(kept, reach, False)).any(-1).any(-1)
        open_cells = open_cells & beaten & ~removed
    return score_map * kept


def _better_and_near(
    score_map: Float[Tensor, 'b h w'],
    positions: Float[Tensor, 'b h w 2'],
    radius: int,
    reach: int,
) -> Bool[Tensor, 'b h w r r']:
    """Tell for each cell which of the cells around it would suppress it."""
    order = torch.arange(score_map[0].numel(), device=score_map.device)
    order = order.view(1, *score_map.shape[1:])
    scores, here = _windows(score_map, reach, 0.0), score_map[..., None, None]
    first = _windows(order, reach, 0) < order[..., None, None]
    rivals = (scores > here) | ((scores == here) & first)
    for axis in (0, 1):
        own = positions[..., axis]
        rivals &= (_windows(own, reach, torch.inf) - own[..., None, None]).abs() <= radius
    return rivals
