"""Key.Net's training objective: both views propose the same positions (M-SIP)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from .recipe import Recipe
from ..config import option
from ..data.view_pairs import PairBatch
from ..losses.keynet import multi_scale_index_proposal_loss, WINDOWS
from ..models.base import Extractor


@dataclass(frozen=True)
class KeyNetLossConfig:
    """What the index proposals are compared under."""

    border: int = option(16, 'pixels at the borders of both views that do not count', low=0)
    weigh_by_score: bool = option(True, 'windows with high scores count more, as published')


class KeyNetRecipe(Recipe):
    """The M-SIP loss on a batch of pairs; the descriptor is not trained."""

    loss_class = KeyNetLossConfig
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

    def forward(self, batch: PairBatch, generator: Generator) -> dict[str, Tensor]:
        """Return the loss `total`, which is M-SIP alone, and the highest score."""
        maps = self.see(batch.images.flatten(0, 1))
        with torch.autocast(batch.images.device.type, enabled=False):
            scores = maps.score_map.float().unflatten(0, (2, -1))
            losses = multi_scale_index_proposal_loss(
                *scores,
                batch.H_0to1,
                WINDOWS,
                border=self.config.border,
                weigh_by_score=self.config.weigh_by_score,
            )
        return {'total': losses.mean(), 'msip': losses.mean(), 'highest': scores.max()}

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
