"""Metrics on points whose truth can be checked by hand."""

import math

from kpfeat_core.evaluation import metrics
import numpy as np
import pytest
import torch

IDENTITY = torch.eye(3, dtype=torch.float64)
MOVED = torch.tensor([[1.0, 0, 10], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
GRID = torch.tensor([[20.0, 10.0], [40.0, 30.0], [60.0, 50.0], [80.0, 70.0]])
SIZE = (100, 80)


def test_perfect_matches_have_no_error_and_full_accuracy():
    errors = metrics.match_errors(GRID, GRID + torch.tensor([10.0, 0.0]), MOVED)
    assert errors.tolist() == [0, 0, 0, 0]
    assert metrics.matching_accuracy(errors, (1, 3, 5)) == [1, 1, 1]


def test_a_shift_of_half_a_pixel_is_an_error_of_half_a_pixel():
    errors = metrics.match_errors(GRID, GRID + torch.tensor([0.5, 0.0]), IDENTITY)
    assert errors.tolist() == pytest.approx([0.5] * 4)
    assert metrics.matching_accuracy(errors, (0.4, 0.5)) == [0, 1]


def test_swapped_x_and_y_are_wrong_matches():
    errors = metrics.match_errors(GRID, GRID.flip(1), IDENTITY)
    assert errors.tolist() == pytest.approx([10 * math.sqrt(2)] * 4)
    assert metrics.matching_accuracy(errors, (1, 3, 5)) == [0, 0, 0]


def test_accuracy_counts_each_threshold_and_includes_the_border():
    errors = torch.tensor([0.5, 1.0, 3.0, 5.1])
    assert metrics.matching_accuracy(errors, (1, 3, 5)) == [0.5, 0.75, 0.75]


def test_no_matches_are_no_accuracy():
    none = torch.zeros(0, 2)
    errors = metrics.match_errors(none, none, IDENTITY)
    assert metrics.matching_accuracy(errors, (1, 3)) == [0, 0]


def test_a_point_behind_infinity_is_infinitely_wrong():
    tilted = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-0.02, 0, 1]], dtype=torch.float64)
    errors = metrics.match_errors(GRID, GRID, tilted)
    assert errors[2:].tolist() == [math.inf, math.inf]  # beyond x = 50, where the depth is 0
    assert errors[:2].isfinite().all()


def test_keypoints_found_again_everywhere_are_fully_repeatable():
    found = metrics.repeatability(GRID, GRID + torch.tensor([10.0, 0]), MOVED, SIZE, SIZE)
    assert found == (1.0, 0.0, 8)


def test_repeatability_measures_the_distance_of_what_is_found_again():
    found = metrics.repeatability(GRID, GRID + torch.tensor([0.5, 0]), IDENTITY, SIZE, SIZE)
    assert found.share == 1
    assert found.localization_px == pytest.approx(0.5)


def test_repeatability_ignores_keypoints_that_the_other_image_does_not_show():
    points0 = torch.tensor([[20.0, 10.0], [95.0, 10.0]])  # the second falls at x = 105
    points1 = torch.tensor([[30.0, 10.0], [5.0, 10.0]])  # the second comes from x = -5
    found = metrics.repeatability(points0, points1, MOVED, SIZE, SIZE)
    assert found == (1.0, 0.0, 2)


def test_repeatability_looks_at_the_size_of_the_image_where_a_point_falls():
    points0 = torch.tensor([[20.0, 10.0], [70.0, 10.0]])  # image 1 is too narrow for the second
    found = metrics.repeatability(points0, points0[:1], IDENTITY, SIZE, (50, 200))
    assert found == (1.0, 0.0, 2)
    found = metrics.repeatability(points0[:1], points0, IDENTITY, (50, 200), SIZE)
    assert found == (1.0, 0.0, 2)


def test_repeatability_counts_both_directions():
    points1 = GRID[:2]
    found = metrics.repeatability(GRID, points1, IDENTITY, SIZE, SIZE)
    assert found.share == pytest.approx((2 + 2) / (4 + 2))


@pytest.mark.parametrize('points1', [torch.zeros(0, 2), torch.tensor([[99.0, 1.0]])])
def test_repeatability_is_zero_where_nothing_is_shared_or_found_again(points1):
    found = metrics.repeatability(GRID, points1, IDENTITY, SIZE, SIZE)
    assert found.share == 0
    assert math.isnan(found.localization_px)


def test_one_point_repeated_is_fully_repeatable():
    found = metrics.repeatability(GRID[:1], GRID[:1], IDENTITY, SIZE, SIZE)
    assert found == (1.0, 0.0, 2)


def test_the_true_homography_has_no_corner_error_at_any_scale():
    assert metrics.corner_error(3 * MOVED.numpy(), MOVED, SIZE) == pytest.approx(0, abs=1e-9)


def test_corner_error_of_a_shift_is_the_shift():
    assert metrics.corner_error(np.eye(3), MOVED, SIZE) == pytest.approx(10)


def test_corner_error_is_the_mean_over_the_last_pixels_of_the_image():
    stretched = np.diag([2.0, 1.0, 1.0])  # moves two corners by width - 1
    assert metrics.corner_error(stretched, IDENTITY, SIZE) == pytest.approx(99 / 2)


def test_a_missing_estimate_is_infinitely_wrong():
    assert metrics.corner_error(None, IDENTITY, SIZE) == math.inf


def test_an_estimate_that_sends_a_corner_to_infinity_is_infinitely_wrong():
    tilted = np.array([[1.0, 0, 0], [0, 1, 0], [-0.02, 0, 1]])
    assert metrics.corner_error(tilted, IDENTITY, SIZE) == math.inf


def test_bootstrap_interval_holds_the_mean_and_shrinks_with_more_pairs():
    few = metrics.bootstrap_interval([0.0, 1.0] * 10)
    many = metrics.bootstrap_interval([0.0, 1.0] * 500)
    assert few[0] < many[0] < 0.5 < many[1] < few[1]
    # the standard error of 1000 coin flips is 0.0158
    assert many[1] - many[0] == pytest.approx(2 * 1.96 * 0.0158, rel=0.1)


def test_bootstrap_interval_of_equal_values_is_that_value():
    assert metrics.bootstrap_interval([0.25] * 7) == (0.25, 0.25)


def test_bootstrap_interval_of_nothing_is_not_a_number():
    assert all(math.isnan(value) for value in metrics.bootstrap_interval([]))


def test_bootstrap_ratio_cancels_what_is_hard_for_both():
    others = [0.1, 0.5, 1.0, 0.2, 0.9]
    values = [0.9 * value for value in others]
    assert metrics.bootstrap_ratio(values, others) == pytest.approx((0.9, 0.9, 0.9))


def test_bootstrap_ratio_to_zero_is_not_finite_and_does_not_fail():
    ratio, low, high = metrics.bootstrap_ratio([0.5, 0.5], [0.0, 0.0])
    assert math.isinf(ratio) and math.isnan(low) and math.isnan(high)
