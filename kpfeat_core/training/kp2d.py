"""KP2D's training objective: positions, scores, descriptors, and outliers that IO-Net finds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from torch import Generator, nn, Tensor
import torch.nn.functional as F

from .recipe import Options, Recipe
from ..axes import Float
from ..config import option, Positive, Range
from ..data.config import homography_config
from ..data.depth_pairs import MixedBank, SceneBank
from ..data.homographies import sample_homographies
from ..data.homography_pairs import render_views, sample_view_homographies
from ..data.image_folder import ImageBank
from ..data.photometric import augment
from ..data.view_pairs import PairBatch, ViewPairs
from ..errors import ConfigError
from ..geometry import inside, normalize_points, sample
from ..keypoints import clear_borders, Keypoints
from ..losses import kp2d as losses
from ..losses.common import infonce_terms
from ..models.base import DenseMaps, Extractor
from ..models.kp2d import CELL, Kp2d


@dataclass(frozen=True)
class Kp2dLossConfig:
    """
    Weights and thresholds of the losses; the published values unless the text says so.

    localization: weight of the localization loss; temperature: temperature of the softmax of
    InfoNCE; rejection: weight of IO-Net's loss, with 0 as up to v2; margin: margin of the triplet
    loss; match_px: largest distance of true partners in pixels.
    """

    localization: Positive = 1.0
    score: float = option(
        1.0, 'weight of the loss of scores by how well keypoints repeat', low=0.0, old='usefulness'
    )
    consistency: float = option(
        0.3,
        'weight of the consistency of scores (published: 1, with which all scores came near 1 '
        'within 100 steps, before keypoints repeat: equal scores are consistent)',
        low=0.0,
    )
    infonce: float = option(
        1.0,
        'weight of InfoNCE, a softmax over all wrong partners, for descriptors (published: 0, '
        'with triplet 2)',
        low=0.0,
        old='softmax',
    )
    temperature: Annotated[float, Range(0.001)] = 0.1
    triplet: float = option(
        0.0,
        'weight of the triplet loss (published: 2, in v3 0; from random weights it crowds all '
        "descriptors together, and after 100 steps its gradient is a fortieth of the others')",
        low=0.0,
    )
    rejection: Positive = 1.0
    margin: Positive = 0.2
    match_px: Positive = 4.0
    rejection_share: float = option(
        0.25, 'share of the cells whose keypoints IO-Net sees (300 at 240x320)', 0.01, 1.0
    )
    rejection_from: float = option(
        0.2,
        'share of correct matches among those, and at least 10, from which its loss counts in a '
        'batch (published: 0)',
        0.0,
        1.0,
    )
    rejection_points: str = option(
        'highest',
        'which those are: highest scores, as the paper says and as extraction takes them; lowest '
        'are those of the published code, of which 45 % are border cells, which are never '
        'extracted and have score 0 (at 128x128: 94 %)',
        choices=('highest', 'lowest'),
    )
    score_border_px: float = option(
        11.5,
        'scores of keypoints that fall nearer to the border of view 1 are not compared: the '
        'outermost cells there have score 0 (published: 0, which teaches low scores near borders)',
        low=0.0,
    )
    dropout: float = option(
        0.0,
        'share of channels dropped at each of seven places (published: 0.2, over millions of '
        'pairs; after 40 steps on two pairs the recall, measured without dropping, was .29 and '
        '.28 with that and .86 and .49 without, for two seeds; not compared in long runs)',
        0.0,
        0.9,
    )
    sampler: str = option(
        'views',
        'views: homographies as all systems here get them; published: those of the paper, where '
        'view 0 is a part of view 1',
        choices=('views', 'published'),
    )


class _View(NamedTuple):
    """One view's maps, and the keypoints (B, N, 2) and scores (B, N) of all of its cells."""

    maps: DenseMaps
    keypoints: Tensor
    scores: Tensor


class Kp2dRecipe(Recipe):
    """
    The losses on a batch of pairs: the five published ones, and one more for descriptors.

    IO-Net is trained beside the extractor and lies in the checkpoints of a run, but not in the
    weight file: extraction has no use for it.
    """

    loss_class = Kp2dLossConfig
    takes_scenes = True
    # Adam without decay at half of the published rate, which was found for 64 pairs in a step and
    # halved once, after 40 of 50 epochs.
    defaults = {'learning_rate': 5e-4, 'weight_decay': 0.0}

    def __init__(self, extractor: Kp2d, config: Kp2dLossConfig) -> None:
        super().__init__(extractor, config)
        extractor.dropout.p = config.dropout
        self.io_net = IoNet()

    @classmethod
    def check(cls, options: Options, extractor: Extractor, data: Path | str) -> None:
        """Raise ConfigError if the network does not take views, or the sampler other sources."""
        super().check(options, extractor, data)
        if options.loss.sampler != 'views' and options.other_shares():
            raise ConfigError(
                f'sampler is {options.loss.sampler}, expected views beside rooms_share or scenes'
            )

    @classmethod
    def sample(
        cls,
        options: Options,
        bank: ImageBank | SceneBank | MixedBank,
        count: int,
        generator: Generator,
    ) -> ViewPairs:
        """Make pairs as all systems do, or as the paper does."""
        if options.loss.sampler == 'views':
            return super().sample(options, bank, count, generator)
        if not isinstance(bank, ImageBank):
            raise ConfigError('the published sampler needs photographs alone: sampler=views')
        return published_pairs(bank, count, options, generator)

    def forward(self, batch: ViewPairs, generator: Generator) -> dict[str, Tensor]:
        """Return the loss `total`, its parts, and what tells how well the network does."""
        maps = self.see_both(batch.images)
        with torch.autocast(batch.images.device.type, enabled=False):
            return self.compare(*maps, batch)

    def compare(self, maps0: DenseMaps, maps1: DenseMaps, pairs: ViewPairs) -> dict[str, Tensor]:
        """Return the losses of two views; what is not valid in either of them does not count."""
        config, valid, size = self.config, pairs.valid, pairs.valid.shape[-2:]
        view0, view1 = (
            _View(maps, maps.positions.flatten(1, 2), maps.score_map.flatten(1))
            for maps in (maps0, maps1)
        )
        warped = pairs.warp(view0.keypoints, 0)
        # pixel (0, 0) for what is not seen: what is behind the horizon is NaN
        there = torch.where(warped.visible[..., None], warped.points, 0)
        shown, shown_there = _shown(valid[0], view0.keypoints), _shown(valid[1], there)
        inner = clear_borders(torch.ones_like(maps0.score_map), 1, 1).flatten(1) > 0
        counted = warped.visible & shown & shown_there & inner  # outermost cells have no keypoints

        parts = self._detection_losses(view0, view1, there, counted, size)
        pairs = (
            self.extractor.describe(maps0, Keypoints.at(view0.keypoints.detach())),
            self.extractor.describe(maps1, Keypoints.at(there.detach())),
            there,
            counted,
        )
        infonce = infonce_terms(*pairs, config.temperature)
        parts['infonce'] = losses.triplet_loss(infonce, counted).mean()
        triplets = losses.triplet_terms(*pairs, config.margin)
        parts['triplet'] = losses.triplet_loss(triplets.loss, counted).mean()
        # what falls outside has no partner; of what falls on no photograph, nothing is known
        known = shown & (warped.outside | (warped.visible & shown_there))
        places = warped.points.detach()
        parts['rejection'] = self._rejection_loss(view0, view1, places, known, size)
        parts['total'] = sum(getattr(config, name) * value for name, value in parts.items())
        return parts | {'recall': triplets.correct.sum() / counted.sum().clamp(min=1)}

    def _detection_losses(
        self, view0: _View, view1: _View, there: Tensor, counted: Tensor, size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Compare positions and scores; there: where the keypoints of view 0 lie in view 1."""
        nearest = losses.nearest_keypoints(there, view1.keypoints, counted, self.config.match_px)
        partners = view1.scores.gather(1, nearest.index)
        compared = counted & inside(there, *size, margin=self.config.score_border_px)
        pixels = (there + 0.5) / CELL - 0.5
        if self.extractor.config.upstream_sampling:
            last, last_cell = (
                there.new_tensor(s[::-1]) - 1 for s in (size, view1.maps.score_map.shape[1:])
            )
            pixels = there * last_cell / last
        scores_there = sample(view1.maps.score_map[:, None], pixels, 'border')
        # all keypoints of the batch in one row, as published: an image with few counts little
        nearest = losses.Nearest(*map(_row, nearest))
        scores0 = _row(view0.scores)
        return {
            'localization': losses.localization_loss(nearest).mean(),
            'score': losses.score_loss(nearest, scores0, _row(partners)).mean(),
            'consistency': losses.score_consistency_loss(
                scores0, _row(scores_there), _row(compared)
            ).mean(),
        }

    def _rejection_loss(
        self, view0: _View, view1: _View, warped0: Tensor, known: Tensor, size: tuple[int, int]
    ) -> Tensor:
        """Let IO-Net judge matches between the chosen keypoints of both views."""
        config = self.config
        count = max(2, round(config.rejection_share * known.shape[1]))
        chosen = [
            losses.choose_for_rejection(view.scores, count, config.rejection_points)
            for view in (view0, view1)
        ]
        points = [
            _pick(view.keypoints, index)
            for view, index in zip((view0, view1), chosen, strict=True)
        ]
        described = [
            self.extractor.describe(view.maps, Keypoints.at(xy.detach()))
            for view, xy in zip((view0, view1), points, strict=True)
        ]
        putative = losses.putative_matches(
            *(normalize_points(xy, *size) for xy in points), *described
        )
        error = (_pick(warped0, chosen[0]) - _pick(points[1], putative.partner)).norm(dim=-1)
        judged = known.gather(1, chosen[0])
        return losses.outlier_rejection_loss(
            self.io_net(putative.matches),
            error < config.match_px,  # what is NaN, behind the horizon, has no partner
            judged,
            more_than=(config.rejection_from * judged.sum()).clamp(min=10),
        ).mean()

    @classmethod
    def validation_keypoints(cls, batch: PairBatch) -> int:
        """Return a quarter of the cells, as published: with all of them scores are idle."""
        return batch.valid[0, 0].numel() // CELL**2 // 4


def _row(values: Tensor) -> Tensor:
    return values.reshape(1, -1)


def _pick(points: Tensor, index: Tensor) -> Tensor:
    return points.gather(1, index[..., None].expand(-1, -1, points.shape[-1]))


def _shown(valid: Tensor, points: Tensor) -> Tensor:
    """Return where all of the four pixels around points (B, N, 2) are valid ones of (B, H, W)."""
    return sample(valid[:, None].float(), points.detach(), 'border')[..., 0] > 0.999


def published_pairs(
    bank: ImageBank, count: int, options: Options, generator: Generator
) -> PairBatch:
    """
    Draw pairs in which view 0 shows a part of view 1, by the published homographies.

    View 1 is drawn as usual. Photometric changes are those of all systems.
    """
    side = options.pairs.view_size
    index = bank.probabilities.multinomial(count, replacement=True, generator=generator)
    whole, _ = sample_view_homographies(bank.sizes[index], options.pairs, generator)
    # the sampler calls the part image 1
    H_0to1 = torch.linalg.inv(
        sample_homographies(homography_config('kp2d'), count, (side, side), generator)
    )
    rendered = [render_views(bank, index, h, side) for h in (whole @ H_0to1, whole)]
    views = augment(torch.cat([view for view, _ in rendered]), options.photometric, generator)
    valid = torch.stack([seen for _, seen in rendered])
    return PairBatch(views.unflatten(0, (2, count)), H_0to1, valid)


class IoNet(nn.Module):
    """
    Four residual blocks of 1x1 convolutions over a set of matches.

    Each match is seen in the light of all others of its image pair: instance normalization takes
    mean and variance over them. Layers have the published names.
    """

    name = 'io-net'
    blocks = 4

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.p_in = nn.Sequential(
            nn.Conv2d(5, width, 1, bias=False), nn.BatchNorm2d(width, momentum=0.9)
        )
        for block in range(self.blocks):
            for layer in (0, 2):
                self.add_module(f'{block}s{layer}', nn.Conv2d(width, width, 1))
                self.add_module(f'{block}s{layer + 1}', nn.BatchNorm2d(width))
        self.p_out = nn.Conv2d(width, 1, 1)

    def forward(self, matches: Float[Tensor, 'b n 5']) -> Float[Tensor, 'b n']:
        """
        Score matches: above 0 for inliers, trained towards 1 and -1.

        matches: x, y in the one image and x, y in the other, both in -1..1 from the first to the
        last pixel center, and the distance of the descriptors.
        """
        x = F.relu(self.p_in(matches.mT[..., None]))
        for block in range(self.blocks):
            y = x
            for layer in (0, 2):
                y = F.instance_norm(self.get_submodule(f'{block}s{layer}')(y))
                y = F.relu(self.get_submodule(f'{block}s{layer + 1}')(y))
            x = x + y
        return torch.flatten(self.p_out(x), 1)
