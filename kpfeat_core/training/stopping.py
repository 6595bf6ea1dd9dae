"""Machines are taken away with SIGTERM: a run hears it, and saves before it leaves."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import signal
import threading


@contextmanager
def calling_when_told_to_stop(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` on SIGTERM, in place of what was done before; afterwards that is done again."""
    if threading.current_thread() is not threading.main_thread():  # others cannot hear signals
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: act())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
