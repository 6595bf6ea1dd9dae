"""
The thread that does the work of a node, so that its executor never waits.

One item of each source waits at most: a newer one takes its place, and the older one is counted
as dropped. Memory is bounded at any input rate, and the result is never older than it must be.
Free of ROS.
"""

from collections import deque
from collections.abc import Callable, Sequence
import threading
import time
from typing import Any, NamedTuple

from kpfeat_core.errors import ConfigError
from rclpy.node import Node
from rclpy.task import Future

from .diagnostics import reason_of, Statistics

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
    """Return whether a worker that was stopped is still in mid-stage."""
    return any(thread.name == THREAD_NAME for thread in threading.enumerate())


class Worker:
    """
    Passes the newest items through stages, each timed by its name, in a thread of its own.

    A stage receives what the one before returned; None ends the item as skipped, except from the
    last. An exception ends it as failed, is counted by kind, and is passed on to
    `on_error(kind, error, first)`, first if its reason is new; the worker goes on with the next
    item whatever happened.

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
        if stopping.is_set():  # a publisher that a stage needs may be gone
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
        first = self._statistics.fail(kind, items[0].source, reason_of(error))
        self._on_error(kind, error, first)
        return []

    def _drop(self, items: list[Item]) -> None:
        for source, _ in items:
            self._statistics.count('dropped', source=source)


Deliver = Callable[[Any, Any, Exception | None], None]


class Handover:
    """
    Calls `deliver(*item)` in the executor's thread for each item that other threads put.

    most: how many wait at most, the newest; None for all. After `close` nothing is delivered.
    """

    def __init__(self, node: Node, deliver: Callable[..., None], most: int | None = None) -> None:
        self._node = node
        self._deliver = deliver
        self._lock = threading.Lock()
        self._items: deque[tuple] = deque(maxlen=most)
        self._guard: Any = node.create_guard_condition(self._hand_over)

    def put(self, *item: Any) -> None:
        """Hand over an item; never blocks."""
        with self._lock:
            if self._guard is not None:
                self._items.append(item)
                self._guard.trigger()

    def close(self) -> bool:
        """Deliver nothing any more; false if that was so before."""
        with self._lock:
            self._items.clear()
            guard, self._guard = self._guard, None
        if guard is not None:
            self._node.destroy_guard_condition(guard)
        return guard is not None

    def _hand_over(self) -> None:
        while True:
            with self._lock:
                if not self._items:
                    return
                item = self._items.popleft()
            self._deliver(*item)


class Background:
    """
    Calls `do(request)` in a thread, then `deliver(request, result, error)` in the executor's.

    The newest request wins: one that waits is replaced, one at work is finished and delivered.
    """

    def __init__(self, node: Node, do: Callable[[Any], Any], deliver: Deliver) -> None:
        self._do = do
        self._handover = Handover(node, deliver)
        # its counts are its own: they are not about images
        self._worker = Worker([('do', self._run)], Statistics(), lambda *_: None)
        self._worker.start()

    def submit(self, request: Any) -> None:
        """Ask for a request to be done; returns at once."""
        self._worker.submit(request)

    def close(self, timeout_s: float = 0.0) -> None:
        """Deliver nothing any more; what is at work is waited for no longer than timeout_s."""
        if self._handover.close():
            self._worker.stop(timeout_s)

    def _run(self, request: Any) -> None:
        result = trouble = None
        try:
            result = self._do(request)
        except Exception as error:
            trouble = error
        self._handover.put(request, result, trouble)


class Requests:
    """
    Calls `do(item)` in a thread for each of several items, in the order in which they came.

    To be awaited in the callback of a service, so that the executor goes on meanwhile. most: how
    many may wait, None for any number.
    """

    def __init__(self, node: Node, do: Callable[[Any], Any], most: int | None = None) -> None:
        self._node, self._most = node, most
        self._background = Background(node, do, self._deliver)
        self._waiting: deque[tuple[Any, Future]] = deque()  # the first one is at work

    async def answer(self, item: Any) -> Any:
        """
        Return the result of `do`, or raise its error.

        Raises ConfigError where too many wait already.
        """
        if self._most is not None and len(self._waiting) >= self._most:
            raise ConfigError(f'{self._most} requests wait already; wait for their answers first')
        future = Future(executor=self._node.executor)
        self._waiting.append((item, future))
        if len(self._waiting) == 1:
            self._background.submit(item)
        result, error = await future
        if error:
            raise error
        return result

    def close(self, reason: str = '', timeout_s: float = 0.0) -> None:
        """Answer all that wait with a ConfigError of this reason; without one, never."""
        self._background.close(timeout_s)
        waiting, self._waiting = self._waiting, deque()
        for _, future in waiting if reason else ():
            future.set_result((None, ConfigError(reason)))

    def _deliver(self, _: Any, result: Any, error: Exception | None) -> None:
        _, future = self._waiting.popleft()
        if self._waiting:
            self._background.submit(self._waiting[0][0])
        future.set_result((result, error))
