"""Pairs with depth and poses: scenes in memory, correspondences and occlusion against rays."""

from dataclasses import replace

import cv2
from kpfeat_core.data.depth_pairs import (
    DepthConfig,
    load_scenes,
    make_depth_pairs,
    measure_overlap,
)
from kpfeat_core.data.homography_pairs import PairConfig
from kpfeat_core.data.photometric import PhotometricConfig
from kpfeat_core.data.posed_scenes import read_scene
from kpfeat_core.data.view_pairs import (
    depth_edges,
    DepthPairBatch,
    DepthRules,
    PairBatch,
    read_inverse_depth,
    ViewPairs,
    warp_by_depth,
)
from kpfeat_core.errors import DataError
from kpfeat_core.geometry import pixel_grid
from kpfeat_core.image import rescale_points
from made_room import CALM, CAMERAS, cast, EXACT, ROOM, seeded
import numpy as np
import pytest
from raycast import write_depth
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


def test_shrinking_moves_projections_as_it_moves_pixels(room_bank, room_folder) -> None:
    scene = read_scene(room_folder)
    world = np.random.default_rng(0).uniform((-1, -1, 3), (1, 1, 6), (50, 3))
    for row, camera in enumerate(CAMERAS):
        before = camera.project(world)[:, :2]
        after = camera.project(world, room_bank.intrinsics[row].double().numpy())[:, :2]
        width, height = room_bank.images.sizes[row].int().tolist()
        size = camera.height, camera.width
        expected = rescale_points(torch.tensor(before), size, (height, width))
        np.testing.assert_allclose(after, expected, atol=1e-4)
    np.testing.assert_array_equal(scene.intrinsics[0], CAMERAS[0].K)


def test_overlap_is_the_share_of_points_that_the_other_photograph_shows(room_bank) -> None:
    shares = []
    for view in (0, 1):
        here, there = CAMERAS[view], CAMERAS[1 - view]
        grid = pixel_grid(60, 60).numpy() / 59 * [here.width - 1, here.height - 1]
        _, _, world = cast(view, grid, here.K)
        place = there.project(world)
        within = ((place[:, :2] >= 0) & (place[:, :2] <= [there.width - 1, there.height - 1])).all(
            1
        )
        shares.append((within & (ROOM.cast(there.origin, world - there.origin)[0] > 0.999)).mean())
    measured = measure_overlap(room_bank, slice(0, 2), EXACT.rules)
    assert measured == {(0, 1): pytest.approx(min(shares), abs=0.04)}


def test_pairs_that_share_too_little_or_too_much_are_left_out(room_folder) -> None:
    scene = read_scene(room_folder)
    for bounds in ({'min_overlap': 0.9}, {'min_overlap': 0.1, 'max_overlap': 0.2}):
        with pytest.raises(DataError, match='no two photographs in .* lower min_overlap'):
            load_scenes([scene], 64, DepthConfig(**bounds))
    given = replace(scene, pairs={(0, 1): 0.95})
    bank = load_scenes([given], 64, DepthConfig(min_overlap=0.9))
    assert bank.pairs.tolist() == [[0, 1]] and bank.probabilities.tolist() == [1]


def test_scenes_are_drawn_equally_often_whatever_their_number_of_pairs(room_folder) -> None:
    scene = read_scene(room_folder)
    triple = replace(
        scene,
        names=(*scene.names, scene.names[0]),
        intrinsics=scene.intrinsics[[0, 1, 0]],
        poses=scene.poses[[0, 1, 0]],
        pairs={(0, 1): 1.0, (0, 2): 1.0, (1, 2): 1.0},
    )
    bank = load_scenes([scene, triple], 64, EXACT)
    assert bank.pairs.tolist() == [[0, 1], [2, 3], [2, 4], [3, 4]]
    assert bank.probabilities.tolist() == pytest.approx([0.5, 1 / 6, 1 / 6, 1 / 6])


@pytest.mark.parametrize(
    ('depth', 'message'),
    [
        (None, "'.*0.png' has no depth; expected"),
        (np.ones((5, 5)), r'shape \(5, 5\), expected \(300, 260\) as the image'),
        (np.ones((5, 5, 1)), r'shape \(5, 5, 1\), expected \(H, W\)'),
        (np.full((300, 260), np.nan), 'no depth at any pixel'),
    ],
)
def test_depth_that_does_not_fit_is_refused(tmp_path, room_folder, depth, message) -> None:
    (tmp_path / 'images').symlink_to(room_folder / 'images')
    scene = replace(read_scene(room_folder), folder=tmp_path)
    if depth is not None:
        write_depth(tmp_path / 'depth/0.npy', depth)
    with pytest.raises(DataError, match=message):
        load_scenes([scene], 64, EXACT)


def test_depth_of_8_bits_and_missing_images_are_refused(tmp_path, room_folder) -> None:
    scene = replace(read_scene(room_folder), folder=tmp_path)
    (tmp_path / 'depth').mkdir()
    cv2.imwrite(str(tmp_path / 'depth/0.png'), np.ones((4, 4), np.uint8))
    with pytest.raises(DataError, match='is uint8, expected a gray image of 16 bits'):
        scene.read_depth(0)
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images/0.png').write_bytes((room_folder / 'images/0.png').read_bytes())
    with pytest.raises(DataError, match="1.png' is missing"):
        load_scenes([scene], 64, EXACT)
