"""The worker thread: newest wins, failures are survived, and it stops."""

import threading
import weakref

from kpfeat_core.errors import ImageError
from kpfeat_ros.stats import Statistics
from kpfeat_ros.worker import abandoned_work, Worker
import numpy as np
import pytest

WAIT_S = 10.0


class Rig:
    """A worker whose only stage waits at a gate and then notes its item."""

    def __init__(self) -> None:
        self.entered, self.gate = threading.Semaphore(0), threading.Semaphore(0)
        self.done: list[object] = []
        self.errors: list[tuple[str, str, bool]] = []
        self.statistics = Statistics()
        stages = [('wait', self.wait), ('note', self.note)]
        self.worker = Worker(stages, self.statistics, self.on_error)

    def wait(self, item: object) -> object:
        self.entered.release()
        assert self.gate.acquire(timeout=WAIT_S)
        if isinstance(item, Exception):
            raise item
        return item

    def note(self, item: object) -> None:
        self.done.append(item)

    def on_error(self, kind: str, error: Exception, first: bool) -> None:
        self.errors.append((kind, str(error), first))

    def feed(self, *items: object) -> None:
        """Pass items one after another, waiting until each is at work."""
        for item in items:
            self.worker.submit(item)
            assert self.entered.acquire(timeout=WAIT_S)
            self.gate.release()


@pytest.fixture
def rig():
    rig = Rig()
    rig.worker.start()
    yield rig
    rig.gate.release(100)
    assert rig.worker.stop(WAIT_S)


def finished(rig: Rig) -> list[object]:
    rig.feed('last')
    rig.worker.submit('never')  # taken up only once 'last' is done
    assert rig.entered.acquire(timeout=WAIT_S)
    return rig.done


def test_every_item_is_processed_when_they_come_slowly(rig) -> None:
    rig.feed(1, 2, 3)
    assert finished(rig) == [1, 2, 3, 'last']
    assert rig.statistics.total('dropped') == 0
    assert rig.statistics.total('processed') == 4


def test_newest_item_wins_and_the_ones_before_are_counted_as_dropped(rig) -> None:
    rig.worker.submit(0)
    assert rig.entered.acquire(timeout=WAIT_S)  # 0 is at work
    for item in (1, 2, 3, 4):
        rig.worker.submit(item)
    rig.gate.release(2)
    assert rig.entered.acquire(timeout=WAIT_S)  # 4 is at work
    assert finished(rig) == [0, 4, 'last']
    assert rig.statistics.total('dropped') == 3


def test_failures_are_counted_by_kind_reported_and_survived(rig) -> None:
    rig.feed(ImageError('too small'), ValueError('ours'), ImageError('again'))
    assert finished(rig) == ['last']
    assert rig.errors == [
        ('ImageError', 'too small', True),
        ('ValueError', 'ours', True),
        ('ImageError', 'again', False),
    ]
    assert rig.statistics.total('failed') == 3
    assert rig.statistics.total('failed.ImageError') == 2


def test_stages_are_timed_by_name(rig) -> None:
    rig.feed(1)
    finished(rig)
    assert set(rig.statistics.report().durations_ms) == {'wait', 'note'}


def test_none_ends_an_item_early(rig) -> None:
    rig.feed(None)
    assert finished(rig) == ['last']
    assert rig.statistics.total('skipped') == 1
    assert rig.statistics.total('processed') == 1
    assert rig.errors == []


def test_stop_forgets_what_waits_and_ends_the_thread(rig) -> None:
    rig.worker.submit(0)
    assert rig.entered.acquire(timeout=WAIT_S)
    rig.worker.submit(1)
    rig.gate.release(2)
    assert rig.worker.stop(WAIT_S)
    assert 1 not in rig.done
    assert rig.statistics.total('dropped') == 1 + (not rig.done)
    assert not any(thread.name == 'kpfeat-worker' for thread in threading.enumerate())


def test_stop_returns_in_time_although_a_stage_hangs(rig) -> None:
    rig.worker.submit(0)
    assert rig.entered.acquire(timeout=WAIT_S)
    assert not rig.worker.stop(timeout_s=0.05)
    assert abandoned_work()
    rig.gate.release()


def test_worker_can_be_started_again(rig) -> None:
    assert rig.worker.stop(WAIT_S)
    rig.worker.start()
    assert finished(rig) == ['last']


def test_item_in_mid_stage_when_the_worker_stops_comes_to_nothing(rig) -> None:
    rig.worker.submit(0)
    assert rig.entered.acquire(timeout=WAIT_S)
    abandoned = rig.worker._thread
    assert not rig.worker.stop(timeout_s=0.05)
    rig.worker.start()  # beside the thread that was abandoned, which must not take part again
    rig.gate.release()
    abandoned.join(WAIT_S)
    assert not abandoned.is_alive()
    assert rig.done == []
    assert rig.statistics.total('dropped') == 1
    assert finished(rig) == ['last']


def test_stopped_worker_ignores_items(rig) -> None:
    assert rig.worker.stop(WAIT_S)
    rig.worker.submit(1)
    rig.worker.start()
    assert finished(rig) == ['last']


def test_workers_that_were_asked_together_stop_side_by_side() -> None:
    rigs = [Rig() for _ in range(3)]
    for each in rigs:
        each.worker.start()
        each.worker.submit(0)
        assert each.entered.acquire(timeout=WAIT_S)
    for each in rigs:
        each.worker.ask_to_stop()
        each.worker.ask_to_stop()  # the time runs since the first
    rigs[0].worker._asked_at -= WAIT_S  # as if that time had passed
    assert not rigs[0].worker.stop(WAIT_S)  # so it does not wait any more
    for each in rigs:
        each.gate.release()
    assert all(each.worker.stop(WAIT_S) for each in rigs)


def test_at_most_two_items_are_held_however_fast_they_come(rig) -> None:
    images = []
    for _ in range(10_000):
        image = np.zeros((48, 64), np.uint8)
        images.append(weakref.ref(image))
        rig.worker.submit(image)
    del image
    assert rig.entered.acquire(timeout=WAIT_S)
    alive = [k for k, image in enumerate(images) if image() is not None]
    assert len(alive) <= 2 and alive[-1] == len(images) - 1
    rig.done = []
    rig.gate.release(2)
    finished(rig)
    rig.done.clear()
    assert not any(image() is not None for image in images)
    assert rig.statistics.total('dropped') >= len(images) - 2
