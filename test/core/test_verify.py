"""Geometric verification on scenes whose truth is known."""

import cv2
from kpfeat_core.errors import ConfigError, ShapeError
from kpfeat_core.matching import find_geometry
import numpy as np
import pytest
import torch

HOMOGRAPHY = np.array([[0.9, 0.1, 20.0], [-0.1, 1.1, 5.0], [1e-4, 2e-4, 1.0]])
CORNERS = np.array([[0.0, 0], [639, 0], [639, 479], [0, 479]])


def warp(matrix, points):
    """Apply a homography to points (K, 2)."""
    lifted = np.c_[points, np.ones(len(points))] @ matrix.T
    return lifted[:, :2] / lifted[:, 2:]


def homography_scene(count=200, outliers=60, noise=0.3):
    """Return matched points, the first `outliers` of them wrong by far."""
    rng = np.random.default_rng(0)
    points0 = rng.uniform(0, 640, (count, 2))
    points1 = warp(HOMOGRAPHY, points0) + rng.normal(0, noise, (count, 2))
    points1[:outliers] += rng.choice([-1, 1], (outliers, 2)) * rng.uniform(40, 90, (outliers, 2))
    return points0, points1


def epipolar_scene(count=200, outliers=60, noise=0.2):
    """Return projections of random 3D points into two cameras."""
    rng = np.random.default_rng(0)
    world = rng.uniform([-3, -2, 4], [3, 2, 12], (count, 3))
    camera = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    rotation = cv2.Rodrigues(np.array([0.02, 0.1, 0.03]))[0]
    moved = world @ rotation.T + [0.5, 0.05, 0.1]
    points0, points1 = ((x @ camera.T)[:, :2] / x[:, 2:] for x in (world, moved))
    points1 = points1 + rng.normal(0, noise, points1.shape)
    points1[:outliers] = rng.uniform(0, 480, (outliers, 2))
    return points0, points1


def test_homography_and_its_inliers_are_found_among_outliers():
    points0, points1 = homography_scene()
    matrix, inliers = find_geometry(points0, points1, 'homography', 3.0)
    assert inliers.dtype == bool
    assert not inliers[:60].any() and inliers[60:].all()
    assert np.linalg.norm(warp(matrix, CORNERS) - warp(HOMOGRAPHY, CORNERS), axis=1).max() < 1.0
    assert matrix[2, 2] == 1.0


def test_inliers_of_a_homography_are_the_points_within_the_threshold():
    points0, points1 = homography_scene(noise=1.5)
    matrix, inliers = find_geometry(points0, points1, 'homography', 2.0)
    error = np.linalg.norm(warp(matrix, points0) - points1, axis=1)
    assert 0.3 < inliers.mean() < 0.7
    assert np.array_equal(inliers, error <= 2.0)


def test_fundamental_matrix_takes_points_to_epipolar_lines():
    points0, points1 = epipolar_scene()
    matrix, inliers = find_geometry(points0, points1, 'fundamental', 1.0)
    assert inliers[60:].mean() > 0.95 and inliers[:60].mean() < 0.1
    assert np.isclose(np.linalg.norm(matrix), 1.0)
    lines = np.c_[points0[60:], np.ones(140)] @ matrix.T  # x1ᵀ F x0 = 0
    distance = (np.c_[points1[60:], np.ones(140)] * lines).sum(1)
    distance = np.abs(distance) / np.linalg.norm(lines[:, :2], axis=1)
    assert np.median(distance) < 0.5


@pytest.mark.parametrize('kind', ['homography', 'fundamental'])
def test_the_same_points_give_the_same_answer(kind):
    points = homography_scene(noise=2.0) if kind == 'homography' else epipolar_scene(noise=1.0)
    first = find_geometry(*points, kind, 1.5)
    cv2.setRNGSeed(77)
    second = find_geometry(*points, kind, 1.5)
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])


@pytest.mark.parametrize('kind, fewest', [('homography', 4), ('fundamental', 8)])
def test_too_few_points_give_no_matrix_and_no_inliers(kind, fewest):
    scene = homography_scene if kind == 'homography' else epipolar_scene
    points0, points1 = scene(fewest, outliers=0, noise=0.0)
    assert find_geometry(points0, points1, kind)[0] is not None
    matrix, inliers = find_geometry(points0[1:], points1[1:], kind)
    assert matrix is None
    assert inliers.tolist() == [False] * (fewest - 1)


@pytest.mark.parametrize('kind', ['homography', 'fundamental', 'none'])
def test_no_points_at_all_are_no_error(kind):
    matrix, inliers = find_geometry(np.zeros((0, 2)), np.zeros((0, 2)), kind)
    assert matrix is None and inliers.shape == (0,)


@pytest.mark.parametrize('points', [np.ones((20, 2)), np.arange(20.0)[:, None] * [1.0, 2.0]])
def test_points_that_fix_no_homography_give_none(points):
    matrix, inliers = find_geometry(points, points + 1, 'homography')
    assert matrix is None and not inliers.any()


def test_points_that_are_not_finite_are_never_inliers():
    points0, points1 = homography_scene(outliers=0)
    points0[3, 0], points1[5, 1] = np.nan, np.inf
    matrix, inliers = find_geometry(points0, points1)
    assert matrix is not None
    assert np.flatnonzero(~inliers).tolist() == [3, 5]


def test_none_fits_nothing_and_rejects_nothing():
    points0, points1 = homography_scene()
    matrix, inliers = find_geometry(points0, points1, 'none')
    assert matrix is None and inliers.all()


def test_tensors_are_taken_as_they_are():
    points0, points1 = homography_scene()
    expected = find_geometry(points0, points1)
    found = find_geometry(torch.tensor(points0), torch.tensor(points1))
    assert np.array_equal(found[1], expected[1])


def test_unequal_counts_and_wrong_shapes_are_refused():
    with pytest.raises(ShapeError, match='5 points0 beside 4'):
        find_geometry(np.zeros((5, 2)), np.zeros((4, 2)))
    with pytest.raises(ShapeError, match=r'\(2, 5\), expected \(K, 2\)'):
        find_geometry(np.zeros((2, 5)), np.zeros((2, 5)))


def test_an_unknown_kind_and_a_threshold_of_zero_are_refused():
    points = np.zeros((9, 2))
    with pytest.raises(ConfigError, match="'affine', expected none, homography, fundamental"):
        find_geometry(points, points, 'affine')
    with pytest.raises(ConfigError, match='more than 0'):
        find_geometry(points, points, 'homography', 0.0)
