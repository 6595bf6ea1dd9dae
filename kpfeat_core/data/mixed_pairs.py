"""Pairs of views from several sources in one batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from .view_pairs import ViewPairs, Warped
from ..axes import Bool, Float

Make = Callable[[int], ViewPairs]  # makes so many pairs


@dataclass(frozen=True)
class MixedPairs:
    """
    The pairs of several batches one after the other.

    images (2, B, 3, V, V) and valid (2, B, V, V) are those of all; batches: what each tells of its
    own pairs, none of them empty; all views have one size.
    """

    images: Float[Tensor, '2 b 3 v v']
    valid: Bool[Tensor, '2 b v v']
    batches: tuple[ViewPairs, ...]

    def __len__(self) -> int:
        return self.images.shape[1]

    def part(self, index: int, count: int) -> ViewPairs:
        """Return the index-th of `count` equal shares, for training in several processes."""
        parts, start = [], 0
        for batch in self._whole():
            # every count-th pair, whichever batch it is in
            parts.append(batch.part((index - start) % count, count))
            start += len(batch)
        return mix(parts)

    def _whole(self) -> list[ViewPairs]:
        """Return the batches with the images and masks of this one, which may have changed."""
        sizes = [len(batch) for batch in self.batches]
        pieces = zip(
            self.batches, self.images.split(sizes, 1), self.valid.split(sizes, 1), strict=True
        )
        return [replace(batch, images=images, valid=valid) for batch, images, valid in pieces]

    def warp(self, points: Float[Tensor, 'b n 2'], view: int) -> Warped:
        """Return where points (x, y) of one view lie in the other; differentiable in them."""
        own = points.split([len(batch) for batch in self.batches])
        told = [
            (warped.points, warped.visible, warped.outside)
            for warped in (
                batch.warp(rows, view) for batch, rows in zip(self._whole(), own, strict=True)
            )
        ]
        return Warped(*(torch.cat(parts) for parts in zip(*told, strict=True)))


def mix(batches: Sequence[ViewPairs]) -> ViewPairs:
    """Join batches of pairs, some of which may be empty; one alone stays what it is."""
    full = [batch for batch in batches if len(batch)]
    if len(full) < 2:
        return full[0] if full else batches[0]
    images, valid = (
        torch.cat([getattr(b, name) for b in full], 1) for name in ('images', 'valid')
    )
    return MixedPairs(images, valid, tuple(full))


def sample_mixed(
    count: int,
    usual: Make,
    others: Sequence[tuple[float, Make]],
    generator: torch.Generator,
) -> ViewPairs:
    """
    Sample `count` pairs, shares of which come from other sources, and the rest from the usual one.

    A share that is no whole number of pairs is met on average: chance decides. Where all shares
    are 0 no random number is taken, so that such runs are what they were without other sources.
    """
    ends = list(accumulate(share for share, _ in others))
    if not ends or ends[-1] == 0:
        return usual(count)
    chance = float(torch.rand((), generator=generator, device=generator.device))
    # rounding all sums alike keeps each share right on average; 1e-9 is for sums such as 0.7 + 0.3
    stops = [0, *(min(int(end * count + chance + 1e-9), count) for end in ends)]
    sizes = [stop - start for start, stop in pairwise(stops)]
    draws = [(count - stops[-1], usual)]
    draws += [(size, draw) for size, (_, draw) in zip(sizes, others, strict=True)]
    return mix([draw(size) for size, draw in draws if size])
