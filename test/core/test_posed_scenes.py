"""Scenes with depth and poses as they lie on disk."""

from dataclasses import replace
import json

import cv2
from kpfeat_core.data.posed_scenes import find_scenes, read_scene
from kpfeat_core.errors import DataError
import numpy as np
import pytest
from raycast import write_depth
from run_script import run_script


@pytest.mark.parametrize('ending', ['.npy', '.npz', '.png', '.h5'])
def test_depth_is_read_in_every_format(tmp_path, room_folder, ending) -> None:
    if ending == '.h5':
        pytest.importorskip('h5py')
    depth = np.linspace(1, 4, 12).reshape(3, 4)
    depth[0, 0] = 0
    scene = replace(read_scene(room_folder), folder=tmp_path)
    write_depth(tmp_path / 'depth' / f'0{ending}', depth)
    np.testing.assert_allclose(scene.read_depth(0), depth, atol=5.1e-4)


def test_what_ros_and_megadepth_write_for_no_depth_is_unknown(tmp_path, room_folder) -> None:
    scene = replace(read_scene(room_folder), folder=tmp_path)
    write_depth(tmp_path / 'depth/0.npy', np.array([[np.nan, np.inf, -1, 0, 2]]))
    assert scene.read_depth(0).tolist() == [[0, 0, 0, 0, 2]]


def cameras_of(folder) -> dict:
    return json.loads((folder / 'cameras.json').read_text())


def test_colmaps_pixel_centers_become_whole_numbers(tmp_path, room_folder) -> None:
    content = cameras_of(room_folder) | {'pixel_centre': 0.5}
    (tmp_path / 'cameras.json').write_text(json.dumps(content))
    there, here = read_scene(tmp_path).intrinsics, read_scene(room_folder).intrinsics
    np.testing.assert_allclose((here - there)[:, :, 2], [[0.5, 0.5, 0]] * 2)
    np.testing.assert_array_equal(there[..., :2], here[..., :2])


def test_cameras_are_read_from_arrays_as_from_json(tmp_path, room_folder) -> None:
    scene = read_scene(room_folder)
    np.savez(
        tmp_path / 'cameras.npz',
        names=scene.names, K=scene.intrinsics, world_to_camera=scene.poses, pixel_centre=0,
    )  # fmt: skip
    again = read_scene(tmp_path)
    assert again.names == scene.names
    np.testing.assert_array_equal(again.poses, scene.poses)
    assert find_scenes(tmp_path) == [tmp_path]


def test_pairs_come_from_a_list_or_a_matrix_where_there_is_one(tmp_path, room_folder) -> None:
    (tmp_path / 'cameras.json').write_text((room_folder / 'cameras.json').read_text())
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
def test_cameras_that_cannot_be_are_refused(tmp_path, room_folder, change, message) -> None:
    content = cameras_of(room_folder)
    change(content)
    (tmp_path / 'cameras.json').write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read_scene(tmp_path)


def test_rendered_and_measured_scenes_are_brought_into_this_layout(tmp_path) -> None:
    source = tmp_path / 'source'
    for name in ('hall/images', 'hall/depth', 'sparse/images'):
        (source / name).mkdir(parents=True)
    pose = '0 0 1 0 1 0 -1 0 0 0.5 -2 3'
    for scene in ('hall', 'sparse'):
        files = {
            'README.md': 'depth: uint16, metres * 500',
            'intrinsics.txt': '# image\n'
            + ''.join(f'{n}.jpg 64 48 50 60 31.5 23\n' for n in 'abc'),
            'poses.txt': ''.join(f'{n}.jpg {pose}\n' for n in 'abc'),
            'pairs.txt': 'a.jpg b.jpg 0.7 12\na.jpg c.jpg 0.6 10\n',
        }
        for name, text in files.items():
            (source / scene / name).write_text(text)
    for name in 'ab':  # c has no depth
        counts = np.full((48, 64), 1000, np.uint16)
        cv2.imwrite(str(source / f'hall/depth/{name}.png'), counts)
    assert run_script('posed_folder.py', source, tmp_path / 'out').code == 0
    assert find_scenes(tmp_path / 'out') == [tmp_path / 'out/hall']
    scene = read_scene(tmp_path / 'out/hall')
    assert scene.names == ('a.jpg', 'b.jpg') and scene.pairs == {(0, 1): 0.7}
    assert scene.intrinsics[0].tolist() == [[50, 0, 31.5], [0, 60, 23], [0, 0, 1]]
    assert scene.poses[1, :3].tolist() == [[0, 0, 1, 0.5], [0, 1, 0, -2], [-1, 0, 0, 3]]
    assert (scene.read_depth(0) == 2).all()
