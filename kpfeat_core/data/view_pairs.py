"""What a batch of view pairs tells a loss, wherever the pairs come from."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from ..shapes import Bool, Float


@dataclass(frozen=True)
class Warped:
    """
    Where points of one view lie in the other, and what is known about it.

    points (B, N, 2): (x, y) pixels of the other view, NaN where nothing there shows them;
    visible (B, N): the other view shows the point; outside (B, N): it certainly does not, since
    the point lies beside its frame or behind something. Where both are false nothing is known.
    """

    points: Float[Tensor, 'b n 2']
    visible: Bool[Tensor, 'b n']
    outside: Bool[Tensor, 'b n']


@runtime_checkable
class ViewPairs(Protocol):
    """
    Two views of each of B things, and the truth about which points are the same.

    images (2, B, 3, V, V) RGB in [0, 1]; valid (2, B, V, V): which pixels show a photograph.
    """

    @property
    def images(self) -> Float[Tensor, '2 b 3 v v']:
        """Return the views."""

    @property
    def valid(self) -> Bool[Tensor, '2 b v v']:
        """Which of their pixels are photographed."""

    def __len__(self) -> int:
        """Count the pairs."""

    def part(self, index: int, count: int) -> 'ViewPairs':
        """Return the index-th of `count` equal shares, for training in several processes."""

    def warp(self, points: Float[Tensor, 'b n 2'], view: int) -> Warped:
        """Tell where points (x, y) of view 0 or 1 lie in the other; differentiable in them."""


def read_mask(mask: Bool[Tensor, 'b h w'], points: Float[Tensor, 'b n 2']) -> Bool[Tensor, 'b n']:
    """Read a mask at the pixels nearest to points (x, y); false outside."""
    height, width = mask.shape[-2:]
    x, y = points.nan_to_num(nan=-1.0).round().long().unbind(-1)
    within = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    return mask.flatten(1).gather(1, index) & within
