"""Tracks over frames, from matches small enough to follow by hand."""

from kpfeat_core.matching import PairMatches
from kpfeat_core.tracks import Tracks
import numpy as np
import pytest


def matches(*pairs, frames=(0, 1), scores=None, inliers=None):
    """Match keypoint i with j for each (i, j); keypoint i of frame f is at (10 i, f)."""
    indices0, indices1 = np.array(pairs, np.int64).reshape(-1, 2).T
    points = [
        np.stack([10.0 * indices, np.full(len(pairs), frame)], 1).astype(np.float32)
        for indices, frame in zip((indices0, indices1), frames, strict=True)
    ]
    count = len(pairs)
    return PairMatches(
        indices0,
        indices1,
        np.ones(count, np.float32) if scores is None else np.array(scores, np.float32),
        *points,
        np.ones(count, bool) if inliers is None else np.array(inliers),
    )


def follow(tracks, *frames):
    """Add matches of frame 0 with 1, 1 with 2, ...: each a list of (i, j)."""
    for number, pairs in enumerate(frames):
        tracks.add(number, number + 1, matches(*pairs, frames=(number, number + 1)))


def paths(tracks):
    return [trail.points.tolist() for trail in tracks.trails()]


def test_matches_of_consecutive_frames_join_to_a_trail():
    tracks = Tracks()
    follow(tracks, [(3, 1)], [(1, 4)])
    assert paths(tracks) == [[[30, 0], [10, 1], [40, 2]]]
    assert tracks.trails()[0].age == 3


def test_a_track_begins_with_the_first_match_ends_without_one_and_old_ones_come_last():
    tracks = Tracks()
    follow(tracks, [(0, 0), (1, 1)], [(1, 1)])
    assert paths(tracks) == [[[10, 0], [10, 1], [10, 2]]]
    tracks = Tracks()
    follow(tracks, [(0, 0)], [(5, 5), (0, 0)])
    assert paths(tracks) == [[[50, 1], [50, 2]], [[0, 0], [0, 1], [0, 2]]]
    assert [trail.age for trail in tracks.trails()] == [2, 3]


def test_trails_reach_back_as_asked_for_ages_go_on_and_memory_is_bounded():
    tracks = Tracks(length=3)
    follow(tracks, *[[(2, 2)]] * 20)
    assert paths(tracks) == [[[20, 18], [20, 19], [20, 20]]]
    assert tracks.trails()[0].age == 21
    tracks = Tracks(length=4)
    follow(tracks, *[[(2, 2), (7, 8)]] * 50)
    assert len(tracks) == 4
    assert max(len(frame.ids) for frame in tracks._frames.values()) <= 3


def test_a_frame_that_was_left_out_ends_the_tracks():
    tracks = Tracks()
    tracks.add('a', 'b', matches((0, 0)))
    tracks.add('c', 'd', matches((0, 0), frames=(2, 3)))
    assert paths(tracks) == [[[0, 2], [0, 3]]]


def test_matches_with_a_reference_make_tracks_through_it():
    tracks = Tracks(length=5)
    for frame in range(1, 4):
        tracks.add('reference', frame, matches((6, frame), frames=(0, frame)))
    assert paths(tracks) == [[[60, 0], [10, 1], [20, 2], [30, 3]]]


def test_the_reference_itself_leaves_the_trail_and_the_track_goes_on():
    tracks = Tracks(length=3)
    for frame in range(1, 9):
        tracks.add('reference', frame, matches((6, 6), frames=(0, frame)))
    assert paths(tracks)[0][-1] == [60, 8]
    assert [60, 0] not in paths(tracks)[0]
    assert tracks.trails()[0].age == 2  # seen in the reference and here


@pytest.mark.parametrize(
    'found, expected',
    [
        (matches((0, 0), (1, 1), inliers=[False, True]), [[10, 0], [10, 1]]),
        (matches((0, 4), (1, 4), scores=[0.2, 0.9]), [[10, 0], [40, 1]]),
        (matches((4, 0), (4, 1), scores=[0.9, 0.2]), [[40, 0], [0, 1]]),
    ],
)
def test_outliers_are_left_out_and_the_better_of_two_matches_makes_the_track(found, expected):
    tracks = Tracks()
    tracks.add(0, 1, found)
    assert paths(tracks) == [expected]


def test_frames_of_one_and_the_same_stamp_are_followed_as_consecutive():
    tracks = Tracks()
    for number in range(3):
        tracks.add(0, 0, matches((1, 1), frames=(number, number + 1)))
    assert paths(tracks)[0][-1] == [10, 3]


def test_many_tracks_keep_apart():
    tracks = Tracks(length=6)
    generator = np.random.default_rng(0)
    order = [np.arange(200)] + [generator.permutation(200) for _ in range(5)]
    for frame in range(5):
        pairs = generator.permutation(np.stack([order[frame], order[frame + 1]], 1))
        tracks.add(frame, frame + 1, matches(*pairs, frames=(frame, frame + 1)))
    found = {tuple(x for x, _ in path) for path in paths(tracks)}
    assert found == {tuple(10.0 * row) for row in np.stack(order, 1)}


def test_nothing_known_frames_without_matches_and_cleared_tracks_give_no_trails():
    tracks = Tracks()
    assert tracks.trails() == []
    follow(tracks, [], [])
    assert tracks.trails() == []
    follow(tracks, [(0, 0)])
    tracks.clear()
    assert tracks.trails() == [] and len(tracks) == 0


@pytest.mark.parametrize('length', [2, 10])
def test_a_changed_length_counts_at_once(length):
    tracks = Tracks(length=5)
    follow(tracks, *[[(0, 0)]] * 8)
    tracks.length = length
    follow(tracks, *[[(0, 0)]] * 1)
    assert len(tracks.trails()[0].points) <= length
