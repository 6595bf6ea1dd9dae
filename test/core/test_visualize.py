"""Pictures: sizes, places and colours."""

import cv2
from kpfeat_core.errors import ImageError, ShapeError
from kpfeat_core.features import Features
from kpfeat_core.tracks import Trail
from kpfeat_core.visualize import (
    CORRECT,
    draw_features,
    draw_matches,
    draw_tracks,
    GAP,
    side_by_side,
    to_rgb8,
    WRONG,
)
import numpy as np
import pytest
import torch


def features_at(points, scores, **extra):
    """Return features of a 80x60 image."""
    count = len(points)
    arrays = {
        'keypoints': np.asarray(points, np.float32),
        'keypoint_scores': np.asarray(scores, np.float32),
        'descriptors': np.ones((count, 2), np.float32),
        'image_size': np.array([80, 60], np.float32),
    }
    return Features.from_numpy(arrays | {k: np.asarray(v, np.float32) for k, v in extra.items()})


def gray(height=60, width=80, value=128):
    """Return a flat gray image."""
    return np.full((height, width), value, np.uint8)


def changed(picture, background=128):
    """Return which pixels were drawn on."""
    return (picture != background).any(2)


def test_a_keypoint_is_drawn_at_x_y_to_parts_of_a_pixel_and_nowhere_else():
    picture = draw_features(gray(), features_at([[60, 20]], [1.0]))
    y, x = np.nonzero(changed(picture))
    assert picture.shape == (60, 80, 3) and picture.dtype == np.uint8
    assert abs(x.mean() - 60) < 0.1 and abs(y.mean() - 20) < 0.1
    assert np.hypot(x - 60, y - 20).max() < 8
    moved = draw_features(gray(), features_at([[60.5, 20]], [1.0]))
    assert not np.array_equal(moved, picture)


def test_the_strongest_is_red_and_the_weakest_blue():
    picture = draw_features(gray(), features_at([[20, 30], [60, 30]], [0.1, 0.2])).astype(int)
    weak, strong = picture[:, :40], picture[:, 40:]
    assert (weak[..., 2] - weak[..., 0]).max() > 100
    assert (strong[..., 0] - strong[..., 2]).max() > 100
    assert (strong[..., 2] - strong[..., 0]).max() < 50


def test_a_larger_scale_gives_a_larger_circle():
    features = features_at([[15, 30], [55, 30]], [1.0, 1.0], scales=[2.0, 6.0])
    drawn = changed(draw_features(gray(), features))
    small, large = np.nonzero(drawn[:, :30])[0], np.nonzero(drawn[:, 30:])[0]
    assert np.ptp(large) > 1.5 * np.ptp(small)


def test_an_orientation_of_a_quarter_turn_points_down_the_image():
    features = features_at([[40, 30]], [1.0], orientations=[np.pi / 2])
    y, x = np.nonzero(changed(draw_features(gray(), features)))
    assert y.max() - 30 > 30 - y.min()
    assert abs((x.max() - 40) - (40 - x.min())) <= 1


def test_the_image_given_is_not_drawn_on_and_nothing_to_draw_gives_the_plain_picture():
    image, empty = np.full((60, 80, 3), 128, np.uint8), np.zeros((0, 2))
    draw_features(image, features_at([[40, 30]], [1.0]))
    draw_matches(image, image, [[1, 1]], [[9, 9]])
    assert (image == 128).all()
    assert not changed(draw_features(gray(), features_at(empty, []))).any()
    assert draw_matches(gray(), gray(), empty, empty).shape == (60, 160 + GAP, 3)
    assert not changed(draw_tracks(gray(), [])).any()


def test_images_of_different_sizes_and_types_stand_side_by_side():
    left = np.full((40, 50, 3), 0.5)
    right = np.full((90, 30), 40000, np.uint16)
    picture, offset = side_by_side(left, right)
    assert picture.shape == (90, 50 + GAP + 30, 3)
    assert offset == 50 + GAP
    assert (picture[:40, :50] == 128).all()
    assert (picture[:, offset:] == 40000 >> 8).all()
    assert not picture[40:, :50].any()


def test_correct_matches_are_green_and_wrong_ones_red():
    points0, points1 = [[10, 10], [10, 50]], [[70, 10], [70, 50]]
    picture = draw_matches(gray(), gray(), points0, points1, correct=[True, False])
    assert tuple(picture[10, 10]) == CORRECT
    assert tuple(picture[10, 80 + GAP + 70]) == CORRECT
    assert tuple(picture[50, 10]) == WRONG
    assert changed(picture)[:, 40].sum() > 0
    picture = draw_matches(gray(), gray(), points0, points1, True)  # one value for all
    assert tuple(picture[50, 10]) == CORRECT


def test_a_limit_keeps_the_matches_with_the_best_scores():
    points = [[10, 10], [10, 30], [10, 50]]
    picture = draw_matches(gray(), gray(), points, points, scores=[0.1, 0.9, 0.5], limit=2)
    drawn = changed(picture)[:, 10]
    assert not drawn[10] and drawn[30] and drawn[50]


def test_tensors_are_drawn_as_arrays_are():
    image = np.zeros((40, 60, 3), np.uint8)
    points, right = torch.tensor([[10.0, 12.0], [30.0, 20.0]]), torch.tensor([True, False])
    drawn = draw_matches(image, image, points.requires_grad_(), points, correct=right)
    arrays = points.detach().numpy()
    expected = draw_matches(image, image, arrays, arrays, correct=right.numpy())
    np.testing.assert_array_equal(drawn, expected)


def test_points_and_values_that_do_not_fit_and_what_is_no_image_are_refused():
    with pytest.raises(ShapeError, match='2 points0 beside 1 points1'):
        draw_matches(gray(), gray(), np.zeros((2, 2)), np.zeros((1, 2)))
    with pytest.raises(ShapeError, match=r'scores has shape \(3,\), expected \(2,\)'):
        draw_matches(gray(), gray(), np.zeros((2, 2)), np.zeros((2, 2)), scores=[1, 2, 3])
    for image in (np.zeros((4, 5, 2)), np.zeros((0, 5)), np.zeros(7)):
        with pytest.raises(ImageError, match='image has shape'):
            to_rgb8(image)
    with pytest.raises(ImageError, match='type int64'):
        to_rgb8(np.zeros((4, 5), np.int64))


def trail(*points, age=2):
    return Trail(np.array(points, np.float32), age)


def test_a_trail_is_drawn_along_its_way_with_a_dot_at_its_newest_place():
    picture = draw_tracks(gray(), [trail([10, 50], [40, 50], [40, 20])])
    drawn = changed(picture)
    assert drawn[50, 10:40].all() and drawn[20:50, 40].all()
    y, x = np.nonzero(drawn)
    assert np.minimum(abs(y - 50), abs(x - 40)).max() <= 4
    assert drawn[20, 37:44].all() and not drawn[53, 10]


def test_the_way_of_the_last_frames_is_strong_and_old_tracks_are_red_and_new_ones_blue():
    picture = draw_tracks(gray(), [trail(*([x, 30] for x in range(5, 76, 10)))]).astype(int)
    pale, strong = (np.abs(picture[30, x] - 128).max() for x in (20, 60))
    assert 10 < pale < 0.6 * strong
    picture = draw_tracks(gray(), [trail([10, 10], [20, 10]), trail([50, 10], [60, 10], age=500)])
    new, old = picture[10, 20].astype(int), picture[10, 60].astype(int)
    assert new[2] - new[0] > 100
    assert old[0] - old[2] > 100


def test_places_that_are_not_finite_are_left_out_of_matches_and_trails():
    points0, points1 = [[np.nan, 1], [20, 30]], [[5, 5], [np.inf, 30]]
    picture = draw_matches(gray(), gray(), points0, points1, scores=[1, 1])
    assert not changed(picture)[:, :80].any()
    picture = draw_tracks(gray(), [trail([np.nan, 5], [30, 30]), trail([np.inf, 5], [np.nan, 0])])
    assert changed(picture)[30, 30]
    assert not changed(picture)[:25].any() and not changed(picture)[:, :25].any()


def test_many_matches_are_drawn_at_the_places_of_few():
    points = np.array([[10.0, 10.0], [40.0, 30.0]])
    few = draw_matches(gray(), gray(), points, points + 5, correct=True)
    many = np.repeat(points, 400, axis=0)
    picture = draw_matches(gray(), gray(), many, many + 5, correct=True)
    both = changed_pair(few), changed_pair(picture)
    assert (both[0] & both[1]).sum() > 0.4 * both[0].sum()  # lines of three pixels and of one
    near = cv2.dilate(both[0].astype(np.uint8), np.ones((3, 3))).astype(bool)
    assert not (both[1] & ~near).any()


def changed_pair(picture):
    plain = draw_matches(gray(), gray(), np.zeros((0, 2)), np.zeros((0, 2)))
    return (picture != plain).any(2)
