"""
Training objectives of Key.Net and of its descriptor, HardNet.

Key.Net: both views propose the same positions (M-SIP). HardNet: the hardest wrong patch of the
batch is farther than the right one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from torch import Generator, nn, Tensor

from .recipe import Options, Recipe, require_data
from .validation import evaluating
from ..config import Positive, Range
from ..data.homography_pairs import render_pairs, sample_views
from ..data.image_folder import ImageBank
from ..data.patch_pairs import BORDER, make_patch_pairs, PatchBatch, PatchPairConfig
from ..data.view_pairs import ViewPairs
from ..errors import ConfigError
from ..geometry import pixel_grid
from ..losses.common import descriptor_distances
from ..losses.keynet import hardest_in_batch_loss, proposal_losses, read_seen
from ..models.base import Extractor
from ..models.keynet import HardNet, KeyNet, PATCH_SIZE
from ..registry import build_network
from ..visualize import CORRECT, WRONG

SMALLEST = 2 * BORDER + 16  # pixels of a level; places are drawn between its borders


@dataclass(frozen=True)
class KeyNetLossConfig:
    """
    What the index proposals are compared under.

    border: pixels at the borders of both views that do not count; weigh_by_score: windows with
    high scores count more, as published.
    """

    border: Annotated[int, Range(0)] = 16
    weigh_by_score: bool = True


class KeyNetRecipe(Recipe):
    """The M-SIP loss on a batch of pairs; the descriptor is not trained."""

    loss_class = KeyNetLossConfig
    takes_scenes = True
    # Views and rate as published; half of its batch. Some pairs are turned by any angle: among
    # others an offset common to all keypoints costs nothing.
    defaults = {
        'view_size': 192,
        'batch_size': 16,
        'learning_rate': 1e-3,
        'any_rotation': 0.3,
        'max_zoom': 3.0,
        'validation_pairs': 150,
    }
    build_options = {'descriptor': 'sift', 'multi_scale': False}

    def forward(self, batch: ViewPairs, generator: Generator) -> dict[str, Tensor]:
        """Return the loss `total`, which is M-SIP alone, and the highest score."""
        maps = self.see(batch.images.flatten(0, 1))
        with torch.autocast(batch.images.device.type, enabled=False):
            scores = maps.score_map.float().unflatten(0, (2, -1))
            labels = [self._label(batch, scores, view) for view in (0, 1)]
            losses = proposal_losses(
                tuple(scores), labels, weigh_by_score=self.config.weigh_by_score
            )
        return {'total': losses.mean(), 'msip': losses.mean(), 'highest': scores.max()}

    def _label(self, pairs: ViewPairs, scores: Tensor, view: int) -> tuple[Tensor, Tensor]:
        """Return the other view's scores at the pixels of one view, and which pixels count."""
        # what mirrors a photograph around it follows the same geometry
        pairs = replace(pairs, valid=torch.ones_like(pairs.valid))
        size = scores.shape[-2:]
        grid = pixel_grid(*size, scores.device).expand(len(pairs), -1, -1)
        warped = pairs.warp(grid, view)
        label, both = read_seen(scores[1 - view], warped.points, size, self.config.border)
        return label, both & warped.visible.view_as(both)

    @classmethod
    def validation_keypoints(cls, batch: Any) -> int:
        """
        Return that only the best 25 count, as published; of one scale, described by SIFT.

        The loss does not ask for fewer keypoints where nothing is to be seen, and among all of
        them it is those that would be measured.
        """
        return 25

    @classmethod
    def validate(cls, extractor: Extractor, batch: Any) -> dict[str, float]:
        """Repeatability is what counts."""
        numbers = super().validate(extractor, batch)
        return numbers | {'score': numbers['repeatability']}


@dataclass(frozen=True)
class HardNetLossConfig(PatchPairConfig):
    """
    Which patches are compared, and how; the margin and the swap are the paper's.

    margin: how much farther the hardest negative is to be; anchor_swap: negatives come from both
    views, as published; safe_px: patches nearer than this, in pixels of their level, are no
    negatives.
    """

    margin: Annotated[float, Range(0.0, 2.0)] = 1.0
    anchor_swap: bool = True
    safe_px: Positive = 8.0


class HardNetRecipe(Recipe):
    """Triplets of a batch of patches of several photographs; Key.Net's detector has no part."""

    loss_class = HardNetLossConfig
    # Published: SGD of rate 10 (0.1 where gradients are clipped) over 10^4 steps and more of 1024
    # pairs; with few steps Adam gets further.
    defaults = {
        'view_size': 256,
        'learning_rate': 2e-3,
        'validation_pairs': 16,
        'any_rotation': 0.0,  # patches are turned as asked wherever the photograph is
        'blur_px': 1.0,
    }

    @classmethod
    def build(cls, model: str, options: Options) -> HardNet:
        """Build the network, which is no extractor."""
        return build_network(model)

    @classmethod
    def check(cls, options: Options, extractor: nn.Module, data: Path | str) -> None:
        """Raise ConfigError if a view has no room for a patch, or without data."""
        require_data(data)
        side = options.pairs.view_size
        if side < SMALLEST:
            raise ConfigError(f'view_size is {side}, expected at least {SMALLEST}')
        options.check_shares(cls.takes_shares)

    @classmethod
    def sample(
        cls, options: Options, bank: ImageBank, count: int, generator: Generator
    ) -> PatchBatch:
        """Read patches of two views of `count` photographs."""
        side, sizes = options.pairs.view_size, level_sizes(options)
        sampled = sample_views(bank, count, options.pairs, generator)
        pairs = render_pairs(bank, sampled, side, options.photometric, generator)
        return make_patch_pairs(pairs, sampled, sizes, options.loss, generator, PATCH_SIZE)

    @classmethod
    def picture(cls, batch: PatchBatch, rows: int = 8, columns: int = 20) -> np.ndarray:
        """Draw pairs of patches, one above the other."""
        count = len(batch.photograph)
        shown = batch.patches[:, :: max(1, count // (rows * columns)), 0][:, : rows * columns]
        blank = shown.new_ones(2, rows * columns, PATCH_SIZE + 4, PATCH_SIZE + 4)
        blank[:, : shown.shape[1], 2:-2, 2:-2] = shown
        sheet = blank.view(2, rows, columns, *blank.shape[2:]).permute(1, 0, 3, 2, 4)
        sheet = sheet.reshape(rows * 2 * blank.shape[2], -1).mul(255).byte().cpu().numpy()
        return np.repeat(sheet[..., None], 3, 2)

    def forward(self, batch: PatchBatch, generator: Generator) -> dict[str, Tensor]:
        """Return the loss `total`, and the mean distance of true pairs."""
        if len(batch.photograph) < 2:  # there is no negative, and nothing to normalize over
            nothing = sum(0 * parameter.sum() for parameter in self.parameters())
            return {'total': nothing, 'triplet': nothing, 'correct_distance': nothing}
        descriptors = self.extractor(batch.patches.flatten(0, 1)).unflatten(0, (2, -1))
        config = self.config
        with torch.autocast(batch.patches.device.type, enabled=False):
            first, second = descriptors.float()[:, None]
            loss = hardest_in_batch_loss(
                first,
                second,
                first.new_ones(first.shape[:2], dtype=torch.bool),
                batch.same_place(config.safe_px)[None],
                config.margin,
                config.anchor_swap,
            ).mean()
            distance = (first - second).detach().norm(dim=-1).mean()
        return {'total': loss, 'triplet': loss, 'correct_distance': distance}

    @classmethod
    def validate(cls, extractor: HardNet, batch: PatchBatch) -> dict[str, float]:
        """Match the patches of each photograph; the share of correct matches is what counts."""
        return validate_patches(extractor, batch)

    @classmethod
    def examples(cls, extractor: HardNet, batch: PatchBatch, count: int = 96) -> np.ndarray:
        """Draw patches, under each its partner, under that the nearest, framed green or red."""
        matched = next(match_patches(extractor, batch))
        own, size = matched.index[:count], PATCH_SIZE + 4
        tiles = batch.patches.new_zeros(len(own), 3, 3, size, size)
        sources = ((0, own), (1, own), (1, matched.index[matched.nearest[:count]]))
        for row, (view, index) in enumerate(sources):
            tiles[:, row, :, 2:-2, 2:-2] = batch.patches[view, index]
        wrong = ~matched.correct[:count]
        colors = tiles.new_tensor([CORRECT, WRONG])[wrong.long()] / 255
        frame = torch.ones(size, size, dtype=torch.bool, device=tiles.device)
        frame[2:-2, 2:-2] = False
        tiles[:, 2] = torch.where(frame, colors[..., None, None], tiles[:, 2])
        columns = 24
        full = len(tiles) // columns * columns or len(tiles)
        sheet = tiles[:full].unflatten(0, (-1, min(columns, full)))
        sheet = sheet.permute(0, 2, 4, 1, 5, 3).flatten(0, 2).flatten(1, 2)
        return sheet.mul(255).byte().cpu().numpy()


class MatchedPatches(NamedTuple):
    """
    The K patches of one photograph, described and matched.

    index (K,): which of the batch; distance (K, K) of descriptors, infinite between places too
    near each other to tell, true pairs on the diagonal; nearest (K,) of the second view for each
    of the first; correct (K,): whether that is the true one.
    """

    index: Tensor
    distance: Tensor
    nearest: Tensor
    correct: Tensor


def level_sizes(options: Options) -> list[tuple[int, int]]:
    """Return the (height, width) of the levels on which Key.Net would see a view."""
    side = options.pairs.view_size
    return KeyNet.pyramid.sizes((side, side), SMALLEST)


def validate_patches(
    network: HardNet, batch: PatchBatch, safe_px: float = HardNetLossConfig.safe_px
) -> dict[str, float]:
    """
    Return the share of patches whose nearest of the other view is the true one, and the FPR95.

    nearest: among the patches of the same photograph, as in matching. fpr95: the share of wrong
    pairs of one photograph that are nearer than 95 % of the true ones (Brown et al. 2010).
    """
    positives, negatives, hits = [], [], []
    for matched in match_patches(network, batch, safe_px):
        true = matched.distance.diagonal()
        others = matched.distance.clone().fill_diagonal_(torch.inf)
        hits += [matched.correct, true < others.amin(0)]
        positives.append(true)
        negatives.append(others[others.isfinite()])
    nearest = float(torch.cat(hits).float().mean())
    limit = torch.cat(positives).quantile(0.95)
    fpr95 = float((torch.cat(negatives) < limit).float().mean())
    return {'nearest': nearest, 'fpr95': fpr95, 'score': nearest}


@torch.inference_mode()
def match_patches(
    network: HardNet, batch: PatchBatch, safe_px: float = HardNetLossConfig.safe_px
) -> Iterator[MatchedPatches]:
    """Describe both views' patches and compare those of each photograph."""
    with evaluating(network):
        first, second = (network.describe(patches) for patches in batch.patches)
    same_place = batch.same_place(safe_px)
    for photograph in batch.photograph.unique():
        own = (batch.photograph == photograph).nonzero()[:, 0]
        distance = descriptor_distances(first[None, own], second[None, own])[0]
        near = same_place[own][:, own].fill_diagonal_(False)
        distance = distance.masked_fill(near, torch.inf)
        nearest = distance.argmin(1)
        correct = nearest == torch.arange(len(own), device=own.device)
        yield MatchedPatches(own, distance, nearest, correct)
