"""The photographs of a run: those to train on, and those held out for its curves."""

from pathlib import Path

from ..data.image_folder import find_images, ImageBank, load_bank, read_kinds, split_images
from ..errors import DataError
from .config import TrainConfig
from .options import parse_kind_weights


def load_photographs(folder: Path, config: TrainConfig) -> tuple[ImageBank, ImageBank]:
    """Return the banks of training and validation photographs; raises DataError."""
    training, validation = split_images(find_images(folder), config.validation_share)
    if config.max_images >= 0:
        training = training[: config.max_images]
    if not training or not validation:
        raise DataError(
            f"'{folder}' gives {len(training)} images for training and {len(validation)} for "
            f'validation (validation_share={config.validation_share}); both need one at least'
        )
    kinds = read_kinds(folder)
    weights = parse_kind_weights(config.kind_weights)
    return tuple(
        load_bank(paths, config.bank_side, kinds, weights) for paths in (training, validation)
    )
