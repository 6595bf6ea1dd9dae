"""Checkpoints of other programs: read without running code in them, their tensors found."""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
import pickle
from typing import Any

import torch
from torch import Tensor

from .errors import WeightsError

# Where training programs put the state dict, and what they prefix its names with.
CONTAINERS = ('state_dict', 'model_state_dict', 'model', 'net', 'network', 'weights', 'params')
# Settings beside KP2D's published weights; a mapping, and read as that.
SETTINGS = 'yacs.config.CfgNode'
PREFIXES = ('module.', '_orig_mod.', 'model.', 'net.')


def load_checkpoint(path: Path | str, device: torch.device | str = 'cpu') -> Any:
    """Read what `torch.save` wrote, without running any code in it; raises WeightsError."""
    try:
        return _load_tensors(path, device)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"'{path}' is not a checkpoint of tensors alone: it is damaged, or it holds Python "
            'objects, which are not run. Save its state_dict() with the program that made it'
        ) from error
    except Exception as error:  # of any kind: they come from the bytes of a damaged file
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"'{path}' cannot be read as a checkpoint: {first}") from error


def _load_tensors(path: Path | str, device: torch.device | str) -> Any:
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        if SETTINGS not in str(error) or not hasattr(torch.serialization, 'safe_globals'):
            raise
    with torch.serialization.safe_globals([(OrderedDict, SETTINGS)]):
        return torch.load(path, map_location=device, weights_only=True)


def find_state_dict(content: Any, source: Path | str) -> dict[str, Tensor]:
    """
    Find the state dict in a checkpoint: the content itself or a well-known entry of it.

    Its names come without what wrapped modules put before them. Raises WeightsError.
    """
    if isinstance(content, Mapping):
        inner = [content[key] for key in CONTAINERS if isinstance(content.get(key), Mapping)]
        for state in (content, *inner):
            if state and all(isinstance(value, Tensor) for value in state.values()):
                return _strip_prefixes({str(key): value for key, value in state.items()})
    found = some_names([str(key) for key in content]) if isinstance(content, Mapping) else ''
    raise WeightsError(
        f"'{source}' holds no state dict: expected tensors by name, bare or under one of "
        f'{", ".join(CONTAINERS)}; found {found or type(content).__name__}'
    )


def _strip_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove what data-parallel, compiled or wrapped modules put before every name."""
    for _ in PREFIXES:
        for prefix in PREFIXES:
            if all(name.startswith(prefix) for name in state):
                state = {name[len(prefix) :]: value for name, value in state.items()}
    return state


def some_names(names: list[str], most: int = 3) -> str:
    """Join the first few of many names for a message."""
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + more
