"""Stages that work at the same time: all items, in order, and never too far ahead."""

from concurrent.futures import ThreadPoolExecutor
import threading
import time

from kpfeat_core.runtime import ahead, batches, in_background
import pytest


def test_all_items_come_in_order():
    assert list(in_background(range(100), 3)) == list(range(100))
    with ThreadPoolExecutor(4) as pool:
        doubled = list(ahead(lambda x: time.sleep(0.001 * (x % 3)) or 2 * x, range(50), pool, 8))
    assert doubled == list(range(0, 100, 2))
    assert list(batches(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]


def test_a_stage_never_gets_further_ahead_than_its_depth():
    made = []
    stage = in_background((made.append(k) or k for k in range(100)), 4)
    next(stage)
    time.sleep(0.2)
    assert len(made) <= 1 + 4 + 1  # taken, ready, and the one that waits for room
    stage.close()


def test_an_error_is_raised_where_the_items_are_taken():
    def broken():
        yield 1
        raise ValueError('no more')

    stage = in_background(broken(), 2)
    assert next(stage) == 1
    with pytest.raises(ValueError, match='no more'):
        next(stage)


def test_who_stops_taking_stops_all_stages_before():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    before = threading.active_count()
    stage = in_background(map(str, in_background(endless(), 2)), 2)
    next(stage)
    stage.close()
    assert closed.wait(5)
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
