"""The worker thread: newest wins, failures are survived, and it stops."""

import threading

from kpfeat_core.errors import ImageError
from kpfeat_ros.stats import Statistics
from kpfeat_ros.worker import Worker
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
    assert not any(thread.name == 'kpfeat-worker' for thread in threading.enumerate())


def test_stop_returns_in_time_although_a_stage_hangs(rig) -> None:
    rig.worker.submit(0)
    assert rig.entered.acquire(timeout=WAIT_S)
    assert not rig.worker.stop(timeout_s=0.05)
    rig.gate.release()


def test_worker_can_be_started_again(rig) -> None:
    assert rig.worker.stop(WAIT_S)
    rig.worker.start()
    assert finished(rig) == ['last']
