"""The options of a training run, what differs between the systems, and what they learn from."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
import hashlib
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Generator, nn, Tensor

from . import TrainConfig
from .validation import draw_matched_pairs, draw_pairs, MAX_NUM_KEYPOINTS, validate
from ..axes import Float
from ..config import current_names, make_config
from ..data.depth_pairs import DepthConfig, load_scenes, make_depth_pairs, MixedBank, SceneBank
from ..data.homography_pairs import make_pairs, PairConfig
from ..data.image_folder import (
    find_row,
    ImageBank,
    load_bank,
    no_progress,
    Progress,
    read_kinds,
    split_images,
)
from ..data.labelled import LabelledBank, load_labelled
from ..data.photometric import PhotometricConfig
from ..data.posed_scenes import find_scenes, PosedScene, read_scene
from ..data.rooms import make_room_pairs, RoomConfig
from ..data.view_pairs import BatchSource, sample_mixed, ViewPairs
from ..errors import ConfigError, DataError
from ..image import channels_last, match_channels
from ..io import find_images, unpacked
from ..models.base import DenseMaps, Extractor
from ..registry import build_extractor
from ..weights.files import load_weights, sha256

COMMON_CLASSES = (TrainConfig, PairConfig, PhotometricConfig, DepthConfig, RoomConfig)
SHARES = ('rooms_share', 'scenes_share')


@dataclass(frozen=True)
class Options:
    """All options of a run, one dataclass for each part."""

    train: TrainConfig
    pairs: PairConfig
    photometric: PhotometricConfig
    depth: DepthConfig
    rooms: RoomConfig
    loss: Any

    @staticmethod
    def build(recipe: Any, values: Mapping[str, Any]) -> 'Options':
        """
        Distribute flat options, beside the defaults of a recipe class, to their parts.

        Old names are taken with a warning. Raises ConfigError for unknown ones.
        """
        classes = (*COMMON_CLASSES, recipe.loss_class)
        known = {f.name for cls in classes for f in fields(cls)}
        values = current_names(values, *classes)
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(
                f"unknown training option '{unknown[0]}'; there are: {', '.join(sorted(known))}"
            )
        values = {**recipe.defaults, **values}
        parts = []
        for cls in classes:
            names = {f.name for f in fields(cls)}
            parts.append(make_config(cls, {k: v for k, v in values.items() if k in names}))
        return Options(*parts)

    def check_view_size(self, stride: int) -> None:
        """Raise ConfigError if views do not suit a network of this stride."""
        side = self.pairs.view_size
        if side % stride:
            raise ConfigError(
                f'view_size is {side}, expected a multiple of {stride}, the stride of the network'
            )

    def other_shares(self) -> dict[str, float]:
        """Return the shares of pairs that are no views of photographs, those above 0."""
        shares = {'rooms_share': self.rooms.rooms_share}
        if self.depth.scenes:
            shares['scenes_share'] = self.depth.scenes_share
        return {name: share for name, share in shares.items() if share}

    def check_shares(self, takes: Collection[str]) -> None:
        """Raise ConfigError for shares above 1 together, or of sources that are not taken."""
        beside = self.other_shares()
        if sum(beside.values()) > 1 + 1e-9:
            raise ConfigError(
                f'rooms_share and scenes_share are {sum(beside.values()):g} together, expected at '
                'most 1: the rest are pairs of views of photographs'
            )
        for name, share in beside.items():
            if name not in takes:
                raise ConfigError(f'{name} is {share:g}, expected 0: not for this model')

    def flat(self) -> dict[str, Any]:
        """Return all options by name."""
        return {k: v for part in vars(self).values() for k, v in asdict(part).items()}


def read_recipe(path: Path) -> dict[str, Any]:
    """Read the options of a run from a YAML file, KEY: VALUE; raises ConfigError."""
    try:
        import yaml
    except ImportError:
        raise ConfigError("recipes need PyYAML: pip install 'kpfeat[train]'") from None
    try:
        options = yaml.safe_load(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise ConfigError(f"'{path}' cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"'{path}' is no YAML file: {error}") from error
    if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
        raise ConfigError(f"'{path}' holds no options; expected lines such as `steps: 1000`")
    return options


def parse_kind_weights(text: str) -> dict[str, float]:
    """Read 'photo=2,texture=1'; raises ConfigError."""
    try:
        pairs = (part.split('=') for part in text.split(',') if part)
        weights = {kind: float(weight) for kind, weight in pairs}
    except ValueError:
        weights = {'': -1.0}
    if not all(0 <= weight < math.inf for weight in weights.values()):
        raise ConfigError(f"kind_weights is '{text}', expected something like photo=2,texture=1")
    return weights


class Recipe(nn.Module):
    """
    The losses of one system: `forward` is what the engine optimizes.

    A subclass sets `loss_class` and defines `forward`; the others where the usual is not right.
    defaults: options of a run whose default differs. build_options: options of the extractor.
    takes_scenes: whether the losses ask a batch where points lie (ViewPairs), so that it may come
    from photographs with depth and poses as well. takes_shares: sources that it may come from
    beside photographs, by the options for their shares; all of them where it takes scenes.
    """

    loss_class: ClassVar[type]
    defaults: ClassVar[Mapping[str, Any]] = {}
    build_options: ClassVar[Mapping[str, Any]] = {}
    takes_scenes: ClassVar[bool] = False
    takes_shares: ClassVar[tuple[str, ...]] = ()

    def __init__(self, extractor: nn.Module, config: Any) -> None:
        super().__init__()
        self.extractor = extractor
        self.config = config

    @classmethod
    def build(cls, model: str, options: Options) -> nn.Module:
        """Build what is trained, with random weights: an extractor, or what belongs to one."""
        return build_extractor(model, **cls.build_options)

    @classmethod
    def begin(cls, extractor: nn.Module, path: Path | str) -> str:
        """Load the weights that a run begins with, and say what; raises WeightsError."""
        metadata = load_weights(extractor, path)
        steps = f', trained for {metadata["steps"]} steps' if 'steps' in metadata else ''
        return f"begins with the weights in '{path}' (SHA-256 {sha256(path)[:16]}){steps}"

    @classmethod
    def check(cls, options: Options, extractor: nn.Module, data: Path | str) -> None:
        """Raise ConfigError where options or data ('' for none) do not suit the network."""
        require_data(data)
        options.check_view_size(extractor.stride)
        options.check_shares(SHARES if cls.takes_scenes else cls.takes_shares)

    @classmethod
    def load(
        cls, folder: Path | None, options: Options, progress: Progress = no_progress
    ) -> tuple[BatchSource, BatchSource]:
        """Return what to learn from, and what to validate with; raises DataError."""
        banks = cls.load_banks(folder, options, progress)
        return tuple(BatchSource(bank, partial(cls.sample, options)) for bank in banks)

    @classmethod
    def load_banks(
        cls, folder: Path | None, options: Options, progress: Progress = no_progress
    ) -> tuple[Any, Any]:
        """Return the material of both; raises DataError."""
        scenes = find_scenes(folder)
        if scenes and not cls.takes_scenes:
            raise DataError(
                f"'{folder}' holds scenes with depth and poses, which this model does not train "
                'on; expected photographs alone, such as the images folder of a scene'
            )
        if scenes and options.other_shares():
            raise ConfigError(
                f"'{folder}' holds scenes with depth and poses; expected photographs beside "
                'rooms_share or scenes'
            )
        if scenes:
            banks = load_posed_photographs(folder, scenes, options, progress)
        else:
            banks = load_photographs(folder, options.train, progress)
        if options.depth.scenes:
            beside = Path(options.depth.scenes)
            posed = load_posed_photographs(beside, find_scenes(beside), options, progress)
            banks = tuple(MixedBank(*pair) for pair in zip(banks, posed, strict=True))
        return banks

    @classmethod
    def sample(
        cls,
        options: Options,
        bank: ImageBank | SceneBank | MixedBank,
        count: int,
        generator: Generator,
    ) -> Any:
        """Make a batch of `count` from a bank; all that is random comes from generator."""
        pairs, rooms, light = options.pairs, options.rooms, options.photometric

        def posed(scenes: SceneBank, size: int) -> ViewPairs:
            return make_depth_pairs(scenes, size, pairs, options.depth.rules, light, generator)

        if isinstance(bank, SceneBank):
            return posed(bank, count)
        photographs = bank.photographs if isinstance(bank, MixedBank) else bank

        def views(size: int) -> ViewPairs:
            return make_pairs(photographs, size, pairs, light, generator)

        def in_rooms(size: int) -> ViewPairs:
            return make_room_pairs(photographs, size, pairs.view_size, rooms, light, generator)

        others = [(rooms.rooms_share, in_rooms)]
        if isinstance(bank, MixedBank):
            others.append((options.depth.scenes_share, partial(posed, bank.scenes)))
        return sample_mixed(count, views, others, generator)

    @classmethod
    def picture(cls, batch: Any) -> np.ndarray:
        """Draw some of a batch, to be looked at before anything is trained; (H, W, 3) RGB."""
        return draw_pairs(batch)

    def see(self, images: Float[Tensor, 'b 3 h w']) -> DenseMaps:
        """Run the network on RGB views whose sides divide by its stride."""
        images = self.extractor.prepare(match_channels(images, self.extractor.channels))
        return self.extractor(channels_last(images))

    def see_both(self, images: Float[Tensor, '2 b 3 h w']) -> tuple[DenseMaps, DenseMaps]:
        """Run the network on both views of all pairs at once; return the maps of each view."""
        maps, count = self.see(images.flatten(0, 1)), images.shape[1]
        return tuple(
            DenseMaps(
                maps.score_map[rows],
                tuple(m[rows] for m in maps.descriptor_maps),
                None if maps.positions is None else maps.positions[rows],
            )
            for rows in (slice(count), slice(count, None))
        )

    def forward(self, batch: Any, generator: Generator) -> dict[str, Tensor]:
        """Return the loss `total` and its parts, each averaged over the batch."""
        raise NotImplementedError

    @classmethod
    def validation_keypoints(cls, batch: Any) -> int:
        """Return how many keypoints of a held-out view are matched."""
        return MAX_NUM_KEYPOINTS

    @classmethod
    def validate(cls, extractor: Extractor, batch: ViewPairs) -> dict[str, float]:
        """Measure what is to be improved; `score` says which weights are the best."""
        numbers = validate(extractor, batch, cls.validation_keypoints(batch))
        return numbers | {'score': numbers['mma3'] * numbers['repeatability']}

    @classmethod
    def examples(cls, extractor: Extractor, batch: Any) -> np.ndarray:
        """Draw what the extractor makes of some of what is held out; (H, W, 3) RGB."""
        return draw_matched_pairs(extractor, batch, cls.validation_keypoints(batch))


def require_data(data: Path | str) -> None:
    """Raise ConfigError where no folder of photographs is given."""
    if not data:
        raise ConfigError('there is nothing to learn from: give photographs with --data FOLDER')


def load_photographs(
    folder: Path, config: TrainConfig, progress: Progress = no_progress
) -> tuple[ImageBank, ImageBank]:
    """Return the banks of training and validation photographs; raises Data- and ConfigError."""
    found = find_images(folder)
    kinds = _read_kinds_and_weights(folder, found, config)
    return tuple(
        load_bank(paths, config.bank_side, *kinds, progress)
        for paths in _split_photographs(folder, found, config)
    )


def load_labelled_photographs(
    folder: Path,
    labels: Path | str,
    config: TrainConfig,
    progress: Progress = no_progress,
) -> tuple[LabelledBank, LabelledBank]:
    """Return the same with the labels that `kpfeat adapt` wrote."""
    found = find_images(folder)
    kinds = _read_kinds_and_weights(folder, found, config)
    with unpacked(labels) as labels_folder:
        return tuple(
            load_labelled(folder, labels_folder, paths, config.bank_side, *kinds, progress)
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
    folder: Path,
    scenes: Sequence[Path],
    options: Options,
    progress: Progress = no_progress,
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
        parts.append(load_scenes(read, config.bank_side, options.depth, progress))
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
