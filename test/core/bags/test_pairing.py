"""Partners of images: the k-th before, or a keyframe."""

from kpfeat_core.bags.match import make_pairing
from kpfeat_core.bags.request import PairingConfig
from kpfeat_core.config import make_config
from kpfeat_core.errors import ConfigError
import numpy as np
import pytest


class Frame:
    """An image with 100 keypoints that show a scene from a place."""

    def __init__(self, place):
        self.place = place
        self.features = self

    def count(self):
        return 100


class Pair:
    def __init__(self, inliers):
        self.inliers = np.arange(100) < inliers


def match(frame0, frame1):
    """Lose 10 inliers with every step between two places."""
    return Pair(max(0, 100 - 10 * abs(frame0.place - frame1.place)))


def partners(places, **options):
    """Return the positions of the partners, and of the keyframes that were taken."""
    pairing = make_pairing(make_config(PairingConfig, options))
    frames = [Frame(place) for place in places]
    found = [pairing.match(frame, match) for frame in frames]
    assert all((one.partner is None) == (one.pair is None) for one in found)
    chosen = [one.partner and frames.index(one.partner) for one in found]
    return chosen, [k for k, one in enumerate(found) if one.new]


@pytest.mark.parametrize(
    ('every', 'expected'), [(1, [None, 0, 1, 2, 3]), (3, [None, None, None, 0, 1])]
)
def test_each_image_has_the_kth_before_it(every, expected):
    assert partners(range(5), every=every) == (expected, [])


def test_the_image_before_becomes_the_keyframe_where_too_few_are_left():
    chosen, new = partners(range(8), keyframes=True, keyframe_share=0.7)
    assert chosen == [None, 0, 0, 0, 3, 3, 3, 6]
    assert new == [0, 4, 7]  # the image at which it was seen
    assert partners(range(8), keyframes=True, keyframe_share=0.0)[1] == [0]


def test_one_image_of_another_place_does_not_become_a_keyframe():
    chosen, new = partners([0, 0, 50, 0, 0], keyframes=True)
    assert chosen == [None, 0, 1, 1, 1]
    assert new == [0, 2]


def test_after_a_cut_keyframes_are_of_the_new_place():
    chosen, _ = partners([0, 0, 50, 50, 50, 50], keyframes=True)
    assert chosen == [None, 0, 1, 2, 2, 2]


def test_keyframes_beside_every_kth_are_refused():
    with pytest.raises(ConfigError, match='expected one of the two'):
        make_config(PairingConfig, {'every': 2, 'keyframes': True})
    with pytest.raises(ConfigError, match='at least 1'):
        make_config(PairingConfig, {'every': 0})
