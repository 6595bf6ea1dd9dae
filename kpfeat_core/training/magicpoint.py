"""MagicPoint's training objective: corners of Synthetic Shapes, then labels of photographs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Generator, Tensor

from .recipe import load_labelled_photographs, Options, Recipe
from .validation import draw_labelled, evaluating
from ..axes import Float
from ..config import AUTO, option, Range
from ..data.config import homography_config, ShapesConfig
from ..data.homography_pairs import PairConfig, sample_views
from ..data.image_folder import no_progress, Progress
from ..data.labelled import LabelledBank, LabelledImages, warp_labelled
from ..data.photometric import augment, CAMERA, PhotometricConfig
from ..data.synthetic_shapes import ShapesBank
from ..data.view_pairs import BatchSource
from ..errors import ConfigError
from ..evaluation.metrics import detection_quality
from ..geometry import inside
from ..image import channels_last, match_channels
from ..losses.superpoint import (
    cell_classes,
    cell_cross_entropy,
    DUSTBIN,
    gaussian_label_map,
    soft_cell_classes,
    valid_cells,
)
from ..models.base import Extractor
from ..models.superpoint import SuperPoint
from ..runtime import count_workers

BORDER_PX = 4  # labels of photographs are not nearer to their borders
EXTRACTED_AT_ONCE = 16
SHOWN, SHOWN_SCORE = 8, 0.1  # images with what is found, in pictures of a run
# Where the logit of the dustbin begins. The last layer is normalized, all others are around 0:
# few cells have a keypoint, and at the published rate it takes thousands of steps to say so.
DUSTBIN_START = 6.0
SHAPES = ShapesConfig()


@dataclass(frozen=True)
class LabelConfig:
    """
    Where labels come from, and what of them counts.

    margin: pixels that do not count where an image ends inside a view (published: 2 and 3).
    """

    labels: str = option('', 'folder of labels that `kpfeat adapt` wrote for the photographs')
    margin: Annotated[int, Range(0)] = 3
    label_sigma_px: float = option(
        0.0,
        'spread each label as a Gaussian around its sub-pixel position, such as 0.2; 0 labels the '
        'nearest pixel, as published',
        low=0.0,
        high=2.0,
    )


@dataclass(frozen=True)
class MagicPointLossConfig(LabelConfig):
    """
    What is learnt from: shapes where there are no labels of photographs.

    workers: threads that draw shapes, -1 takes all cores.
    """

    workers: Annotated[int, Range(-1)] = 1


class CellRecipe(Recipe):
    """A recipe whose network begins by expecting cells to be empty."""

    @classmethod
    def build(cls, model: str, options: Options) -> SuperPoint:
        """Build a network with random weights that takes most cells for empty ones."""
        extractor = super().build(model, options)
        with torch.no_grad():
            extractor.detector[-1].bn.bias[DUSTBIN] = DUSTBIN_START
        return extractor


class MagicPointRecipe(CellRecipe):
    """
    Cross entropy of the cells of 8x8 pixels, on Synthetic Shapes or on labelled photographs.

    Adam at 1e-3 without weight decay and 32 images a step are the paper's; it has 200000 steps
    and no decay of the rate. The dustbin's start, the average of weights and the decay make fewer
    do.
    """

    loss_class = MagicPointLossConfig
    defaults = {
        'batch_size': 32,
        'learning_rate': 1e-3,
        'weight_decay': 0.0,
        'validation_pairs': 270,
        # photographs as they are labelled, 320 pixels long; all of the short side in a view
        'bank_side': 320,
        'view_size': 240,
        'coverage_min': 1.0,
        'geometry': AUTO,
        'photometric': AUTO,
    }

    @classmethod
    def check(cls, options: Options, extractor: Extractor, data: Path | str) -> None:
        """Raise ConfigError for options that the network, the shapes or the data do not take."""
        options.check_shares(cls.takes_shares)
        if options.loss.labels:
            super().check(options, extractor, data)
            return
        options.check_view_size(extractor.stride)
        if data:
            raise ConfigError(
                f"'{data}' comes without labels: give them with --set labels=FOLDER, or no data "
                'to learn from shapes, which are drawn as they are needed'
            )
        chosen = {
            'geometry': options.pairs.geometry,
            'photometric': options.photometric.photometric,
        }
        for name, value in chosen.items():
            if value == CAMERA:
                raise ConfigError(
                    f'{name}={CAMERA} is for photographs; choose another, or give labels'
                )

    @classmethod
    def load(
        cls, folder: Path | None, options: Options, progress: Progress = no_progress
    ) -> tuple[BatchSource, BatchSource]:
        """Return shapes, or photographs where there are labels; raises DataError."""
        loss = options.loss
        if loss.labels:
            banks = load_labelled_photographs(folder, loss.labels, options.train, progress)
            make = _sample_labelled
        else:
            workers = count_workers(loss.workers)
            banks = (ShapesBank(split, SHAPES, workers) for split in ('train', 'val'))
            make = _sample_shapes
        training, validation = banks
        return (
            BatchSource(training, partial(make, options, True)),
            BatchSource(validation, partial(make, options, False)),
        )

    @classmethod
    def picture(cls, batch: LabelledImages) -> np.ndarray:
        """Draw images with their labels."""
        return draw_labelled(batch)

    def forward(self, batch: LabelledImages, generator: Generator) -> dict[str, Tensor]:
        """Return the loss `total`, and which shares of the cells are correct."""
        logits, _ = read_heads(self.extractor, batch.images)
        with torch.autocast(logits.device.type, enabled=False):
            parts = detector_terms(logits.float(), batch, self.config, generator)
        return {'total': parts['detector'], **parts}

    @classmethod
    def validate(cls, extractor: Extractor, batch: LabelledImages) -> dict[str, float]:
        """Average precision counts, within 2 pixels; and how far off confident keypoints are."""
        ap, localization = detection_quality(_detections(extractor, batch))
        ap = float(np.nan_to_num(ap))
        return {'ap': ap, 'localization_px': localization, 'score': ap}

    @classmethod
    def examples(cls, extractor: Extractor, batch: LabelledImages) -> np.ndarray:
        """Draw the labels of images held out, and what is found with some confidence."""
        few = batch.part(0, max(1, len(batch) // SHOWN))
        found = [points[scores > SHOWN_SCORE] for points, scores, _ in _detections(extractor, few)]
        return draw_labelled(few, found, SHOWN)


def read_heads(
    extractor: SuperPoint, images: Float[Tensor, 'b c h w']
) -> tuple[Tensor, Tensor | None]:
    """Return the logits and the raw descriptors of images whose sides divide by 8."""
    ready = extractor.prepare(match_channels(images, extractor.channels))
    return extractor.heads(channels_last(ready))


def detector_terms(
    logits: Float[Tensor, 'b k r c'],
    batch: LabelledImages,
    config: LabelConfig,
    generator: Generator,
) -> dict[str, Tensor]:
    """
    Return the loss `detector`, averaged over the images, and shares of cells that are correct.

    keypoint_accuracy: of the valid cells with a keypoint, those whose pixel comes first;
    dustbin_accuracy: of those without, those where the dustbin does.
    """
    valid = valid_cells(batch.valid)
    classes = cell_classes(batch.keypoint_map(), generator)
    target = classes
    if config.label_sigma_px > 0:
        size = batch.valid.shape[1:]
        label_map = gaussian_label_map(batch.keypoints, batch.mask, *size, config.label_sigma_px)
        target = soft_cell_classes(label_map)
    correct = logits.detach().argmax(1) == classes
    labelled, empty = valid & (classes != DUSTBIN), valid & (classes == DUSTBIN)
    return {
        'detector': cell_cross_entropy(logits, target, valid).mean(),
        'keypoint_accuracy': (correct & labelled).sum() / labelled.sum().clamp(min=1),
        'dustbin_accuracy': (correct & empty).sum() / empty.sum().clamp(min=1),
    }


def published_changes(options: Options, name: str) -> tuple[PairConfig, PhotometricConfig]:
    """Return how views and light change, where auto is the published way of this name."""
    pairs, photometric = options.pairs, options.photometric
    if pairs.geometry == AUTO:
        pairs = replace(pairs, geometry=name)
    if photometric.photometric == AUTO:
        photometric = replace(photometric, photometric=name)
    return pairs, photometric


def _sample_labelled(
    options: Options, augmented: bool, bank: LabelledBank, count: int, generator: Generator
) -> LabelledImages:
    pairs, photometric = published_changes(options, 'superpoint-augment')
    sampled = sample_views(bank.photographs, count, pairs, generator)
    homographies = sampled.homographies[int(augmented)]
    batch = bank.views(sampled.photograph, homographies, pairs.view_size, options.loss.margin)
    if not augmented:
        return batch
    return replace(batch, images=augment(batch.images, photometric, generator))


def _sample_shapes(
    options: Options, augmented: bool, bank: ShapesBank, count: int, generator: Generator
) -> LabelledImages:
    batch = bank.sample(count, generator)
    if not augmented:
        return batch
    pairs, photometric = published_changes(options, 'superpoint-synthetic')
    batch = warp_labelled(batch, homography_config(pairs.geometry), options.loss.margin, generator)
    return replace(batch, images=augment(batch.images, photometric, generator))


@torch.no_grad()
def _detections(
    extractor: Extractor, batch: LabelledImages
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Find keypoints in each image: positions, scores, and the true positions."""
    extractor = extractor.with_options(
        max_num_keypoints=300, detection_threshold=1e-3, remove_borders=BORDER_PX, upsample_to=-1
    )
    truth = batch.mask & inside(batch.keypoints, *batch.valid.shape[1:], margin=BORDER_PX)
    for start in range(0, len(batch), EXTRACTED_AT_ONCE):
        rows = slice(start, start + EXTRACTED_AT_ONCE)
        with evaluating(extractor):
            found = extractor.extract(batch.images[rows])
        for points, scores, mask, known, real in zip(
            found.keypoints.cpu(),
            found.keypoint_scores.cpu(),
            found.mask.cpu(),
            batch.keypoints[rows].cpu(),
            truth[rows].cpu(),
            strict=True,
        ):
            yield points[mask], scores[mask], known[real]
