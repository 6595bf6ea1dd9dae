"""
The thread that does the work of a node, so that its executor never waits.

One item waits at most: a newer one takes its place, and the older one is counted as dropped.
Memory is bounded at any input rate, and the result is never older than it must be. Free of ROS.
"""

from collections.abc import Callable, Sequence
import threading
import time
from typing import Any

from .stats import Statistics

Stage = tuple[str, Callable[[Any], Any]]
OnError = Callable[[str, Exception, bool], None]


class Worker:
    """
    Passes the newest item through stages, each timed by its name, in a thread of its own.

    A stage receives what the one before returned; None ends the item as skipped, except from the
    last. An exception ends it as failed, is counted by kind, and is passed on to
    `on_error(kind, error, first)`; the worker goes on with the next item whatever happened.
    """

    def __init__(self, stages: Sequence[Stage], statistics: Statistics, on_error: OnError) -> None:
        self._stages = tuple(stages)
        self._statistics = statistics
        self._on_error = on_error
        self._changed = threading.Condition()
        self._waiting: list[Any] = []  # none or one
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread; does nothing if it runs."""
        if self._thread is None:
            self._stopping = False
            # daemon: a network in mid-inference must not hold up the end of the process
            thread = threading.Thread(target=self._run, name='kpfeat-worker', daemon=True)
            thread.start()
            self._thread = thread

    def submit(self, item: Any) -> None:
        """Hand over the newest item; never blocks."""
        with self._changed:
            if self._waiting:
                self._statistics.count('dropped')
            self._waiting[:] = [item]
            self._changed.notify()

    def stop(self, timeout_s: float = 2.0) -> bool:
        """Forget what waits, and wait for the item at work; false if it takes too long."""
        with self._changed:
            self._stopping = True
            self._waiting.clear()
            self._changed.notify()
        thread, self._thread = self._thread, None
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(timeout_s)
        return not thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                if self._stopping:
                    return
                item = self._waiting.pop()
            self._process(item)

    def _process(self, item: Any) -> None:
        last = self._stages[-1]
        for name, stage in self._stages:
            if self._stopping:  # what a stage needs, such as a publisher, may be gone
                return
            start = time.perf_counter()
            try:
                item = stage(item)
            except Exception as error:
                if not self._stopping:
                    kind = getattr(error, 'kind', type(error).__name__)
                    self._on_error(kind, error, self._statistics.fail(kind))
                return
            self._statistics.add_duration(name, time.perf_counter() - start)
            if item is None and (name, stage) != last:
                self._statistics.count('skipped')
                return
        self._statistics.count('processed')
