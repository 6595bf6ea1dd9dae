"""Which frames are matched with each other."""

from kpfeat_ros.frames import Frame, FramePairs


def frames(count: int, model: str = 'alike-t') -> list[Frame]:
    return [Frame(header=k, model=model, features=None) for k in range(count)]


def headers(pair: tuple[Frame, Frame] | None) -> tuple[int, int] | None:
    return None if pair is None else (pair[0].header, pair[1].header)


def test_consecutive_frames_are_matched_with_the_one_before() -> None:
    pairs = FramePairs()
    assert [headers(pairs.push(frame)) for frame in frames(3)] == [None, (0, 1), (1, 2)]


def test_first_frame_is_the_reference_until_another_is_set() -> None:
    pairs = FramePairs('reference')
    first = [headers(pairs.push(frame)) for frame in frames(3)]
    assert first == [None, (0, 1), (0, 2)]
    assert pairs.set_reference().header == 2
    assert headers(pairs.push(frames(4)[3])) == (2, 3)


def test_no_reference_can_be_set_before_a_frame_came() -> None:
    assert FramePairs('reference').set_reference() is None


def test_frame_of_another_model_starts_anew() -> None:
    pairs = FramePairs('reference')
    pairs.push(frames(1)[0])
    other = frames(3, model='superpoint')
    assert pairs.push(other[1]) is None
    assert headers(pairs.push(other[2])) == (1, 2)


def test_newest_frame_becomes_the_reference_when_the_mode_changes() -> None:
    pairs = FramePairs()
    for frame in frames(2):
        pairs.push(frame)
    pairs.set_mode('reference')
    assert headers(pairs.push(frames(3)[2])) == (1, 2)
    assert headers(pairs.push(frames(4)[3])) == (1, 3)
