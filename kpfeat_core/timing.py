"""
How long the stages of an extraction take; costs next to nothing while nobody asks.

    with timed_stages(lambda stage, seconds: print(stage, seconds)):
        extractor.extract(image)

The stages are transfer (to the device), network, detect and describe.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
import time
from typing import Any

_totals: ContextVar[dict[str, float] | None] = ContextVar('totals', default=None)


@contextmanager
def timed_stages(note: Callable[[str, float], None]) -> Iterator[None]:
    """
    Sum up the seconds of each stage of what this thread extracts, and note them at the end.

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


class Laps:
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
