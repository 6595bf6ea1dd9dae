"""Stages that work at the same time, each a plain generator."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import closing, contextmanager
import errno
import heapq
import itertools
from operator import itemgetter
import os
import queue
import threading
from typing import Any, TypeVar

from .recording import Record
from .steps import Journal, Step
from .writers import Sink
from ..errors import DataError

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


FULL = (errno.ENOSPC, errno.EDQUOT)  # h5py says them in its own words
Live = Callable[[int], Iterable[list[Step]]]


def run(
    journal: Journal,
    live: Live,
    sink: Sink,
    copied: Generator[Record, None, None],
    on_step: Callable[[Step], None] = lambda step: None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """
    Write all steps to a sink: those of the journal, then those that are still to be done.

    live: given the index of the first step that is left, yields them and all after it, in lists
    that are kept together. copied: records of the input, in order, which are put between by time.
    check: raises an error where the whole is not to be written after all. The journal is open
    before, and goes when the output is where it belongs.

    Raises DataError where the disk is full; the journal stays, and a later run goes on from it.
    """
    left = _kept(journal, live)
    steps = itertools.chain(journal.replay(), left)
    with said_if_full(lambda: f"{journal.count} images are done and kept in '{journal.folder}'"):
        with closing(left), closing(copied), sink:
            for record in _by_time(copied, _written(steps, on_step)):
                sink.write(record)
            _check(check, journal)
        journal.remove()


@contextmanager
def said_if_full(kept: Callable[[], str]) -> Iterator[None]:
    """Raise DataError where the disk is full; kept: says what is not lost."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL and not any(os.strerror(why) in str(error) for why in FULL):
            raise
        raise DataError(
            f'the disk is full: {kept()}; make room and give the same command again, which goes '
            'on from there'
        ) from error


def _check(check: Callable[[], None], journal: Journal) -> None:
    try:
        check()
    except DataError:  # what is in the journal would only say so again
        journal.remove()
        raise


def _kept(journal: Journal, live: Live) -> Generator[Step, None, None]:
    for steps in live(journal.count):
        journal.add(steps)
        yield from steps


def _written(steps: Iterable[Step], on_step: Callable[[Step], None]) -> Iterator[Record]:
    for step in steps:
        yield from step.records
        on_step(step)


def _by_time(copied: Iterable[Record], made: Iterable[Record]) -> Iterator[Record]:
    """Merge by log time; at the same time what was copied comes first."""
    return heapq.merge(copied, made, key=itemgetter(1))
