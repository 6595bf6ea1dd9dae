"""The photographs of a run: those to train on, and those held out for its curves."""

from pathlib import Path

from .config import TrainConfig
from .options import parse_kind_weights
from ..data.image_folder import find_images, ImageBank, load_bank, read_kinds, split_images
from ..data.labelled import LabelledBank, load_labelled
from ..errors import DataError
from ..io import unpacked


def load_photographs(folder: Path, config: TrainConfig) -> tuple[ImageBank, ImageBank]:
    """Return the banks of training and validation photographs; raises DataError."""
    kinds = read_kinds(folder)
    weights = parse_kind_weights(config.kind_weights)
    return tuple(
        load_bank(paths, config.bank_side, kinds, weights)
        for paths in _split_photographs(folder, config)
    )


def load_labelled_photographs(
    folder: Path, labels: Path | str, config: TrainConfig
) -> tuple[LabelledBank, LabelledBank]:
    """Return the same with the labels that `kpfeat adapt` wrote; raises DataError."""
    kinds = read_kinds(folder)
    weights = parse_kind_weights(config.kind_weights)
    with unpacked(labels) as labels_folder:
        return tuple(
            load_labelled(folder, labels_folder, paths, config.bank_side, kinds, weights)
            for paths in _split_photographs(folder, config)
        )


def _split_photographs(folder: Path, config: TrainConfig) -> tuple[list[Path], list[Path]]:
    training, validation = split_images(find_images(folder), config.validation_share)
    if config.max_images >= 0:
        training = training[: config.max_images]
    if not training or not validation:
        raise DataError(
            f"'{folder}' gives {len(training)} images for training and {len(validation)} for "
            f'validation (validation_share={config.validation_share}); both need one at least'
        )
    return training, validation
