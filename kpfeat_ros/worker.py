"""
The thread that does the work of a node, so that its executor never waits.

One item of each source waits at most: a newer one takes its place, and the older one is counted
as dropped. Memory is bounded at any input rate, and the result is never older than it must be.
Free of ROS.
"""

from collections.abc import Callable, Sequence
import threading
import time
from typing import Any, NamedTuple

from .stats import Statistics

THREAD_NAME = 'kpfeat-worker'
STOP_TIMEOUT_S = 1.0  # a result that takes longer than this is not waited for


class Stage(NamedTuple):
    """
    One step of the work, timed by its name.

    call: takes an item and returns what it becomes; None ends it. together: it takes a list of
    items instead, one or more, and returns one result for each.
    """

    name: str
    call: Callable[[Any], Any]
    together: bool = False


class Item(NamedTuple):
    """What is worked on, and which camera it is from, where there are several."""

    source: str
    value: Any


OnError = Callable[[str, Exception, bool], None]


def abandoned_work() -> bool:
    """Say whether a worker that was stopped is still in mid-stage."""
    return any(thread.name == THREAD_NAME for thread in threading.enumerate())


class Worker:
    """
    Passes the newest items through stages, each timed by its name, in a thread of its own.

    A stage receives what the one before returned; None ends the item as skipped, except from the
    last. An exception ends it as failed, is counted by kind, and is passed on to
    `on_error(kind, error, first)`; the worker goes on with the next item whatever happened.

    Sources take turns. Up to `batch` items, each of another source, are worked on together: the
    first waits for the others no longer than `wait_s`. Both may be changed at any time. Where
    several fail together, each is tried alone.
    """

    def __init__(
        self,
        stages: Sequence[Stage | tuple],
        statistics: Statistics,
        on_error: OnError,
        batch: int = 1,
        wait_s: float = 0.0,
    ) -> None:
        self.batch, self.wait_s = batch, wait_s
        self._stages = [Stage(*stage) for stage in stages]
        self._statistics = statistics
        self._on_error = on_error
        self._changed = threading.Condition()
        self._waiting: dict[str, Any] = {}  # by source: one that is replaced keeps its turn
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

    def submit(self, value: Any, source: str = '') -> None:
        """Hand over the newest item; never blocks. A worker that is stopped ignores it."""
        with self._changed:
            if self._thread is None or self._stopping.is_set():
                return
            if source in self._waiting:
                self._statistics.count('dropped', source=source)
            self._waiting[source] = value
            self._changed.notify_all()

    def ask_to_stop(self) -> None:
        """Forget what waits and let the items at work be the last; returns at once."""
        with self._changed:
            if not self._stopping.is_set():
                self._asked_at = time.monotonic()
            self._stopping.set()
            for source in self._waiting:
                self._statistics.count('dropped', source=source)
            self._waiting.clear()
            self._changed.notify_all()

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> bool:
        """
        Wait until the items at work are done; false if that takes too long: they are abandoned.

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
            self._process(taken, stopping)
            taken.clear()  # nothing is held while waiting for the next

    def _next(self, stopping: threading.Event) -> list[Item]:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or stopping.is_set())
            if self.wait_s > 0:
                self._changed.wait_for(
                    lambda: len(self._waiting) >= self.batch or stopping.is_set(), self.wait_s
                )
            if stopping.is_set():
                return []
            sources = list(self._waiting)[: max(1, self.batch)]
            return [Item(source, self._waiting.pop(source)) for source in sources]

    def _process(self, items: list[Item], stopping: threading.Event) -> None:
        """Pass items through all stages."""
        for stage in self._stages:
            passed = []
            for some in [items] if stage.together else [[item] for item in items]:
                passed += self._pass(stage, some, stopping)
            items[:] = passed
            if not items:
                return
        for source, _ in items:
            self._statistics.count('processed', source=source)

    def _pass(self, stage: Stage, items: list[Item], stopping: threading.Event) -> list[Item]:
        """Return the items that come out of a stage."""
        if stopping.is_set():  # what a stage needs, such as a publisher, may be gone
            self._drop(items)
            return []
        start = time.perf_counter()
        try:
            values = [item.value for item in items]
            values = stage.call(values) if stage.together else [stage.call(values[0])]
        except Exception as error:
            return self._fail(stage, items, stopping, error)
        self._statistics.add_duration(stage.name, time.perf_counter() - start)
        if stage is self._stages[-1]:
            return items
        passed = []
        for (source, _), value in zip(items, values, strict=True):
            if value is None:
                self._statistics.count('skipped', source=source)
            else:
                passed.append(Item(source, value))
        return passed

    def _fail(
        self, stage: Stage, items: list[Item], stopping: threading.Event, error: Exception
    ) -> list[Item]:
        if stopping.is_set():
            self._drop(items)
            return []
        kind = getattr(error, 'kind', type(error).__name__)
        if len(items) > 1:
            kind = f'together.{kind}'
            self._on_error(kind, error, self._statistics.count(f'retried.{kind}') == 1)
            return [done for item in items for done in self._pass(stage, [item], stopping)]
        self._on_error(kind, error, self._statistics.fail(kind, items[0].source))
        return []

    def _drop(self, items: list[Item]) -> None:
        for source, _ in items:
            self._statistics.count('dropped', source=source)
