"""Which frames are matched with each other, and what belongs to the same stamp."""

from types import SimpleNamespace
from typing import Any

from kpfeat_core.messages.definitions import stamp_ns
from kpfeat_ros.frames import (
    ApproximateTimeSync,
    FramePairs,
    OverlayInputs,
    StampBuffer,
    StampedFeatures,
)
import pytest


def frame(stamp: int, model: str = 'alike-t', frame_id: str = 'camera') -> StampedFeatures:
    header = SimpleNamespace(stamp=SimpleNamespace(sec=stamp, nanosec=7), frame_id=frame_id)
    return StampedFeatures(header=header, model=model, features=None)


def frames(count: int, model: str = 'alike-t') -> list[StampedFeatures]:
    return [frame(k, model) for k in range(count)]


def headers(pair: tuple[StampedFeatures, StampedFeatures] | None) -> tuple[int, int] | None:
    return None if pair is None else (pair[0].header.stamp.sec, pair[1].header.stamp.sec)


def pushed(pairs: FramePairs, *given: StampedFeatures, mixed: bool = False) -> list:
    """Return the pair of each frame, or why there is none."""
    return [headers(pairs.push(each, mixed)) or pairs.apart for each in given]


def test_frames_before_and_after_a_jump_back_in_time_are_no_pair() -> None:
    given = [frame(k) for k in (5, 6, 2, 3)]
    assert pushed(FramePairs(), *given) == ['', (5, 6), 'time_jump', (2, 3)]
    assert pushed(FramePairs('reference'), *given) == ['', (5, 6), (5, 2), (5, 3)]


def test_frames_of_another_frame_id_are_no_pair_and_a_reference_stays() -> None:
    given = [frame(1), frame(2, frame_id='other'), frame(3, frame_id='other'), frame(4)]
    assert pushed(FramePairs(), *given) == ['', 'frame_id', (2, 3), 'frame_id']
    assert pushed(FramePairs('reference'), *given) == ['', 'frame_id', 'frame_id', (1, 4)]


def test_frames_of_a_topic_that_publishers_share_are_no_pairs() -> None:
    pairs = FramePairs()
    assert pushed(pairs, frame(1), frame(2), mixed=True) == ['', 'publisher']
    assert pushed(pairs, frame(3)) == [(2, 3)]


def test_stamps_that_are_not_set_say_nothing_about_the_order_and_join_nothing() -> None:
    unset = frame(0)
    unset.header.stamp.nanosec = 0
    assert pushed(FramePairs(), frame(3), unset, frame(2)) == ['', (3, 0), (0, 2)]
    buffer = StampBuffer(3)
    buffer.add(0, 'a')
    assert len(buffer) == 0 and buffer.get(0) is None


def test_consecutive_frames_are_matched_with_the_one_before() -> None:
    pairs = FramePairs()
    assert [headers(pairs.push(each)) for each in frames(3)] == [None, (0, 1), (1, 2)]


def test_first_frame_is_the_reference_until_another_is_set() -> None:
    pairs = FramePairs('reference')
    assert pairs.set_reference() is None  # before a frame came
    first = [headers(pairs.push(each)) for each in frames(3)]
    assert first == [None, (0, 1), (0, 2)]
    assert pairs.set_reference().header.stamp.sec == 2
    assert headers(pairs.push(frames(4)[3])) == (2, 3)


def test_frame_of_another_model_starts_anew() -> None:
    pairs = FramePairs('reference')
    pairs.push(frames(1)[0])
    other = frames(3, model='superpoint')
    assert pairs.push(other[1]) is None
    assert headers(pairs.push(other[2])) == (1, 2)


def test_newest_frame_becomes_the_reference_when_the_mode_changes() -> None:
    pairs = FramePairs()
    for each in frames(2):
        pairs.push(each)
    pairs.set_mode('reference')
    assert headers(pairs.push(frames(3)[2])) == (1, 2)
    assert headers(pairs.push(frames(4)[3])) == (1, 3)


def test_stamps_are_exact_to_the_nanosecond() -> None:
    header = SimpleNamespace(stamp=SimpleNamespace(sec=1_700_000_000, nanosec=999_999_999))
    assert stamp_ns(header) == 1_700_000_000_999_999_999


def buffer_of(size: int, *stamps: int) -> StampBuffer:
    buffer = StampBuffer(size)
    for stamp in stamps:
        buffer.add(stamp, f'at {stamp}')
    return buffer


@pytest.mark.parametrize(
    ('arrivals', 'kept'), [((1, 2, 3), {2, 3}), ((100, 101, 5), {101, 5}), ((1, 1), {1})]
)
def test_only_the_latest_to_arrive_are_kept_also_when_a_bag_starts_again(arrivals, kept) -> None:
    buffer = buffer_of(2, *arrivals)
    assert len(buffer) == len(kept)
    assert {stamp for stamp in arrivals if buffer.get(stamp) == f'at {stamp}'} == kept


def test_item_of_the_same_stamp_replaces_the_first() -> None:
    buffer = buffer_of(2, 1)
    buffer.add(1, 'new')
    assert buffer.get(1) == 'new'


def test_pinned_item_outlives_the_others_until_another_is_pinned_or_all_is_cleared() -> None:
    buffer = StampBuffer(2)
    for stamp in range(1, 5):
        buffer.add(stamp, stamp + 10)
        buffer.pin(1)
    buffer.pin(99)  # is not there: the pinned one stays
    assert buffer.get(1) == 11
    buffer.pin(3)
    assert buffer.get(1) is None
    buffer.clear()
    assert buffer.get(3) is None


@pytest.mark.parametrize(
    ('stamp', 'tolerance', 'found'),
    [(210, 20, 200), (280, 20, 300), (220, 20, 200), (221, 20, None), (100, 0, 100)],
)
def test_the_nearest_stamp_within_the_tolerance_is_found(stamp, tolerance, found) -> None:
    expected = None if found is None else f'at {found}'
    assert buffer_of(3, 100, 200, 300).nearest(stamp, tolerance) == expected
    assert StampBuffer(3).nearest(stamp, tolerance) is None


def test_item_that_is_taken_is_gone() -> None:
    buffer = buffer_of(3, 1)
    assert (buffer.take(1), buffer.take(2)) == ('at 1', None)
    assert buffer.get(1) is None and len(buffer) == 0


def added(sync: ApproximateTimeSync, *arrivals: tuple[int, int], tolerance: int = 3) -> list:
    """Add (stream, stamp) one after another, each item being its stamp; gives pairs and losses."""
    return [sync.add(stream, stamp, stamp, tolerance) for stream, stamp in arrivals]


def test_pair_is_there_when_its_second_part_comes_whichever_that_is() -> None:
    assert added(ApproximateTimeSync(5), (0, 10), (1, 11), (1, 20), (0, 22)) == [
        (None, 0),
        ((10, 11), 0),
        (None, 0),
        ((22, 20), 0),
    ]


@pytest.mark.parametrize(
    ('arrivals', 'last'),
    [
        (((0, 10), (0, 14), (1, 13)), ((14, 13), 1)),
        (((0, 10), (1, 14), (0, 17)), ((17, 14), 1)),
        (((0, 10), (1, 14)), (None, 0)),
        (((0, 1000), (1, 1000), (0, 1010), (0, 10), (1, 10)), ((10, 10), 1)),  # jumped back
    ],
)
def test_partner_is_the_nearest_within_the_tolerance(arrivals, last) -> None:
    assert added(ApproximateTimeSync(5), *arrivals)[-1] == last


def test_frames_without_partner_are_forgotten_and_counted() -> None:
    sync = ApproximateTimeSync(2)
    assert added(sync, *((0, stamp) for stamp in (10, 20, 30, 40)))[2:] == [(None, 1)] * 2
    assert added(sync, (1, 30), (1, 40)) == [((30, 30), 0), ((40, 40), 0)]
    added(sync, (0, 50))
    sync.clear()
    assert added(sync, (1, 50)) == [(None, 0)]


def at(ms: int) -> Any:
    stamp = SimpleNamespace(sec=ms // 1000, nanosec=ms % 1000 * 1_000_000)
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp))


def matches(ms0: int, ms1: int) -> Any:
    return SimpleNamespace(header0=at(ms0).header, header=at(ms1).header)


def test_features_meet_their_image_once_whichever_comes_first() -> None:
    inputs, image, features = OverlayInputs(3), at(1), at(1)
    assert inputs.add_image('image', image) is None
    assert inputs.image_of(features) is image
    assert inputs.image_of(at(2)) is None  # waits
    assert inputs.add_image('image', at(2)).header.stamp.nanosec == 2_000_000
    assert inputs.add_image('image', at(2)) is None


def test_features_meet_the_nearest_depth_image_within_the_tolerance() -> None:
    inputs, features = OverlayInputs(3), at(10)
    assert inputs.depth_of(features, 5_000_000) is None
    assert inputs.add_depth(at(16), 5_000_000) is None
    assert inputs.add_depth(at(14), 5_000_000) is features
    assert inputs.add_depth(at(13), 5_000_000) is None
    assert inputs.depth_of(at(17), 5_000_000).header.stamp.nanosec == 16_000_000


def test_image_0_of_matches_is_kept_however_many_come_after() -> None:
    inputs, reference = OverlayInputs(2), at(9)
    inputs.add_image('image', reference)
    for ms in range(1, 6):
        image = at(ms)
        inputs.add_image('image', image)
        assert inputs.images_of(matches(9, ms)) == (reference, image)


def test_image_1_of_matches_is_that_of_the_second_camera() -> None:
    inputs, left, right = OverlayInputs(2, 'image1'), at(1), at(1)
    inputs.add_image('image', left)
    assert inputs.add_image('image1', right) is None
    assert inputs.images_of(matches(1, 1)) == (left, right)


def test_inputs_that_no_output_needs_are_forgotten() -> None:
    inputs = OverlayInputs(2)
    inputs.add_image('image', at(1))
    inputs.add_depth(at(1), 0)
    inputs.keep_only({'image'}, {'matches'})
    assert inputs.image_of(at(1)) is not None
    assert not inputs.has_depth
    inputs.keep_only((), ())
    assert inputs.image_of(at(1)) is None
