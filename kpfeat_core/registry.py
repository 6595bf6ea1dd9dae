"""Extractors and matchers by name; tests, `--help` and error texts all iterate over these."""

from collections.abc import Callable
from typing import Any, TYPE_CHECKING

import torch
from torch import nn

from .config import AUTO, DEFAULT_MODEL, make_config, MatcherConfig
from .errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from .matchers import MutualNearestNeighbour
    from .models.base import Extractor

EXTRACTORS: dict[str, Callable[..., 'Extractor']] = {}
COMPANIONS: dict[str, Callable[[], nn.Module]] = {}


def register(name: str) -> Callable[[Callable], Callable]:
    """Add a factory `(**options) -> Extractor` under a name; taking a name twice is an error."""

    def add(factory: Callable) -> Callable:
        if EXTRACTORS.setdefault(name, factory) is not factory:
            raise ValueError(f"extractor '{name}' is taken by {EXTRACTORS[name]!r}")
        return factory

    return add


def register_companion(name: str) -> Callable[[Callable], Callable]:
    """
    Add a network that is no extractor but has a weight file, such as a patch descriptor.

    Taking a name twice is an error.
    """

    def add(factory: Callable) -> Callable:
        if COMPANIONS.setdefault(name, factory) is not factory:
            raise ValueError(f"companion '{name}' is taken by {COMPANIONS[name]!r}")
        return factory

    return add


def _catalogue() -> dict[str, Callable[..., 'Extractor']]:
    from . import models  # noqa: F401 - importing the models registers them

    return EXTRACTORS


def extractor_names() -> list[str]:
    """Return the names of all extractors, sorted."""
    return sorted(_catalogue())


def build_extractor(name: str, **options: Any) -> 'Extractor':
    """Build an extractor with random weights, for training; raises ConfigError."""
    catalogue = _catalogue()
    if name not in catalogue:
        raise ConfigError(
            f"there is no model '{name}'; expected one of {', '.join(sorted(catalogue))}"
        )
    return catalogue[name](**options)


def network_names() -> list[str]:
    """Return the names of everything that has a weight file, sorted."""
    return sorted([*_catalogue(), *COMPANIONS])


def build_network(name: str, **structure: str) -> nn.Module:
    """Build an extractor or a companion with random weights; raises ConfigError."""
    if name not in network_names():
        raise ConfigError(
            f"there is no model '{name}'; expected one of {', '.join(network_names())}"
        )
    if name not in COMPANIONS:
        return build_extractor(name, **structure)
    if structure:
        raise ConfigError(f"unknown option '{next(iter(structure))}'; {name} has none")
    return COMPANIONS[name]()


def extractor_config_class(name: str) -> type:
    """Return the dataclass with the options of an extractor."""
    return type(build_extractor(name).config)


def create_extractor(
    name: str = DEFAULT_MODEL,
    weights: str = '',
    device: torch.device | str = 'cpu',
    **options: Any,
) -> 'Extractor':
    """
    Build an extractor with its weights, ready for `extract`.

    weights: a file; '' takes `$KPFEAT_WEIGHTS/<name>.safetensors` if there, else the bundled one.
    options: fields of the model's configuration, such as max_num_keypoints=2048.

    Raises ConfigError (unknown name, option or device) and WeightsError (none found, or broken).
    """
    from .weights import find_weights, load_weights, read_structure

    target = check_device(device)
    extractor = build_extractor(name, **options)  # wrong names and options come first
    path = find_weights(name, weights)
    noted = read_structure(path)
    if any(getattr(extractor.config, key, value) != value for key, value in noted.items()):
        told = {key: value for key, value in options.items() if value != AUTO}
        extractor = build_extractor(name, **noted | told)
    load_weights(extractor, path)
    for companion, (module, file) in extractor.companions().items():
        try:
            load_weights(module, find_weights(companion, file))
        except WeightsError as error:
            raise WeightsError(
                f'{name} needs {companion} as well ({extractor.companion_advice}): {error}'
            ) from error
    return extractor.to(target).eval()


def check_device(device: torch.device | str) -> torch.device:
    """Turn 'cpu', 'cuda', 'cuda:1' or 'auto' into a usable device; raises ConfigError."""
    if str(device) == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        target = torch.device(device)
    except RuntimeError:
        target = None
    if target is None or target.type not in ('cpu', 'cuda', 'mps'):
        raise ConfigError(f"device is '{device}', expected cpu, cuda, cuda:N, mps or auto")
    if target.type == 'mps' and not torch.backends.mps.is_available():
        raise ConfigError("device 'mps' is not there: it needs a Mac; use cpu, cuda or auto")
    if target.type == 'cuda':
        count = torch.cuda.device_count()
        if (target.index or 0) >= count:
            raise ConfigError(
                f"device '{device}' is not there: torch {torch.__version__} sees {count} CUDA "
                'GPU(s); install a CUDA build of torch and its driver, or use device cpu'
            )
    return target


def create_matcher(name: str = 'mnn', **options: Any) -> 'MutualNearestNeighbour':
    """Build a matcher; 'mnn' (mutual nearest neighbours) is the one there is."""
    from .matchers import MutualNearestNeighbour

    if name != 'mnn':
        raise ConfigError(f"there is no matcher '{name}'; expected mnn")
    return MutualNearestNeighbour(make_config(MatcherConfig, options))
