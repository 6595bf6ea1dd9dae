"""Pairs with depth and poses: correspondences and occlusion against ray casting."""

from dataclasses import replace

from kpfeat_core.data.depth_pairs import make_depth_pairs
from kpfeat_core.data.homography_pairs import PairConfig
from kpfeat_core.data.photometric import PhotometricConfig
from kpfeat_core.data.view_pairs import DepthPairBatch, PairBatch, ViewPairs
from kpfeat_core.geometry import pixel_grid
from made_room import CALM, CAMERAS, cast, EXACT, ROOM, seeded
import numpy as np
import pytest
import torch

SIDE = 160


@pytest.fixture(scope='module')
def batch(room_bank) -> DepthPairBatch:
    config = PairConfig(view_size=SIDE)
    return make_depth_pairs(room_bank, 8, config, EXACT.rules, CALM, seeded())


@pytest.fixture(scope='module', params=[0, 1])
def compared(request, batch):
    """Return what the batch says of random points of a view, and what ray casting says."""
    view = request.param
    points = torch.rand(8, 4000, 2, generator=seeded(1)) * (SIDE - 1)
    warped = batch.warp(points, view)
    truth, surfaces, shown = [], [], []
    for b in range(8):
        here, there = batch.intrinsics[view, b], batch.intrinsics[1 - view, b]
        _, surface, world = cast(view, points[b], here)
        other = CAMERAS[1 - view]
        place = other.project(world, there.double().numpy())
        reached, _ = ROOM.cast(other.origin, world - other.origin)
        within = (place[:, :2] >= 0).all(1) & (place[:, :2] <= SIDE - 1).all(1)
        truth.append(place[:, :2])
        surfaces.append(surface)
        shown.append(within & (place[:, 2] > 0) & (reached > 1 - 1e-6))
    return warped, torch.tensor(np.array(truth)), np.array(surfaces), torch.tensor(np.array(shown))


def test_points_land_where_the_rays_of_both_cameras_meet(compared) -> None:
    warped, truth, surfaces, _ = compared
    error = (warped.points - truth).norm(dim=-1)
    flat = torch.tensor(surfaces <= 2)  # floor, wall, box
    assert (flat & warped.visible).sum() > 5000 < (~flat & warped.visible).sum() * 4
    assert error[flat & warped.visible].max() < 0.02
    assert error[~flat & warped.visible].quantile(0.97) < 0.01
    assert error[~flat & warped.visible].max() < 0.05
    assert error[warped.outside & warped.points.isfinite().all(-1)].quantile(0.99) < 0.5


def test_hidden_points_are_those_whose_rays_end_at_something_nearer(compared) -> None:
    warped, truth, _, shown = compared
    inside = ((truth >= 0) & (truth <= SIDE - 1)).all(-1)
    assert not (warped.visible & ~shown).any()
    assert not (warped.outside & shown).any()
    assert not (warped.visible & warped.outside).any()
    assert (warped.outside & inside).sum() > 300  # hidden, not merely beside the frame
    assert (warped.visible | warped.outside).float().mean() > 0.85
    assert warped.points[warped.outside & inside].isnan().all()


def test_depth_and_intrinsics_follow_crop_and_resize(batch) -> None:
    grid = pixel_grid(SIDE, SIDE)
    for view in (0, 1):
        for b in range(8):
            depth, _, _ = cast(view, grid, batch.intrinsics[view, b])
            inverse = batch.inverse_depth[view, b].flatten().double()
            known = inverse > 0
            error = (inverse * torch.tensor(depth) - 1)[known].abs()
            assert known.float().mean() > 0.9
            assert error.median() < 1e-6
            assert error.quantile(0.995) < 2e-3


def test_views_show_what_a_camera_with_their_intrinsics_sees(batch) -> None:
    grid = pixel_grid(SIDE, SIDE).double()
    steps = [(dx, dy) for dx in (-0.5, 0, 0.5) for dy in (-0.5, 0, 0.5)]

    def difference(view: int, b: int, shift: tuple[float, float]) -> float:
        """Compare with what rays see around pixels, moved by a shift."""
        seen = 0
        for step in steps:  # the photograph is blurred by being resampled twice
            at = grid + torch.tensor(shift) + torch.tensor(step)
            seen = seen + ROOM.color(cast(view, at, batch.intrinsics[view, b])[2]) / len(steps)
        shown = batch.images[view, b].flatten(1).T.numpy()
        valid = batch.valid[view, b].flatten().numpy()
        return np.abs(shown - seen)[valid].mean()

    for view in (0, 1):
        right = difference(view, 0, (0.0, 0.0))
        for shift in ((0.5, 0.0), (-0.5, 0.0), (0.0, 0.5), (0.0, -0.5)):
            assert right < difference(view, 0, shift) - 1e-3


def test_the_warp_is_differentiable_along_surfaces(batch) -> None:
    points = (torch.rand(8, 200, 2, generator=seeded(2)) * (SIDE - 1)).requires_grad_()
    warped = batch.warp(points, 0)
    torch.where(warped.visible[..., None], warped.points, 0)[..., 0].sum().backward()
    assert points.grad.isfinite().all()
    moved = batch.warp(points.detach() + torch.tensor([0.01, 0]), 0)
    both = warped.visible & moved.visible
    slope = (moved.points - warped.points)[..., 0] / 0.01
    error = (slope - points.grad[..., 0])[both].abs().detach()
    assert both.sum() > 300
    assert error.quantile(0.95) < 0.02


def test_points_are_unknown_without_depth_on_either_side(batch) -> None:
    points = pixel_grid(SIDE, SIDE).expand(8, -1, -1)
    blind = replace(
        batch, inverse_depth=batch.inverse_depth * torch.tensor([1, 0]).view(2, 1, 1, 1)
    )
    from_seen, from_blind = blind.warp(points, 0), blind.warp(points, 1)
    assert not from_seen.visible.any()
    assert from_seen.outside.any()  # beside the frame is beside it, whatever is in it
    assert not (from_blind.visible | from_blind.outside).any()
    assert from_blind.points.isnan().all()


def test_the_same_seed_gives_the_same_pairs_and_parts_make_up_the_whole(room_bank) -> None:
    config = PairConfig(view_size=64)
    first, again, other = (
        make_depth_pairs(room_bank, 5, config, EXACT.rules, PhotometricConfig(), seeded(s))
        for s in (1, 1, 2)
    )
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.intrinsics, again.intrinsics)
    assert not torch.equal(first.intrinsics, other.intrinsics)
    parts = [first.part(i, 2) for i in range(2)]
    assert [len(part) for part in parts] == [3, 2]
    assert torch.equal(parts[1].inverse_depth, first.inverse_depth[:, 1::2])
    points = pixel_grid(8, 8)[None] * 8
    whole = first.warp(points.expand(5, -1, -1), 1)
    torch.testing.assert_close(
        parts[1].warp(points.expand(2, -1, -1), 1).points, whole.points[1::2], equal_nan=True
    )


def test_every_pair_has_common_points(batch) -> None:
    grid = pixel_grid(SIDE, SIDE).expand(8, -1, -1)
    for view in (0, 1):
        assert batch.warp(grid, view).visible.float().mean(1).min() > 0.05


def test_photographs_smaller_than_a_view_are_marked(room_bank) -> None:
    config = PairConfig(view_size=96, coverage_min=1.5, coverage_max=1.5)
    batch = make_depth_pairs(room_bank, 2, config, EXACT.rules, CALM, seeded())
    assert 0.4 < batch.valid.float().mean() < 0.9
    assert not (batch.inverse_depth > 0)[~batch.valid].any()


def test_both_kinds_of_pairs_answer_the_same_questions(batch) -> None:
    homographic = PairBatch(batch.images, torch.eye(3).repeat(8, 1, 1), batch.valid)
    assert isinstance(batch, ViewPairs) and isinstance(homographic, ViewPairs)
    points = torch.rand(8, 9, 2) * SIDE
    for pairs in (batch, homographic):
        assert len(pairs) == 8
        warped = pairs.warp(points, 0)
        assert warped.points.shape == (8, 9, 2)
        assert warped.visible.shape == warped.outside.shape == (8, 9)
