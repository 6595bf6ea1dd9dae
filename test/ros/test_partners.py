"""What belongs to the same time meets, in whatever order it comes."""

from types import SimpleNamespace
from typing import Any

from kpfeat_ros.frames import Partners


def at(ms: int, **more: Any) -> Any:
    stamp = SimpleNamespace(sec=ms // 1000, nanosec=ms % 1000 * 1_000_000)
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp), **more)


def matches(ms0: int, ms1: int) -> Any:
    return SimpleNamespace(header0=at(ms0).header, header=at(ms1).header)


def test_features_meet_their_image_once_whichever_comes_first() -> None:
    partners, image, features = Partners(3), at(1), at(1)
    assert partners.add_image('image', image) is None
    assert partners.image_of(features) is image
    assert partners.image_of(at(2)) is None  # waits
    assert partners.add_image('image', at(2)).header.stamp.nanosec == 2_000_000
    assert partners.add_image('image', at(2)) is None


def test_features_meet_the_nearest_depth_image_within_the_tolerance() -> None:
    partners, features = Partners(3), at(10)
    assert partners.depth_of(features, 5_000_000) is None
    assert partners.add_depth(at(16), 5_000_000) is None
    assert partners.add_depth(at(14), 5_000_000) is features
    assert partners.add_depth(at(13), 5_000_000) is None
    assert partners.depth_of(at(17), 5_000_000).header.stamp.nanosec == 16_000_000


def test_image_0_of_matches_is_kept_however_many_come_after() -> None:
    partners, reference = Partners(2), at(0)
    partners.add_image('image', reference)
    for ms in range(1, 6):
        image = at(ms)
        partners.add_image('image', image)
        assert partners.images_of(matches(0, ms)) == (reference, image)


def test_image_1_of_matches_is_that_of_the_second_camera() -> None:
    partners, left, right = Partners(2, 'image1'), at(1), at(1)
    partners.add_image('image', left)
    assert partners.add_image('image1', right) is None
    assert partners.images_of(matches(1, 1)) == (left, right)


def test_what_nobody_has_a_use_for_is_forgotten() -> None:
    partners = Partners(2)
    partners.add_image('image', at(1))
    partners.add_depth(at(1), 0)
    partners.keep_only({'image'}, {'matches'})
    assert partners.image_of(at(1)) is not None
    assert not partners.has_depth
    partners.keep_only((), ())
    assert partners.image_of(at(1)) is None
