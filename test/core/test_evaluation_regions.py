"""Overlap of regions whose truth can be checked by hand."""

import math

from kpfeat_core.evaluation.metrics import circle_overlap, overlap_repeatability
import pytest
import torch

IDENTITY = torch.eye(3, dtype=torch.float64)
TWICE = torch.diag(torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64))
SIZE = (200, 160)
GRID = torch.tensor([[x, y] for x in (20.0, 70.0, 120.0, 170.0) for y in (30.0, 80.0, 130.0)])
RADII = torch.linspace(2, 13, len(GRID))
BOTH = pytest.mark.parametrize('ignore_scale', [False, True])


def repeat(points0, radii0, points1, radii1, H_0to1=IDENTITY, size1=SIZE, **options):
    return overlap_repeatability(points0, radii0, points1, radii1, H_0to1, SIZE, size1, **options)


def lens_overlap(radius0, radius1, distance):
    """Return intersection over union of two circles, in closed form."""
    if distance <= abs(radius0 - radius1):
        return min(radius0, radius1) ** 2 / max(radius0, radius1) ** 2
    if distance >= radius0 + radius1:
        return 0.0
    a = math.acos((distance**2 + radius0**2 - radius1**2) / (2 * distance * radius0))
    b = math.acos((distance**2 + radius1**2 - radius0**2) / (2 * distance * radius1))
    lens = radius0**2 * (a - math.sin(2 * a) / 2) + radius1**2 * (b - math.sin(2 * b) / 2)
    return lens / (math.pi * (radius0**2 + radius1**2) - lens)


QUARTER = torch.tensor([[0.0, -1, 159], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
BY_60 = torch.tensor([[1.0, 0, 60], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
AWAY = torch.tensor([[1.0, 0, 1000], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)


@BOTH
@pytest.mark.parametrize(
    ('points1', 'radii1', 'H_0to1', 'size1', 'share', 'off_px', 'count'),
    [
        (GRID, RADII, IDENTITY, SIZE, 1, 0, 12),
        (GRID.flip(0), RADII.flip(0), IDENTITY, SIZE, 1, 0, 12),  # in another order
        (GRID + torch.tensor([0.5, 0]), RADII, IDENTITY, SIZE, 1, 0.5, 12),
        (torch.stack([159 - GRID[:, 1], GRID[:, 0]], 1), RADII, QUARTER, (160, 200), 1, 0, 12),
        # the last column, of three, leaves the image and does not count
        (GRID + torch.tensor([60.0, 0]), RADII, BY_60, SIZE, 1, 0, 9),
        (GRID, RADII, AWAY, SIZE, 0, math.nan, 0),
    ],
)
def test_regions_that_both_images_see_are_repeated_and_localized(
    points1, radii1, H_0to1, size1, share, off_px, count, ignore_scale
):
    found = repeat(GRID, RADII, points1, radii1, H_0to1, size1, ignore_scale=ignore_scale)
    assert (found.share, found.count) == (share, count)
    assert found.localization_px == pytest.approx(off_px, abs=1e-9, nan_ok=True)


@BOTH
def test_swapped_x_and_y_are_not_repeated(ignore_scale):
    points = torch.tensor([[20.0, 90.0], [70.0, 120.0], [130.0, 40.0]])
    swapped = points.flip(1)
    found = repeat(points, RADII[:3], swapped, RADII[:3], ignore_scale=ignore_scale)
    assert found.share == 0
    assert math.isnan(found.localization_px)


def test_with_scale_twice_as_large_regions_match_only_in_twice_the_image():
    arguments = (GRID, RADII, GRID * 2)
    doubled = repeat(*arguments, RADII * 2, TWICE, (400, 320))
    assert (doubled.share, doubled.count) == (1, 12)
    assert doubled.localization_px == pytest.approx(0, abs=1e-4)
    assert repeat(*arguments, RADII, TWICE, (400, 320)).share == 0
    assert repeat(*arguments, RADII * 4, TWICE, (400, 320)).share == 0


def test_without_scale_only_positions_count():
    for radii in (RADII * 2, RADII, RADII.flip(0) * 40):
        found = repeat(GRID, RADII, GRID * 2, radii, TWICE, (400, 320), ignore_scale=True)
        assert found.share == 1


def test_radii_may_differ_by_as_much_as_the_error_allows():
    limit = 0.6**-0.5  # of concentric circles the ratio of areas is the overlap
    for factor, share in ((limit - 0.01, 1), (limit + 0.01, 0)):
        assert repeat(GRID, RADII, GRID, RADII * factor).share == share
        assert repeat(GRID, RADII * factor, GRID, RADII).share == share


@BOTH
def test_the_allowed_distance_is_in_pixels_whatever_the_radius(ignore_scale):
    # two circles of radius 30 overlap by 0.6 at 11.85 px
    assert lens_overlap(30, 30, 11.85) == pytest.approx(0.6, abs=1e-3)
    for radii in (RADII, torch.full_like(RADII, 100.0)):
        for shift, share in ((11.7, 1), (12.0, 0)):
            moved = GRID + torch.tensor([shift, 0.0])
            assert repeat(GRID, radii, moved, radii, ignore_scale=ignore_scale).share == share


def test_the_larger_of_two_regions_is_the_one_of_normal_size():
    limit = 6.0
    error = 1 - lens_overlap(30 / 1.2, 30, limit)
    for shift, share in ((limit - 0.1, 1), (limit + 0.1, 0)):
        moved = GRID + torch.tensor([0.0, shift])
        assert repeat(GRID, RADII, moved, RADII * 1.2, max_error=error).share == share
        assert repeat(GRID, RADII * 1.2, moved, RADII, max_error=error).share == share
        found = repeat(GRID, RADII, moved, RADII * 1.2, max_error=error, normalized_radius=60.0)
        assert found.share == 1


@BOTH
def test_distances_are_those_of_image_0(ignore_scale):
    moved = GRID * 2 + torch.tensor([20.0, 0.0])  # 10 px in image 0
    found = repeat(GRID, RADII, moved, RADII * 2, TWICE, (400, 320), ignore_scale=ignore_scale)
    assert found.share == 1
    assert found.localization_px == pytest.approx(10)


@BOTH
def test_each_region_is_taken_once_and_by_the_closest(ignore_scale):
    points0 = torch.tensor([[50.0, 50.0], [53.0, 50.0]])
    points1 = torch.tensor([[52.0, 50.0], [150.0, 50.0]])
    radii = torch.tensor([5.0, 5.0])
    found = repeat(points0, radii, points1, radii, ignore_scale=ignore_scale)
    assert found == (0.5, pytest.approx(1.0), 2)


def test_the_share_is_of_the_image_with_fewer_regions():
    assert repeat(GRID, RADII, GRID[:3], RADII[:3]) == (1.0, 0.0, 3)
    assert repeat(GRID[:3], RADII[:3], GRID, RADII) == (1.0, 0.0, 3)


def test_foreshortened_circles_overlap_as_circles():
    # view 1 is squeezed to a third in x: its circles are ellipses of 3 : 1 in view 0
    squeeze = torch.diag(torch.tensor([1 / 3, 1.0, 1.0], dtype=torch.float64))
    points1, radii1 = GRID * torch.tensor([1 / 3, 1.0]), RADII * 3**-0.5
    arguments = (GRID, RADII, points1, radii1, squeeze, (67, 160))
    assert repeat(*arguments).share == 1


def test_under_perspective_radii_change_with_the_area_around_a_point():
    tilt = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.002, 0, 1]], dtype=torch.float64)
    depth = 1 + 0.002 * GRID[:, 0]
    points1 = GRID / depth[:, None]
    found = repeat(GRID, RADII, points1, RADII * depth**-1.5, tilt)  # |det| = depth^-3
    assert found.share == 1
    assert repeat(GRID, RADII, points1, RADII * depth**-1.5, tilt, max_error=1e-3).share == 1


@BOTH
@pytest.mark.parametrize('count', [0, 1])
def test_few_regions(count, ignore_scale):
    few = (GRID[:count], RADII[:count])
    found = repeat(*few, *few, ignore_scale=ignore_scale)
    assert (found.share, found.count) == (count, count)
    assert math.isnan(found.localization_px) == (count == 0)


def test_the_overlap_of_circles_is_that_of_the_closed_form():
    generator = torch.Generator().manual_seed(0)
    r0, r1, distance = torch.rand(3, 500, generator=generator, dtype=torch.float64)
    rows = torch.stack([5 + 25 * r0, 5 + 25 * r1, 60 * distance], 1)
    exact = torch.tensor([lens_overlap(*row) for row in rows.tolist()], dtype=torch.float64)
    assert (circle_overlap(*rows.T) - exact).abs().max() < 1e-9


def test_the_overlap_of_circles_is_that_of_counted_pixels():
    y, x = torch.meshgrid(*[torch.linspace(-50, 50, 1001)] * 2, indexing='ij')
    inside0, inside1 = x**2 + y**2 <= 20**2, (x - 12) ** 2 + y**2 <= 15**2
    counted = (inside0 & inside1).sum() / (inside0 | inside1).sum()
    got = circle_overlap(*torch.tensor([[20.0], [15.0], [12.0]]))
    assert float(got) == pytest.approx(float(counted), abs=3e-3)


@BOTH
@pytest.mark.parametrize('seed', range(3))
def test_both_directions_repeat_as_much_under_a_rotation(seed, ignore_scale):
    generator = torch.Generator().manual_seed(seed)
    points0, points1 = torch.rand(2, 60, 2, generator=generator) * torch.tensor([199.0, 159.0])
    radii0, radii1 = 3 + 3 * torch.rand(2, 60, generator=generator)
    cos, sin = math.cos(0.1 + seed), math.sin(0.1 + seed)
    matrix = torch.tensor([[cos, -sin, 60], [sin, cos, 10], [0, 0, 1]], dtype=torch.float64)
    forward = repeat(points0, radii0, points1, radii1, matrix, ignore_scale=ignore_scale)
    inverse = torch.linalg.inv(matrix)
    back = repeat(points1, radii1, points0, radii0, inverse, ignore_scale=ignore_scale)
    assert 0 < forward.share == back.share < 1
    assert forward.localization_px == pytest.approx(back.localization_px)
