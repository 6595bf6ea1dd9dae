"""Motion of a camera through a made room, whose every pixel, pose and depth is known."""

from dataclasses import replace
import math

import cv2
from kpfeat_core.errors import DataError
from kpfeat_core.evaluation import (
    evaluate,
    find_scenes,
    motion_pairs,
    MotionPair,
    PosePair,
    PROTOCOLS,
    two_view,
)
from kpfeat_core.evaluation.results import read_json, write_json
from kpfeat_core.evaluation.tables import group_cells, split_results, split_table
from kpfeat_core.image import write_image
import numpy as np
from oracle import GridExtractor, values
import pytest
from raycast import Room, walk
import torch

MOTION = PROTOCOLS['motion']
ROOM = Room()
CAMERAS = walk(6)[1:5]  # of three sizes and four focal lengths
SCALE = 5000


@pytest.fixture(scope='module')
def views():
    """Render what the cameras see, and its depth."""
    return [camera.render(ROOM, samples=1) for camera in CAMERAS]


@pytest.fixture
def folder(tmp_path, views):
    """Write the scene `drives/room`: all pairs of four cameras, with depth."""
    scene = tmp_path / 'drives' / 'room'
    (scene / 'depth').mkdir(parents=True)
    tables = {'intrinsics': ['# image width height fx fy cx cy'], 'poses': [], 'pairs': []}
    for k, (camera, (image, depth)) in enumerate(zip(CAMERAS, views, strict=True)):
        write_image(scene / f'images/{k}.png', image)
        cv2.imwrite(str(scene / f'depth/{k}.png'), (depth * SCALE).round().astype(np.uint16))
        K = camera.K
        numbers = [camera.width, camera.height, K[0, 0], K[1, 1], *K[:2, 2]]
        tables['intrinsics'].append(line(k, numbers))
        tables['poses'].append(line(k, [*camera.pose[:3, :3].ravel(), *camera.pose[:3, 3]]))
        tables['pairs'] += [f'{j}.png {k}.png' for j in range(k)]
    for name, lines in tables.items():
        (scene / f'{name}.txt').write_text('\n'.join(lines) + '\n')
    (scene / 'README.md').write_text(f'depth/*.png = metres*{SCALE}, 0 = none')
    return tmp_path / 'drives'


def line(k, numbers):
    return ' '.join([f'{k}.png', *map(repr, map(float, numbers))])


def made_pair(views, i=0, j=1, depths=(True, True), **options):
    cameras = CAMERAS[i], CAMERAS[j]
    depth0, depth1 = (views[k][1] if has else None for k, has in zip((i, j), depths, strict=True))
    T_0to1 = cameras[1].pose @ np.linalg.inv(cameras[0].pose)
    images = (views[k][0] for k in (i, j))
    matrices = (camera.K for camera in cameras)
    return MotionPair('room', 'room/a b', *images, *matrices, T_0to1, depth0=depth0,
                      depth1=depth1, **options)  # fmt: skip


def common_points(i=0, j=1, count=60):
    """Return pixels of the same surface points, in both cameras and not near an edge."""
    rng = np.random.default_rng(0)
    first, second = CAMERAS[i], CAMERAS[j]
    pixels = rng.uniform(8, [first.width - 9, first.height - 9], (4000, 2))
    depth, surface = ROOM.cast(first.origin, first.rays(pixels))
    points = first.origin + first.rays(pixels) * depth[:, None]
    there = second.project(points)
    seen, surface1 = ROOM.cast(second.origin, second.rays(there[:, :2]))
    good = (np.abs(seen - there[:, 2]) < 1e-6) & (surface == surface1)
    good &= ((there[:, :2] > 8) & (there[:, :2] < [second.width - 9, second.height - 9])).all(1)
    for shift in np.array([[-4, -4], [4, -4], [-4, 4], [4, 4]]):
        good &= ROOM.cast(first.origin, first.rays(pixels + shift))[1] == surface
        near = second.rays(there[:, :2] + shift)
        good &= ROOM.cast(second.origin, near)[1] == surface
    return pixels[good][:count], there[good, :2][:count]


class Oracle(GridExtractor):
    """Finds given points of the full images in whatever size it sees them."""

    def __init__(self, pair, points0, points1):
        super().__init__({})
        self.pair, self.points = pair, (points0, points1)

    def extract(self, image):
        k = self.calls // 2  # the first view twice: once to warm up
        height, width = (self.pair.view0, self.pair.view1)[k].shape[:2]
        scale = np.array([image.shape[1] / width, image.shape[0] / height])
        self.points_of_width = {image.shape[1]: (self.points[k] + 0.5) * scale - 0.5}
        return super().extract(image)


@pytest.mark.parametrize('long_side', [640, 200])
@pytest.mark.parametrize('depths', [(True, True), (True, False), (False, True)])
def test_an_extractor_that_knows_the_truth_gets_full_marks(views, long_side, depths) -> None:
    pair = made_pair(views, depths=depths)
    protocol = replace(MOTION, long_side=long_side)
    numbers = values(Oracle(pair, *common_points()), pair, protocol)
    assert numbers['pose_error'] < 0.2
    for name in ('epipolar@1', 'MMA@1', 'MMA@5', 'repeatability'):
        assert numbers[name] == 1, name
    assert numbers['localization_px'] < 0.1
    assert numbers['matches'] == numbers['right'] == 60


@pytest.mark.parametrize('long_side', [1600, 101])
def test_a_pose_is_found_from_true_matches_at_any_size(views, long_side) -> None:
    pair = made_pair(views)
    posed = PosePair('s', 's/0', pair.view0, pair.view1, pair.K0, pair.K1, pair.T_0to1)
    protocol = replace(PROTOCOLS['pose'], long_side=long_side)
    numbers = values(Oracle(pair, *common_points()), posed, protocol)
    assert numbers['pose_error'] < 0.5
    assert numbers['pose_AUC@5'] > 0.9
    assert numbers['precision'] == 1


def test_matches_off_the_true_point_are_told_through_depth(views) -> None:
    points0, points1 = common_points()
    pair = made_pair(views)
    numbers = values(Oracle(pair, points0, points1 + [2.4, 0]), pair, MOTION)
    assert [numbers[f'MMA@{t}'] for t in (1, 2, 3)] == [0, 0, 1]
    swapped = values(Oracle(pair, points0, points1[::-1].copy()), pair, MOTION)
    assert swapped['MMA@5'] < 0.1 and swapped['epipolar@1'] < 0.3
    assert swapped['pose_AUC@20'] == 0


def test_without_depth_or_matches_there_is_nothing_to_compare(views) -> None:
    pair = made_pair(views, depths=(False, False))
    numbers = values(Oracle(pair, *common_points()), pair, MOTION)
    assert numbers['epipolar@1'] == 1
    assert all(math.isnan(numbers[name]) for name in ('MMA@3', 'repeatability'))
    pair = made_pair(views)
    none = values(Oracle(pair, common_points()[0], np.zeros((0, 2))), pair, MOTION)
    assert none['MMA@5'] == none['epipolar@5'] == none['repeatability'] == 0
    assert none['pose_error'] == math.inf


def test_a_coarse_truth_scores_the_rotation_and_five_pixels(views) -> None:
    pair = made_pair(views, coarse=True)
    wrong_way = pair.T_0to1.copy()
    wrong_way[:3, 3] = wrong_way[[1, 2, 0], 3]
    points = common_points()
    numbers = values(Oracle(pair, *points), replace(pair, T_0to1=wrong_way), MOTION)
    assert numbers['pose_error'] < 0.2
    numbers = values(Oracle(pair, *points), pair, MOTION)
    assert numbers['MMA@5'] == 1
    for name in ('MMA@3', 'epipolar@1', 'epipolar@5'):
        assert math.isnan(numbers[name])


def test_matches_of_a_stereo_pair_are_scored_by_its_disparity_and_its_pose_is_not() -> None:
    K, T_0to1, blank = np.diag([100.0, 100, 1]), np.eye(4), np.zeros((60, 80, 3), np.uint8)
    T_0to1[0, 3] = -0.2
    depth = np.full((60, 80), 2.0)  # 100 px * 0.2 / 2 = 10 px of disparity
    pair = MotionPair('stereo', 's/0', blank, blank, K, K, T_0to1, depth0=depth)
    points = np.stack(np.meshgrid([20.0, 40, 60], [10.0, 30, 50]), -1).reshape(-1, 2)
    for off, share in (([0, 0], 1), ([2.5, 0], 0)):
        numbers = values(Oracle(pair, points, points - [10, 0] + off), pair, MOTION)
        assert numbers['epipolar@1'] == 1
        assert numbers['MMA@1'] == share and numbers['localization_px'] == pytest.approx(off[0])
        assert all(math.isnan(numbers[f'pose_AUC@{t}']) for t in (5, 10, 20))
    assert not replace(pair, depth0=None).is_stereo
    results = evaluate(Oracle(pair, points, points - [10, 0]), [pair], MOTION)
    rows = group_cells([results], 'pose_AUC@5')
    assert [cell.text for cell in rows['stereo']] == ['—']


def test_points_go_where_the_other_camera_sees_them(views) -> None:
    """Hidden points and those beside the image go to infinity."""
    pair = made_pair(views, 0, 3)
    y, x = np.mgrid[5:195:7, 5:300:7]
    pixels = np.stack([x.ravel(), y.ravel()], 1) + 0.25
    pixels = pixels[(pixels < [CAMERAS[0].width - 6, CAMERAS[0].height - 6]).all(1)]
    depths = [torch.from_numpy(depth) for depth in (pair.depth0, pair.depth1)]
    arguments = (pair.K0, pair.K1, pair.T_0to1)
    got = two_view.warp_through_depth(torch.from_numpy(pixels), *depths, *arguments)
    first, second = CAMERAS[0], CAMERAS[3]
    s, _ = ROOM.cast(first.origin, first.rays(pixels))
    there = second.project(first.origin + first.rays(pixels) * s[:, None])
    nearest, _ = ROOM.cast(second.origin, second.rays(there[:, :2]))
    inside = ((there[:, :2] > 0) & (there[:, :2] < [second.width - 1, second.height - 1])).all(1)
    hidden = inside & (there[:, 2] > 1.1 * nearest)
    known, finite = ~got.isnan().any(1).numpy(), got.isfinite().all(1).numpy()
    assert known.mean() > 0.8 and hidden.sum() > 10
    assert not finite[~inside].any() and finite[hidden].mean() < 0.1  # beside edges none is known
    agree = finite & (np.abs(there[:, 2] - nearest) < 1e-6)
    assert agree.sum() > 300
    errors = np.abs(got.numpy()[agree] - there[agree, :2]).max(1)
    assert np.quantile(errors, 0.98) < 0.02 and errors.max() < 1  # the rest: rims of spheres
    nothing = torch.zeros_like(depths[0])
    assert (
        two_view.warp_through_depth(torch.from_numpy(pixels), nothing, depths[1], *arguments)
        .isnan()
        .all()
    )


def test_distances_from_epipolar_lines_are_pixels_of_the_worse_image(views) -> None:
    pair = made_pair(views)
    points0, points1 = map(torch.from_numpy, common_points())

    def distances(moved):
        return two_view.line_distances(points0, moved, pair.K0, pair.K1, pair.T_0to1)

    assert distances(points1).max() < 1e-6
    lifted = torch.nn.functional.pad(points0, (0, 1), value=1.0).numpy()
    R, t = pair.T_0to1[:3, :3], pair.T_0to1[:3, 3]
    cross = np.cross(np.eye(3), t).T
    lines = torch.from_numpy(
        lifted @ (np.linalg.inv(pair.K1).T @ cross @ R @ np.linalg.inv(pair.K0)).T
    )
    across = torch.nn.functional.normalize(lines[:, :2], dim=1)
    assert (distances(points1 + 1.5 * across) >= 1.5 - 1e-9).all()
    assert distances(points1 + 30 * across.flip(1) * torch.tensor([1.0, -1])).max() < 1e-6
    standing = np.eye(4)
    assert two_view.line_distances(points0, points1, pair.K0, pair.K1, standing).isnan().all()


def test_a_folder_of_scenes_gives_cameras_depth_and_thirds_by_baseline(folder) -> None:
    pairs = motion_pairs(folder)
    assert len(pairs) == 6
    assert {pair.group for pair in pairs} == {'room'}
    first = next(pair for pair in pairs if pair.name == 'room/0.png 3.png')
    truth = CAMERAS[3].pose @ np.linalg.inv(CAMERAS[0].pose)
    assert np.allclose(first.T_0to1, truth) and np.allclose(first.K1, CAMERAS[3].K)
    assert (first.part, first.depth_scale, first.coarse) == ('long baseline', SCALE, False)
    for third in ('short baseline', 'middle baseline', 'long baseline'):
        assert [pair.part for pair in pairs].count(third) == 2
    assert [pair.group for pair in motion_pairs(folder / 'room')] == ['room'] * 6
    assert find_scenes(folder.parent) == [folder / 'room']
    assert find_scenes(folder / 'room/images') == []


def test_a_column_of_parallax_sorts_the_pairs_and_relative_poses_stand_for_themselves(folder):
    path = folder / 'room/pairs.txt'
    names = path.read_text().split('\n')[:3]
    head = '# image0 image1 covisibility(min both ways) median_parallax_deg tracks\n'
    rows = [f'{name} 0.5 {angle} 99' for name, angle in zip(names, (9, 1, 5), strict=True)]
    path.write_text(head + '\n'.join(rows))
    parts = [pair.part.split()[0] for pair in motion_pairs(folder)]
    assert parts == ['long', 'short', 'middle']
    pose = np.c_[np.eye(3)[[1, 2, 0]].reshape(1, 9), [[1, 2, 3]]][0]
    path.write_text('\n'.join(f'{name} {" ".join(map(str, pose))} 0.7 120' for name in names))
    (first, *_) = motion_pairs(folder)
    assert (first.coarse, first.part, first.T_0to1[:3, 3].tolist()) == (True, '', [1, 2, 3])


@pytest.mark.parametrize(
    ('name', 'text', 'words'),
    [
        ('pairs.txt', '0.png 9.png', r"line 1: '9.png' has no line in intrinsics.txt and poses"),
        ('pairs.txt', '0.png', 'line 1: expected the names of two images'),
        ('pairs.txt', '# nothing', 'holds no pairs'),
        ('pairs.txt', '# median_parallax_deg\n0.png 1.png', 'line 2: 0 numbers, expected 1'),
        ('poses.txt', '0.png 1 2 3', 'line 1: 3 numbers, expected 12 finite ones'),
        ('poses.txt', '0.png 2 0 0 0 2 0 0 0 2 0 0 0', 'line 1: the first 9 .* no rotation'),
        ('poses.txt', '0.png -1 0 0 0 1 0 0 0 1 0 0 0', 'line 1: the first 9 .* no rotation'),
        ('intrinsics.txt', '0.png 640 480 x 1 1 1', 'line 1: could not convert'),
        ('README.md', 'depth', 'does not say the unit of depth'),
    ],
)
def test_a_broken_table_of_a_scene_is_named(folder, name, text, words) -> None:
    (folder / 'room' / name).write_text(text)
    with pytest.raises(DataError, match=words):
        motion_pairs(folder)


def test_missing_scenes_images_and_other_sizes_of_depth_or_images_are_refused(folder) -> None:
    with pytest.raises(DataError, match='holds no scenes; expected folders with intrinsics.txt'):
        motion_pairs(folder / 'room/depth')
    cv2.imwrite(str(folder / 'room/depth/0.png'), np.ones((4, 5), np.uint16))
    with pytest.raises(DataError, match=r'uint16 of shape \(4, 5\), expected 16 bits of shape'):
        evaluate(GridExtractor(Everywhere()), motion_pairs(folder)[:1], MOTION)
    table = folder / 'room/intrinsics.txt'
    table.write_text(table.read_text().replace(f'{CAMERAS[0].width}.0 ', '77.0 ', 1))
    words = f'has {CAMERAS[0].width}x{CAMERAS[0].height} pixels, but its intrinsics are of 77x'
    with pytest.raises(DataError, match=rf"0.png' {words}"):
        evaluate(GridExtractor(Everywhere()), motion_pairs(folder)[:1], MOTION)
    (folder / 'room/images/1.png').unlink()
    with pytest.raises(DataError, match="there is no image '.*1.png'"):
        motion_pairs(folder)


class Everywhere(dict):
    """The same points for every width."""

    def __missing__(self, width):
        return np.random.default_rng(0).uniform(10, 150, (40, 2))


def test_parts_are_kept_with_the_results_and_shown_apart(folder, tmp_path) -> None:
    results = evaluate(GridExtractor(Everywhere()), motion_pairs(folder), MOTION)
    write_json(tmp_path / 'r.json', [results])
    (again,) = read_json(tmp_path / 'r.json')
    splits = split_results([again])
    assert list(splits) == ['short baseline', 'middle baseline', 'long baseline']
    assert [len(part[0].pairs) for part in splits.values()] == [2, 2, 2]
    assert 'by baseline' in split_table([again]).title.plain
