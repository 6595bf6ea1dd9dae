"""Time of calls that take turns, so that a busy machine slows all of them alike."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
import time

import cv2
import numpy as np
import torch

from ..errors import ConfigError, KpfeatError

Call = Callable[[], object]


@dataclass
class Turns:
    """
    Milliseconds of each call by name, filled round by round: an interruption loses nothing.

    first_ms: the very first call of each, with all that happens only once. failures: why a call
    takes no further turns.
    """

    calls: Mapping[str, Call]
    clock: Callable[[], float] = time.perf_counter
    times_ms: dict[str, list[float]] = field(default_factory=dict)
    first_ms: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def run(self, rounds: int, warm_up: int, tick: Call = lambda: None) -> None:
        """Let every call have its turn, round after round; tick: called after each turn."""
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
        self.first_ms.setdefault(name, elapsed)
        if counts:
            self.times_ms.setdefault(name, []).append(elapsed)


def reason(error: BaseException) -> str:
    """Say in one line why something failed."""
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
