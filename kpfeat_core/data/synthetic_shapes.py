"""Synthetic Shapes in memory, on the training device: drawn on the spot or read from a cache."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .shapes.cache import read_shapes
from .shapes.config import PRIMITIVES, ShapesConfig, SharesConfig
from .shapes.pieces import draw_pieces, PIECE_ROWS, ShapesArrays, total_rows
from ..shapes import Bool, Float, Int


@dataclass(frozen=True)
class ShapesBatch:
    """
    Images (B, 1, H, W) in [0, 1] and their labels.

    keypoints (B, P, 2) are (x, y) pixels, sub-pixel; mask (B, P) tells which are labels and not
    padding, which comes last.
    """

    images: Float[Tensor, 'b 1 h w']
    keypoints: Float[Tensor, 'b p 2']
    mask: Bool[Tensor, 'b p']


@dataclass(frozen=True)
class ShapesBank:
    """
    Images of a split, and how often each is drawn.

    images (K, H, W) uint8; keypoints (K, P, 2), zeros after the first counts (K,); primitives
    (K,): places in PRIMITIVES; probabilities (K,).
    """

    images: Tensor
    keypoints: Float[Tensor, 'k p 2']
    counts: Int[Tensor, ' k']
    primitives: Int[Tensor, ' k']
    probabilities: Float[Tensor, ' k']

    def __len__(self) -> int:
        return len(self.counts)

    def to(self, device: torch.device | str) -> 'ShapesBank':
        """Move all images and labels to a device."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items()})

    def of(self, *primitives: str) -> Int[Tensor, ' n']:
        """Return the rows that show some primitives."""
        wanted = self.counts.new_tensor([PRIMITIVES.index(name) for name in primitives])
        return torch.nonzero(torch.isin(self.primitives, wanted))[:, 0]

    def draw(self, count: int, generator: torch.Generator) -> ShapesBatch:
        """Draw images at random, each primitive by its share; the generator is on the device."""
        return self.batch(
            self.probabilities.multinomial(count, replacement=True, generator=generator)
        )

    def batch(self, index: Int[Tensor, ' b']) -> ShapesBatch:
        """Return rows (B,) as a batch."""
        counts = self.counts[index]
        places = torch.arange(self.keypoints.shape[1], device=counts.device)
        return ShapesBatch(
            self.images[index][:, None].float() / 255,
            self.keypoints[index],
            places < counts[:, None],
        )


def load_shapes(
    folder: Path | str,
    split: str,
    config: ShapesConfig | None = None,
    shares: SharesConfig = SharesConfig(),  # noqa: B008 - frozen
) -> ShapesBank:
    """
    Read a split that `kpfeat shapes` drew; its images stay on disk until they are used.

    config: the options that it must have been drawn with; none accepts any. Raises DataError.
    """
    return _bank(read_shapes(folder, split, config), shares)


def make_shapes(
    split: str,
    config: ShapesConfig,
    shares: SharesConfig = SharesConfig(),  # noqa: B008 - frozen
    workers: int = 1,
) -> ShapesBank:
    """Draw a split in memory; the same images as in a cache."""
    config.check()
    pieces = range(-(-total_rows(split, config) // PIECE_ROWS))
    drawn = list(draw_pieces(split, config, pieces, workers))
    names = ('images', 'keypoints', 'counts')
    arrays = (np.concatenate([getattr(piece, name) for piece in drawn]) for name in names)
    return _bank(ShapesArrays(*arrays), shares)


def _bank(arrays: ShapesArrays, shares: SharesConfig) -> ShapesBank:
    counts = arrays.counts
    padded = np.zeros((len(counts), max(1, counts.max()), 2), np.float32)
    padded[np.arange(padded.shape[1]) < counts[:, None]] = arrays.keypoints
    primitives = np.arange(len(counts)) % len(PRIMITIVES)
    weights = np.array(shares.weights())[primitives]
    return ShapesBank(
        torch.from_numpy(np.asarray(arrays.images)),
        torch.from_numpy(padded),
        torch.from_numpy(counts),
        torch.from_numpy(primitives),
        torch.from_numpy((weights / weights.sum()).astype(np.float32)),
    )
