"""`Features` and `Matches`: the two types that flow through everything."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F

from .axes import Bool, Float, Int
from .errors import ShapeError


@dataclass(frozen=True)
class Features:
    """
    Keypoints, scores and descriptors of a batch of images, padded to the same count.

    keypoints (B, N, 2): x, y in pixels of the source image, (0, 0) is the centre of the first.
    keypoint_scores (B, N): confidence, higher is better; 0 where padded.
    descriptors (B, N, D): unit length; 0 where padded.
    mask (B, N): true for real keypoints; padding always comes last.
    image_size (B, 2): width, height of the source image in pixels.
    scales (B, N): size of the described region relative to the model's own at full resolution,
        which is 1; None where there is none.
    orientations (B, N): radians, from x towards y; None where there is none.

    Raises ShapeError if the arrays do not fit each other.
    """

    keypoints: Float[Tensor, 'b n 2']
    keypoint_scores: Float[Tensor, 'b n']
    descriptors: Float[Tensor, 'b n d']
    mask: Bool[Tensor, 'b n']
    image_size: Float[Tensor, 'b 2']
    scales: Float[Tensor, 'b n'] | None = None
    orientations: Float[Tensor, 'b n'] | None = None

    def __post_init__(self) -> None:
        b, n = self.mask.shape if self.mask.ndim == 2 else (-1, -1)
        expected = {'keypoints': (b, n, 2), 'keypoint_scores': (b, n), 'image_size': (b, 2)}
        expected |= {'scales': (b, n), 'orientations': (b, n)}
        for name, shape in expected.items():
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != shape:
                raise ShapeError(
                    f'{name} has shape {tuple(value.shape)}, expected {shape} beside a mask of '
                    f'shape {tuple(self.mask.shape)}'
                )
        if self.descriptors.ndim != 3 or tuple(self.descriptors.shape[:2]) != (b, n):
            raise ShapeError(
                f'descriptors have shape {tuple(self.descriptors.shape)}, expected ({b}, {n}, D) '
                'beside keypoints (B, N, 2); hloc files hold (D, N): transpose them first'
            )

    @property
    def batch_size(self) -> int:
        """Return the number of images."""
        return self.mask.shape[0]

    @property
    def descriptor_dim(self) -> int:
        """Length of one descriptor."""
        return self.descriptors.shape[2]

    @property
    def device(self) -> torch.device:
        """Where all tensors are."""
        return self.keypoints.device

    def count(self, b: int = 0) -> int:
        """Return the number of real keypoints of image b."""
        return int(self.mask[b].sum())

    def _map(self, function: Callable[[Tensor], Tensor], *kept: str) -> 'Features':
        """Apply a function to all arrays but those kept."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        changed = {k: v for k, v in values.items() if v is not None and k not in kept}
        return Features(**{**values, **{k: function(v) for k, v in changed.items()}})

    def to(self, device: torch.device | str) -> 'Features':
        """Move to a device."""
        return self._map(lambda value: value.to(device))

    def select(self, b: int) -> 'Features':
        """Return image b alone (a batch of one), without its padding."""
        return self._map(lambda value: value[b : b + 1]).take(slice(self.count(b)))

    def take(self, index: Tensor | np.ndarray | slice) -> 'Features':
        """
        Return some rows of each image: those at an index (K,), in its order, or of a slice.

        index may be a bool mask (N,) as well. Padding is taken as it is.
        """
        if isinstance(index, np.ndarray):
            index = torch.from_numpy(index)
        if isinstance(index, Tensor):
            index = index.to(self.device)
        return self._map(lambda value: value[:, index], 'image_size')

    def first(self, counts: Int[Tensor, ' b']) -> 'Features':
        """Keep at most the first counts[b] keypoints of image b; the others become padding."""
        kept = self.mask & (torch.arange(self.mask.shape[1], device=self.device) < counts[:, None])
        return self._map(lambda v: v * (kept if v.ndim == 2 else kept[..., None]), 'image_size')

    @staticmethod
    def cat(items: Sequence['Features']) -> 'Features':
        """
        Join batches, padding each to the largest keypoint count.

        Raises ShapeError where only some have scales or orientations.
        """
        if not items:
            raise ShapeError('no Features to join; expected at least one')
        most = max(item.mask.shape[1] for item in items)

        def joined(name: str) -> Tensor | None:
            values = [getattr(item, name) for item in items]
            if all(value is None for value in values):
                return None
            if any(value is None for value in values):
                raise ShapeError(
                    f'some of the Features to join have {name} and others have none, expected '
                    'all or none; join those of one model with the same options'
                )
            if name != 'image_size':
                values = [F.pad(v, (0, 0) * (v.ndim - 2) + (0, most - v.shape[1])) for v in values]
            return torch.cat(values)

        return Features(**{f.name: joined(f.name) for f in fields(Features)})

    def numpy(self, b: int = 0) -> dict[str, np.ndarray]:
        """
        Return image b as arrays without padding.

        keypoints (N, 2), keypoint_scores (N,), descriptors (N, D), image_size (2,), and scales
        (N,), orientations (N,) where the extractor gives them.
        """
        one = self.select(b)
        values = {f.name: getattr(one, f.name) for f in fields(self) if f.name != 'mask'}
        return {k: v[0].detach().cpu().numpy() for k, v in values.items() if v is not None}

    @staticmethod
    def from_numpy(arrays: Mapping[str, np.ndarray]) -> 'Features':
        """Build a batch of one from the arrays that `numpy` gives; raises ShapeError."""
        needed = ('keypoints', 'keypoint_scores', 'descriptors', 'image_size')
        missing = [name for name in needed if name not in arrays]
        if missing:
            raise ShapeError(f'features lack {", ".join(missing)}; found {sorted(arrays)}')
        names = {f.name for f in fields(Features)}
        tensors = {
            name: torch.from_numpy(np.require(value, requirements=['C', 'W'])).float()[None]
            for name, value in arrays.items()
            if name in names - {'mask'}
        }
        mask = torch.ones(tensors['keypoints'].shape[:2], dtype=torch.bool)
        return Features(mask=mask, **tensors)


@dataclass(frozen=True)
class Matches:
    """
    Which keypoint of image 1 belongs to each keypoint of image 0.

    matches0 (B, N0): index into image 1, -1 for none.
    matching_scores0 (B, N0): confidence, 0 where unmatched.
    """

    matches0: Int[Tensor, 'b n0']
    matching_scores0: Float[Tensor, 'b n0']

    def pairs(self, b: int = 0) -> Int[Tensor, 'k 2']:
        """Return indices (K, 2) of the matches of pair b: into image 0, into image 1."""
        matches = self.matches0[b]
        index0 = torch.nonzero(matches >= 0).squeeze(1)
        return torch.stack([index0, matches[index0]], dim=1)

    def scores(self, b: int = 0) -> Float[Tensor, ' k']:
        """Return the confidence (K,) of each of `pairs(b)`."""
        return self.matching_scores0[b][self.matches0[b] >= 0]

    def to(self, device: torch.device | str) -> 'Matches':
        """Move to a device."""
        return Matches(self.matches0.to(device), self.matching_scores0.to(device))
