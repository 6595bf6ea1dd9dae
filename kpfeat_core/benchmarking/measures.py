"""
Time, memory and operations of `extract`.

Time is that of calls that take turns, so that a busy machine slows all of them alike. Peak memory
on a graphics card is what torch had allocated for this system at the worst moment: its weights,
its maps and its results. On a CPU it is by how much the resident memory of a fresh process grew at
the worst moment of `extract`, beyond what it was with the libraries, the system and the pictures
loaded; about 15 MB of it are code and kernels that a network's first call loads.
"""

from collections.abc import Callable, Iterator, Mapping
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

import cv2
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from . import BenchmarkConfig, parse_size
from .systems import build_system, Inputs, load_pictures, System, SystemSpec
from ..errors import ConfigError, KpfeatError

PROCESS = Path('/proc/self')
PACKAGES = Path(__file__).resolve().parents[2]
CALLS = 2
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


def percentiles(values: list[float]) -> tuple[float, float, float]:
    """Return the 10th percentile, the median and the 90th percentile."""
    low, middle, high = np.percentile(values, [10, 50, 90])
    return float(low), float(middle), float(high)


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


def count_parameters(system: System) -> int:
    """Return the learned numbers, those of submodules among them."""
    network = system.network
    return 0 if network is None else sum(p.numel() for p in network.parameters())


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
