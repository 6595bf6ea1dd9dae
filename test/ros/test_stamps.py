"""Pairing by stamp."""

from types import SimpleNamespace

from kpfeat_ros.stamps import stamp_ns, StampBuffer


def test_stamps_are_exact_to_the_nanosecond() -> None:
    header = SimpleNamespace(stamp=SimpleNamespace(sec=1_700_000_000, nanosec=999_999_999))
    assert stamp_ns(header) == 1_700_000_000_999_999_999


def test_only_the_latest_are_kept() -> None:
    buffer = StampBuffer(2)
    for stamp in (1, 2, 3):
        buffer.add(stamp, f'image {stamp}')
    assert len(buffer) == 2
    assert [buffer.get(stamp) for stamp in (1, 2, 3)] == [None, 'image 2', 'image 3']


def test_item_of_the_same_stamp_replaces_the_first() -> None:
    buffer = StampBuffer(2)
    buffer.add(1, 'old')
    buffer.add(1, 'new')
    assert buffer.get(1) == 'new'
    assert len(buffer) == 1


def test_age_is_the_order_of_arrival_so_that_a_bag_can_start_again() -> None:
    buffer = StampBuffer(2)
    for stamp in (100, 101, 5):
        buffer.add(stamp, stamp)
    assert buffer.get(5) == 5
    assert buffer.get(100) is None


def test_pinned_item_outlives_the_others_until_another_is_pinned() -> None:
    buffer = StampBuffer(2)
    for stamp in range(4):
        buffer.add(stamp, stamp + 10)
        buffer.pin(0)
    assert buffer.get(0) == 10
    buffer.pin(2)
    assert buffer.get(0) is None


def test_pinning_what_is_not_there_keeps_the_pinned_one() -> None:
    buffer = StampBuffer(1)
    buffer.add(1, 'reference')
    buffer.pin(1)
    buffer.add(2, 'newer')
    buffer.pin(99)
    assert buffer.get(1) == 'reference'


def test_clear_forgets_the_pinned_item_as_well() -> None:
    buffer = StampBuffer(2)
    buffer.add(1, 'reference')
    buffer.pin(1)
    buffer.clear()
    assert buffer.get(1) is None


def test_the_nearest_stamp_within_the_tolerance_is_found():
    buffer = StampBuffer(3)
    for stamp in (100, 200, 300):
        buffer.add(stamp, f'at {stamp}')
    assert buffer.nearest(210, 20) == 'at 200'
    assert buffer.nearest(280, 20) == 'at 300'
    assert buffer.nearest(220, 20) == 'at 200'
    assert buffer.nearest(221, 20) is None
    assert buffer.nearest(100, 0) == 'at 100'
    assert StampBuffer(3).nearest(0, 10) is None


def test_what_is_forgotten_is_gone():
    buffer = StampBuffer(3)
    buffer.add(1, 'one')
    buffer.forget(1)
    buffer.forget(2)
    assert buffer.get(1) is None and len(buffer) == 0
