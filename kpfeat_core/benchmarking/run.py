"""
The benchmark: time, memory and operations of `extract`, a row for each system and batch size.

Time is that of calls that take turns, so that a busy machine slows all of them alike. Peak memory
on a graphics card is what torch had allocated for this system at the worst moment: its weights,
its maps and its results. On a CPU it is by how much the resident memory of a fresh process grew at
the worst moment of `extract`, beyond what it was with the libraries, the system and the pictures
loaded; about 15 MB of it are code and kernels that a network's first call loads.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
import ctypes
from dataclasses import asdict, dataclass, field
import gc
import json
import os
from pathlib import Path
import re
import subprocess
import sys
import time
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from . import BenchmarkConfig, parse_size
from .systems import build_system, Inputs, load_pictures, RANDOM, System, SystemSpec
from ..errors import ConfigError, KpfeatError
from ..provenance import device_name

PROCESS = Path('/proc/self')
PACKAGES = Path(__file__).resolve().parents[2]
CALLS = 2
LATER = ('peak_mb', 'process_mb')
Call = Callable[[], object]


@dataclass
class Turns:
    """
    Milliseconds of each call by name, filled round by round: an interruption loses nothing.

    failures: why a call takes no further turns.
    """

    calls: Mapping[str, Call]
    clock: Callable[[], float] = time.perf_counter
    times_ms: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def run(self, rounds: int, warm_up: int, tick: Call = lambda: None) -> None:
        """Give every call its turn, round after round; tick: called after each turn."""
        for i in range(warm_up + rounds):
            for name, call in self.calls.items():
                if name not in self.failures:
                    self._turn(name, call, counts=i >= warm_up)
                tick()

    def _turn(self, name: str, call: Call, counts: bool) -> None:
        start = self.clock()
        try:
            call()
        except Exception as error:  # of any kind: one system must not end the others
            self.failures[name] = reason(error)
            return
        elapsed = 1e3 * (self.clock() - start)
        if counts:
            self.times_ms.setdefault(name, []).append(elapsed)


def reason(error: BaseException) -> str:
    """Return in one line why something failed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, KpfeatError) and lines:
        return lines[0]
    return ': '.join([type(error).__name__, *lines[:1]])


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
                row |= _memory(entry, config, inputs[name], batch)
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
    learned = network is not None  # with its submodules
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
        'parameters': sum(p.numel() for p in network.parameters()) if learned else None,
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
    low, median, high = (float(ms) / batch for ms in np.percentile(times, [10, 50, 90]))
    over = median * batch / float(np.median(sift)) if sift else None
    values = (low, median, high, 1e3 / median, over)
    rounded = [None if value is None else round(value, 3) for value in values]
    return row | dict(zip(names, rounded, strict=True))


def _memory(
    entry: _Candidate, config: BenchmarkConfig, inputs: Inputs, batch: int
) -> dict[str, Any]:
    """Return peak memory in MB, 10^6 bytes, which needs no turns, or a note why it is unknown."""
    system = entry.system
    try:
        if system.device.type == 'cuda':
            return {'peak_mb': round(peak_cuda_bytes(system, inputs) / 1e6, 1)}
        if system.device.type != 'cpu':
            raise KpfeatError(f'torch does not measure it on {system.device.type}')
        growth, whole = peak_process_bytes(entry.spec, config, batch)
        return {'peak_mb': round(growth / 1e6, 1), 'process_mb': round(whole / 1e6, 1)}
    except Exception as error:  # the times stand without it
        return {'note': _join([_note(entry, batch), f'no peak memory: {reason(error)}'])}


def synchronize(device: torch.device) -> None:
    """Wait until a graphics card has done all it was given."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    elif device.type == 'mps':
        torch.mps.synchronize()


@contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """Give torch and OpenCV this many threads, -1: both as many as torch takes by itself."""
    if count == 0:
        raise ConfigError('threads is 0, expected 1 or more, or -1 for as many as torch takes')
    before = torch.get_num_threads(), cv2.getNumThreads()
    if count > 0:
        torch.set_num_threads(count)
    cv2.setNumThreads(torch.get_num_threads())
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def count_macs(system: System, inputs: Inputs) -> int:
    """
    Return the multiply-accumulates of `extract`.

    Counted while it runs: convolutions and matrix products as they really happen, half of torch's
    count of floating-point operations; no elementwise work, no sampling. Several scales add up.
    """
    with FlopCounterMode(display=False) as counter:
        system.run(inputs)
    return counter.get_total_flops() // 2


def peak_cuda_bytes(system: System, inputs: Inputs) -> int:
    """Return the bytes allocated on the graphics card for one system, at the worst moment."""
    device, network = system.device, system.network
    own = sum(t.nbytes for t in (*network.parameters(), *network.buffers()))
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    system.run(inputs)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before + own


def peak_process_bytes(spec: SystemSpec, config: BenchmarkConfig, batch: int) -> tuple[int, int]:
    """
    Measure in a fresh process: (growth during `extract`, the whole process), in bytes.

    Raises KpfeatError where the process fails, or where the system is not Linux.
    """
    if not (PROCESS / 'clear_refs').exists():
        raise KpfeatError('peak memory of a process is only known on Linux')
    job = {'spec': asdict(spec), 'config': asdict(config), 'batch': batch}
    paths = os.pathsep.join(filter(None, [str(PACKAGES), os.environ.get('PYTHONPATH')]))
    done = subprocess.run(
        [sys.executable, '-m', __name__],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        env=os.environ | {'PYTHONPATH': paths},
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise KpfeatError(lines[-1] if lines else f'the process ended with {done.returncode}')
    growth, whole = json.loads(done.stdout.splitlines()[-1])
    return growth, whole


def _measure_here(spec: SystemSpec, config: BenchmarkConfig, batch: int) -> tuple[int, int]:
    """Measure this process, which has done nothing else."""
    with limited_threads(config.threads):
        system = build_system(spec)
        inputs = system.inputs(load_pictures(config.image, parse_size(config.size), batch))
        _return_freed_memory()
        # Not getrusage: its peak starts at that of the process that started this one.
        (PROCESS / 'clear_refs').write_text('5')  # the peak so far becomes the present size
        before = _status('VmRSS')
        for _ in range(CALLS):
            system.run(inputs)
    peak = _status('VmHWM')
    return peak - before, peak


def _return_freed_memory() -> None:
    """Return memory that loading has freed: `extract` would use it again without growing."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)  # of glibc alone
    if trim is not None:
        trim(0)


def _status(name: str) -> int:
    text = (PROCESS / 'status').read_text()
    return 1024 * int(re.search(rf'{name}:\s*(\d+) kB', text)[1])


if __name__ == '__main__':
    job = json.load(sys.stdin)
    numbers = _measure_here(
        SystemSpec(**job['spec']), BenchmarkConfig(**job['config']), job['batch']
    )
    print(json.dumps(numbers))
