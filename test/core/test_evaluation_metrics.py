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


@pytest.mark.parametrize(
    ('error', 'area'), [(0, 1), (1, 0.8), (2.5, 0.5), (5, 0), (7, 0), (math.inf, 0), (math.nan, 0)]
)
def test_recall_area_falls_from_one_to_zero_at_the_threshold(error, area):
    assert metrics.recall_area(error, 5) == pytest.approx(area)


def test_mean_recall_area_is_the_area_under_the_recall_curve():
    errors = np.random.default_rng(0).exponential(4, 40)
    steps = (np.arange(200_000) + 0.5) / 200_000 * 5
    recall = np.searchsorted(np.sort(errors), steps, side='right') / len(errors)
    area = np.mean([metrics.recall_area(error, 5) for error in errors])
    assert area == pytest.approx(recall.mean(), abs=1e-5)


def test_recall_area_differs_from_slanted_steps_by_what_its_docstring_says():
    errors = np.sort(np.random.default_rng(0).exponential(4, 40))
    below = np.concatenate([[0], errors[errors < 5]])
    recall = np.arange(len(below)) / len(errors)
    middle = np.append((recall[1:] + recall[:-1]) / 2, recall[-1])  # flat from the last error on
    slanted = (middle * np.diff(np.append(below, 5))).sum() / 5
    area = np.mean([metrics.recall_area(error, 5) for error in errors])
    assert slanted - area == pytest.approx(below[-1] / (2 * len(errors) * 5))


def test_the_shared_region_is_where_the_other_image_shows_a_point():
    points = torch.tensor([[0.0, 0.0], [89.0, 79.0], [89.5, 79.0], [5.0, 79.5], [-11.0, 3.0]])
    shared = metrics.in_shared_region(points, MOVED, SIZE)
    assert shared.tolist() == [True, True, False, False, False]


def test_the_shared_region_is_empty_behind_infinity_and_without_points():
    tilted = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-0.02, 0, 1]], dtype=torch.float64)
    assert metrics.in_shared_region(GRID[2:], tilted, SIZE).tolist() == [False, False]
    assert metrics.in_shared_region(GRID[:0], MOVED, SIZE).tolist() == []


def test_suppression_keeps_the_best_of_a_square():
    points = torch.tensor([[10.0, 10.0], [14.0, 14.0], [10.0, 15.0], [6.0, 10.0], [18.5, 14.0]])
    kept = metrics.suppress_points(points, torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]), 4)
    # 14, 14 is 5.7 away but in the square; 18.5, 14 only neighbours one that is gone
    assert kept.tolist() == [True, False, True, False, True]


def test_a_suppressed_keypoint_suppresses_nothing():
    chain = torch.tensor([[0.0, 0.0], [3.0, 0.0], [6.0, 0.0], [9.0, 0.0]])
    assert metrics.suppress_points(chain, torch.tensor([4.0, 3, 2, 1]), 3).tolist() == [1, 0, 1, 0]
    assert metrics.suppress_points(chain, torch.tensor([1.0, 4, 3, 2]), 3).tolist() == [0, 1, 0, 1]


def test_of_equally_good_keypoints_the_first_is_kept():
    same = torch.tensor([[5.0, 5.0]]).expand(3, 2)
    assert metrics.suppress_points(same, torch.ones(3), 1).tolist() == [True, False, False]


def test_a_radius_of_zero_suppresses_nothing():
    same = torch.tensor([[5.0, 5.0]]).expand(3, 2)
    assert metrics.suppress_points(same, torch.ones(3), 0).all()


@pytest.mark.parametrize('count', [0, 1])
def test_suppression_takes_few_points(count):
    assert metrics.suppress_points(GRID[:count], torch.ones(count), 4).tolist() == [True] * count


@pytest.mark.parametrize('seed', range(5))
def test_suppressed_keypoints_have_a_better_one_nearby_and_kept_ones_have_none(seed):
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(300, 2, generator=generator) * 60
    scores = torch.rand(300, generator=generator)
    kept = metrics.suppress_points(points, scores, 4)
    near = (points[:, None] - points).abs().amax(-1) <= 4
    better = scores[:, None] < scores
    assert ((near & better & kept).any(1) == ~kept).all()


def nearest(*values):
    return torch.tensor(values, dtype=torch.int64)


def test_matching_score_of_right_nearest_neighbours_is_one():
    points1 = (GRID + torch.tensor([10.0, 0.0])).flip(0)
    backwards = nearest(3, 2, 1, 0)
    score = metrics.matching_score(GRID, points1, backwards, backwards, MOVED, SIZE, SIZE)
    assert score == 1


def test_matching_score_includes_the_threshold_and_nothing_beyond():
    same = nearest(0, 1, 2, 3)
    for shift, threshold, score in ((0.5, 0.5, 1), (0.5, 0.49, 0), (3.0, 3.0, 1)):
        moved = GRID + torch.tensor([shift, 0.0])
        arguments = (GRID, moved, same, same, IDENTITY, SIZE, SIZE, threshold)
        assert metrics.matching_score(*arguments) == score


def test_matching_score_of_swapped_x_and_y_is_zero():
    same = nearest(0, 1, 2, 3)
    assert metrics.matching_score(GRID, GRID.flip(1), same, same, IDENTITY, SIZE, SIZE) == 0


def test_matching_score_is_the_mean_of_both_directions():
    # image 1 has two keypoints nowhere found in image 0: 4 of 4 forward, 4 of 6 back
    points1 = torch.cat([GRID, torch.tensor([[5.0, 60.0], [90.0, 5.0]])])
    score = metrics.matching_score(
        GRID, points1, nearest(0, 1, 2, 3), nearest(0, 1, 2, 3, 0, 0), IDENTITY, SIZE, SIZE
    )
    assert score == pytest.approx((1 + 4 / 6) / 2)


def test_matching_score_counts_only_the_shared_region():
    points0 = torch.tensor([[20.0, 10.0], [95.0, 10.0]])  # the second falls at x = 105
    points1 = torch.tensor([[30.0, 10.0], [5.0, 10.0]])  # the second comes from x = -5
    arguments = (points0, points1, nearest(0, 1), nearest(0, 1), MOVED, SIZE, SIZE)
    assert metrics.matching_score(*arguments) == 1


def test_a_right_match_of_a_feature_outside_the_shared_region_does_not_count():
    points0 = torch.tensor([[50.0, 10.0], [90.0, 10.0]])  # the second falls at x = 100, outside
    points1 = torch.tensor([[60.0, 10.0], [99.0, 10.0]])  # and its match comes from x = 89
    arguments = (points0, points1, nearest(0, 1), nearest(0, 1), MOVED, SIZE, SIZE)
    assert metrics.matching_score(*arguments) == 1


def test_matching_score_without_features_or_a_shared_region_is_zero():
    none = nearest(-1, -1, -1, -1)
    empty = metrics.matching_score(GRID, GRID[:0], none, nearest(), IDENTITY, SIZE, SIZE)
    assert empty == 0
    away = torch.tensor([[1.0, 0, 1000], [0, 1, 0], [0, 0, 1]])
    same = nearest(0, 1, 2, 3)
    assert metrics.matching_score(GRID, GRID, same, same, away, SIZE, SIZE) == 0


def test_matching_score_of_one_feature():
    one = GRID[:1]
    assert metrics.matching_score(one, one, nearest(0), nearest(0), IDENTITY, SIZE, SIZE) == 1


def test_a_match_in_every_cell_covers_the_image():
    x, y = torch.meshgrid(torch.arange(0, 100, 10), torch.arange(0, 80, 8), indexing='ij')
    corners = torch.stack([x, y], -1).reshape(-1, 2).float()
    assert metrics.match_coverage(corners, SIZE) == 1
    assert metrics.match_coverage(corners + torch.tensor([9.0, 7.0]), SIZE) == 1
    assert metrics.match_coverage(corners[x.reshape(-1) < 50], SIZE) == 0.5
    # swapped, x and y reach 72 and 70: eight columns, and rows 0 to 8 without one
    assert metrics.match_coverage(corners.flip(1), SIZE) == 0.64


def test_matches_in_one_place_cover_one_cell():
    crowd = torch.tensor([41.0, 25.0]) + torch.rand(500, 2)
    assert metrics.match_coverage(crowd, SIZE) == 0.01
    assert metrics.match_coverage(crowd[:1], SIZE, cells=2) == 0.25


def test_cells_are_parts_of_the_image_and_not_of_the_span_of_pixel_centers():
    points = torch.tensor([[32.0, 0.0], [33.0, 0.0]])  # a third of 100 px ends at x = 32.83
    assert metrics.match_coverage(points, SIZE, cells=3) == pytest.approx(2 / 9)
    assert metrics.match_coverage(points - 1, SIZE, cells=3) == 0  # y = -1 is outside
    assert metrics.match_coverage(points - torch.tensor([1.0, 0]), SIZE, cells=3) == 1 / 9


def test_no_matches_or_none_inside_cover_nothing():
    assert metrics.match_coverage(GRID[:0], SIZE) == 0
    assert metrics.match_coverage(GRID + 500, SIZE) == 0
