"""What a run gave, on one page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
import platform

import torch

from .curves import LOG, read_rows, SPEED, VALIDATION
from .run_folder import kept_validation
from .. import __version__
from ..weights import sha256

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
    lines += [
        f'kpfeat {__version__}, torch {torch.__version__}, Python {platform.python_version()}'
    ]
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
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    return f'{torch.get_num_threads()} CPU threads'
