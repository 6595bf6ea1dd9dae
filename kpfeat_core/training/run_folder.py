"""The folder of a run: which run it holds, what that goes on from, its tables and curves."""

from collections.abc import Mapping, Sequence
import csv
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import torch

from . import TrainConfig
from .runtime import decay_start
from ..errors import ConfigError
from ..io import replacing
from ..provenance import device_name, provenance
from ..weights.checkpoints import load_checkpoint
from ..weights.files import read_metadata, sha256

FREE_TO_CHANGE = {'steps', 'decay_share', 'device', 'threads', 'precision', 'workers'}
CONFIG, LAST, BEFORE_DECAY = 'config.json', 'last.pt', 'before_decay.pt'
LOG, VALIDATION, SPEED = 'log.csv', 'validation.csv', 'speed.csv'
# Columns that version 0.1 called otherwise, in the tables of runs that go on.
OLD_COLUMNS = {
    LOG: {
        'found': 'keypoint_accuracy',
        'empty': 'dustbin_accuracy',
        'right': 'correct_distance',
        'usefulness': 'score',
        'softmax': 'infonce',
    },
    VALIDATION: {'right': 'correct'},
}
# Columns that are no curve, or of another size than the others.
NOT_PLOTTED = {
    LOG: ('step', 'seconds', 'gradient', 'skipped', 'total'),
    VALIDATION: ('step', 'seconds', 'matches', 'correct', 'score'),
}


def read_last(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """Read the latest checkpoint of a run with the options it was made with; None in a new run."""
    for path in (folder / LAST, folder / BEFORE_DECAY):
        if path.exists():
            state = load_checkpoint(path, device)
            # older ones do not hold their options
            return state | {'options': state.get('options') or _read_config(folder)}
    return None


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.exists():
        raise ConfigError(
            f"'{path}' is missing, and with it the options of the run beside it: "
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
    """Return a digest of images by their names, without endings, which change when packed."""
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


def append_row(path: Path, numbers: Mapping[str, float]) -> None:
    """Add a row, and the header to a new file."""
    is_new = not path.exists()
    with open(path, 'a', newline='') as file:
        writer = csv.DictWriter(file, numbers)
        if is_new:
            writer.writeheader()
        writer.writerow({key: round(value, 5) for key, value in numbers.items()})


def read_rows(path: Path) -> list[dict[str, float]]:
    """Read all rows as numbers, under their names of today, without a last one that is cut off."""
    names = OLD_COLUMNS.get(path.name, {})
    with open(path, newline='') as file:
        rows = [row for row in csv.DictReader(file) if all(row.values())]
    return [{names.get(name, name): float(v) for name, v in row.items()} for row in rows]


def validation_picture(folder: Path, step: int) -> Path:
    """Return where a run puts what it makes of photographs held out."""
    return folder / 'validation' / f'{step:07d}.jpg'


def forget_after(folder: Path, step: int) -> None:
    """Remove what a run wrote after the checkpoint that it goes on from; -1: all of it."""
    if (folder / VALIDATION).exists():
        for row in read_rows(folder / VALIDATION):
            if row['step'] > step:
                validation_picture(folder, int(row['step'])).unlink(missing_ok=True)
    for name in (LOG, VALIDATION, SPEED):
        _drop_rows_after(folder / name, step)


def _drop_rows_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = [row for row in read_rows(path) if row['step'] <= step]
    path.unlink()
    for row in kept:
        append_row(path, row | {'step': int(row['step'])})


def kept_validation(weights: Path) -> dict[str, float]:
    """Return step and validation of the weights that a run keeps; {} where it has none yet."""
    metadata = read_metadata(weights) if weights.exists() else {}
    if 'validation' not in metadata:
        return {}
    return {'step': float(metadata['steps']), **json.loads(metadata['validation'])}


Rows = Sequence[Mapping[str, float]]


def write_summary(
    folder: Path, weights: Path, device: torch.device, changed: Mapping[str, object]
) -> str:
    """
    Write `summary.md` into a run's folder; returns its first lines, for the terminal.

    changed: the options whose values are not the default ones.
    """
    log, validation, speed = (_rows(folder / name) for name in (LOG, VALIDATION, SPEED))
    seconds = max((row['seconds'] for row in (*log, *validation)), default=0.0)
    step = max((int(row['step']) for row in (*log, *validation)), default=0)
    head = [f'{weights.stem}: {step} steps in {_duration(seconds)} on {_machine(device)}']
    best = kept_validation(weights)
    if best:
        head.append(f'best validation at step {int(best["step"])}: {_numbers(best)}')
    if speed:
        rate, share = (_median(speed, key) for key in ('examples_per_second', 'data_share'))
        head.append(f'{rate:.1f} examples a second, {share:.0%} of a step spent on their data')
    lines = ['# ' + head[0], '', *(f'{line}  ' for line in head[1:]), '']
    lines += _table('Validation', validation) + _table('Losses', log)
    if weights.exists():
        lines += ['## Weights', '', f'`{weights.name}`, SHA-256 `{sha256(weights)}`', '']
    options = ', '.join(f'{name}={value}' for name, value in changed.items()) or 'none'
    lines += ['## Options other than the defaults', '', options, '']
    about = provenance('kpfeat')
    lines += [', '.join(f'{name} {about[name]}' for name in ('kpfeat', 'torch', 'python'))]
    (folder / 'summary.md').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    return '\n'.join(head)


def _rows(path: Path) -> list[dict[str, float]]:
    return read_rows(path) if path.exists() else []


def _median(rows: Rows, name: str) -> float:
    return float(torch.tensor([row[name] for row in rows]).median())


def _numbers(row: Mapping[str, float]) -> str:
    return ', '.join(f'{k} {v:.3g}' for k, v in row.items() if k not in ('step', 'seconds'))


def _table(title: str, rows: Rows, count: int = 12) -> list[str]:
    """Show about `count` rows, evenly spread, the first and the last among them."""
    if not rows:
        return []
    picks = sorted({round(i * (len(rows) - 1) / (count - 1)) for i in range(count)})
    names = [name for name in rows[0] if name != 'seconds']
    lines = [f'## {title}', '', '| ' + ' | '.join(names) + ' |', '|' + '---|' * len(names)]
    for row in (rows[i] for i in picks):
        cells = (f'{row[n]:.0f}' if n == 'step' else f'{row[n]:.4g}' for n in names)
        lines.append('| ' + ' | '.join(cells) + ' |')
    return [*lines, '']


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f'{minutes // 60} h {minutes % 60} min' if minutes >= 60 else f'{seconds / 60:.1f} min'


def _machine(device: torch.device) -> str:
    return (
        device_name(device) if device.type == 'cuda' else f'{torch.get_num_threads()} CPU threads'
    )


def plot_curves(folder: Path, path: Path) -> None:
    """Plot losses and validation of a run's CSV files side by side."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4))
    for axis, (name, left_out) in zip(axes, NOT_PLOTTED.items(), strict=True):
        rows = read_rows(folder / name)
        steps = [row['step'] for row in rows]
        columns = [key for key in rows[0] if key not in left_out]
        for column in columns:
            axis.plot(steps, [row[column] for row in rows], label=column)
        axis.set(xlabel='step', title=name.removesuffix('.csv'), ylim=(0, None))
        if columns:
            axis.legend()
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
