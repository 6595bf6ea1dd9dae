"""Relative pose from points in space whose true cameras are known."""

import math

import cv2
from kpfeat_core.evaluation import two_view
import numpy as np
import pytest
import torch

K0 = np.array([[600.0, 0, 319.5], [0, 610, 239.5], [0, 0, 1]])
K1 = np.array([[500.0, 0, 300], [0, 500, 250], [0, 0, 1]])
SIDEWAYS = (1.0, 0.2, 0.1)


def camera(turn_rad=(0.1, 0.2, -0.1), move=SIDEWAYS):
    T_0to1 = np.eye(4)
    T_0to1[:3, :3] = cv2.Rodrigues(np.array(turn_rad, float))[0]
    T_0to1[:3, 3] = move
    return T_0to1


def project(points, K):
    pixels = points @ K.T
    return pixels[:, :2] / pixels[:, 2:]


def views(T_0to1, count=200, wrong=0.0, noise_px=0.0, seed=0):
    """Return matched pixels of points 4 to 9 in front of camera 0; the first ones are wrong."""
    rng = np.random.default_rng(seed)
    space = np.c_[rng.uniform(-3, 3, (count, 2)), rng.uniform(4, 9, count)]
    points0 = project(space, K0)
    points1 = project(space @ T_0to1[:3, :3].T + T_0to1[:3, 3], K1)
    points0 += rng.normal(0, noise_px, points0.shape)
    points1 += rng.normal(0, noise_px, points1.shape)
    points1[: round(wrong * count)] = rng.uniform(0, 600, (round(wrong * count), 2))
    return torch.from_numpy(points0), torch.from_numpy(points1)


def estimate(points0, points1, threshold_px=1.0, plain=False):
    return two_view.estimate_relative_pose(points0, points1, K0, K1, threshold_px, plain)


def test_perfect_matches_give_the_true_pose_and_swapped_x_and_y_another():
    truth = camera()
    points0, points1 = views(truth)
    pose = estimate(points0, points1)
    assert two_view.pose_error(truth, pose) < 1e-3
    assert pose.inliers.all()
    assert np.linalg.norm(pose.t) == pytest.approx(1)
    assert pose.t @ truth[:3, 3] > 0  # points in front of both cameras decide the sign
    assert two_view.pose_error(truth, estimate(points0.flip(1), points1)) > 10
    quarter_turn = camera(turn_rad=(0, 0, math.pi / 2))  # about the view
    for strong in (quarter_turn, camera(turn_rad=(0, 0.05, 0), move=(0, 0, -1))):
        assert two_view.pose_error(strong, estimate(*views(strong, noise_px=0.3))) < 0.5


@pytest.mark.parametrize('seed', range(5))
def test_with_noise_and_a_third_of_wrong_matches_the_pose_is_within_half_a_degree(seed):
    truth = camera()
    pose = estimate(*views(truth, wrong=0.3, noise_px=0.3, seed=seed))
    assert two_view.pose_error(truth, pose) < 0.5
    assert pose.inliers[60:].mean() > 0.9
    assert pose.inliers[:60].mean() < 0.1


def test_the_median_error_of_many_pairs_is_a_tenth_of_a_degree():
    truth = camera()
    pairs = [views(truth, count=300, wrong=0.3, noise_px=0.3, seed=seed) for seed in range(30)]
    errors = [two_view.pose_error(truth, estimate(*pair)) for pair in pairs]
    assert np.median(errors) < 0.12


def test_plain_ransac_is_less_precise_and_needs_more_precise_points():
    truth = camera()
    medians = []
    for noise_px in (0.1, 0.3):
        pairs = [views(truth, 300, 0.3, noise_px, seed) for seed in range(6)]
        errors = [two_view.pose_error(truth, estimate(*pair, plain=True)) for pair in pairs]
        medians.append(np.median(errors))
    assert medians[0] < 0.75 * medians[1]
    assert 0.12 < medians[1] < 2  # refined poses are within 0.12


@pytest.mark.parametrize('plain', [False, True])
def test_the_same_matches_give_the_same_pose(plain):
    points = views(camera(), wrong=0.5, noise_px=0.5)
    first = estimate(*points, plain=plain)
    cv2.setRNGSeed(5)
    second = estimate(*points, plain=plain)
    assert np.array_equal(first.R, second.R)
    assert np.array_equal(first.t, second.t)
    assert np.array_equal(first.inliers, second.inliers)


def test_the_threshold_is_in_pixels():
    points0, points1 = views(camera(move=(1, 0, 0), turn_rad=(0, 0, 0)))
    points1[::4, 1] += 3  # across the epipolar lines
    assert not estimate(points0, points1, 1.0).inliers[::4].any()
    assert estimate(points0, points1, 6.0).inliers.mean() > 0.95


@pytest.mark.parametrize(('sampson_px', 'agrees'), [(0.85, True), (1.15, False)])
def test_inliers_are_within_the_threshold_by_sampson_distance(sampson_px, agrees):
    points0, points1 = views(camera(move=(1, 0, 0), turn_rad=(0, 0, 0)))
    # errors of one image alone are shared by both; the mean focal length is 552.5, this one's 500
    off = sampson_px * math.sqrt(2) * 500 / 552.5
    points1[::8, 1] += off
    points1[4::8, 1] -= off
    inliers = estimate(points0, points1, 1.0).inliers
    assert (inliers[::4] == agrees).mean() > 0.95
    assert np.delete(inliers, np.s_[::4]).all()


def test_a_camera_that_only_turns_has_its_rotation_measured():
    truth = camera(move=(0, 0, 0))
    pose = estimate(*views(truth, wrong=0.3, noise_px=0.3))
    rotation, translation = two_view.pose_error_deg(truth, pose.R, pose.t)
    assert rotation < 0.5
    assert translation == 0


def test_too_few_matches_and_points_that_coincide_give_no_pose():
    points0, points1 = views(camera(), count=5)
    for count in (0, 1, 5):
        assert estimate(points0[:count], points1[:count]) is None
    same = torch.full((20, 2), 100.0)
    assert estimate(same, same) is None


def test_points_that_are_not_finite_are_no_inliers():
    truth = camera()
    points0, points1 = views(truth)
    points0[3], points1[7, 0] = math.nan, math.inf
    pose = estimate(points0, points1)
    assert two_view.pose_error(truth, pose) < 1e-3
    assert np.flatnonzero(~pose.inliers).tolist() == [3, 7]
    assert estimate(points0 * math.nan, points1) is None


@pytest.mark.parametrize('angle', [1e-6, 0.5, 90, 179.9, 180])
def test_rotation_error_is_the_angle_of_the_turn_left(angle):
    axis = np.array([1.0, 2, -2]) / 3 * math.radians(angle)
    R, t = cv2.Rodrigues(axis)[0], np.array(SIDEWAYS)
    found, moved = two_view.pose_error_deg(camera((0, 0, 0)), R, t)
    assert found == pytest.approx(angle, rel=1e-6)
    assert moved == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(('angle', 'error'), [(0, 0), (30, 30), (90, 90), (150, 30), (180, 0)])
def test_translation_error_is_the_angle_between_lines(angle, error):
    t = np.array([math.cos(math.radians(angle)), math.sin(math.radians(angle)), 0])
    found = two_view.pose_error_deg(camera(move=(3, 0, 0)), camera()[:3, :3], t)
    assert found == pytest.approx((0, error), abs=1e-6)


def test_pose_error_is_the_larger_angle_and_infinite_without_an_estimate():
    turned = cv2.Rodrigues(np.array([0, math.radians(3), 0]))[0]
    none = np.zeros(0, bool)
    pose = two_view.RelativePose(turned, np.array([1.0, 0, 0]), none)
    assert two_view.pose_error(camera((0, 0, 0), (5, 0, 0)), pose) == pytest.approx(3)
    assert two_view.pose_error(camera((0, 0, 0), (0, 5, 0)), pose) == pytest.approx(90)
    assert two_view.pose_error(camera(), None) == math.inf


def test_epipolar_errors_are_twice_the_square_of_pixels_across_over_the_focal_length():
    truth = camera()
    errors = two_view.epipolar_errors(*views(truth), K0, K1, truth)
    assert errors.shape == (200,) and errors.max() < 1e-20
    sideways = camera((0, 0, 0), (1, 0, 0))  # lines are rows
    focal = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    points0 = torch.tensor([[100.0, 200.0], [300.0, 50.0]])
    points1 = points0 + torch.tensor([[-30.0, 0.5], [-12.0, -0.5]])
    errors = two_view.epipolar_errors(points0, points1, focal, focal, sideways)
    assert errors.tolist() == pytest.approx([2 * (0.5 / 500) ** 2] * 2)
    none = torch.zeros(0, 2)
    assert two_view.epipolar_errors(none, none, K0, K1, truth).tolist() == []


def test_epipolar_errors_are_the_same_both_ways():
    truth = camera()
    points0, points1 = views(truth, noise_px=2.0)
    there = two_view.epipolar_errors(points0, points1, K0, K1, truth)
    back = two_view.epipolar_errors(points1, points0, K1, K0, np.linalg.inv(truth))
    assert torch.allclose(there, back)
    assert (there > 0).all()


def test_wrong_matches_and_swapped_x_and_y_are_off_their_lines():
    truth = camera()
    points0, points1 = views(truth, wrong=0.5)
    right = two_view.epipolar_errors(points0, points1, K0, K1, truth) < 5e-4
    assert right[100:].all()
    assert right[:100].double().mean() < 0.2
    swapped = two_view.epipolar_errors(points0[100:].flip(1), points1[100:], K0, K1, truth)
    assert (swapped < 5e-4).double().mean() < 0.2


def test_there_are_no_lines_and_no_right_matches_where_the_camera_only_turned():
    truth = camera(move=(0, 0, 0))
    errors = two_view.epipolar_errors(*views(truth), K0, K1, truth)
    assert errors.isnan().all()
    assert not (errors < 5e-4).any()


def test_camera_coordinates_are_zero_at_the_principal_point_and_one_a_focal_length_away():
    pixels = torch.tensor([[319.5, 239.5], [919.5, 239.5], [319.5, 849.5]])
    rays = two_view.camera_coordinates(pixels, torch.from_numpy(K0))
    assert rays.tolist() == [[0, 0], [1, 0], [0, 1]]
