"""Models by name: where each class is, and how to build it; building one imports it."""

from collections.abc import Mapping
import importlib
from types import MappingProxyType
from typing import Any, NamedTuple, TYPE_CHECKING

from .config import make_config
from .errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from .models.base import Extractor


class ModelRow(NamedTuple):
    """
    A row of the table.

    module: in `models/`; class_name: in it; arguments: of the class, beside its configuration.
    """

    module: str
    class_name: str
    arguments: Mapping[str, Any] = MappingProxyType({})

    def load(self) -> type:
        """Import the class, and torch with it."""
        module = importlib.import_module(f'.models.{self.module}', __package__)
        return getattr(module, self.class_name)


EXTRACTORS = {
    **{
        name: ModelRow('alike', 'Alike', {'name': name})
        for name in ('alike-t', 'alike-s', 'alike-n', 'alike-l')
    },
    'aslfeat': ModelRow('aslfeat', 'AslFeat'),
    **{name: ModelRow('keynet', 'KeyNet', {'name': name}) for name in ('keynet', 'keynet-tiny')},
    'kp2d': ModelRow('kp2d', 'Kp2d'),
    'superpoint': ModelRow('superpoint', 'SuperPoint', {'name': 'superpoint'}),
    'magicpoint': ModelRow(
        'superpoint', 'SuperPoint', {'name': 'magicpoint', 'descriptor_dim': 0}
    ),
}
# Networks that are no extractors but have weight files.
SUBMODULES = {'hardnet': ModelRow('keynet', 'HardNet')}


def extractor_names() -> list[str]:
    """Return the names of all extractors, sorted."""
    return sorted(EXTRACTORS)


def network_names() -> list[str]:
    """Return the names of everything that has a weight file, sorted."""
    return sorted([*EXTRACTORS, *SUBMODULES])


def build_extractor(name: str, **options: Any) -> 'Extractor':
    """Build an extractor with random weights, for training; raises ConfigError."""
    cls = _find(name, EXTRACTORS).load()
    return cls(**EXTRACTORS[name].arguments, config=make_config(cls.config_class, options))


def build_network(name: str, **architecture: str) -> 'nn.Module':
    """Build an extractor or a submodule with random weights; raises ConfigError."""
    entry = _find(name, EXTRACTORS | SUBMODULES)
    if name in EXTRACTORS:
        return build_extractor(name, **architecture)
    if architecture:
        raise ConfigError(f"unknown option '{next(iter(architecture))}'; {name} has none")
    return entry.load()(**entry.arguments)


def extractor_config_class(name: str) -> type:
    """Return the dataclass with the options of an extractor; raises ConfigError."""
    return _find(name, EXTRACTORS).load().config_class


def _find(name: str, table: Mapping[str, ModelRow]) -> ModelRow:
    if name not in table:
        raise ConfigError(
            f"there is no model '{name}'; expected one of {', '.join(sorted(table))}"
        )
    return table[name]
