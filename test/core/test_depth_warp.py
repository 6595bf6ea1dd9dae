"""Reading depth between pixels, and moving points by it."""

from kpfeat_core.data.view_pairs import depth_edges, DepthRules, read_inverse_depth, warp_by_depth
from kpfeat_core.geometry import pixel_grid
import pytest
import torch


def two_planes(tolerance: float, relative: bool):
    """Warp a pixel at depth 10 to a camera on the same spot that measured 10.3 there."""
    K = torch.eye(3)[None]
    depths = torch.full((1, 4, 4), 0.1), torch.full((1, 4, 4), 1 / 10.3)
    rules = DepthRules(tolerance, relative, 0.1)
    return [
        warp_by_depth(torch.ones(1, 1, 2), (a, b), (K, K), torch.eye(4)[None], rules)
        for a, b in (depths, depths[::-1])
    ]


@pytest.mark.parametrize(
    ('tolerance', 'relative', 'same'),
    [(0.05, True, True), (0.02, True, False), (0.05, False, False), (0.4, False, True)],
)
def test_depths_agree_within_a_share_or_within_units_of_the_scene(
    tolerance, relative, same
) -> None:
    front, behind = two_planes(tolerance, relative)
    assert front.visible.item() == behind.visible.item() == same
    assert behind.outside.item() == (not same)  # hidden by the nearer surface
    assert not front.outside.item()  # nothing can be in front of what is seen: unknown


def test_points_behind_the_other_camera_are_outside() -> None:
    K, depth = torch.eye(3)[None], torch.full((1, 4, 4), 0.5)
    turned = torch.diag(torch.tensor([-1.0, 1, -1, 1]))[None]
    warped = warp_by_depth(
        torch.ones(1, 1, 2), (depth, depth), (K, K), turned, DepthRules(0.1, True, 0.1)
    )
    assert warped.outside.item() and not warped.visible.item()
    assert warped.points.isnan().all()


def test_depth_is_read_between_four_known_pixels_of_one_surface() -> None:
    inverse = 0.1 + 0.02 * pixel_grid(6, 8).sum(1).view(1, 6, 8)  # a steep plane
    inverse[0, 2, 3] = 0
    points = torch.tensor([[[0.5, 0.25], [2.5, 1.5], [2.0, 1.5], [7.0, 5.0], [7.1, 5.0]]])
    values, known = read_inverse_depth(inverse, points, 1e-3)
    assert known.tolist() == [[True, False, True, True, False]]
    torch.testing.assert_close(values[known], torch.tensor([0.115, 0.17, 0.34]))


def test_bent_surfaces_are_read_exactly_and_folds_do_not_bend_the_planes_beside_them() -> None:
    x, y = torch.arange(9.0, dtype=torch.float64), torch.arange(7.0, dtype=torch.float64)[:, None]
    points = torch.tensor([[[3.3, 2.6], [1.0, 1.25], [5.5, 4.0], [6.75, 3.5]]]).double()
    px, py = points.unbind(-1)
    bowl = 1 + 0.01 * x + 0.002 * (x - 4) ** 2 - 0.003 * (y - 3) ** 2
    truth = 1 + 0.01 * px + 0.002 * (px - 4) ** 2 - 0.003 * (py - 3) ** 2
    torch.testing.assert_close(read_inverse_depth(bowl[None], points, 0.1)[0], truth)
    fold = (1 + 0.01 * (x - 4).abs() + 0 * y)[None]
    values, known = read_inverse_depth(fold, points, 0.1)
    assert known.all()
    torch.testing.assert_close(values, 1 + 0.01 * (px - 4).abs())
    # what lies across an edge, or is unknown, has no part in it
    torn = bowl.clone()
    torn[:, 7:] = 3.0
    torn[:2] = 0.0
    values, known = read_inverse_depth(torn[None], points, 0.1)
    assert known[0].tolist() == [True, False, True, False]
    torch.testing.assert_close(values[known], truth[known])


def test_edges_are_jumps_and_thin_things_but_no_slopes() -> None:
    flat = torch.full((1, 5, 9), 0.2)
    slope = 0.2 + 0.05 * torch.arange(9.0).expand(1, 5, 9)
    jump, pole = flat.clone(), flat.clone()
    jump[..., 4:] *= 1.1
    pole[..., 4] *= 1.1
    for depth, expected in ((flat, []), (slope, []), (jump, [3]), (pole, [3, 4])):
        right, down = depth_edges(depth, 0.02)
        assert torch.nonzero(right[0, 2])[:, 0].tolist() == expected
        assert torch.equal(depth_edges(depth.mT, 0.02)[1], right.mT)
        assert not down.any()
