"""Key.Net's training objective: both views propose the same positions (M-SIP)."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from .recipe import Recipe
from ..config import option
from ..data.view_pairs import ViewPairs
from ..geometry import pixel_grid
from ..losses.keynet import proposal_losses, read_seen
from ..models.base import Extractor


@dataclass(frozen=True)
class KeyNetLossConfig:
    """What the index proposals are compared under."""

    border: int = option(16, 'pixels at the borders of both views that do not count', low=0)
    weigh_by_score: bool = option(True, 'windows with high scores count more, as published')


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
