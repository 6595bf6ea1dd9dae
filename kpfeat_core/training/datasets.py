"""The photographs and posed scenes that a run learns from."""

from collections.abc import Sequence
from dataclasses import replace
import hashlib
from pathlib import Path

from .options import Options, parse_kind_weights, TrainConfig
from ..data.image_folder import find_row, ImageBank, load_bank, read_kinds, split_images
from ..data.labelled import LabelledBank, load_labelled
from ..data.posed_scenes import PosedScene, read_scene
from ..data.scene_bank import load_scenes, SceneBank
from ..errors import ConfigError, DataError
from ..image import find_images
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


def load_posed_photographs(
    folder: Path, scenes: Sequence[Path], options: Options
) -> tuple[SceneBank, SceneBank]:
    """
    Return the banks of training and validation scenes; raises DataError.

    Whole scenes are held out, at least one, by a hash of their folders: the same on every run.
    Of max_images, each scene may use an equal share, its first ones.
    """
    config = options.train
    if len(scenes) < 2:
        raise DataError(
            f"'{folder}' holds one scene with depth and poses, expected two at least: one is held "
            'out for validation'
        )

    def order(path: Path) -> bytes:
        return hashlib.sha256(path.relative_to(folder).as_posix().encode()).digest()

    shuffled = sorted(scenes, key=order)
    held_out = max(1, round(config.validation_share * len(scenes)))
    parts = []
    for own in (shuffled[held_out:], shuffled[:held_out]):
        read = [read_scene(path) for path in own]
        if config.max_images >= 0:
            read = [_first(scene, max(2, config.max_images // len(own))) for scene in read]
        parts.append(load_scenes(read, config.bank_side, options.depth))
    return tuple(parts)


def _first(scene: PosedScene, count: int) -> PosedScene:
    """Keep the first images of a scene."""
    pairs = scene.pairs and {pair: v for pair, v in scene.pairs.items() if max(pair) < count}
    return replace(
        scene,
        names=scene.names[:count],
        intrinsics=scene.intrinsics[:count],
        poses=scene.poses[:count],
        pairs=pairs,
    )
