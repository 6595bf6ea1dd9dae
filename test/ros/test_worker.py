"""The worker thread: newest wins, failures are survived, and it stops."""

import threading
import time
import weakref

from kpfeat_core.errors import ImageError
from kpfeat_ros.diagnostics import Statistics
from kpfeat_ros.worker import abandoned_work, Stage, Worker
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
    rig.feed(ImageError('too small'), ValueError('ours'), ImageError('too small'))
    assert finished(rig) == ['last']
    assert rig.errors == [
        ('ImageError', 'too small', True),
        ('ValueError', 'ours', True),
        ('ImageError', 'too small', False),
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


class Cameras:
    """A worker of three cameras, whose stages note what they are given."""

    def __init__(self, **options) -> None:
        self.gate, self.entered = threading.Semaphore(0), threading.Semaphore(0)
        self.batches: list[list[str]] = []
        self.done: list[str] = []
        self.errors: list[str] = []
        self.statistics = Statistics()
        stages = [
            Stage('check', self.check),
            Stage('work', self.work, together=True),
            Stage('note', self.done.append),
        ]
        note = lambda kind, error, first: self.errors.append(f'{kind}: {error}')  # noqa: E731
        self.worker = Worker(stages, self.statistics, note, **options)
        self.worker.start()

    def check(self, item: str) -> str | None:
        if 'bad' in item:
            raise ImageError('bad')
        return None if 'skip' in item else item

    def work(self, items: list[str]) -> list[str]:
        self.entered.release()
        assert self.gate.acquire(timeout=WAIT_S)
        self.batches.append(items)
        if any('poison' in item for item in items):
            raise ImageError('poison')
        return items

    def hold(self) -> None:
        """Let the worker be at work on something until the gate opens."""
        self.worker.submit('held', 'z')
        assert self.entered.acquire(timeout=WAIT_S)

    def finish(self) -> None:
        self.gate.release(100)
        end = time.monotonic() + WAIT_S
        while self.worker._waiting and time.monotonic() < end:
            time.sleep(0.001)
        assert self.worker.stop(WAIT_S)


def test_newest_of_each_camera_is_worked_on_and_cameras_take_turns() -> None:
    rig = Cameras()
    rig.hold()
    for item in ('a1', 'a2', 'b1', 'a3', 'c1', 'b2'):
        rig.worker.submit(item, item[0])
    rig.finish()
    assert rig.done == ['held', 'a3', 'b2', 'c1']
    assert rig.statistics.total('dropped') == 3
    dropped = [rig.statistics.total(f'{camera}.dropped') for camera in 'abc']
    assert dropped == [2, 1, 0]
    assert rig.statistics.total('a.processed') == 1


def test_images_of_several_cameras_are_worked_on_together() -> None:
    rig = Cameras(batch=2)
    rig.hold()
    for item in ('a1', 'b1', 'c1'):
        rig.worker.submit(item, item[0])
    rig.finish()
    assert rig.batches == [['held'], ['a1', 'b1'], ['c1']]
    assert rig.done == ['held', 'a1', 'b1', 'c1']


def test_first_waits_for_others_no_longer_than_allowed() -> None:
    rig = Cameras(batch=2, wait_s=WAIT_S)
    rig.gate.release(100)
    rig.worker.submit('a1', 'a')
    assert not rig.entered.acquire(timeout=0.05)
    rig.worker.submit('b1', 'b')
    assert rig.entered.acquire(timeout=WAIT_S)
    rig.worker.wait_s = 0.01
    rig.worker.submit('a2', 'a')
    assert rig.entered.acquire(timeout=WAIT_S)
    rig.finish()
    assert rig.batches == [['a1', 'b1'], ['a2']]


def test_bad_image_of_one_camera_does_not_hurt_those_of_others() -> None:
    rig = Cameras(batch=3)
    rig.hold()
    for item in ('a bad', 'b1', 'c skip'):
        rig.worker.submit(item, item[0])
    rig.finish()
    assert rig.batches == [['held'], ['b1']] and rig.done == ['held', 'b1']
    assert rig.errors == ['ImageError: bad']
    assert rig.statistics.total('a.failed') == rig.statistics.total('c.skipped') == 1


def test_those_that_fail_together_are_tried_alone() -> None:
    rig = Cameras(batch=3)
    rig.hold()
    for item in ('a1', 'b poison', 'c1'):
        rig.worker.submit(item, item[0])
    rig.finish()
    assert rig.batches[1:] == [['a1', 'b poison', 'c1'], ['a1'], ['b poison'], ['c1']]
    assert rig.done == ['held', 'a1', 'c1']
    assert rig.errors == ['together.ImageError: poison', 'ImageError: poison']
    assert rig.statistics.total('failed') == rig.statistics.total('b.failed') == 1
