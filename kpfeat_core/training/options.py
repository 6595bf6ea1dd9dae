"""All options of a run together: one flat set of names, one dataclass for each part."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
import math
from pathlib import Path
from typing import Any

from . import TrainConfig
from ..config import current_names, make_config
from ..data.depth_pairs import DepthConfig
from ..data.homography_pairs import PairConfig
from ..data.photometric import PhotometricConfig
from ..data.rooms import RoomConfig
from ..errors import ConfigError

COMMON_CLASSES = (TrainConfig, PairConfig, PhotometricConfig, DepthConfig, RoomConfig)


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
