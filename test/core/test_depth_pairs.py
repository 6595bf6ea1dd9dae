"""Pairs with depth and poses: correspondences and occlusion against ray casting."""

from dataclasses import replace
import json

import cv2
from kpfeat_core.data.depth_pairs import DepthPairBatch, make_depth_pairs
from kpfeat_core.data.depth_warp import depth_edges, DepthRules, read_inverse_depth, warp_by_depth
from kpfeat_core.data.homography_pairs import PairBatch, PairConfig
from kpfeat_core.data.photometric import PhotometricConfig
from kpfeat_core.data.posed_scenes import find_scenes, read_scene
from kpfeat_core.data.scene_bank import DepthConfig, load_scenes, measure_overlap, SceneBank
from kpfeat_core.data.view_pairs import ViewPairs
from kpfeat_core.errors import ConfigError, DataError
from kpfeat_core.geometry import pixel_grid
from kpfeat_core.image import rescale_points
from kpfeat_core.registry import build_extractor
from kpfeat_core.training.alike import AlikeLossConfig, AlikeRecipe
import numpy as np
import pytest
from raycast import Room, walk, write_depth, write_scene
import torch

ROOM, CAMERAS = Room(), [walk(6)[1], walk(6)[3]]  # of different sizes and focal lengths
EXACT = DepthConfig(depth_tolerance=0.005, depth_edge=0.003)
SIDE = 160
CALM = PhotometricConfig(
    brightness=0, contrast=0, gamma=0, saturation=0, tint=0, gray_share=0,
    shade_share=0, blur_share=0, noisy_share=0,
)  # fmt: skip


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('scenes') / 'room'
    write_scene(folder, ROOM, CAMERAS)
    return folder


@pytest.fixture(scope='module')
def bank(folder) -> SceneBank:
    """Return the two photographs, shrunk by a ratio that is not whole."""
    return load_scenes([read_scene(folder)], 280, EXACT, progress=False)


@pytest.fixture(scope='module')
def batch(bank) -> DepthPairBatch:
    config = PairConfig(view_size=SIDE)
    return make_depth_pairs(bank, 8, config, EXACT.rules, CALM, seeded())


def cast(view: int, pixels, K):
    """Return depth, surface and world points that pixels of a camera with another K show."""
    camera = CAMERAS[view]
    rays = camera.rays(np.asarray(pixels, np.float64), np.asarray(K, np.float64))
    depth, surface = ROOM.cast(camera.origin, rays)
    return depth, surface, camera.origin + rays * depth[:, None]


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
            seen = seen + ROOM.colour(cast(view, at, batch.intrinsics[view, b])[2]) / len(steps)
        shown = batch.images[view, b].flatten(1).T.numpy()
        valid = batch.valid[view, b].flatten().numpy()
        return np.abs(shown - seen)[valid].mean()

    for view in (0, 1):
        right = difference(view, 0, (0.0, 0.0))
        for shift in ((0.5, 0.0), (-0.5, 0.0), (0.0, 0.5), (0.0, -0.5)):
            assert right < difference(view, 0, shift) - 1e-3


def test_shrinking_moves_projections_as_it_moves_pixels(bank, folder) -> None:
    scene = read_scene(folder)
    world = np.random.default_rng(0).uniform((-1, -1, 3), (1, 1, 6), (50, 3))
    for row, camera in enumerate(CAMERAS):
        before = camera.project(world)[:, :2]
        after = camera.project(world, bank.intrinsics[row].double().numpy())[:, :2]
        width, height = bank.images.sizes[row].int().tolist()
        size = camera.height, camera.width
        expected = rescale_points(torch.tensor(before), size, (height, width))
        np.testing.assert_allclose(after, expected, atol=1e-4)
    np.testing.assert_array_equal(scene.intrinsics[0], CAMERAS[0].K)


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


def test_the_same_seed_gives_the_same_pairs_and_parts_make_up_the_whole(bank) -> None:
    config = PairConfig(view_size=64)
    first, again, other = (
        make_depth_pairs(bank, 5, config, EXACT.rules, PhotometricConfig(), seeded(s))
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


def test_photographs_smaller_than_a_view_are_marked(bank) -> None:
    config = PairConfig(view_size=96, coverage_min=1.5, coverage_max=1.5)
    batch = make_depth_pairs(bank, 2, config, EXACT.rules, CALM, seeded())
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


def test_overlap_is_the_share_of_points_that_the_other_photograph_shows(bank) -> None:
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
    measured = measure_overlap(bank, slice(0, 2), EXACT.rules)
    assert measured == {(0, 1): pytest.approx(min(shares), abs=0.04)}


def test_pairs_that_share_too_little_or_too_much_are_left_out(folder) -> None:
    scene = read_scene(folder)
    for bounds in ({'min_overlap': 0.9}, {'min_overlap': 0.1, 'max_overlap': 0.2}):
        with pytest.raises(DataError, match='no two photographs in .* lower min_overlap'):
            load_scenes([scene], 64, DepthConfig(**bounds), progress=False)
    given = replace(scene, pairs={(0, 1): 0.95})
    bank = load_scenes([given], 64, DepthConfig(min_overlap=0.9), progress=False)
    assert bank.pairs.tolist() == [[0, 1]] and bank.probabilities.tolist() == [1]


def test_scenes_are_drawn_equally_often_whatever_their_number_of_pairs(folder) -> None:
    scene = read_scene(folder)
    triple = replace(
        scene,
        names=(*scene.names, scene.names[0]),
        intrinsics=scene.intrinsics[[0, 1, 0]],
        poses=scene.poses[[0, 1, 0]],
        pairs={(0, 1): 1.0, (0, 2): 1.0, (1, 2): 1.0},
    )
    bank = load_scenes([scene, triple], 64, EXACT, progress=False)
    assert bank.pairs.tolist() == [[0, 1], [2, 3], [2, 4], [3, 4]]
    assert bank.probabilities.tolist() == pytest.approx([0.5, 1 / 6, 1 / 6, 1 / 6])


@pytest.mark.parametrize('ending', ['.npy', '.npz', '.png', '.h5'])
def test_depth_is_read_in_every_format(tmp_path, folder, ending) -> None:
    if ending == '.h5':
        pytest.importorskip('h5py')
    depth = np.linspace(1, 4, 12).reshape(3, 4)
    depth[0, 0] = 0
    scene = replace(read_scene(folder), folder=tmp_path)
    write_depth(tmp_path / 'depth' / f'0{ending}', depth)
    np.testing.assert_allclose(scene.read_depth(0), depth, atol=5.1e-4)


def test_what_ros_and_megadepth_write_for_no_depth_is_unknown(tmp_path, folder) -> None:
    scene = replace(read_scene(folder), folder=tmp_path)
    write_depth(tmp_path / 'depth/0.npy', np.array([[np.nan, np.inf, -1, 0, 2]]))
    assert scene.read_depth(0).tolist() == [[0, 0, 0, 0, 2]]


def cameras_of(folder) -> dict:
    return json.loads((folder / 'cameras.json').read_text())


def test_colmaps_pixel_centres_become_whole_numbers(tmp_path, folder) -> None:
    content = cameras_of(folder) | {'pixel_centre': 0.5}
    (tmp_path / 'cameras.json').write_text(json.dumps(content))
    there, here = read_scene(tmp_path).intrinsics, read_scene(folder).intrinsics
    np.testing.assert_allclose((here - there)[:, :, 2], [[0.5, 0.5, 0]] * 2)
    np.testing.assert_array_equal(there[..., :2], here[..., :2])


def test_cameras_are_read_from_arrays_as_from_json(tmp_path, folder) -> None:
    scene = read_scene(folder)
    np.savez(
        tmp_path / 'cameras.npz',
        names=scene.names, K=scene.intrinsics, world_to_camera=scene.poses, pixel_centre=0,
    )  # fmt: skip
    again = read_scene(tmp_path)
    assert again.names == scene.names
    np.testing.assert_array_equal(again.poses, scene.poses)
    assert find_scenes(tmp_path) == [tmp_path]


def test_pairs_come_from_a_list_or_a_matrix_where_there_is_one(tmp_path, folder) -> None:
    (tmp_path / 'cameras.json').write_text((folder / 'cameras.json').read_text())
    np.save(tmp_path / 'overlap.npy', np.array([[1, 0.7], [0.4, 1]]))
    assert read_scene(tmp_path).pairs == {(0, 1): 0.4}
    (tmp_path / 'pairs.txt').write_text('# image image overlap\n1.png 0.png 0.25\n\n')
    assert read_scene(tmp_path).pairs == {(0, 1): 0.25}
    (tmp_path / 'pairs.txt').write_text('0.png 7.png\n')
    with pytest.raises(DataError, match="line 1 of .* is '0.png 7.png', expected two different"):
        read_scene(tmp_path)


def changed(key: str, value):
    """Return a change of one matrix of the first camera."""

    def change(content: dict) -> None:
        content['images']['0.png'][key] = value

    return change


NAN = np.diag([1.0, float('nan'), 1]).tolist()
CAMERA_ERRORS = [
    (changed('K', NAN), "K of '0.png' in .* holds NaN"),
    (changed('K', np.diag([-5.0, 5, 1]).tolist()), 'is no pinhole'),
    (changed('K', np.eye(2).tolist()), 'no camera file|K of shape'),
    (changed('world_to_camera', np.diag([2.0, 2, 2, 1]).tolist()), 'does not rotate and move'),
    (changed('world_to_camera', np.diag([1.0, 1, -1, 1]).tolist()), 'does not rotate and move'),
    (changed('world_to_camera', np.ones((4, 4)).tolist()), 'has the last row'),
    (lambda content: content.pop('pixel_centre'), 'KeyError.*expected pixel_centre'),
    (lambda content: content.update(pixel_centre=1), 'expected 0 or 0.5'),
    (lambda content: content.update(images={}), 'for 0 images'),
    (lambda content: content.update(depth_unit=0), 'depth_unit 0.0, expected more than 0'),
]


@pytest.mark.parametrize(('change', 'message'), CAMERA_ERRORS)
def test_cameras_that_cannot_be_are_refused(tmp_path, folder, change, message) -> None:
    content = cameras_of(folder)
    change(content)
    (tmp_path / 'cameras.json').write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read_scene(tmp_path)


@pytest.mark.parametrize(
    ('depth', 'message'),
    [
        (None, "'.*0.png' has no depth; expected"),
        (np.ones((5, 5)), r'shape \(5, 5\), expected \(300, 260\) as the image'),
        (np.ones((5, 5, 1)), r'shape \(5, 5, 1\), expected \(H, W\)'),
        (np.full((300, 260), np.nan), 'no depth at any pixel'),
    ],
)
def test_depth_that_does_not_fit_is_refused(tmp_path, folder, depth, message) -> None:
    (tmp_path / 'images').symlink_to(folder / 'images')
    scene = replace(read_scene(folder), folder=tmp_path)
    if depth is not None:
        write_depth(tmp_path / 'depth/0.npy', depth)
    with pytest.raises(DataError, match=message):
        load_scenes([scene], 64, EXACT, progress=False)


def test_depth_of_8_bits_and_missing_images_are_refused(tmp_path, folder) -> None:
    scene = replace(read_scene(folder), folder=tmp_path)
    (tmp_path / 'depth').mkdir()
    cv2.imwrite(str(tmp_path / 'depth/0.png'), np.ones((4, 4), np.uint8))
    with pytest.raises(DataError, match='is uint8, expected a gray image of 16 bits'):
        scene.read_depth(0)
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images/0.png').write_bytes((folder / 'images/0.png').read_bytes())
    with pytest.raises(DataError, match="1.png' is missing"):
        load_scenes([scene], 64, EXACT, progress=False)


def test_a_few_steps_on_a_scene_lower_every_loss(bank) -> None:
    config = PairConfig(view_size=96)
    batch = make_depth_pairs(bank, 2, config, EXACT.rules, CALM, seeded())
    torch.manual_seed(0)
    recipe = AlikeRecipe(
        build_extractor('alike-t'), AlikeLossConfig(detected=50, random=50, stride=4)
    )
    optimizer = torch.optim.Adam(recipe.parameters(), 3e-3)
    history = []
    for _ in range(30):
        parts = recipe(batch, seeded())
        optimizer.zero_grad()
        parts['total'].backward()
        assert all(p.grad.isfinite().all() for p in recipe.parameters() if p.grad is not None)
        optimizer.step()
        history.append({name: float(value.detach()) for name, value in parts.items()})
    assert 0.1 < history[0]['covisible'] < 0.9
    assert history[-1]['total'] < 0.7 * history[0]['total']
    assert history[-1]['nre'] < 0.7 * history[0]['nre']


RUN = {
    'view_size': 64, 'batch_size': 2, 'detected': 20, 'random': 20, 'bank_side': 128, 'steps': 3,
    'validation_pairs': 2, 'validate_every': 3, 'log_every': 1, 'threads': 1, 'device': 'cpu',
}  # fmt: skip


def test_a_folder_of_scenes_trains_alike_and_is_refused_by_others(tmp_path, folder) -> None:
    pytest.importorskip('lightning_fabric', reason='training needs Lightning Fabric')
    from kpfeat_core.training import train

    with pytest.raises(DataError, match='holds one scene .* expected two'):
        train('alike-t', folder, tmp_path / 'run', **RUN)
    for name in ('first', 'second'):
        (tmp_path / 'scenes').mkdir(exist_ok=True)
        (tmp_path / 'scenes' / name).symlink_to(folder)
    weights = train('alike-t', tmp_path / 'scenes', tmp_path / 'run', **RUN)
    assert weights.is_file()
    assert cv2.imread(str(tmp_path / 'run/pairs.jpg')) is not None
    with pytest.raises(DataError, match='which this model does not train on'):
        train(
            'keynet-tiny',
            tmp_path / 'scenes',
            tmp_path / 'other',
            **{k: v for k, v in RUN.items() if k not in ('detected', 'random')},
        )
    with pytest.raises(ConfigError, match='depth_tolerance is -1.0'):
        train('alike-t', tmp_path / 'scenes', tmp_path / 'x', **RUN | {'depth_tolerance': -1.0})
