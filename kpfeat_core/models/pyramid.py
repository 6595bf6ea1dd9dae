"""Image pyramids: any extractor on several scales, the keypoints of all of them merged."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..features import Features


@dataclass(frozen=True)
class Pyramid:
    """
    Which scales an image is looked at with the option multi_scale, largest first.

    step: factor from one scale to the next. smallest: no scale below this. enlarged: number of
    scales above 1. budget: give each scale its share of the keypoints, by its area, instead of
    letting the scores of all scales compete. The defaults are those of ALIKE's published code.
    """

    step: float = 2**-0.5
    smallest: float = 0.3
    enlarged: int = 0
    budget: bool = False

    def sizes(self, size: tuple[int, int], min_side: int) -> list[tuple[int, int]]:
        """Return the (height, width) of each scale of an image; those below min_side fall away."""
        levels = []
        scale = self.step**-self.enlarged
        while scale > self.smallest * 0.999:  # powers of the step are not exact
            level = (round(size[0] * scale), round(size[1] * scale))
            if min(level) < min_side:
                break
            levels.append(level)
            scale *= self.step
        return levels

    def shares(self, sizes: list[tuple[int, int]], total: int) -> list[int]:
        """Return, for each scale, how many keypoints it and all larger ones may have together."""
        areas = torch.tensor([height * width for height, width in sizes], dtype=torch.float64)
        return (areas.cumsum(0) / areas.sum() * total).round().long().tolist()


def merge_levels(levels: list[Features], most: int) -> Features:
    """Join the keypoints of all scales of the same images, best first; keep at most `most`."""
    scores = torch.cat([level.keypoint_scores for level in levels], 1)
    mask = torch.cat([level.mask for level in levels], 1)
    count = int(mask.sum(1).max())
    if most >= 0:
        count = min(count, most)
    best = torch.where(mask, scores, -torch.inf).topk(count, dim=1).indices

    def pick(name: str) -> Tensor | None:
        values = [getattr(level, name) for level in levels]
        if any(value is None for value in values):
            return None
        joined = torch.cat(values, 1)
        index = best if joined.ndim == 2 else best[..., None].expand(-1, -1, joined.shape[2])
        return joined.gather(1, index)

    names = ('keypoints', 'keypoint_scores', 'descriptors', 'mask', 'scales', 'orientations')
    return Features(image_size=levels[0].image_size, **{name: pick(name) for name in names})
