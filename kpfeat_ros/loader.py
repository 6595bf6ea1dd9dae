"""Loading beside the work: in a thread of its own, with the result in the executor's thread."""

from collections.abc import Callable
import threading
from typing import Any

from rclpy.node import Node

from .stats import Statistics
from .worker import Worker

Deliver = Callable[[Any, Any, Exception | None], None]


class Loader:
    """
    Calls `load(request)` in a thread, then `deliver(request, result, error)` in the executor's.

    The newest request wins: one that waits is replaced, one at work is finished and delivered.
    After `close` nothing is delivered, and what is at work is not waited for.
    """

    def __init__(self, node: Node, load: Callable[[Any], Any], deliver: Deliver) -> None:
        self._node = node
        self._load = load
        self._deliver = deliver
        self._lock = threading.Lock()
        self._done: list[tuple[Any, Any, Exception | None]] = []
        self._guard: Any = node.create_guard_condition(self._hand_over)
        # its counts are its own: they are not about images
        self._worker = Worker([('load', self._run)], Statistics(), lambda *_: None)
        self._worker.start()

    def submit(self, request: Any) -> None:
        """Ask for a request to be loaded; returns at once."""
        self._worker.submit(request)

    def close(self) -> None:
        """Deliver nothing any more; the second time does nothing."""
        with self._lock:
            self._done.clear()
            guard, self._guard = self._guard, None
        if guard is not None:
            self._node.destroy_guard_condition(guard)
            self._worker.stop(timeout_s=0.0)

    def _run(self, request: Any) -> None:
        result = trouble = None
        try:
            result = self._load(request)
        except Exception as error:
            trouble = error
        with self._lock:
            if self._guard is not None:
                self._done.append((request, result, trouble))
                self._guard.trigger()

    def _hand_over(self) -> None:
        with self._lock:
            done, self._done = self._done, []
        for request, result, error in done:
            self._deliver(request, result, error)
