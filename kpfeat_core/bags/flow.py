"""Stages that work at the same time, each a plain generator."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
import queue
import threading
from typing import Any, TypeVar

T = TypeVar('T')
R = TypeVar('R')

PATIENCE_S = 0.05  # a stage that waits looks this often whether it is still wanted


def in_background(items: Iterable[T], depth: int) -> Iterator[T]:
    """
    Iterate in a thread of its own, at most `depth` items ahead of who takes them.

    An error is raised where the items are taken. Who stops taking them stops the thread.
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
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
