"""Work in one thread, its result in the executor's: for what takes long or is shared."""

from collections import deque
from collections.abc import Callable
import threading
from typing import Any

from kpfeat_core.errors import ConfigError
from rclpy.node import Node
from rclpy.task import Future

from .stats import Statistics
from .worker import Worker

MOST_WAITING = 8  # requests of a service, each with its image
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
    After `close` nothing is delivered, and what is at work is not waited for.
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

    def close(self) -> None:
        """Deliver nothing any more; the second time does nothing."""
        if self._handover.close():
            self._worker.stop(timeout_s=0.0)

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

    To be awaited in the callback of a service, so that the executor goes on meanwhile.
    """

    def __init__(self, node: Node, do: Callable[[Any], Any]) -> None:
        self._node = node
        self._background = Background(node, do, self._deliver)
        self._waiting: deque[tuple[Any, Future]] = deque()  # the first one is at work

    async def answer(self, item: Any) -> Any:
        """
        Return what `do` returns, or raise what it raises.

        Raises ConfigError where too many wait already.
        """
        if len(self._waiting) >= MOST_WAITING:
            raise ConfigError(
                f'{MOST_WAITING} requests wait already; wait for their answers first'
            )
        future = Future(executor=self._node.executor)
        self._waiting.append((item, future))
        if len(self._waiting) == 1:
            self._background.submit(item)
        result, error = await future
        if error:
            raise error
        return result

    def close(self, reason: str = '') -> None:
        """Answer all that wait with a ConfigError of this reason; without one, never."""
        self._background.close()
        waiting, self._waiting = self._waiting, deque()
        for _, future in waiting if reason else ():
            future.set_result((None, ConfigError(reason)))

    def _deliver(self, _: Any, result: Any, error: Exception | None) -> None:
        _, future = self._waiting.popleft()
        if self._waiting:
            self._background.submit(self._waiting[0][0])
        future.set_result((result, error))
