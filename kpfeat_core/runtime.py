"""The process: threads, memory that is kept, missing packages, late imports, stages, timers."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from contextvars import ContextVar
import ctypes
import importlib
from importlib.util import find_spec
from itertools import islice
import os
from pathlib import Path
import queue
import re
import sys
import threading
import time
from typing import Any, TypeVar

from .errors import ConfigError

T = TypeVar('T')
R = TypeVar('R')

# Turns that a waiting thread of GNU's OpenMP makes before it sleeps; 300,000 if left alone.
SPINS = '2000'
# From this size on glibc asks the system for each block, and gives it back at once: maps of a
# network at 1280x720 are smaller. Larger ones would leave large holes.
MAPPED_BYTES = 2**26
KEPT_BYTES = 2**29  # that are free and stay with the process
# Heaps that the threads share; each keeps the most that its threads needed. Nodes that
# were loaded and unloaded 15 times grew the process by 24 MiB so, and by 150 with glibc's own 8 a
# core, at the same speed.
ARENAS = 4
PATIENCE_S = 0.05  # a stage that waits looks this often whether it is still wanted
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # names of mallopt
# Modules, and their names for pip: the list of requirements/core.txt.
NEEDED = {
    'cv2': 'opencv-python-headless',
    'numpy': 'numpy',
    'rich': 'rich',
    'safetensors': 'safetensors',
    'torch': 'torch>=2.1',
    'typer': 'typer>=0.9',
}
MEMORY_LIMIT = '/sys/fs/cgroup/memory.max'  # of a container
NODES_NEED = ('rclpy', 'kpfeat')
_totals: ContextVar[dict[str, float] | None] = ContextVar('totals', default=None)


def share_cores() -> None:
    """
    Let waiting threads of OpenMP sleep soon, unless the environment sets how they wait.

    Left alone they spin for milliseconds, which makes images take up to twenty times as long on
    cores that other programs use too. Those that sleep at once make small networks take 1.5 times
    as long on idle cores: they are woken for every layer.
    """
    if 'OMP_WAIT_POLICY' not in os.environ:
        os.environ['OMP_WAIT_POLICY'] = 'PASSIVE'
        os.environ.setdefault('GOMP_SPINCOUNT', SPINS)


def keep_memory() -> None:
    """
    Let glibc use the memory of one image for the next, unless the environment sets something else.

    Left alone it gives each map of a network back and asks for it again, and the system clears
    its pages every time: a quarter of the work of a small network on a CPU, a third of training.
    `malloc_trim` gives the memory back.
    """
    said = {'MALLOC_MMAP_THRESHOLD_', 'MALLOC_TRIM_THRESHOLD_', 'GLIBC_TUNABLES'}
    if said & os.environ.keys():
        return
    with suppress(AttributeError, OSError, TypeError):  # another libc has no such function
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        if 'MALLOC_ARENA_MAX' not in os.environ:
            libc.mallopt(M_ARENA_MAX, ARENAS)


def free_memory() -> int | None:
    """Return the bytes of memory that are free, at most the limit of a container, if known."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path('/proc/meminfo').read_text(encoding='ascii').splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith('MemAvailable')]
    with suppress(OSError, ValueError):  # 'max' where there is no limit
        found.append(int(Path(MEMORY_LIMIT).read_text(encoding='ascii')))
    return min(found, default=None)


def leave_if_missing(nodes: bool = False) -> None:
    """
    End the process with one sentence and code 2 where something is missing.

    Programs call this before they import the rest, which would end in a traceback. nodes: check
    for ROS and the compiled messages as well.
    """
    text = what_is_missing() or (nodes and what_nodes_miss())
    if text:
        print(f'error: {text}', file=sys.stderr)
        sys.exit(2)


def what_is_missing() -> str:
    """Return in words which packages are missing or too old and how to get them; '' if none is."""
    found = {module: _why_not(module, package) for module, package in NEEDED.items()}
    wanted = [module for module, why in found.items() if why]
    if not wanted:
        return ''
    packages = ' '.join(f"'{p}'" if '>' in p else p for p in map(NEEDED.get, wanted))
    return (
        f'{", ".join(found[module] for module in wanted)}; install with: {sys.executable} -m pip '
        f'install {packages} (where pip refuses, in a virtual environment: docs/installation.md)'
    )


def what_nodes_miss() -> str:
    """Return in words which part of ROS a node lacks; '' if none."""
    for module in NODES_NEED:
        if find_spec(module) is None:
            return (
                f"the Python module '{module}' is missing: source a ROS 2 workspace in which "
                'kpfeat is built, or use `make shell` in the repository'
            )
    return ''


def _why_not(module: str, package: str) -> str:
    if find_spec(module) is None:
        return f'{module} is not installed'
    from importlib.metadata import PackageNotFoundError, version  # slow

    name, _, least = package.partition('>=')
    try:
        found = version(name)
    except PackageNotFoundError:  # built by hand, or under another name
        return ''
    if _numbers(found) >= _numbers(least):
        return ''
    return f'{name} is {found}, expected {least} or newer'


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r'\d+', text)[:2]))


def lazy_face(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """
    Return the `__getattr__` of a package that imports what it offers on first use.

    places: the module in the package that each name is in.
    """

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(importlib.import_module(f'.{places[name]}', package), name)

    return find


@contextmanager
def timed_stages(note: Callable[[str, float], None]) -> Iterator[None]:
    """
    Sum up the seconds of each stage of extraction in this thread, and note them at the end.

    On a GPU each stage is waited for, so that its time is its own.
    """
    totals: dict[str, float] = {}
    token = _totals.set(totals)
    try:
        yield
    finally:
        _totals.reset(token)
    for stage, seconds in totals.items():
        note(stage, seconds)


class StageTimer:
    """Times consecutive stages on one device, from here on."""

    def __init__(self, device: Any) -> None:
        self._totals = _totals.get()
        self._device = device
        self._last = time.perf_counter() if self._totals is not None else 0.0

    def end(self, stage: str) -> None:
        """Add the time since the stage before to this one."""
        if self._totals is None:
            return
        if self._device.type == 'cuda':
            import torch  # here alone, so that nodes without a network need none

            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self._totals[stage] = self._totals.get(stage, 0.0) + now - self._last
        self._last = now


def count_workers(workers: int) -> int:
    """Return how many workers are meant; -1 is one for each core that this process may use."""
    if workers != -1 and workers < 1:
        raise ConfigError(f'workers is {workers}, expected at least 1, or -1 for all cores')
    if workers > 0:
        return workers
    usable = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else None
    return usable or os.cpu_count() or 1


def in_background(items: Iterable[T], depth: int) -> Iterator[T]:
    """
    Iterate in a thread of its own, at most `depth` items ahead of the consumer.

    An error is raised where the items are taken. The thread ends when the iterator is closed.
    """
    iterator = iter(items)
    ready: queue.Queue[tuple[bool, Any]] = queue.Queue(max(1, depth))
    unwanted = threading.Event()

    def offer(*item: Any) -> bool:
        while not unwanted.is_set():
            try:
                ready.put(item, timeout=PATIENCE_S)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in iterator:
                if not offer(True, item):
                    break
            else:
                offer(False, None)
        except BaseException as error:
            offer(False, error)
        finally:
            if hasattr(iterator, 'close'):
                iterator.close()

    thread = threading.Thread(target=work, name='kpfeat stage', daemon=True)
    thread.start()
    try:
        while True:
            more, item = ready.get()
            if more:
                yield item
            elif item is None:
                return
            else:
                raise item
    finally:
        unwanted.set()
        thread.join()


def ahead(
    function: Callable[[T], R], items: Iterable[T], pool: Executor, depth: int
) -> Iterator[R]:
    """Apply a function to all items in a pool, in order, with at most `depth` at a time."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Group items; the last group may be smaller."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
