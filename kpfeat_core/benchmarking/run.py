"""The benchmark: build systems, time them in turns, and yield a row for each and each batch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import BenchmarkConfig, parse_size
from .measures import (
    count_macs,
    count_parameters,
    limited_threads,
    peak_cuda_bytes,
    peak_process_bytes,
    percentiles,
    reason,
    synchronize,
    Turns,
)
from .systems import build_system, Inputs, load_pictures, RANDOM, System, SystemSpec
from ..errors import KpfeatError
from ..provenance import device_name

LATER = ('peak_mb', 'process_mb')


@dataclass
class _Candidate:
    """A system on its way through the benchmark; `error` once it is out of it."""

    spec: SystemSpec
    system: System | None = None
    macs: int | None = None
    error: str = ''
    keypoints: dict[int, float] = field(default_factory=dict)

    def prepare(self, picture: np.ndarray) -> None:
        """Build the system, and count its operations on one picture."""
        try:
            self.system = build_system(self.spec)
            if self.system.network is not None:
                self.macs = count_macs(self.system, self.system.inputs([picture]))
        except Exception as error:  # of any kind: one system must not end the others
            self.error = reason(error)

    def call(self, inputs: Inputs, batch: int) -> Callable[[], None]:
        """Return the timed call: from pictures in memory to features, all of them done."""

        def run() -> None:
            result = self.system.run(inputs)
            synchronize(self.system.device)
            if batch not in self.keypoints:  # in the first call, which is not timed
                self.keypoints[batch] = self.system.mean_keypoints(result)

        return run


def measure(
    specs: Sequence[SystemSpec],
    config: BenchmarkConfig,
    batches: Sequence[int] = (1, 8),
    tick: Callable[[], object] = lambda: None,
) -> Iterator[dict[str, Any]]:
    """
    Yield one row of numbers for each batch size and system.

    Within a batch size all systems take turns. A system that fails gives a row with `error`. On
    KeyboardInterrupt the rows of what was timed come first. tick: called after each of
    `count_steps` steps. Raises ConfigError, ImageError.
    """
    with limited_threads(config.threads):
        size = parse_size(config.size)
        pictures = load_pictures(config.image, size, max(batches))
        entries = [_Candidate(spec) for spec in specs]
        for entry in entries:
            entry.prepare(pictures[0])
            tick()
        for batch in batches:
            yield from _measure_batch(entries, config, pictures[:batch], tick)


def count_steps(systems: int, config: BenchmarkConfig, batches: int) -> int:
    """Return how often `measure` ticks."""
    return systems * (1 + batches * (config.warm_up + config.rounds + 1))


def _measure_batch(
    entries: Sequence[_Candidate],
    config: BenchmarkConfig,
    pictures: Sequence[np.ndarray],
    tick: Callable[[], object],
) -> Iterator[dict[str, Any]]:
    """Time the systems in turns on these pictures, then measure the memory of each."""
    batch = len(pictures)
    working = {e.spec.name: e for e in entries if not e.error}
    inputs = {name: e.system.inputs(pictures) for name, e in working.items()}
    turns = Turns({name: e.call(inputs[name], batch) for name, e in working.items()})
    interrupted = False
    try:
        turns.run(config.rounds, config.warm_up, tick)
    except KeyboardInterrupt:
        interrupted = True
    sift = turns.times_ms.get('sift')
    for entry in entries:
        name = entry.spec.name
        error = entry.error or turns.failures.get(name, '')
        times = [] if error else turns.times_ms.get(name, [])
        if interrupted and not times:
            continue
        row = _identity(entry, config, batch) | _times(times, sift, batch)
        row |= {**dict.fromkeys(LATER), 'error': error}
        if times and not interrupted:
            try:
                row |= _alone(entry, config, inputs[name], batch)
            except KeyboardInterrupt:
                interrupted = True
        tick()
        yield row
    if interrupted:
        raise KeyboardInterrupt


def _identity(entry: _Candidate, config: BenchmarkConfig, batch: int) -> dict[str, Any]:
    """Return the system, its settings and the machine; None where a field has no meaning."""
    spec, system, macs = entry.spec, entry.system, entry.macs
    network = None if system is None else system.network
    device = torch.device('cpu') if system is None else system.device
    learned = network is not None
    return {
        'benchmark': 'speed',
        'model': spec.name,
        'weights': '' if system is None else system.weights,
        'note': _note(entry, batch),
        'options': dict(spec.options),
        'batch': batch,
        'size': config.size,
        'image': Path(config.image).name if config.image else 'drawing',
        'device': str(device),
        'device_name': device_name(device),
        'threads': torch.get_num_threads(),
        'precision': spec.precision if learned else None,
        'keypoints': entry.keypoints.get(batch),
        'parameters': count_parameters(system) if learned else None,
        'extract_gmac': None if macs is None else round(macs / 1e9, 4),
    }


def _note(entry: _Candidate, batch: int) -> str:
    """Return remarks beside the numbers: missing weights, and their effect."""
    if entry.system is None:
        return ''
    notes = [entry.system.note]
    found, wanted = entry.keypoints.get(batch), entry.spec.options['max_num_keypoints']
    if entry.system.weights == RANDOM and found is not None and found < wanted:
        notes.append(f'its random weights find {found:.0f} of {wanted} keypoints')
    return _join(notes)


def _join(notes: Sequence[str]) -> str:
    return '; '.join(filter(None, notes))


def _times(times: list[float], sift: list[float] | None, batch: int) -> dict[str, Any]:
    """Return milliseconds per picture, pictures per second, and the share of SIFT's time."""
    row: dict[str, Any] = {'rounds': len(times)}
    names = ('ms_p10', 'ms_median', 'ms_p90', 'fps', 'time_over_sift')
    if not times:
        return row | dict.fromkeys(names)
    low, median, high = (value / batch for value in percentiles(times))
    over = median * batch / percentiles(sift)[1] if sift else None
    values = (low, median, high, 1e3 / median, over)
    rounded = [None if value is None else round(value, 3) for value in values]
    return row | dict(zip(names, rounded, strict=True))


def _alone(
    entry: _Candidate, config: BenchmarkConfig, inputs: Inputs, batch: int
) -> dict[str, Any]:
    """Measure peak memory, which needs no turns."""
    try:
        return _peak_memory(entry, config, inputs, batch)
    except Exception as error:  # the times stand without it
        return {'note': _join([_note(entry, batch), f'no peak memory: {reason(error)}'])}


def _peak_memory(
    entry: _Candidate, config: BenchmarkConfig, inputs: Inputs, batch: int
) -> dict[str, float]:
    """Return MB, 10^6 bytes, as `measures` explains; raises KpfeatError."""
    system = entry.system
    if system.device.type == 'cuda':
        return {'peak_mb': round(peak_cuda_bytes(system, inputs) / 1e6, 1)}
    if system.device.type != 'cpu':
        raise KpfeatError(f'torch does not measure it on {system.device.type}')
    growth, whole = peak_process_bytes(entry.spec, config, batch)
    return {'peak_mb': round(growth / 1e6, 1), 'process_mb': round(whole / 1e6, 1)}
