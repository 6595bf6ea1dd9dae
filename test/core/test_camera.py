"""Pixels, rays and depths of cameras, keypoints without distortion, parts of images, files."""

import cv2
from kpfeat_core.camera import (
    at_distance,
    Calibration,
    distort,
    part_of,
    read_calibration,
    undistort,
    with_depth,
)
from kpfeat_core.errors import ConfigError, ShapeError
import numpy as np
import pytest

SMALL = np.array([[100.0, 0, 40], [0, 50, 30], [0, 0, 1]])
CAMERA = Calibration(SMALL, (80, 60))


def test_directions_are_distances_from_the_principal_point_over_the_focal_lengths():
    np.testing.assert_allclose(
        CAMERA.directions(np.array([[40.0, 30], [60, 30], [40, 55], [30, 20]])),
        [[0, 0], [0.2, 0], [0, 0.5], [-0.1, -0.2]],
        atol=1e-12,
    )
    camera = Calibration(SMALL, (80, 60), 'anything', (0.0,) * 5)  # no coefficients, no distortion
    np.testing.assert_allclose(camera.directions(np.array([[60.0, 30]])), [[0.2, 0]], atol=1e-12)


def test_a_distance_and_depths_give_points_in_space():
    points = at_distance(CAMERA, np.array([[60.0, 30], [40, 55]]), 2.0)
    np.testing.assert_allclose(points, [[0.4, 0, 2], [0, 1, 2]], atol=1e-12)
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


def test_no_pixels_give_no_points_and_a_depth_image_of_another_size_is_refused():
    points, rows = with_depth(CAMERA, np.zeros((0, 2), np.float32), np.ones((60, 80), np.float32))
    assert points.shape == (0, 3) and rows.shape == (0,)
    with pytest.raises(ShapeError, match='depth image is of 40x30 pixels, the calibration of 80x'):
        with_depth(CAMERA, np.zeros((1, 2)), np.ones((30, 40), np.float32))


def test_no_calibration_an_unknown_distortion_or_count_of_coefficients_are_refused():
    with pytest.raises(ConfigError, match='not calibrated'):
        Calibration(np.zeros((3, 3)), (80, 60))
    with pytest.raises(ConfigError, match="'spiral', expected one of plumb_bob"):
        Calibration(SMALL, (80, 60), 'spiral', (0.1,) * 4)
    with pytest.raises(ConfigError, match="got 3 coefficients .* 'plumb_bob', expected 4 or 5"):
        Calibration(SMALL, (80, 60), 'plumb_bob', (0.1,) * 3)


MATRIX = np.array([[500.0, 0, 319.5], [0, 510.0, 239.5], [0, 0, 1]])
LENSES = {
    'plumb_bob': (-0.35, 0.12, 0.001, -0.002, 0.01),
    'rational_polynomial': (0.5, -0.1, 0.001, 0.0, 0.02, 0.8, 0.1, 0.01),
    'equidistant': (-0.03, 0.01, -0.002, 0.0005),
}
FILE = """
image_width: 640
image_height: 480
camera_name: left
camera_matrix: {rows: 3, cols: 3, data: [500, 0, 319.5, 0, 510, 239.5, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [-0.35, 0.12, 0.001, -0.002, 0.01]}
"""


def lens(model: str) -> Calibration:
    return Calibration(MATRIX, (640, 480), model, LENSES[model])


def seen(model: str, ideal: np.ndarray) -> np.ndarray:
    """Distort ideal pixels with the formulas of the models, written out."""
    x, y = ((ideal - MATRIX[:2, 2]) / [500, 510]).T
    k = LENSES[model]
    if model == 'equidistant':
        r = np.hypot(x, y)
        angle = np.arctan(r)
        bent = angle * (1 + sum(c * angle ** (2 * i) for i, c in enumerate(k, 1)))
        scale = np.divide(bent, r, out=np.ones_like(r), where=r > 0)
        return np.stack([500 * x * scale, 510 * y * scale], 1) + MATRIX[:2, 2]
    k = [*k, *[0.0] * (8 - len(k))]
    r2 = x**2 + y**2
    radial = (1 + k[0] * r2 + k[1] * r2**2 + k[4] * r2**3) / (
        1 + k[5] * r2 + k[6] * r2**2 + k[7] * r2**3
    )
    dx = 2 * k[2] * x * y + k[3] * (r2 + 2 * x**2)
    dy = k[2] * (r2 + 2 * y**2) + 2 * k[3] * x * y
    return np.stack([500 * (x * radial + dx), 510 * (y * radial + dy)], 1) + MATRIX[:2, 2]


@pytest.mark.parametrize('model', LENSES)
def test_undistorting_finds_the_pixels_that_were_distorted_and_distorting_the_others(
    model,
) -> None:
    ideal = np.random.default_rng(0).uniform((0, 0), (639, 479), (200, 2))
    found, good = undistort(lens(model), seen(model, ideal))
    assert good.all()
    assert np.abs(found - ideal).max() < 1e-3
    rays = lens(model).directions(seen(model, ideal))
    assert np.abs(rays * [500, 510] + MATRIX[:2, 2] - ideal).max() < 1e-3
    ideal = np.random.default_rng(0).uniform((-40, -40), (679, 519), (200, 2))
    assert np.allclose(distort(lens(model), ideal), seen(model, ideal), atol=1e-9)
    assert distort(lens(model), ideal.astype(np.float32)).dtype == np.float32


def test_fisheye_without_coefficients_still_bends() -> None:
    fisheye = Calibration(MATRIX, (640, 480), 'equidistant', (0.0,) * 4)
    ideal = np.array([[819.5, 239.5]])  # 45 degrees to the right
    assert np.allclose(distort(fisheye, ideal), [[319.5 + 500 * np.pi / 4, 239.5]])
    assert np.allclose(undistort(fisheye, distort(fisheye, ideal))[0], ideal)


@pytest.mark.parametrize('model', LENSES)
def test_principal_point_stays_and_no_keypoints_give_none(model) -> None:
    found, good = undistort(lens(model), MATRIX[None, :2, 2].astype(np.float32))
    assert good.all() and found.dtype == np.float32
    assert np.allclose(found, MATRIX[:2, 2], atol=1e-3)
    found, good = undistort(lens(model), np.zeros((0, 2), np.float32))
    assert found.shape == (0, 2) and good.shape == (0,)
    assert distort(lens(model), found).shape == (0, 2)


@pytest.mark.parametrize('coefficients', [(), (0.0,) * 5])
def test_ideal_camera_leaves_keypoints_exactly_as_they_are(coefficients) -> None:
    points = np.random.default_rng(0).uniform(0, 400, (20, 2)).astype(np.float32)
    found, good = undistort(Calibration(MATRIX, (640, 480), 'plumb_bob', coefficients), points)
    assert np.array_equal(found, points) and good.all()
    assert np.array_equal(distort(Calibration(MATRIX, (640, 480)), points), points)


@pytest.mark.parametrize(
    ('model', 'coefficients'),
    [('plumb_bob', (-0.35, 0, 0, 0)), ('equidistant', LENSES['equidistant'])],
)
def test_pixel_beyond_what_the_lens_shows_has_no_place(model, coefficients) -> None:
    calibration = Calibration(MATRIX, (640, 480), model, coefficients)
    _, good = undistort(calibration, np.array([[319.5, 239.5], [3000.0, 239.5]]))
    assert good.tolist() == [True, False]


def test_calibration_of_a_binned_part_sees_the_same_directions() -> None:
    part = part_of(lens('plumb_bob'), (100, 60), (401, 300), (2, 3))
    assert part.size == (200, 100)
    pixels = np.array([[0.0, 0.0], [120.0, 80.0]])  # of the part
    whole = (pixels + 0.5) * [2, 3] - 0.5 + [100, 60]
    assert np.allclose(part.directions(pixels), lens('plumb_bob').directions(whole), atol=1e-9)


def test_file_of_camera_calibration_is_read_and_a_missing_one_named(tmp_path) -> None:
    path = tmp_path / 'left.yaml'
    path.write_text(FILE)
    found = read_calibration(path)
    assert np.array_equal(found.matrix, MATRIX)
    assert (found.size, found.model) == ((640, 480), 'plumb_bob')
    assert found.coefficients == LENSES['plumb_bob']
    with pytest.raises(ConfigError, match="'/no/such.yaml' cannot be read: No such file"):
        read_calibration('/no/such.yaml')


@pytest.mark.parametrize(
    ('before', 'after', 'sentence'),
    [
        ('camera_matrix', 'matrix', "'camera_matrix' is missing"),
        ('0.01]', '0.01, 1]', 'got 6 coefficients'),
        ('plumb_bob', 'mirror', "distortion model is 'mirror'"),
        ('[500', '[0', 'not calibrated'),
        ('[500', '[500, 1', 'an entry is not of the expected form'),
        ('[500', '[[', 'no calibration'),
        (FILE, 'text', 'no calibration'),
    ],
)
def test_file_that_is_no_calibration_is_refused_in_words(
    tmp_path, before, after, sentence
) -> None:
    path = tmp_path / 'left.yaml'
    path.write_text(FILE.replace(before, after))
    with pytest.raises(ConfigError, match='left.yaml.*is no calibration') as error:
        read_calibration(path)
    assert sentence in str(error.value)


def test_formulas_of_this_test_are_those_of_opencv() -> None:
    rays = np.array([[[0.3, -0.2, 1.0]]])
    ideal = rays[0, :, :2] * [500, 510] + MATRIX[:2, 2]
    coefficients = np.array(LENSES['plumb_bob'])
    theirs = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), MATRIX, coefficients)[0]
    assert np.allclose(seen('plumb_bob', ideal), theirs[:, 0], atol=1e-9)


def test_models_are_read_by_the_names_of_librealsense() -> None:
    matrix = np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]])
    lens = (0.1, -0.02, 0.001, 0.002)
    for name, known, numbers in (
        ('PLUMB_BOB', 'plumb_bob', (*lens, 0.0)),
        ('Brown Conrady', 'plumb_bob', (*lens, 0.3)),
        ('Kannala Brandt4', 'equidistant', (*lens, 0.0)),
    ):
        found = Calibration(matrix, (320, 240), name, numbers)
        assert found.model == known
        assert found.coefficients == (lens if known == 'equidistant' else numbers)
    with pytest.raises(ConfigError, match="'inverse brown conrady', expected one of"):
        Calibration(matrix, (320, 240), 'Inverse Brown Conrady', (*lens, 0.0))
    with pytest.raises(ConfigError, match='are 0.1, nan, expected finite numbers'):
        Calibration(matrix, (320, 240), 'plumb_bob', (0.1, float('nan')))
