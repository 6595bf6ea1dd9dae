"""Pixels and depths of cameras whose geometry is exact."""

import cv2
from kpfeat_core.camera import at_distance, Calibration, with_depth
from kpfeat_core.errors import ConfigError, ShapeError
import numpy as np
import pytest

MATRIX = np.array([[100.0, 0, 40], [0, 50, 30], [0, 0, 1]])
CAMERA = Calibration(MATRIX, (80, 60))


def test_the_principal_point_looks_straight_ahead():
    assert CAMERA.directions(np.array([[40.0, 30]])).tolist() == [[0, 0]]


def test_directions_are_distances_from_the_principal_point_over_the_focal_lengths():
    np.testing.assert_allclose(
        CAMERA.directions(np.array([[60.0, 30], [40, 55], [30, 20]])),
        [[0.2, 0], [0, 0.5], [-0.1, -0.2]],
        atol=1e-12,
    )


@pytest.mark.parametrize(
    ('model', 'coefficients'),
    [
        ('plumb_bob', (-0.2, 0.05, 0.001, -0.002, 0.01)),
        ('rational_polynomial', (0.3, 0.1, 0.001, -0.001, 0.01, 0.25, 0.08, 0.005)),
        ('equidistant', (0.05, -0.01, 0.002, -0.0005)),
    ],
)
def test_the_distortion_of_the_lens_is_undone(model, coefficients):
    directions = np.array([[0.1, -0.2], [0.3, 0.25], [-0.2, 0.1]])
    matrix = np.array([[400.0, 0, 320], [0, 410, 240], [0, 0, 1]])
    if model == 'equidistant':
        seen = cv2.fisheye.distortPoints(directions[:, None], matrix, np.array(coefficients))
    else:
        lifted = np.concatenate([directions, np.ones((3, 1))], 1)
        zero = np.zeros(3)
        seen = cv2.projectPoints(lifted, zero, zero, matrix, np.array(coefficients))[0]
    camera = Calibration(matrix, (640, 480), model, coefficients)
    np.testing.assert_allclose(camera.directions(seen[:, 0]), directions, atol=1e-6)


def test_points_at_a_distance_lie_on_a_plane_before_the_camera():
    points = at_distance(CAMERA, np.array([[60.0, 30], [40, 55]]), 2.0)
    np.testing.assert_allclose(points, [[0.4, 0, 2], [0, 1, 2]], atol=1e-12)


def test_depth_gives_points_in_space():
    depth = np.full((60, 80), np.nan, np.float32)
    depth[30, 60], depth[55, 40] = 4.0, 0.5  # row y, column x
    points, rows = with_depth(CAMERA, np.array([[60.0, 30], [40, 55]]), depth)
    np.testing.assert_allclose(points, [[0.8, 0, 4], [0, 0.25, 0.5]], atol=1e-12)
    assert rows.tolist() == [0, 1]


def test_depth_is_of_the_nearest_pixel_and_the_direction_of_the_exact_place():
    depth = np.ones((60, 80), np.float32)
    depth[:, 61] = 3.0
    points, _ = with_depth(CAMERA, np.array([[60.4, 30], [60.6, 30]]), depth)
    np.testing.assert_allclose(points[:, 2], [1, 3])
    np.testing.assert_allclose(points[:, 0], [0.204, 3 * 0.206], atol=1e-12)


@pytest.mark.parametrize('unknown', [0.0, -1.0, np.nan, np.inf])
def test_unknown_depth_is_skipped(unknown):
    depth = np.full((60, 80), unknown, np.float32)
    depth[10, 20] = 1.0
    points, rows = with_depth(CAMERA, np.array([[5.0, 5], [20, 10], [70, 50]]), depth)
    assert len(points) == 1
    assert rows.tolist() == [1]


def test_pixels_outside_the_depth_image_are_skipped():
    outside = np.array([[-0.6, 5], [79.6, 5], [5, -3], [5, 59.6], [np.nan, 5]])
    depth = np.ones((60, 80), np.float32)
    assert with_depth(CAMERA, outside, depth)[1].tolist() == []
    assert with_depth(CAMERA, np.array([[79.4, 59.4], [-0.4, -0.4]]), depth)[1].tolist() == [0, 1]


def test_no_pixels_give_no_points():
    points, rows = with_depth(CAMERA, np.zeros((0, 2), np.float32), np.ones((60, 80), np.float32))
    assert points.shape == (0, 3) and rows.shape == (0,)


def test_a_depth_image_of_another_size_is_refused():
    with pytest.raises(ShapeError, match='depth image is of 40x30 pixels, the calibration of 80x'):
        with_depth(CAMERA, np.zeros((1, 2)), np.ones((30, 40), np.float32))


def test_a_camera_that_is_not_calibrated_is_refused():
    with pytest.raises(ConfigError, match='not calibrated'):
        Calibration(np.zeros((3, 3)), (80, 60))


def test_an_unknown_distortion_or_count_of_coefficients_is_refused():
    with pytest.raises(ConfigError, match="'spiral', expected one of plumb_bob"):
        Calibration(MATRIX, (80, 60), 'spiral', (0.1,) * 4)
    with pytest.raises(ConfigError, match="got 3 coefficients .* 'plumb_bob', expected 4 or 5"):
        Calibration(MATRIX, (80, 60), 'plumb_bob', (0.1,) * 3)


def test_a_model_without_coefficients_is_no_distortion():
    camera = Calibration(MATRIX, (80, 60), 'anything', (0.0,) * 5)
    np.testing.assert_allclose(camera.directions(np.array([[60.0, 30]])), [[0.2, 0]], atol=1e-12)
