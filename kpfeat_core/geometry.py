"""Homographies on points and images. Points are (x, y) pixels, pixel centres are integers."""

import torch
from torch import Tensor
import torch.nn.functional as F

from .shapes import Float


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
    """Move points; those whose depth has not this sign become NaN, without a gradient."""
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
    """Map pixels to [-1, 1] as grid_sample with align_corners=True wants them."""
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
    """Tell which points lie in the image, at least `margin` pixels from its outer centres."""
    x, y = points.unbind(-1)
    return (x >= margin) & (x <= width - 1 - margin) & (y >= margin) & (y <= height - 1 - margin)
