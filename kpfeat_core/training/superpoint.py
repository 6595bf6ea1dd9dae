"""SuperPoint's joint training: the labels of photographs, and descriptors that find each other."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
from torch import Generator, nn, Tensor
import torch.nn.functional as F

from .magicpoint import (
    CellRecipe,
    detector_terms,
    LabelConfig,
    MagicPointRecipe,
    published_changes,
    read_heads,
)
from .recipe import load_labelled_photographs, Options
from ..config import option, Range
from ..data.homography_pairs import sample_views
from ..data.image_folder import no_progress, Progress
from ..data.labelled import LabelledBank, LabelledPairs
from ..data.photometric import augment
from ..data.rooms import make_room_pairs
from ..data.view_pairs import DepthPairBatch, MixedPairs, sample_mixed
from ..errors import ConfigError, WeightsError
from ..losses.superpoint import (
    descriptor_hinge,
    HingeScaling,
    NORMALIZED,
    PAPER,
    place_points,
    point_softmax,
    sample_cell_points,
    sample_point_pairs,
    sample_sparse_pairs,
    sparse_descriptor_hinge,
    valid_cells,
)
from ..models.base import Extractor
from ..weights.files import check_state, read_weights, sha256

SCALINGS: dict[str, HingeScaling] = {'normalized': NORMALIZED, 'paper': PAPER}
SPARSE = 'sparse'
SPARSE_WEIGHT = 1.0  # published beside this kind
SOFTMAX = 'softmax'
SOFTMAX_WEIGHT = 1.0
DETECTOR_PARTS = ('detector', 'keypoint_accuracy', 'dustbin_accuracy')


@dataclass(frozen=True)
class SuperPointLossConfig(LabelConfig):
    """
    How the descriptors are learnt beside the detector.

    descriptor_weight: weight beside both detector losses, -1 takes that of its kind; positives:
    cells in the sparse choice, at most; negatives: cells that each of them is compared with;
    temperature: temperature of the softmax.
    """

    descriptor_loss: str = option(
        'softmax',
        'softmax over points of both views, which is not published and learnt fastest '
        '(training/NOTES.md); hinge over a sparse choice of pairs of cells; over all of them as '
        'in the paper; or with normalized similarities, as its open implementation',
        choices=(SOFTMAX, SPARSE, *SCALINGS),
    )
    descriptor_weight: Annotated[float, Range(-1.0)] = -1.0
    positives: Annotated[int, Range(1)] = 1000
    negatives: Annotated[int, Range(1)] = 100
    temperature: Annotated[float, Range(1e-3)] = 0.1


class SuperPointRecipe(CellRecipe):
    """
    Detector losses of both views, and the descriptor loss between them.

    The published rates are 1e-3 with 32 pairs a step (paper) and 1e-4 with 2 (open
    implementation); this one is for the default of 8 pairs.
    """

    loss_class = SuperPointLossConfig
    takes_shares = ('rooms_share',)
    defaults = {
        **{k: v for k, v in MagicPointRecipe.defaults.items() if k != 'validation_pairs'},
        'batch_size': 8,
        'learning_rate': 5e-4,
    }

    @classmethod
    def begin(cls, extractor: nn.Module, path: Path | str) -> str:
        """Load SuperPoint's weights, or MagicPoint's, which leave the descriptors random."""
        tensors, metadata = read_weights(path)
        if metadata.get('model') != 'magicpoint':
            return super().begin(extractor, path)
        detector = {k for k in extractor.state_dict() if not k.startswith('descriptor.')}
        if set(tensors) != detector:
            raise WeightsError(f"'{path}' does not hold all of MagicPoint, and nothing else")
        check_state(extractor, extractor.state_dict() | tensors, str(path))
        extractor.load_state_dict(tensors, strict=False)
        return (
            f"begins with MagicPoint's weights in '{path}' (SHA-256 {sha256(path)[:16]}): encoder "
            'and detector; the descriptor head is random'
        )

    @classmethod
    def check(cls, options: Options, extractor: Extractor, data: Path | str) -> None:
        """Raise ConfigError without labels, or for views that the network does not take."""
        if not options.loss.labels:
            raise ConfigError(
                'superpoint learns from labelled photographs: make labels with `kpfeat adapt '
                'PHOTOGRAPHS --out LABELS`, and give them with --set labels=LABELS'
            )
        super().check(options, extractor, data)
        if options.rooms.rooms_share and options.loss.descriptor_loss != SOFTMAX:
            raise ConfigError(
                f'descriptor_loss is {options.loss.descriptor_loss}, expected {SOFTMAX} beside '
                'rooms_share: the others are for homographies'
            )

    @classmethod
    def load_banks(
        cls, folder: Path | None, options: Options, progress: Progress = no_progress
    ) -> tuple[LabelledBank, LabelledBank]:
        """Return the labelled photographs; raises DataError."""
        return load_labelled_photographs(folder, options.loss.labels, options.train, progress)

    @classmethod
    def sample(
        cls, options: Options, bank: LabelledBank, count: int, generator: Generator
    ) -> LabelledPairs | MixedPairs | DepthPairBatch:
        """Sample views of photographs and the same moved, under different light; and rooms."""
        side, rooms = options.pairs.view_size, options.rooms
        photographs, light = bank.photographs, options.photometric

        def in_rooms(size: int) -> DepthPairBatch:
            return make_room_pairs(photographs, size, side, rooms, light, generator)

        labelled = partial(_sample_labelled, options, bank, generator)
        return sample_mixed(count, labelled, [(rooms.rooms_share, in_rooms)], generator)

    def forward(
        self, batch: LabelledPairs | MixedPairs | DepthPairBatch, generator: Generator
    ) -> dict[str, Tensor]:
        """
        Return the loss `total` and its parts, each averaged over the pairs that have them.

        Rooms have no labels: the descriptors alone learn from them.
        """
        logits, descriptors = read_heads(self.extractor, batch.images.flatten(0, 1))
        with torch.autocast(logits.device.type, enabled=False):
            pieces = batch.batches if isinstance(batch, MixedPairs) else (batch,)
            views = logits.float().unflatten(0, (2, -1))
            parts = self._detector_parts(views, pieces[0], generator)
            described = F.normalize(descriptors.float(), dim=1).unflatten(0, (2, -1))
            shares = described.split([len(piece) for piece in pieces], 1)
            losses = [
                self._descriptor_loss(share, piece, generator)
                for share, piece in zip(shares, pieces, strict=True)
            ]
            weight = losses[0][1]
            parts['descriptor'] = weight * torch.cat([loss for loss, _ in losses]).mean()
        return {'total': 2 * parts['detector'] + parts['descriptor'], **parts}

    def _detector_parts(
        self, logits: Tensor, batch: LabelledPairs | DepthPairBatch, generator: Generator
    ) -> dict[str, Tensor]:
        """Return the parts of the first pairs of a batch, which have labels if any has."""
        if not isinstance(batch, LabelledPairs):
            return dict.fromkeys(DETECTOR_PARTS, logits.new_zeros(()))
        terms = [
            detector_terms(logits[i, : len(batch)], batch.view(i), self.config, generator)
            for i in (0, 1)
        ]
        return {name: (value + terms[1][name]) / 2 for name, value in terms[0].items()}

    def _descriptor_loss(
        self, descriptors: Tensor, batch: LabelledPairs | DepthPairBatch, generator: Generator
    ) -> tuple[Tensor, float]:
        """Return the loss of each pair and its weight."""
        config, valid = self.config, valid_cells(batch.valid[1])
        if isinstance(batch, DepthPairBatch):
            weight, valid0 = SOFTMAX_WEIGHT, valid_cells(batch.valid[0])
            points = sample_cell_points(*valid.shape, valid.device, generator)
            warped = batch.warp(points, 0)
            places = torch.where(warped.visible[..., None], warped.points, torch.nan)
            pairs = place_points(points, places, valid0, valid)
            loss = point_softmax(*descriptors, pairs, config.temperature)
        elif config.descriptor_loss == SPARSE:
            weight = SPARSE_WEIGHT
            pairs = sample_sparse_pairs(
                batch.H_0to1, valid, generator, config.positives, config.negatives
            )
            loss = sparse_descriptor_hinge(*descriptors, pairs)
        elif config.descriptor_loss == SOFTMAX:
            weight = SOFTMAX_WEIGHT
            valid0 = valid_cells(batch.valid[0])
            points = sample_point_pairs(batch.H_0to1, valid0, valid, generator)
            loss = point_softmax(*descriptors, points, config.temperature)
        else:
            scaling = SCALINGS[config.descriptor_loss]
            weight = scaling.weight
            loss = descriptor_hinge(*descriptors, batch.H_0to1, valid, scaling)
        return loss, weight if config.descriptor_weight < 0 else config.descriptor_weight


def _sample_labelled(
    options: Options, bank: LabelledBank, generator: Generator, count: int
) -> LabelledPairs:
    """Sample views of photographs and the same moved, both with their labels."""
    pairs, photometric = published_changes(options, 'superpoint-pair')
    index, homographies, H_0to1 = sample_views(bank.photographs, count, pairs, generator)
    views = [bank.views(index, h, pairs.view_size, options.loss.margin) for h in homographies]
    images = torch.cat([view.images for view in views])
    images = augment(images, photometric, generator).unflatten(0, (2, count))
    valid, keypoints, mask = (
        torch.stack([getattr(view, name) for view in views])
        for name in ('valid', 'keypoints', 'mask')
    )
    return LabelledPairs(images, H_0to1, valid, keypoints, mask)
