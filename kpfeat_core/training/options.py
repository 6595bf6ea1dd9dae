"""All options of a run together: one flat set of names, one dataclass for each part."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
import math
from pathlib import Path
from typing import Any

from ..config import current_names, make_config, option
from ..data.depth_pairs import DepthConfig
from ..data.homography_pairs import PairConfig
from ..data.photometric import PhotometricConfig
from ..errors import ConfigError


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast to train, and what is written when."""

    steps: int = option(60000, 'optimizer steps in all; 0 validates `start` alone', low=0)
    batch_size: int = option(8, 'pairs in a step', low=1)
    learning_rate: float = option(2e-3, 'learning rate after the warm-up', 0.0, 1.0)
    warmup_steps: int = option(300, 'steps of linear warm-up', low=0)
    decay_share: float = option(0.25, 'last share of the run, in which the rate falls to 0', 0, 1)
    weight_decay: float = option(1e-4, 'AdamW weight decay', 0.0, 1.0)
    ema: float = option(0.999, 'decay of the average of weights that is validated and kept', 0, 1)
    clip_norm: float = option(1.0, 'largest norm of the gradient', low=0.0)
    start: str = option('', 'weight file to begin with; without one the weights are random')
    seed: int = option(0, 'every random draw follows from this and the step', low=0)
    precision: str = option('32-true', 'arithmetic', choices=('32-true', 'bf16-mixed', '16-mixed'))
    device: str = option('auto', 'cpu, cuda or auto')
    threads: int = option(-1, 'CPU threads; -1 takes all', low=-1)
    bank_side: int = option(480, 'photographs are kept with this long side in memory', low=64)
    max_images: int = option(-1, 'use at most this many photographs; -1 all', low=-1)
    kind_weights: str = option(
        '', 'how often kinds in manifest.csv are drawn, such as photo=2,texture=1'
    )
    validation_share: float = option(
        0.04, 'share of photographs held out for curves, one at least', 0.0, 0.5
    )
    validate_every: int = option(1000, 'steps between validations', low=1)
    validation_pairs: int = option(48, 'pairs in a validation', low=1)
    checkpoint_seconds: int = option(120, 'seconds between checkpoints', low=1)
    log_every: int = option(50, 'steps between lines of the log', low=1)


COMMON_CLASSES = (TrainConfig, PairConfig, PhotometricConfig, DepthConfig)


@dataclass(frozen=True)
class Options:
    """All options of a run, one dataclass for each part."""

    train: TrainConfig
    pairs: PairConfig
    photometric: PhotometricConfig
    depth: DepthConfig
    loss: Any

    @staticmethod
    def build(recipe: Any, values: Mapping[str, Any]) -> 'Options':
        """
        Distribute flat options, beside the defaults of a recipe class, to their parts.

        Old names are taken with a warning. Raises ConfigError for unknown ones.
        """
        classes = (*COMMON_CLASSES, recipe.loss_class)
        known = {f.name for cls in classes for f in fields(cls)}
        for cls in classes:
            values = current_names(cls, values)
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
