"""
ASLFeat's training objective: true correspondences alike, scores high where that succeeds.

Luo et al. (CVPR 2020) train in two stages: first without deformation (`deform=none`), then from
those weights (`start`) the last three layers alone (`trained=last`). By default all is trained at
once, which needs less computing; the kernels begin as straight ones either way.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from torch import Generator, Tensor

from .recipe import Options, Recipe
from ..axes import Bool, Float
from ..config import option, Positive, Range
from ..data.view_pairs import ViewPairs
from ..geometry import pixel_grid, sample
from ..keypoints import Keypoints
from ..losses import aslfeat as losses
from ..losses.aslfeat import Correspondences
from ..losses.common import descriptor_distances, masked_mean
from ..models.aslfeat import AslFeat
from ..models.aslfeat_layers import DEFORMATIONS
from ..models.base import DenseMaps
from ..registry import build_extractor
from ..weights.files import read_architecture

TERMS = {
    'contrastive': losses.hard_contrastive_terms,
    'triplet': losses.hard_triplet_terms,
    'circle': losses.circle_terms,
}
LAST_LAYERS = ('conv6_0', 'conv6_1', 'conv6')


@dataclass(frozen=True)
class AslFeatLossConfig:
    """
    Which network is trained, and on what; the published values unless the text says so.

    correspondences: points of a pair; fewest: pairs with fewer points do not count; safe_px:
    points nearer than this are no negatives of each other.
    """

    deform: str = option(
        'a',
        'how the last kernels bend: none for the first of two stages, else u, s, a or h',
        choices=('none', *DEFORMATIONS),
    )
    trained: str = option(
        'all',
        'which layers are: all, or the last three, as in the second of two stages',
        choices=('all', 'last'),
    )
    loss: str = option(
        'circle',
        'of correspondences and their negatives: contrastive, with the hardest, as in the paper, '
        'triplet, or circle, with all, as in the later published model, which is better',
        choices=tuple(TERMS),
    )
    correspondences: Annotated[int, Range(2)] = 512
    fewest: Annotated[int, Range(1)] = 32
    safe_px: Positive = losses.SAFE_RADIUS_PX


class AslFeatRecipe(Recipe):
    """One loss of description, weighted by the scores of both views, which thereby learn."""

    loss_class = AslFeatLossConfig
    takes_scenes = True
    # The published rate of 0.1 and its 400 000 steps are for SGD. Rolls are those of the published
    # pairs, 60 degrees at most: with any of them the first hundreds of steps hardly learn.
    defaults = {'learning_rate': 3e-3, 'any_rotation': 0.0, 'rotation_deg': 20.0}

    def __init__(self, extractor: AslFeat, config: AslFeatLossConfig) -> None:
        super().__init__(extractor, config)
        if config.trained == 'last':
            extractor.requires_grad_(False)
            for name in LAST_LAYERS:
                extractor.get_submodule(name).requires_grad_(True)

    @classmethod
    def build(cls, model: str, options: Options) -> AslFeat:
        """Build the network that bends as asked."""
        return build_extractor(model, deform=options.loss.deform)

    @classmethod
    def begin(cls, extractor: AslFeat, path: Path | str) -> str:
        """
        Load the weights that a run begins with; those of a network without deformation fit all.

        Raises WeightsError.
        """
        if read_architecture(path).get('deform') != 'none' or extractor.config.deform == 'none':
            return super().begin(extractor, path)
        plain = build_extractor(extractor.name, deform='none')
        note = super().begin(plain, path)
        straight = plain.state_dict()
        for name in LAST_LAYERS:  # the amplitudes of all kernel points begin with a half
            straight[f'{name}.weight'] = 2 * straight[f'{name}.weight']
        extractor.load_state_dict(extractor.state_dict() | straight)
        return f'{note}; its straight kernels begin to bend'

    def train(self, mode: bool = True) -> 'AslFeatRecipe':
        """Switch to training; layers that are not trained keep their batch statistics."""
        super().train(mode)
        if self.config.trained == 'last':
            for name, layer in self.extractor.named_children():
                layer.train(mode and name in LAST_LAYERS)
        return self

    def forward(self, pairs: ViewPairs, generator: Generator) -> dict[str, Tensor]:
        """Return the loss `total`, the share of correct nearest neighbors, and the mean weight."""
        config, maps = self.config, self.see_both(pairs.images)
        with torch.autocast(pairs.images.device.type, enabled=False):
            points = sample_correspondences(pairs, config.correspondences, generator)
            found = []
            for view, keypoints in zip(maps, points[:2], strict=True):
                view = DenseMaps(view.score_map.float(), (view.descriptor_maps[0].float(),))
                scores = sample(view.score_map[:, None], keypoints, padding='border')[..., 0]
                found.append((self.extractor.describe(view, Keypoints.at(keypoints)), scores))
            (first, scores0), (second, scores1) = found
            enough = points.mask.sum(1, keepdim=True) >= config.fewest
            matches = Correspondences(
                first, second, points.keypoints0, points.keypoints1, points.mask & enough
            )
            terms = TERMS[config.loss](matches, config.safe_px)
            loss = losses.score_weighted_mean(terms, scores0, scores1, matches.mask)
            used = enough.sum().clamp(min=1)
            return {
                'total': loss.sum() / used,
                config.loss: masked_mean(terms, matches.mask).sum() / used,
                'nearest': _nearest(matches),
                'score': masked_mean(scores0, matches.mask).sum() / used,
            }


class Points(NamedTuple):
    """The same points in both views: (x, y) pixels (B, N, 2), true where mask (B, N) is."""

    keypoints0: Float[Tensor, 'b n 2']
    keypoints1: Float[Tensor, 'b n 2']
    mask: Bool[Tensor, 'b n']


def sample_correspondences(pairs: ViewPairs, count: int, generator: Generator) -> Points:
    """Sample up to `count` of the pixels of each view 0 that the other view shows."""
    height, width = pairs.images.shape[-2:]
    grid = pixel_grid(height, width, pairs.images.device).expand(len(pairs), -1, -1)
    there = pairs.warp(grid, 0)
    known = there.visible & pairs.valid[0].flatten(1)
    order = torch.rand(known.shape, generator=generator, device=generator.device) + known.float()
    index = order.topk(min(count, order.shape[1]), dim=1).indices
    mask = known.gather(1, index)
    rows = index[..., None].expand(-1, -1, 2)
    keypoints = (grid.gather(1, rows), there.points.gather(1, rows))
    return Points(*(torch.where(mask[..., None], xy, 0) for xy in keypoints), mask)


@torch.no_grad()
def _nearest(matches: Correspondences) -> Tensor:
    """Return the share of points whose nearest of the other view is theirs."""
    distance = descriptor_distances(*matches.real_descriptors())
    distance = distance.masked_fill(~matches.mask[:, None], torch.inf)
    own = torch.arange(distance.shape[1], device=distance.device)
    return (distance.argmin(2) == own)[matches.mask].float().mean().nan_to_num()
