"""Descriptors, keypoints and cameras as COLMAP takes them."""

import importlib.util

import cv2
from kpfeat_core.bags.colmap import camera_model, descriptors_to_sift, keypoints_to_colmap
from kpfeat_core.camera import Calibration
import numpy as np
import pytest

SIZE = (640, 480)
MATRIX = np.array([[500.0, 0, 311], [0, 510, 249], [0, 0, 1]])
LENSES = {
    'PINHOLE': ('plumb_bob', (0.0,) * 5),
    'OPENCV': ('plumb_bob', (-0.2, 0.05, 0.001, -0.002, 0.0)),
    'FULL_OPENCV': ('rational_polynomial', (0.3, -0.1, 0.001, 0.002, 0.02, 0.5, -0.06, 0.01)),
    'OPENCV_FISHEYE': ('equidistant', (-0.02, 0.01, -0.004, 0.001)),
}


def described(size, count=300):
    """Return unit descriptors, and the same with noise, so that some neighbours are near."""
    random = np.random.default_rng(size)
    first = random.normal(size=(count, size))
    second = first + 0.6 * random.normal(size=first.shape)
    return [(d / np.linalg.norm(d, axis=1, keepdims=True)).astype('f4') for d in (first, second)]


def distances(first, second):
    return np.linalg.norm(first[:, None] - second[None], axis=2)


@pytest.mark.parametrize('size', [32, 64, 127])
def test_distances_of_up_to_127_numbers_are_kept(size):
    first, second = described(size)
    expected = distances(first, second)
    found = distances(*(descriptors_to_sift(d).astype(float) for d in (first, second)))
    scale = np.median(found / expected)
    assert np.abs(found - scale * expected).max() < 0.03 * scale


@pytest.mark.parametrize('size', [64, 127, 128, 256])
def test_neighbours_are_the_same_by_distance_and_by_product(size):
    first, second = described(size)
    expected = distances(first, second).argmin(1)
    bytes0, bytes1 = (descriptors_to_sift(d).astype(float) for d in (first, second))
    assert (distances(bytes0, bytes1).argmin(1) == expected).mean() > 0.99
    assert ((bytes0 @ bytes1.T).argmax(1) == expected).mean() > 0.99


@pytest.mark.parametrize('size', [64, 128, 256])
def test_descriptors_are_bytes_of_the_length_that_colmap_expects(size):
    found = descriptors_to_sift(described(size)[0])
    assert (found.dtype, found.shape[1]) == (np.uint8, 128)
    lengths = np.linalg.norm(found.astype(float), axis=1)
    assert np.abs(lengths - 512).max() < 1
    assert descriptors_to_sift(np.zeros((0, size), np.float32)).shape == (0, 128)


def test_pixels_begin_at_the_corner_of_the_image():
    arrays = {'keypoints': np.array([[0, 0], [10.25, 4]], np.float32)}
    assert keypoints_to_colmap(arrays).tolist() == [[0.5, 0.5], [10.75, 4.5]]
    arrays['orientations'] = np.array([0.1, -0.5], np.float32)
    found = keypoints_to_colmap(arrays)
    assert found.dtype == np.float32
    assert np.allclose(found, [[0.5, 0.5, 1, 0.1], [10.75, 4.5, 1, -0.5]])


@pytest.mark.parametrize('name', LENSES)
def test_cameras_of_colmap_see_what_those_of_opencv_see(name):
    if not importlib.util.find_spec('pycolmap'):  # importing it before OpenCV breaks that
        pytest.skip('pycolmap is not installed')
    import pycolmap

    model, coefficients = LENSES[name]
    found = camera_model(SIZE, Calibration(MATRIX, SIZE, model, coefficients))
    assert (found[0], found[2]) == (name, True)
    camera = pycolmap.Camera(model=found[0], width=SIZE[0], height=SIZE[1], params=found[1])
    points = np.random.default_rng(0).uniform([-0.6, -0.4, 1], [0.6, 0.4, 1.2], (20, 3))
    zero, lens = np.zeros(3), np.array(coefficients)
    if name == 'OPENCV_FISHEYE':
        expected = cv2.fisheye.projectPoints(points[:, None], zero, zero, MATRIX, lens)[0][:, 0]
    else:
        expected = cv2.projectPoints(points, zero, zero, MATRIX, lens)[0][:, 0]
    assert np.allclose(camera.img_from_cam(points), expected + 0.5, atol=1e-9)


@pytest.mark.parametrize(
    'calibration',
    [
        None,
        Calibration(MATRIX, (320, 240)),
        Calibration(MATRIX, SIZE, 'rational_polynomial', (0.1,) * 8 + (0.01,) * 4),
    ],
    ids=['none', 'other size', 'thin prism'],
)
def test_a_camera_that_colmap_cannot_be_told_of_gets_a_guess(calibration):
    assert camera_model(SIZE, calibration) == ('SIMPLE_RADIAL', [768.0, 320.0, 240.0, 0.0], False)
