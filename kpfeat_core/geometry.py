"""Homographies on points and images. Points are (x, y) pixels, pixel centres are integers."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F

from .axes import Float, Int
from .errors import ShapeError


def warp_points(
    points: Float[Tensor, 'b n 2'], H_0to1: Float[Tensor, 'b 3 3']
) -> Float[Tensor, 'b n 2']:
    """
    Move (x, y) pixels of image 0 to image 1; points at or behind infinity become NaN.

    The pixel (0, 0) of image 0 is in front: homographies are only known up to scale.
    """
    return _project(points, H_0to1, H_0to1[:, 2:, 2:].sign())


def unwarp_points(
    points: Float[Tensor, 'b n 2'], H_0to1: Float[Tensor, 'b 3 3']
) -> Float[Tensor, 'b n 2']:
    """Move (x, y) pixels of image 1 to where `warp_points` takes them from; NaN for nowhere."""
    return _project(points, torch.linalg.inv(H_0to1), H_0to1[:, 2:, 2:].sign())


def _project(points: Tensor, homographies: Tensor, sign: Tensor) -> Tensor:
    """Move points; those whose depth has another sign become NaN, without a gradient."""
    lifted = F.pad(points, (0, 1), value=1.0) @ homographies.mT
    depth = lifted[..., 2:]
    front = depth * sign > 1e-9
    return (lifted[..., :2] / depth.where(front, 1.0)).where(front, torch.nan)


def pixel_grid(
    height: int, width: int, device: torch.device | str = 'cpu', dtype: torch.dtype = torch.float32
) -> Float[Tensor, 'n 2']:
    """Return the (x, y) of all pixels, row after row."""
    y, x = torch.meshgrid(
        torch.arange(height, device=device, dtype=dtype),
        torch.arange(width, device=device, dtype=dtype),
        indexing='ij',
    )
    return torch.stack([x, y], -1).view(-1, 2)


def normalize_points(
    points: Float[Tensor, '... 2'], height: int, width: int
) -> Float[Tensor, '... 2']:
    """Map pixels to [-1, 1] as grid_sample with align_corners=True expects them."""
    scale = points.new_tensor([max(width - 1, 1), max(height - 1, 1)])
    return points / scale * 2 - 1


def sample(
    maps: Float[Tensor, 'b c h w'], points: Float[Tensor, 'b n 2'], padding: str = 'zeros'
) -> Float[Tensor, 'b n c']:
    """Read maps bilinearly at (x, y) map pixels; outside follows grid_sample's padding_mode."""
    grid = normalize_points(points, *maps.shape[-2:])[:, :, None]
    read = F.grid_sample(maps, grid, padding_mode=padding, align_corners=True)
    return read.squeeze(-1).mT


def warp_image(
    image: Float[Tensor, 'b c h w'],
    H_0to1: Float[Tensor, 'b 3 3'],
    size: tuple[int, int],
    padding: str = 'zeros',
) -> Float[Tensor, 'b c h2 w2']:
    """Render image 0 as view 1 of (height, width): pixel p shows image 0 at H_0to1^-1 p."""
    grid = pixel_grid(*size, image.device, image.dtype).expand(len(image), -1, -1)
    points = unwarp_points(grid, H_0to1).nan_to_num(nan=-1e4)
    return sample(image, points, padding).mT.reshape(len(image), -1, *size)


def inside(points: Float[Tensor, '... 2'], height: int, width: int, margin: float = 0.0) -> Tensor:
    """Return which points lie in the image, at least `margin` pixels from its outer centres."""
    x, y = points.unbind(-1)
    return (x >= margin) & (x <= width - 1 - margin) & (y >= margin) & (y <= height - 1 - margin)


def to_array(values: Any) -> np.ndarray:
    """Return an array of a tensor on any device, an array, or a sequence."""
    return np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values)


def point_array(points: Any, name: str) -> Float[np.ndarray, 'k 2']:
    """Return (K, 2) float64, x and y of each point; raises ShapeError that names them."""
    array = to_array(points)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ShapeError(f'{name} has shape {array.shape}, expected (K, 2): x and y of each point')
    return np.ascontiguousarray(array, dtype=np.float64)


def bilinear_neighbors(
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


def gather_rows(values: Tensor, index: Int[Tensor, 'b m']) -> Tensor:
    """Return the rows of each image at its indices: of (B, N) or (B, N, C), M for N."""
    index = index if values.ndim == 2 else index[..., None].expand(-1, -1, values.shape[2])
    return values.gather(1, index)


def flat_index(pixels: Float[Tensor, '... 2'], width: int) -> Int[Tensor, '...']:
    """
    Return the position y * width + x of integer-valued (x, y) pixels in a flattened map.

    Computed in integers: float32 cannot count the pixels of images beyond 2^24 (16.7 million).
    """
    x, y = pixels.long().unbind(-1)
    return y * width + x


def warp(points: Float[Tensor, 'n 2'], H_0to1: Float[Tensor, '3 3']) -> Float[Tensor, 'n 2']:
    """Move points of image 0 to image 1 in float64; NaN at or behind infinity."""
    return warp_points(points.double()[None], H_0to1.double()[None])[0]


def match_errors(
    points0: Float[Tensor, 'k 2'], points1: Float[Tensor, 'k 2'], H_0to1: Float[Tensor, '3 3']
) -> Float[Tensor, ' k']:
    """
    Return the distance in image 1 from each point of image 0, moved there, to its match.

    The reprojection error of the D2-Net protocol (Dusmanu et al. 2019).
    """
    distance = (warp(points0, H_0to1) - points1.double()).norm(dim=-1)
    return distance.nan_to_num(nan=torch.inf)
