"""The folder of a run: which run it holds, and what that goes on from."""

from collections.abc import Mapping, Sequence
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import torch

from .config import TrainConfig
from .schedule import decay_start
from ..checkpoints import load_checkpoint
from ..errors import ConfigError
from ..io import replacing
from ..weights import read_weights

FREE_TO_CHANGE = {'steps', 'decay_share', 'device', 'threads', 'precision'}
CONFIG, LAST, BEFORE_DECAY = 'config.json', 'last.pt', 'before_decay.pt'


def read_last(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """Read the latest checkpoint of a run with the options it was made with; None in a new run."""
    for path in (folder / LAST, folder / BEFORE_DECAY):
        if path.exists():
            state = load_checkpoint(path, device)
            # older ones do not hold their options
            return state if 'options' in state else state | {'options': _read_config(folder)}
    return None


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.exists():
        raise ConfigError(
            f"'{path}' is missing, so that nobody knows the options of the run beside it: "
            'restore it to resume, or choose another folder'
        )
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError(
            f"'{path}' is damaged ({error}): restore it to resume, or choose another folder"
        ) from error


def check_options(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to mix two different runs in one folder."""
    changed = [
        f'{name} {before.get(name)!r} -> {value!r}'
        for name, value in now.items()
        if before.get(name) != value and name not in FREE_TO_CHANGE
    ]
    if changed:
        raise ConfigError(
            f"'{folder}' holds a run with other options ({'; '.join(changed[:4])}): "
            'choose another folder, or repeat its options to resume'
        )


def describe_images(count: int, names: Sequence[str]) -> str:
    """Tell images from others by their names, whose endings change when they are packed."""
    stems = '\n'.join(Path(name).stem for name in names)
    return f'{count}, SHA-256 of names {hashlib.sha256(os.fsencode(stems)).hexdigest()[:16]}'


def to_go_on_from(
    folder: Path, last: dict[str, Any], config: TrainConfig, device: torch.device
) -> dict[str, Any]:
    """
    Return the checkpoint from which a run of this length goes on: its last one, as a rule.

    One of another length goes on from before the learning rate fell. Raises ConfigError where
    there is no such checkpoint, or the rate should have fallen earlier.
    """
    if all(last['options'][name] == getattr(config, name) for name in ('steps', 'decay_share')):
        return last
    path = folder / BEFORE_DECAY
    if last['decayed']:
        if not path.exists():
            raise ConfigError(
                f"the learning rate of the run in '{folder}' has fallen, and '{path}' is missing, "
                'from which a longer one would go on: restore it, or choose another folder'
            )
        last = load_checkpoint(path, device)
    if last['step'] > decay_start(config):
        raise ConfigError(
            f"the run in '{folder}' would go on from step {last['step']}, but with steps "
            f'{config.steps} and decay_share {config.decay_share} its learning rate falls from '
            f'step {decay_start(config)}: expected more steps, or a smaller decay_share'
        )
    return last


def write_config(folder: Path, options: Mapping[str, Any]) -> None:
    """Write the options of a run for people to read."""
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(options, indent=1) + '\n')


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write everything needed to go on, whole or not at all."""
    buffer = io.BytesIO()  # torch's own writer reports a full disk as a mistake of ours
    torch.save(state, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def kept_validation(weights: Path) -> dict[str, float]:
    """Return step and validation of the weights that a run keeps; {} where it has none yet."""
    metadata = read_weights(weights)[1] if weights.exists() else {}
    if 'validation' not in metadata:
        return {}
    return {'step': float(metadata['steps']), **json.loads(metadata['validation'])}
