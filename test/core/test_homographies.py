"""Random homographies: the published distributions, bounds, and our convention of H_0to1."""

from dataclasses import replace
import math

from kpfeat_core.data.config import AffineConfig, HOMOGRAPHIES, homography_config, PatchConfig
from kpfeat_core.data.homographies import (
    sample_homographies,
    SQUARE,
    square_to_corners,
)
from kpfeat_core.errors import ConfigError
from kpfeat_core.geometry import inside, pixel_grid, sample, warp_image, warp_points
from made_room import seeded
import pytest
import torch

SIZE = (121, 161)  # height, width; the unit square has sides of 160 and 120 pixels
STILL = PatchConfig(
    patch_ratio=0.5, perspective_x=0, perspective_y=0, scaling=0, max_angle_deg=0, artifacts=True
)


def patches(config: PatchConfig, count: int = 2000) -> torch.Tensor:
    """Return where the corners of image 1 lie in image 0, in shares of its sides."""
    homographies = sample_homographies(config, count, SIZE, seeded()).double()
    last = torch.tensor([SIZE[1] - 1.0, SIZE[0] - 1.0], dtype=torch.float64)
    corners = (torch.tensor(SQUARE) * last).expand(count, -1, -1)
    return warp_points(corners, torch.linalg.inv(homographies)).div(last).float()


@pytest.mark.parametrize('name', sorted(HOMOGRAPHIES))
def test_the_same_seed_gives_the_same_draws_and_another_does_not(name) -> None:
    config = HOMOGRAPHIES[name]
    first, again, other = (sample_homographies(config, 9, SIZE, seeded(s)) for s in (1, 1, 2))
    assert first.shape == (9, 3, 3)
    assert torch.equal(first, again)
    assert not torch.isclose(first, other).all((1, 2)).any()


@pytest.mark.parametrize('name', sorted(HOMOGRAPHIES))
def test_all_of_image_0_is_in_front_of_the_horizon(name) -> None:
    grid = pixel_grid(*SIZE)[::53].expand(3000, -1, -1)
    homographies = sample_homographies(HOMOGRAPHIES[name], 3000, SIZE, seeded())
    assert torch.isfinite(warp_points(grid, homographies)).all()


@pytest.mark.parametrize('name', sorted(HOMOGRAPHIES))
def test_draws_without_artifacts_show_nothing_but_image_0(name) -> None:
    config = HOMOGRAPHIES[name]
    grid = pixel_grid(*SIZE)[::53].expand(2000, -1, -1)
    homographies = sample_homographies(config, 2000, SIZE, seeded())
    seen = inside(warp_points(grid, torch.linalg.inv(homographies)), *SIZE, margin=-0.01)
    assert seen.all() == (isinstance(config, PatchConfig) and not config.artifacts)


@pytest.mark.parametrize('name', sorted(HOMOGRAPHIES))
def test_a_rendered_point_is_where_the_homography_takes_it_to_a_twentieth_pixel(name) -> None:
    # an image whose pixels say where they are tells of every view pixel where it came from
    image = pixel_grid(*SIZE).T.reshape(1, 2, *SIZE)
    homographies = sample_homographies(HOMOGRAPHIES[name], 60, SIZE, seeded())
    points = torch.tensor([[0.0, 0.0], [160.0, 120.0], [85.5, 57.25], [20.0, 100.0]])
    points = points.expand(60, -1, -1)
    views = warp_image(image.expand(60, -1, -1, -1), homographies, SIZE, 'border')
    there = warp_points(points, homographies)
    shown = inside(there, *SIZE, margin=1) & inside(points, *SIZE, margin=1)
    assert shown.sum() > 40
    assert (sample(views, there) - points)[shown].norm(dim=-1).max() < 0.05


def test_four_corners_define_the_homography() -> None:
    corners = torch.tensor([[[0.1, 0.2], [0.9, 0.1], [0.8, 0.7], [0.0, 0.9]]])
    moved = warp_points(torch.tensor(SQUARE)[None], square_to_corners(corners))
    torch.testing.assert_close(moved, corners)


def test_a_patch_that_nothing_changes_is_only_moved_and_enlarged() -> None:
    for corners in patches(replace(STILL, artifacts=False), 50):
        low = corners.amin(0)
        assert (low >= -1e-5).all() and (low <= 0.5 + 1e-5).all()
        expected = low + 0.5 * torch.tensor(SQUARE)
        torch.testing.assert_close(corners, expected, atol=1e-5, rtol=0)


def test_the_patch_moves_evenly_between_the_borders_and_beyond_by_the_overflow() -> None:
    low = patches(replace(STILL, translation_overflow=0.05)).amin(1)
    assert low.min() >= -0.05 - 1e-5 and low.max() <= 0.55 + 1e-5
    torch.testing.assert_close(low.mean(0), torch.full((2,), 0.25), atol=0.02, rtol=0)
    torch.testing.assert_close(
        low.std(0), torch.full((2,), 0.6 / math.sqrt(12)), atol=0.01, rtol=0
    )


@pytest.mark.parametrize(
    ('spread', 'deviation', 'at_limit'), [('truncated', 0.44, 0.0), ('clipped', 0.72, 0.3173)]
)
def test_scales_follow_the_limited_normal_distribution(spread, deviation, at_limit) -> None:
    config = replace(STILL, scaling=0.2, num_scales=200, spread=spread)
    corners = patches(config)
    scales = (corners[:, 1, 0] - corners[:, 0, 0]) / 0.5
    drawn = (scales - 1) / 0.2
    assert drawn.abs().max() <= 1 + 1e-4
    assert drawn.mean().abs() < 0.05
    assert float(drawn.std()) == pytest.approx(deviation, abs=0.03)
    assert float((drawn.abs() > 0.999).float().mean()) == pytest.approx(at_limit, abs=0.03)


def test_one_in_six_keeps_its_size_where_five_scales_are_tried() -> None:
    corners = patches(replace(STILL, scaling=0.2))
    same = ((corners[:, 1, 0] - corners[:, 0, 0]) / 0.5 - 1).abs() < 1e-4
    assert float(same.float().mean()) == pytest.approx(1 / 6, abs=0.03)


def test_angles_are_spaced_evenly_up_to_the_largest() -> None:
    config = replace(STILL, max_angle_deg=90, num_angles=25, square_pixels=True)
    edge = patches(config)
    edge = (edge[:, 1] - edge[:, 0]) * torch.tensor([SIZE[1] - 1.0, SIZE[0] - 1.0])
    angles = torch.atan2(edge[:, 1], edge[:, 0]).rad2deg()
    steps = angles / 7.5
    torch.testing.assert_close(steps, steps.round(), atol=0.01, rtol=0)
    assert steps.round().unique().tolist() == list(range(-12, 13))
    assert float((steps.round() == 0).float().mean()) == pytest.approx(2 / 26, abs=0.02)


@pytest.mark.parametrize('square', [True, False])
def test_rotation_in_pixels_keeps_right_angles_and_published_rotation_does_not(square) -> None:
    config = replace(STILL, max_angle_deg=45, num_angles=2, square_pixels=square)
    corners = patches(config, 200) * torch.tensor([SIZE[1] - 1.0, SIZE[0] - 1.0])
    along, down = corners[:, 1] - corners[:, 0], corners[:, 3] - corners[:, 0]
    slanted = (along * down).sum(-1).abs() / along.norm(dim=-1) / down.norm(dim=-1) > 1e-3
    assert slanted.any() != square


def test_opposed_edges_make_trapezoids_that_slide() -> None:
    corners = patches(replace(STILL, perspective_x=0.2, perspective_y=0.1))
    left, right = corners[:, 3] - corners[:, 0], corners[:, 2] - corners[:, 1]
    zero = torch.zeros(len(left))
    torch.testing.assert_close(left[:, 0], zero, atol=1e-4, rtol=0)
    torch.testing.assert_close(right[:, 0], zero, atol=1e-4, rtol=0)
    torch.testing.assert_close(left[:, 1] + right[:, 1], zero + 1, atol=1e-4, rtol=0)
    assert 0.19 < (left[:, 1] - 0.5).abs().max() <= 0.2 + 1e-4
    width = corners[:, 1, 0] - corners[:, 0, 0]
    assert 0.3 < (width - 0.5).abs().max() <= 0.4 + 1e-4


def test_independent_edges_each_change_their_length() -> None:
    config = replace(
        STILL, perspective_x=0.1, perspective_y=0.1, edges='independent', spread='clipped'
    )
    corners = patches(config)
    lengths = torch.stack(
        [
            corners[:, 1, 0] - corners[:, 0, 0],
            corners[:, 2, 0] - corners[:, 3, 0],
            corners[:, 3, 1] - corners[:, 0, 1],
            corners[:, 2, 1] - corners[:, 1, 1],
        ]
    )
    assert (lengths >= 0.3 - 1e-4).all() and (lengths <= 0.7 + 1e-4).all()
    assert (torch.corrcoef(lengths) - torch.eye(4)).abs().max() < 0.4


def test_perspective_stays_within_the_margin_where_the_patch_must_stay_inside() -> None:
    config = replace(STILL, patch_ratio=0.9, perspective_y=0.2, artifacts=False)
    corners = patches(config)
    change = (corners[:, 3, 1] - corners[:, 0, 1] - 0.9).abs()
    assert 0.09 < change.max() <= 0.1 + 1e-4


def test_affine_draws_have_the_scales_angles_and_shears_of_the_configuration() -> None:
    size = (50, 80)
    homographies = sample_homographies(AffineConfig(), 4000, size, seeded())
    linear = torch.linalg.inv(homographies)[:, :2, :2]  # shear @ scale @ rotation
    scales = linear.det().sqrt()
    angles = torch.atan2(linear[:, 1, 0], linear[:, 1, 1]).rad2deg()
    unturned = linear @ torch.linalg.inv(_rotation(angles))
    shears = unturned[:, 0, 1] / scales
    for values, low, high in ((scales, 0.5, 2.0), (angles, -45, 45), (shears, -0.8, 0.8)):
        span = high - low
        assert low - 1e-3 <= values.min() < low + 0.02 * span
        assert high - 0.02 * span < values.max() <= high + 1e-3
        assert abs(float(values.mean()) - (low + high) / 2) < 0.03 * span
    middle = torch.tensor([[[39.5, 24.5]]]).expand(4000, -1, -1)
    torch.testing.assert_close(warp_points(middle, homographies), middle, atol=1e-3, rtol=0)


def _rotation(degrees: torch.Tensor) -> torch.Tensor:
    cos, sin = degrees.deg2rad().cos(), degrees.deg2rad().sin()
    return torch.stack([cos, -sin, sin, cos], -1).view(-1, 2, 2)


def test_published_configurations_are_found_by_name_and_changed_in_part() -> None:
    config = homography_config('superpoint-adapt', {'max_angle_deg': 45.0})
    assert config == replace(HOMOGRAPHIES['superpoint-adapt'], max_angle_deg=45.0)
    with pytest.raises(ConfigError, match='superpoint-pair'):
        homography_config('superpoint-hpatches')
    with pytest.raises(ConfigError, match='max_shear'):
        homography_config('kp2d', {'max_shear': 1.0})
