"""Turn checkpoints into weight files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .checkpoints import find_state_dict, find_tf_index, load_checkpoint, read_tf_checkpoint
from .files import (
    _check_metadata,
    _name,
    _network,
    _parse_architecture,
    check_state,
    OWN_NOTES,
    read_weights,
    save_weights,
    sha256,
)
from ..config import AUTO
from ..errors import ConfigError, WeightsError


def import_checkpoint(
    checkpoint: Path | str,
    model: str,
    out: Path | str,
    metadata: Mapping[str, Any] | None = None,
    architecture: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """
    Convert a published checkpoint to a weight file of ours; raises WeightsError.

    architecture: options that shape the network, such as {'version': 'v1'}, for checkpoints whose
    tensors do not show them; a weight file of ours notes them. Raises ConfigError for others.
    dtype: as in `save_weights`.

    checkpoint: .pth, .pt, .tar or .safetensors with a state dict, bare or inside a training
    checkpoint; or TensorFlow's index/data pair, by one of its files or their common
    prefix. It is read without running any code in it.
    """
    from ..registry import build_network

    checkpoint = find_tf_index(checkpoint) or checkpoint
    chosen = {key: value for key, value in (architecture or {}).items() if value != AUTO}
    module = build_network(model, **chosen)
    _check_shaping(module, chosen)
    content, noted = _read_checkpoint(Path(checkpoint))
    if noted.get('model') == model:
        chosen = _parse_architecture(noted, checkpoint) | chosen
        module = build_network(model, **chosen)
        _check_metadata(module, noted, checkpoint)
    state = find_state_dict(content, checkpoint)
    if hasattr(module, 'convert_checkpoint'):
        state, told = module.convert_checkpoint(state)
        module = build_network(model, **chosen | told)
    for name, value in _network(module).state_dict().items():
        stem, _, last = name.rpartition('.')
        # a counter that old releases of torch lacked
        if last == 'num_batches_tracked' and f'{stem}.running_var' in state:
            state.setdefault(name, value)
    check_state(module, state, str(checkpoint))
    _network(module).load_state_dict(state)
    origin = {'imported_from': Path(checkpoint).name, 'imported_sha256': sha256(checkpoint)}
    kept = {key: value for key, value in noted.items() if key not in OWN_NOTES}
    save_weights(module, out, kept | origin | dict(metadata or {}), dtype)
    return Path(out)


def _check_shaping(module: nn.Module, options: Mapping[str, str]) -> None:
    """Raise ConfigError for an option that a weight file does not note: it would get lost."""
    known = getattr(module, 'architecture', {})
    lost = [name for name in options if name not in known]
    if lost:
        raise ConfigError(
            f"option '{lost[0]}' does not shape the network of {_name(module)}, and weights do "
            f'not keep it; expected {" or ".join(known) or "none"}: give it where they are used'
        )


def _read_checkpoint(path: Path) -> tuple[Any, dict[str, str]]:
    """Return the content of a checkpoint, and the metadata of a safetensors file."""
    if not path.is_file():
        raise WeightsError(f"there is no checkpoint '{path}'")
    if find_tf_index(path):
        return {k: torch.from_numpy(v) for k, v in read_tf_checkpoint(path).items()}, {}
    if path.suffix == '.safetensors':
        return read_weights(path)
    return load_checkpoint(path), {}
