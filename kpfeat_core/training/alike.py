"""ALIKE's training objective on pairs of views: homographic, or with depth and poses."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from .recipe import Options, Recipe
from ..config import option, Positive, Range
from ..data.view_pairs import read_mask, ViewPairs
from ..errors import ConfigError
from ..geometry import bilinear_neighbors, pixel_grid, sample
from ..keypoints import Keypoints
from ..losses import alike as losses
from ..models.alike import Alike
from ..models.base import DenseMaps, Extractor


@dataclass(frozen=True)
class AlikeLossConfig:
    """
    Points and weights of the four losses; the paper's values unless the text says so.

    detected: detected keypoints in a view (paper: 400 at 480x480); random: random points in a view
    (paper: 400 at 480x480); reprojection: weight of the reprojection loss; peak: weight of the
    dispersity peak loss; reliability: weight of the reliability loss; nre: weight of the neural
    reprojection error; match_px: largest distance of true partners in pixels.
    """

    detected: Annotated[int, Range(1)] = 200
    random: Annotated[int, Range(0)] = 150
    reprojection: Positive = 1.0
    peak: Positive = 0.5
    reliability: Positive = 1.0
    nre: Positive = 5.0
    temperature: float = option(
        0.05, 'temperature of the NRE (published code 0.1, paper 0.02)', low=1e-3
    )
    reliability_temperature: float = option(
        0.5,
        'temperature of the reliability (published: 0.1, where most points have next to none)',
        1e-3,
    )
    stride: int = option(
        8,
        'NRE compares with every n-th pixel of the other view, counted n^2 times, and with the '
        'true position; 1 compares with all pixels, as published',
        low=1,
    )
    match_px: Positive = 5.0


@dataclass
class _View:
    """The part of one view of a pair in the losses; all of shape (B, N, …)."""

    maps: DenseMaps
    keypoints: Tensor  # detected, then random
    scores: Tensor
    dispersity: Tensor  # of the detected ones
    detected: Tensor  # mask over keypoints
    descriptors: Tensor
    warped: Tensor
    valid: Tensor
    outside: Tensor


class AlikeRecipe(Recipe):
    """The four losses on a batch of pairs."""

    loss_class = AlikeLossConfig
    takes_scenes = True

    def __init__(self, extractor: Alike, config: AlikeLossConfig) -> None:
        options = {'max_num_keypoints': config.detected, 'detection_threshold': 0.0}
        super().__init__(extractor.with_options(**options), config)

    @classmethod
    def check(cls, options: Options, extractor: Extractor, data: Path | str) -> None:
        """Raise ConfigError if views do not suit the network, or the NRE's grid."""
        super().check(options, extractor, data)
        stride, side = options.loss.stride, options.pairs.view_size
        if stride > side:
            raise ConfigError(f'stride is {stride}, expected at most view_size, {side}')

    def forward(self, pairs: ViewPairs, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the loss `total` and its parts, averaged over the pairs."""
        seen = self.see_both(pairs.images)
        with torch.autocast(pairs.images.device.type, enabled=False):
            views = []
            for index, maps in enumerate(seen):
                descriptor_maps = tuple(m.float() for m in maps.descriptor_maps)
                maps = DenseMaps(maps.score_map.float(), descriptor_maps)
                views.append(self._view(maps, pairs, index, generator))
            parts = self._detection_losses(views)
            nre, reliability, known = [], [], []
            for here, there, seen in ((0, 1, pairs.valid[1]), (1, 0, pairs.valid[0])):
                terms = self._descriptor_terms(views[here], views[there], seen, generator)
                nre.append(terms[0])
                reliability.append(terms[1])
                known.append(views[here].valid)
            valid = torch.cat(known, 1)
            used = valid | torch.cat([view.outside for view in views], 1)
            parts['nre'] = losses.masked_mean(torch.cat(nre, 1), used).mean()
            parts['reliability'] = losses.masked_mean(torch.cat(reliability, 1), valid).mean()
        weights = self.config
        parts['total'] = sum(getattr(weights, name) * value for name, value in parts.items())
        parts['covisible'] = valid.float().mean()
        return parts

    def _view(
        self, maps: DenseMaps, pairs: ViewPairs, index: int, generator: torch.Generator
    ) -> _View:
        """Detect, add random points, describe, and find where everything lies in the other."""
        height, width = maps.score_map.shape[-2:]
        found = self.extractor.detect(maps)
        extra = torch.rand(
            (len(maps.score_map), self.config.random, 2),
            generator=generator,
            device=generator.device,
        )
        extra = extra * extra.new_tensor([width - 1, height - 1])
        keypoints = torch.cat([found.keypoints, extra], 1)
        scores = torch.cat(
            [found.keypoint_scores, sample(maps.score_map[:, None], extra)[..., 0]], 1
        )
        real = torch.cat([found.mask, found.mask.new_ones(extra.shape[:2])], 1)
        real = real & read_mask(pairs.valid[index], keypoints)
        warped = pairs.warp(keypoints, index)
        return _View(
            maps=maps,
            keypoints=keypoints,
            scores=scores,
            dispersity=found.dispersity,
            detected=real[:, : found.mask.shape[1]],
            descriptors=self.extractor.describe(maps, Keypoints.at(keypoints)),
            warped=warped.points,
            valid=real & warped.visible,
            outside=real & warped.outside,
        )

    def _detection_losses(self, views: list[_View]) -> dict[str, Tensor]:
        count = [view.detected.shape[1] for view in views]
        keypoints = [v.keypoints[:, :n] for v, n in zip(views, count, strict=True)]
        warped = [v.warped[:, :n] for v, n in zip(views, count, strict=True)]
        valid = [v.valid[:, :n] for v, n in zip(views, count, strict=True)]
        scores = [v.scores[:, :n] for v, n in zip(views, count, strict=True)]
        matches = losses.true_correspondences(*keypoints, *warped, *valid, self.config.match_px)
        reprojection = losses.reprojection_loss(*keypoints, *warped, matches, *scores)
        peaks = [
            losses.dispersity_peak_loss(v.dispersity, s, v.detected)
            for v, s in zip(views, scores, strict=True)
        ]
        return {
            'reprojection': reprojection.mean(),
            'peak': (peaks[0] + peaks[1]).mean() / 2,
        }

    def _descriptor_terms(
        self, here: _View, there: _View, seen: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return NRE and reliability of each keypoint of one view."""
        config, extractor = self.config, self.extractor
        height, width = there.maps.score_map.shape[-2:]
        pixels, weights = bilinear_neighbors(here.warped.detach(), height, width)
        around = extractor.describe_pixels(there.maps, pixels.flatten(1, 2))
        around = around.view(*pixels.shape[:3], -1)
        similarity = (around * here.descriptors[:, :, None]).sum(-1)
        grid = _grid(height, width, config.stride, generator)
        others = extractor.describe_pixels(there.maps, grid.expand(len(seen), -1, -1))
        hidden = ~read_mask(seen, grid.expand(len(seen), -1, -1))[:, None]
        if config.stride > 1:  # the truth's neighborhood counts once, exactly
            hidden = hidden | _near(here.warped, grid, width // config.stride, config.stride)
        log_sum = losses.log_partition(here.descriptors, others, config.temperature, hidden)
        probability = losses.match_probability(similarity, weights, config.temperature)
        log_probability = probability.clamp(min=1e-30).log()
        if config.stride > 1:  # the skipped pixels, and the truth that no grid point may hit
            log_sum = log_sum + 2 * torch.tensor(float(config.stride)).log().to(log_sum)
            exact = torch.where(here.valid, log_probability, -torch.inf)
            log_sum = torch.logaddexp(log_sum, exact)
        nre = losses.neural_reprojection_terms(log_probability, log_sum, here.valid, here.outside)
        reliability = losses.match_probability(
            similarity.detach(), weights, config.reliability_temperature
        )
        scores_there = sample(there.maps.score_map[:, None], here.warped.detach().nan_to_num())
        return nre, losses.reliability_terms(
            reliability, here.scores, scores_there[..., 0], here.valid
        )


def _near(points: Tensor, grid: Tensor, columns: int, distance: float) -> Tensor:
    """Return which grid pixels (P, 2) lie within a square around points (B, N, 2); (B, N, P)."""
    x, y = points.detach().unbind(-1)
    near_x = (x[..., None] - grid[:columns, 0]).abs() < distance
    near_y = (y[..., None] - grid[::columns, 1]).abs() < distance
    return (near_y[..., :, None] & near_x[..., None, :]).flatten(2)


def _grid(height: int, width: int, stride: int, generator: torch.Generator) -> Tensor:
    """Return every stride-th pixel (x, y), from a random start."""
    start = torch.randint(stride, (2,), generator=generator, device=generator.device)
    counts = (height // stride, width // stride)
    return pixel_grid(*counts, generator.device) * stride + start
