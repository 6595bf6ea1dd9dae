"""Pairing by stamp."""

from types import SimpleNamespace

from kpfeat_ros.frames import stamp_ns, StampBuffer, StampPairs


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


def test_what_is_taken_is_gone():
    buffer = StampBuffer(3)
    buffer.add(1, 'one')
    assert (buffer.take(1), buffer.take(2)) == ('one', None)
    assert buffer.get(1) is None and len(buffer) == 0


def added(pairs: StampPairs, *arrivals: tuple[int, int], tolerance: int = 3) -> list:
    """Add (stream, stamp) one after another, each item being its stamp; gives pairs and losses."""
    return [pairs.add(stream, stamp, stamp, tolerance) for stream, stamp in arrivals]


def test_pair_is_there_when_its_second_part_comes_whichever_that_is() -> None:
    assert added(StampPairs(5), (0, 10), (1, 11), (1, 20), (0, 22)) == [
        (None, 0),
        ((10, 11), 0),
        (None, 0),
        ((22, 20), 0),
    ]


def test_partner_is_the_nearest_within_the_tolerance() -> None:
    assert added(StampPairs(5), (0, 10), (0, 14), (1, 13))[-1] == ((14, 13), 1)
    assert added(StampPairs(5), (0, 10), (1, 14), (0, 17))[-1] == ((17, 14), 1)
    assert added(StampPairs(5), (0, 10), (1, 14))[-1] == (None, 0)


def test_frames_without_partner_are_forgotten_and_counted() -> None:
    pairs = StampPairs(2)
    assert added(pairs, *((0, stamp) for stamp in (10, 20, 30, 40)))[2:] == [(None, 1)] * 2
    assert added(pairs, (1, 30), (1, 40)) == [((30, 30), 0), ((40, 40), 0)]


def test_stamps_that_jump_back_pair_again() -> None:
    pairs = StampPairs(5)
    added(pairs, (0, 1000), (1, 1000), (0, 1010))
    assert added(pairs, (0, 10), (1, 10))[-1] == ((10, 10), 1)


def test_what_is_cleared_waits_no_longer() -> None:
    pairs = StampPairs(5)
    added(pairs, (0, 10))
    pairs.clear()
    assert added(pairs, (1, 10)) == [(None, 0)]
