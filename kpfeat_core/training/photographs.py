"""The photographs of a run: those to train on, and those held out for its curves."""

from pathlib import Path

from .config import TrainConfig
from .options import parse_kind_weights
from ..data.image_folder import (
    find_images,
    find_row,
    ImageBank,
    load_bank,
    read_kinds,
    split_images,
)
from ..data.labelled import LabelledBank, load_labelled
from ..errors import ConfigError, DataError
from ..io import unpacked


def load_photographs(folder: Path, config: TrainConfig) -> tuple[ImageBank, ImageBank]:
    """Return the banks of training and validation photographs; raises Data- and ConfigError."""
    found = find_images(folder)
    kinds = _read_kinds_and_weights(folder, found, config)
    return tuple(
        load_bank(paths, config.bank_side, *kinds)
        for paths in _split_photographs(folder, found, config)
    )


def load_labelled_photographs(
    folder: Path, labels: Path | str, config: TrainConfig
) -> tuple[LabelledBank, LabelledBank]:
    """Return the same with the labels that `kpfeat adapt` wrote."""
    found = find_images(folder)
    kinds = _read_kinds_and_weights(folder, found, config)
    with unpacked(labels) as labels_folder:
        return tuple(
            load_labelled(folder, labels_folder, paths, config.bank_side, *kinds)
            for paths in _split_photographs(folder, found, config)
        )


def _read_kinds_and_weights(
    folder: Path, found: list[Path], config: TrainConfig
) -> tuple[dict[str, str], dict[str, float]]:
    """Return the kinds of the manifest, and how often each is drawn; raises ConfigError."""
    kinds, weights = read_kinds(folder), parse_kind_weights(config.kind_weights)
    present = {find_row(path, kinds) or '' for path in found}
    unknown = sorted(weights.keys() - present)
    if unknown:
        known = ', '.join(sorted(present - {''}))
        has = f'its manifest.csv has {known}' if known else 'there is no manifest.csv about them'
        raise ConfigError(
            f"kind_weights is '{config.kind_weights}', and no image in '{folder}' is of kind "
            f"'{unknown[0]}': {has}; correct it, or leave it empty with --set kind_weights="
        )
    return kinds, weights


def _split_photographs(
    folder: Path, found: list[Path], config: TrainConfig
) -> tuple[list[Path], list[Path]]:
    training, validation = split_images(found, config.validation_share)
    if config.max_images >= 0:
        training = training[: config.max_images]
    if not training or not validation:
        raise DataError(
            f"'{folder}' gives {len(training)} images for training and {len(validation)} for "
            'validation, and both need one at least: give more photographs, or another share with '
            f'--set validation_share=… (now {config.validation_share})'
        )
    return training, validation
