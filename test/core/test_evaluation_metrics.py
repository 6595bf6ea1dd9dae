"""Metrics on points whose truth can be checked by hand."""

import math

from kpfeat_core.evaluation import metrics
import numpy as np
import pytest
import torch

IDENTITY = torch.eye(3, dtype=torch.float64)
MOVED = torch.tensor([[1.0, 0, 10], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
TILTED = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-0.02, 0, 1]], dtype=torch.float64)
AWAY = torch.tensor([[1.0, 0, 1000], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
GRID = torch.tensor([[20.0, 10.0], [40.0, 30.0], [60.0, 50.0], [80.0, 70.0]])
RIGHT_BY_10 = torch.tensor([10.0, 0.0])
SIZE = (100, 80)


def points(*pairs):
    return torch.tensor(pairs, dtype=torch.float32).reshape(-1, 2)


@pytest.mark.parametrize(
    ('points1', 'H_0to1', 'expected', 'thresholds', 'shares'),
    [
        (GRID + RIGHT_BY_10, MOVED, 0, (1, 3, 5), [1, 1, 1]),
        (GRID + RIGHT_BY_10 / 20, IDENTITY, 0.5, (0.4, 0.5), [0, 1]),
        (GRID.flip(1), IDENTITY, 10 * math.sqrt(2), (1, 3, 5), [0, 0, 0]),
    ],
)
def test_match_errors_are_distances_from_the_true_point(
    points1, H_0to1, expected, thresholds, shares
):
    errors = metrics.match_errors(GRID, points1, H_0to1)
    assert errors.tolist() == pytest.approx([expected] * 4)
    assert metrics.matching_accuracy(errors, thresholds) == shares


def test_accuracy_counts_each_threshold_and_includes_the_border():
    errors = torch.tensor([0.5, 1.0, 3.0, 5.1])
    assert metrics.matching_accuracy(errors, (1, 3, 5)) == [0.5, 0.75, 0.75]
    assert metrics.matching_accuracy(torch.zeros(0), (1, 3)) == [0, 0]


def test_a_point_behind_infinity_is_infinitely_wrong():
    errors = metrics.match_errors(GRID, GRID, TILTED)
    assert errors[2:].tolist() == [math.inf, math.inf]  # beyond x = 50, where the depth is 0
    assert errors[:2].isfinite().all()


WIDE, HIGH = SIZE, (50, 200)


@pytest.mark.parametrize(
    ('points0', 'points1', 'H_0to1', 'size0', 'size1', 'count'),
    [
        (GRID, GRID + RIGHT_BY_10, MOVED, SIZE, SIZE, 8),
        (GRID[:1], GRID[:1], IDENTITY, SIZE, SIZE, 2),
        # the second falls at x = 105, or comes from x = -5
        (points((20, 10), (95, 10)), points((30, 10), (5, 10)), MOVED, SIZE, SIZE, 2),
        # the other image is too narrow for the second
        (points((20, 10), (70, 10)), points((20, 10)), IDENTITY, WIDE, HIGH, 2),
        (points((20, 10)), points((20, 10), (70, 10)), IDENTITY, HIGH, WIDE, 2),
    ],
)
def test_keypoints_found_again_wherever_both_images_see_are_fully_repeatable(
    points0, points1, H_0to1, size0, size1, count
):
    found = metrics.repeatability(points0, points1, H_0to1, size0, size1)
    assert found == (1.0, 0.0, count)


def test_repeatability_measures_distances_and_counts_both_directions():
    found = metrics.repeatability(GRID, GRID + RIGHT_BY_10 / 20, IDENTITY, SIZE, SIZE)
    assert (found.share, found.localization_px) == (1, pytest.approx(0.5))
    found = metrics.repeatability(GRID, GRID[:2], IDENTITY, SIZE, SIZE)
    assert found.share == pytest.approx((2 + 2) / (4 + 2))


@pytest.mark.parametrize('points1', [points(), points((99, 1))])
def test_repeatability_is_zero_where_nothing_is_shared_or_found_again(points1):
    found = metrics.repeatability(GRID, points1, IDENTITY, SIZE, SIZE)
    assert found.share == 0
    assert math.isnan(found.localization_px)


@pytest.mark.parametrize(
    ('estimate', 'H_0to1', 'error'),
    [
        (3 * MOVED.numpy(), MOVED, 0),  # at any scale
        (np.eye(3), MOVED, 10),
        (np.diag([2.0, 1.0, 1.0]), IDENTITY, 99 / 2),  # moves two corners by width - 1
        (None, IDENTITY, math.inf),
        (TILTED.numpy(), IDENTITY, math.inf),  # sends a corner to infinity
    ],
)
def test_corner_error_is_the_mean_over_the_last_pixels_of_the_image(estimate, H_0to1, error):
    assert metrics.corner_error(estimate, H_0to1, SIZE) == pytest.approx(error, abs=1e-9)


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


@pytest.mark.parametrize(
    ('seen', 'H_0to1', 'shared'),
    [
        (points((0, 0), (89, 79), (89.5, 79), (5, 79.5), (-11, 3)), MOVED, [1, 1, 0, 0, 0]),
        (GRID[2:], TILTED, [0, 0]),  # behind infinity
        (points(), MOVED, []),
    ],
)
def test_the_shared_region_is_where_the_other_image_shows_a_point(seen, H_0to1, shared):
    assert metrics.in_shared_region(seen, H_0to1, SIZE).tolist() == shared


CHAIN, SAME = points((0, 0), (3, 0), (6, 0), (9, 0)), points((5, 5), (5, 5), (5, 5))


@pytest.mark.parametrize(
    ('found', 'scores', 'radius', 'kept'),
    [
        # 14, 14 is 5.7 away but in the square; 18.5, 14 only neighbors one that is gone
        (
            points((10, 10), (14, 14), (10, 15), (6, 10), (18.5, 14)),
            (0.9, 0.8, 0.7, 0.6, 0.5),
            4,
            [1, 0, 1, 0, 1],
        ),
        (CHAIN, (4, 3, 2, 1), 3, [1, 0, 1, 0]),  # a suppressed keypoint suppresses nothing
        (CHAIN, (1, 4, 3, 2), 3, [0, 1, 0, 1]),
        (SAME, (1, 1, 1), 1, [1, 0, 0]),  # of equally good ones the first is kept
        (SAME, (1, 1, 1), 0, [1, 1, 1]),
        (GRID[:0], (), 4, []),
        (GRID[:1], (1,), 4, [1]),
    ],
)
def test_suppression_keeps_the_best_of_a_square(found, scores, radius, kept):
    scores = torch.tensor(scores, dtype=torch.float32)
    assert metrics.suppress_points(found, scores, radius).tolist() == kept


@pytest.mark.parametrize('seed', range(5))
def test_suppressed_keypoints_have_a_better_one_nearby_and_kept_ones_have_none(seed):
    generator = torch.Generator().manual_seed(seed)
    found = torch.rand(300, 2, generator=generator) * 60
    scores = torch.rand(300, generator=generator)
    kept = metrics.suppress_points(found, scores, 4)
    near = (found[:, None] - found).abs().amax(-1) <= 4
    better = scores[:, None] < scores
    assert ((near & better & kept).any(1) == ~kept).all()


@pytest.mark.parametrize(
    ('points0', 'points1', 'nearest0', 'nearest1', 'H_0to1', 'score'),
    [
        (GRID, (GRID + RIGHT_BY_10).flip(0), (3, 2, 1, 0), (3, 2, 1, 0), MOVED, 1),
        (GRID, GRID.flip(1), range(4), range(4), IDENTITY, 0),  # swapped x and y
        (GRID[:1], GRID[:1], (0,), (0,), IDENTITY, 1),
        # image 1 has two keypoints nowhere found in image 0: 4 of 4 forward, 4 of 6 back
        (
            GRID,
            torch.cat([GRID, points((5, 60), (90, 5))]),
            range(4),
            (0, 1, 2, 3, 0, 0),
            IDENTITY,
            (1 + 4 / 6) / 2,
        ),
        # only the shared region counts: the second falls at x = 105, or comes from x = -5
        (points((20, 10), (95, 10)), points((30, 10), (5, 10)), (0, 1), (0, 1), MOVED, 1),
        # also where it is matched right: it falls at x = 100, outside
        (points((50, 10), (90, 10)), points((60, 10), (99, 10)), (0, 1), (0, 1), MOVED, 1),
        (GRID, GRID[:0], (-1,) * 4, (), IDENTITY, 0),
        (GRID, GRID, range(4), range(4), AWAY, 0),
    ],
)
def test_matching_score_is_the_mean_share_of_right_nearest_neighbors(
    points0, points1, nearest0, nearest1, H_0to1, score
):
    nearest = (torch.tensor(list(n), dtype=torch.int64) for n in (nearest0, nearest1))
    got = metrics.matching_score(points0, points1, *nearest, H_0to1, SIZE, SIZE)
    assert got == pytest.approx(score)


def test_matching_score_includes_the_threshold_and_nothing_beyond():
    same = torch.arange(4)
    for shift, threshold, score in ((0.5, 0.5, 1), (0.5, 0.49, 0), (3.0, 3.0, 1)):
        moved = GRID + torch.tensor([shift, 0.0])
        arguments = (GRID, moved, same, same, IDENTITY, SIZE, SIZE, threshold)
        assert metrics.matching_score(*arguments) == score


def test_a_match_in_every_cell_covers_the_image():
    x, y = torch.meshgrid(torch.arange(0, 100, 10), torch.arange(0, 80, 8), indexing='ij')
    corners = torch.stack([x, y], -1).reshape(-1, 2).float()
    assert metrics.match_coverage(corners, SIZE) == 1
    assert metrics.match_coverage(corners + torch.tensor([9.0, 7.0]), SIZE) == 1
    assert metrics.match_coverage(corners[x.reshape(-1) < 50], SIZE) == 0.5
    # swapped, x and y reach 72 and 70: eight columns, and rows 0 to 8 without one
    assert metrics.match_coverage(corners.flip(1), SIZE) == 0.64


CROWD = torch.tensor([41.0, 25.0]) + torch.rand(500, 2)
THIRDS = points((32, 0), (33, 0))  # a third of 100 px ends at x = 32.83


@pytest.mark.parametrize(
    ('matched', 'cells', 'share'),
    [
        (CROWD, 10, 0.01),
        (CROWD[:1], 2, 0.25),
        (THIRDS, 3, 2 / 9),  # cells are parts of the image, not of the span of pixel centers
        (THIRDS - 1, 3, 0),  # y = -1 is outside
        (THIRDS - points((1, 0)), 3, 1 / 9),
        (GRID[:0], 10, 0),
        (GRID + 500, 10, 0),
    ],
)
def test_coverage_is_the_share_of_cells_with_a_match_inside(matched, cells, share):
    assert metrics.match_coverage(matched, SIZE, cells) == pytest.approx(share)
