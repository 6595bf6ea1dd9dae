"""Reading descriptors at keypoints."""

import torch
from torch import Tensor

from .shapes import Float, Int


def bilinear_neighbours(
    points: Float[Tensor, 'b n 2'], height: int, width: int
) -> tuple[Float[Tensor, 'b n 4 2'], Float[Tensor, 'b n 4']]:
    """
    Return the four pixels around each point and their bilinear weights.

    pixels (B, N, 4, 2) are integer-valued (x, y) inside the image; weights (B, N, 4) sum to 1
    and are differentiable in the points. Points outside are moved to the border first.
    """
    last = points.new_tensor([width - 1, height - 1])
    points = points.nan_to_num().clamp(min=points.new_zeros(2), max=last)
    low = torch.minimum(points.detach().floor(), (last - 1).clamp(min=0))
    fraction = points - low
    corners = points.new_tensor([[0, 0], [1, 0], [0, 1], [1, 1]])
    pixels = torch.minimum(low[..., None, :] + corners, last)
    weights = torch.where(corners > 0, fraction[..., None, :], 1 - fraction[..., None, :])
    return pixels, weights.prod(-1)


def flat_index(pixels: Float[Tensor, '... 2'], width: int) -> Int[Tensor, '...']:
    """
    Return the position y * width + x of integer-valued (x, y) pixels in a flattened map.

    Computed in integers: float32 cannot count the pixels of images beyond 2^24 (16.7 million).
    """
    x, y = pixels.long().unbind(-1)
    return y * width + x
