"""Masks: where in an image keypoints may lie."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .describe import flat_index
from .errors import ImageError
from .shapes import Bool, Float

MaskLike = np.ndarray | Tensor


def masks_for(
    masks: MaskLike | Sequence[MaskLike | None] | None, sizes: Sequence[tuple[int, int]]
) -> list[Bool[Tensor, 'h w'] | None]:
    """
    Give each of several images, of these (height, width), its mask; None shows all.

    masks: one (H, W) for all images, or one for each.

    Raises ImageError where a mask does not fit its image.
    """
    if masks is None or getattr(masks, 'ndim', 3) != 3:
        masks = [masks] * len(sizes)
    if len(masks) != len(sizes):
        raise ImageError(
            f'got {len(masks)} masks for {len(sizes)} images, expected one (H, W) for all of '
            'them, or a list with one, or None, for each'
        )
    return [m if m is None else _to_tensor(m, *s) for m, s in zip(masks, sizes, strict=True)]


def _to_tensor(mask: MaskLike, height: int, width: int) -> Bool[Tensor, 'h w']:
    if isinstance(mask, np.ndarray) and mask.dtype == bool:
        mask = torch.from_numpy(np.require(mask, requirements=('C', 'W')))
    if getattr(mask, 'dtype', None) != torch.bool:
        found = getattr(mask, 'dtype', type(mask).__name__)
        raise ImageError(f'mask is of {found}, expected bool; `mask > 0` makes it of a picture')
    if tuple(mask.shape) != (height, width):
        raise ImageError(
            f'mask has shape {tuple(mask.shape)}, expected {(height, width)} as its image'
        )
    return mask


def stack_masks(
    masks: Sequence[Bool[Tensor, 'h w'] | None], device: torch.device
) -> Bool[Tensor, 'b h w'] | None:
    """Join the masks of images of one size; None where there is none at all."""
    given = [mask for mask in masks if mask is not None]
    if not given:
        return None
    shown = torch.ones_like(given[0])
    return torch.stack([(shown if mask is None else mask).to(device) for mask in masks])


def shown_at(masks: Bool[Tensor, 'b h w'], points: Float[Tensor, 'b n 2']) -> Bool[Tensor, 'b n']:
    """Tell at which (x, y) the nearest pixel of the mask is true."""
    height, width = masks.shape[1:]
    last = points.new_tensor([width - 1, height - 1])
    nearest = points.round().clamp(min=torch.zeros_like(last), max=last)
    return masks.flatten(1).gather(1, flat_index(nearest, width))
