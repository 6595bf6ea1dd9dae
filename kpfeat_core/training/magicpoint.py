"""MagicPoint's training objective: corners of Synthetic Shapes, then labels of photographs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Generator, nn, Tensor

from .options import Options
from .recipe import Recipe
from .validation import evaluating
from ..axes import Float
from ..config import AUTO, option
from ..data.config import HOMOGRAPHIES, homography_config, SharesConfig
from ..data.homographies import view_homographies
from ..data.homography_pairs import sample_view_homographies
from ..data.labelled import LabelledBank, LabelledImages, warp_labelled
from ..data.light import change_light, LIGHTS
from ..data.photometric import augment
from ..data.synthetic_shapes import load_shapes, ShapesBank
from ..errors import ConfigError, DataError
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
from ..models.superpoint import CELL, SuperPoint

CAMERA = 'camera'
BORDER_PX = 4  # labels of photographs are not nearer to their borders
EXTRACTED_AT_ONCE = 16
SHOWN, SHOWN_SCORE = 8, 0.1  # images with what is found, in pictures of a run
# Where the logit of the dustbin begins. The last layer is normalized, all others are around 0:
# few cells have a keypoint, and at the published rate it takes thousands of steps to say so.
DUSTBIN_START = 6.0


@dataclass(frozen=True)
class LabelConfig:
    """Where labels come from, and how images and labels change from draw to draw."""

    labels: str = option('', 'folder of labels that `kpfeat adapt` wrote for the photographs')
    homographies: str = option(
        AUTO,
        'how views are drawn: a published sampler, auto for the one of this training, or camera '
        'for the options of image pairs (photographs only)',
        choices=(AUTO, CAMERA, *HOMOGRAPHIES),
    )
    light: str = option(
        AUTO,
        'how light, blur and noise change: as published, auto for the list of this training, or '
        'camera for the options brightness to noisy_share (photographs only)',
        choices=(AUTO, CAMERA, *LIGHTS),
    )
    margin: int = option(
        3, 'pixels that do not count where an image ends inside a view (published: 2 and 3)', low=0
    )
    label_sigma_px: float = option(
        0.0,
        'spread each label as a Gaussian around its sub-pixel position, such as 0.2; 0 labels the '
        'nearest pixel, as published',
        low=0.0,
        high=2.0,
    )


@dataclass(frozen=True)
class MagicPointLossConfig(LabelConfig, SharesConfig):
    """What is learnt from: shapes by their shares where there are no labels of photographs."""


@dataclass(frozen=True)
class _Material:
    """What images are drawn from, and whether they change; those for validation do not."""

    bank: ShapesBank | LabelledBank
    augmented: bool

    def __len__(self) -> int:
        return len(self.bank)

    def to(self, device: torch.device | str) -> '_Material':
        return _Material(self.bank.to(device), self.augmented)

    @property
    def names(self) -> tuple[str, ...]:  # shapes have none
        return self.bank.photographs.names if isinstance(self.bank, LabelledBank) else ()


class MagicPointRecipe(Recipe):
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
    }

    @classmethod
    def build(cls, model: str, options: Options) -> nn.Module:
        """Build a network that expects cells to be empty."""
        return expect_empty_cells(super().build(model, options))

    @classmethod
    def check(cls, options: Options, extractor: Extractor) -> None:
        """Raise ConfigError for views that the network, or changes that shapes do not take."""
        super().check(options, extractor)
        if not options.loss.labels:
            for name in ('homographies', 'light'):
                if getattr(options.loss, name) == CAMERA:
                    raise ConfigError(
                        f'{name}={CAMERA} is for photographs; choose another, or give labels'
                    )

    @classmethod
    def load(cls, folder: Path, options: Options) -> tuple[_Material, _Material]:
        """Return shapes, or photographs where there are labels; raises DataError."""
        if options.loss.labels:
            from .datasets import load_labelled_photographs

            banks = load_labelled_photographs(folder, options.loss.labels, options.train)
        else:
            banks = tuple(_load_shapes(folder, split, options) for split in ('train', 'val'))
        return _Material(banks[0], True), _Material(banks[1], False)

    @classmethod
    def draw(
        cls, material: _Material, count: int, options: Options, generator: Generator
    ) -> LabelledImages:
        """Draw images, changed where they are to train with."""
        if isinstance(material.bank, ShapesBank):
            return _draw_shapes(material, count, options, generator)
        bank, view = material.bank, int(material.augmented)
        index, homographies, _ = draw_view_homographies(
            bank, count, options, 'superpoint-augment', generator
        )
        batch = bank.views(index, homographies[view], options.pairs.view_size, options.loss.margin)
        if not material.augmented:
            return batch
        images = relight(batch.images, options, 'superpoint-augment', generator)
        return replace(batch, images=images)

    @classmethod
    def picture(cls, batch: LabelledImages) -> np.ndarray:
        """Draw images with their labels."""
        from .pictures import draw_labelled

        return draw_labelled(batch)

    def forward(self, batch: LabelledImages, generator: Generator) -> dict[str, Tensor]:
        """Return the loss `total`, and which shares of the cells are right."""
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
        from .pictures import draw_labelled

        few = batch.part(0, max(1, len(batch) // SHOWN))
        found = [points[scores > SHOWN_SCORE] for points, scores, _ in _detections(extractor, few)]
        return draw_labelled(few, found, SHOWN)


def expect_empty_cells(extractor: SuperPoint) -> SuperPoint:
    """Let a network with random weights take most cells for empty ones."""
    with torch.no_grad():
        extractor.detector[-1].bn.bias[DUSTBIN] = DUSTBIN_START
    return extractor


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
    Return the loss `detector`, averaged over the images, and shares of cells that are right.

    found: of the valid cells with a keypoint, those whose pixel comes first; empty: of those
    without, those where the dustbin does.
    """
    valid = valid_cells(batch.valid)
    classes = cell_classes(batch.keypoint_map(), generator)
    target = classes
    if config.label_sigma_px > 0:
        size = batch.valid.shape[1:]
        label_map = gaussian_label_map(batch.keypoints, batch.mask, *size, config.label_sigma_px)
        target = soft_cell_classes(label_map)
    right = logits.detach().argmax(1) == classes
    labelled, empty = valid & (classes != DUSTBIN), valid & (classes == DUSTBIN)
    return {
        'detector': cell_cross_entropy(logits, target, valid).mean(),
        'found': (right & labelled).sum() / labelled.sum().clamp(min=1),
        'empty': (right & empty).sum() / empty.sum().clamp(min=1),
    }


def draw_view_homographies(
    bank: LabelledBank, count: int, options: Options, published: str, generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """
    Draw photographs and two views of each.

    Returns their rows (B,), the homographies (2, B, 3, 3) from view to photograph, and H_0to1.
    """
    photographs, pairs = bank.photographs, options.pairs
    index = photographs.probabilities.multinomial(count, replacement=True, generator=generator)
    sizes, name = photographs.sizes[index], options.loss.homographies
    if name == CAMERA:
        homographies = sample_view_homographies(sizes, pairs, generator)
        return index, homographies, torch.linalg.inv(homographies[1]) @ homographies[0]
    coverage = (pairs.coverage_min, pairs.coverage_max)
    config = homography_config(published if name == AUTO else name)
    return index, *view_homographies(sizes, pairs.view_size, coverage, config, generator)


def relight(
    images: Float[Tensor, 'b c h w'], options: Options, published: str, generator: Generator
) -> Float[Tensor, 'b c2 h w']:
    """Change the light of images, gray ones where the list of changes is a published one."""
    name = options.loss.light
    if name == CAMERA:
        return augment(images, options.photometric, generator)
    config = LIGHTS[published if name == AUTO else name]
    return change_light(match_channels(images, 1), config, generator)


def _load_shapes(folder: Path, split: str, options: Options) -> ShapesBank:
    try:
        bank = load_shapes(folder, split, shares=options.loss)
    except DataError as error:
        raise DataError(
            f'{error}; or, for photographs, give their labels with --set labels=FOLDER'
        ) from error
    height, width = bank.images.shape[1:]
    if height % CELL or width % CELL:
        raise DataError(
            f"the shapes in '{folder}' are {width}x{height} pixels, expected multiples of {CELL}: "
            'draw others'
        )
    return bank


def _draw_shapes(
    material: _Material, count: int, options: Options, generator: Generator
) -> LabelledImages:
    shapes = material.bank.draw(count, generator)
    valid = torch.ones_like(shapes.images[:, 0], dtype=torch.bool)
    batch = LabelledImages(shapes.images, shapes.keypoints, shapes.mask, valid)
    if not material.augmented:
        return batch
    published, name = 'superpoint-synthetic', options.loss.homographies
    config = homography_config(published if name == AUTO else name)
    batch = warp_labelled(batch, config, options.loss.margin, generator)
    return replace(batch, images=relight(batch.images, options, published, generator))


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
