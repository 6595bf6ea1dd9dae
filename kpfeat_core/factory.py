"""Extractors and matchers, ready for use: built, with weights, on their device."""

from typing import Any, TYPE_CHECKING

import torch

from .config import AUTO, DEFAULT_MODEL, make_config, MatcherConfig
from .errors import ConfigError, WeightsError
from .registry import build_extractor

if TYPE_CHECKING:
    from .matching import MutualNearestNeighbor
    from .models.base import Extractor


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
    from .weights.files import find_weights, load_weights, read_architecture

    target = check_device(device)
    extractor = build_extractor(name, **options)  # wrong names and options come first
    path = find_weights(name, weights)
    noted = read_architecture(path)
    if any(getattr(extractor.config, key, value) != value for key, value in noted.items()):
        told = {key: value for key, value in options.items() if value != AUTO}
        extractor = build_extractor(name, **noted | told)
    load_weights(extractor, path)
    for submodule, (module, file) in extractor.submodules().items():
        try:
            load_weights(module, find_weights(submodule, file))
        except WeightsError as error:
            raise WeightsError(
                f'{name} needs {submodule} as well ({extractor.submodule_advice}): {error}'
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


def create_matcher(name: str = 'mnn', **options: Any) -> 'MutualNearestNeighbor':
    """Build a matcher; 'mnn' (mutual nearest neighbours) is the one there is."""
    from .matching import MutualNearestNeighbor

    if name != 'mnn':
        raise ConfigError(f"there is no matcher '{name}'; expected mnn")
    return MutualNearestNeighbor(make_config(MatcherConfig, options))
