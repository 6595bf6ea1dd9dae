"""Scenes with depth in memory: their sizes, and which photographs make pairs."""

from dataclasses import replace

import cv2
from kpfeat_core.data.depth_pairs import DepthConfig, load_scenes, measure_overlap
from kpfeat_core.data.posed_scenes import read_scene
from kpfeat_core.errors import DataError
from kpfeat_core.geometry import pixel_grid
from kpfeat_core.image import rescale_points
from made_room import CAMERAS, cast, EXACT, ROOM
import numpy as np
import pytest
from raycast import write_depth
import torch


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
