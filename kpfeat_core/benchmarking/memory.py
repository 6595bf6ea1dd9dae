"""
Peak memory of `extract`.

On a graphics card: what torch had allocated for this system at the worst moment, its weights, its
maps and its results. On a CPU: by how much the resident memory of a fresh process grew at the
worst moment of `extract`, beyond what it was with the libraries, the system and the pictures
loaded; about 15 MB of it are code and kernels that a network's first call loads.
"""

import ctypes
from dataclasses import asdict
import gc
import json
import os
from pathlib import Path
import re
import subprocess
import sys

import torch

from .config import BenchmarkConfig, parse_size
from .pictures import load_pictures
from .systems import build_system, Inputs, System, SystemSpec
from .timing import limited_threads
from ..errors import KpfeatError

PROCESS = Path('/proc/self')
PACKAGES = Path(__file__).resolve().parents[2]
CALLS = 2


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

    Raises KpfeatError where the process fails, or where the system does not tell (not Linux).
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
        (PROCESS / 'clear_refs').write_text('5')  # the peak so far becomes what is there now
        before = _status('VmRSS')
        for _ in range(CALLS):
            system.run(inputs)
    peak = _status('VmHWM')
    return peak - before, peak


def _return_freed_memory() -> None:
    """Give back what loading has freed: `extract` would use it again without growing."""
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
