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

THREAD_NAME = 'kpfeat-worker'
STOP_TIMEOUT_S = 1.0  # a result that takes longer than this is not waited for


def abandoned_work() -> bool:
    """Say whether a worker that was stopped is still in mid-stage."""
    return any(thread.name == THREAD_NAME for thread in threading.enumerate())


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
        self._stopping = threading.Event()  # of this run: an abandoned thread keeps its own
        self._asked_at = 0.0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread; does nothing if it runs."""
        if self._thread is not None:
            return
        self._stopping = threading.Event()
        # daemon: a network in mid-inference must not hold up the end of the process
        self._thread = threading.Thread(
            target=self._run, args=(self._stopping,), name=THREAD_NAME, daemon=True
        )
        self._thread.start()

    def submit(self, item: Any) -> None:
        """Hand over the newest item; never blocks. A worker that is stopped ignores it."""
        with self._changed:
            if self._thread is None or self._stopping.is_set():
                return
            if self._waiting:
                self._statistics.count('dropped')
            self._waiting = [item]
            self._changed.notify_all()

    def ask_to_stop(self) -> None:
        """Forget what waits and let the item at work be the last; returns at once."""
        with self._changed:
            if not self._stopping.is_set():
                self._asked_at = time.monotonic()
            self._stopping.set()
            self._statistics.count('dropped', len(self._waiting))
            self._waiting.clear()
            self._changed.notify_all()

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> bool:
        """
        Wait until the item at work is done; false if it takes too long, then it is abandoned.

        timeout_s: since it was asked to stop, so that several workers stop side by side.
        """
        self.ask_to_stop()
        thread, self._thread = self._thread, None
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(max(0.0, self._asked_at + timeout_s - time.monotonic()))
        return not thread.is_alive()

    def _run(self, stopping: threading.Event) -> None:
        while taken := self._next(stopping):
            self._process(taken.pop(), stopping)  # nothing is held while waiting for the next

    def _next(self, stopping: threading.Event) -> list[Any]:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or stopping.is_set())
            if stopping.is_set():
                return []
            taken, self._waiting = self._waiting, []
            return taken

    def _process(self, item: Any, stopping: threading.Event) -> None:
        last = self._stages[-1]
        for name, stage in self._stages:
            if stopping.is_set():  # what a stage needs, such as a publisher, may be gone
                self._statistics.count('dropped')
                return
            start = time.perf_counter()
            try:
                item = stage(item)
            except Exception as error:
                if stopping.is_set():
                    self._statistics.count('dropped')
                else:
                    kind = getattr(error, 'kind', type(error).__name__)
                    self._on_error(kind, error, self._statistics.fail(kind))
                return
            self._statistics.add_duration(name, time.perf_counter() - start)
            if item is None and (name, stage) != last:
                self._statistics.count('skipped')
                return
        self._statistics.count('processed')
