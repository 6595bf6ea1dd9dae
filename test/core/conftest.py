"""
Pictures, scenes and weights that several files ask for.

kpfeat_core is imported where it is needed: before pytest is configured its annotations could not
be checked.
"""

from pathlib import Path

import cv2
from made_scene import made_scene
import numpy as np
import pytest
import torch


@pytest.fixture(scope='session')
def room_folder(tmp_path_factory) -> Path:
    """Write photographs of a room with depth and poses."""
    from made_room import CAMERAS, ROOM
    from raycast import write_scene

    folder = tmp_path_factory.mktemp('scenes') / 'room'
    write_scene(folder, ROOM, CAMERAS)
    return folder


@pytest.fixture(scope='session')
def room_bank(room_folder):
    """Return the photographs of the room, shrunk by a ratio that is not whole."""
    from kpfeat_core.data.depth_pairs import load_scenes
    from kpfeat_core.data.posed_scenes import read_scene
    from made_room import EXACT

    return load_scenes([read_scene(room_folder)], 280, EXACT)


@pytest.fixture(scope='session')
def scene() -> np.ndarray:
    """Return a picture (360, 480, 3) that is rich in corners."""
    return made_scene()


@pytest.fixture
def sequences(tmp_path, scene):
    """Write two sequences in the HPatches layout: a shift by (12, 8), and the same picture."""
    shifted = np.array([[1.0, 0, -12], [0, 1, -8], [0, 0, 1]])
    for name, H_0to1 in (('v_shift', shifted), ('i_same', np.eye(3))):
        folder = tmp_path / 'data' / name
        folder.mkdir(parents=True)
        for k, matrix in (('1', np.eye(3)), ('2', H_0to1), ('10', H_0to1)):
            view = cv2.warpPerspective(scene, matrix, (440, 320))
            cv2.imwrite(str(folder / f'{k}.png'), view[..., ::-1])
            if k != '1':
                np.savetxt(folder / f'H_1_{k}', matrix)
    return tmp_path / 'data'


@pytest.fixture(scope='session')
def weights(tmp_path_factory):
    """Return a file with random weights, which find keypoints as well as any."""
    from kpfeat_core.registry import build_extractor
    from kpfeat_core.weights.files import save_weights

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights') / 'alike-t.safetensors'
    save_weights(build_extractor('alike-t'), path, {'licence': 'Apache-2.0'})
    return path


@pytest.fixture
def refused(tmp_path):
    """Return a function that imports a checkpoint and expects a WeightsError of these words."""
    from kpfeat_core.errors import WeightsError
    from kpfeat_core.weights.importing import import_checkpoint

    def expect(content, model: str, words: str, **options) -> str:
        file, out = tmp_path / 'x.pth', tmp_path / 'refused.safetensors'
        torch.save(content, file)
        if isinstance(content, bytes):
            file.write_bytes(content)
        with pytest.raises(WeightsError, match=words) as error:
            import_checkpoint(file, model, out, **options)
        assert not out.exists()
        return str(error.value)

    return expect


@pytest.fixture(scope='session')
def photos(tmp_path_factory):
    """Return a folder with two overlapping cuts of a blotchy picture, and one in a subfolder."""
    folder = tmp_path_factory.mktemp('photos')
    noise = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    scene = cv2.resize(noise, (200, 160), interpolation=cv2.INTER_CUBIC)
    (folder / 'deep').mkdir()
    cv2.imwrite(str(folder / 'a.png'), scene[:120, :160])
    cv2.imwrite(str(folder / 'b.png'), scene[32:152, 32:192])
    cv2.imwrite(str(folder / 'deep/a.png'), scene[:64, :96])
    return folder


@pytest.fixture(scope='session')
def drive(tmp_path_factory):
    """Write a recording of five images and of texts."""
    from made_bags import images, texts, write_bag

    made = sorted(images(5) + texts(), key=lambda one: one.time)
    return write_bag(tmp_path_factory.mktemp('bags') / 'drive', made)
