"""The script that packs photographs into one file to carry."""

import zipfile

import cv2
from kpfeat_core.data.image_folder import find_row, read_kinds
from kpfeat_core.errors import DataError
from kpfeat_core.io import find_images
import numpy as np
import pytest
from run_script import load_script


@pytest.fixture(scope='module')
def pack():
    return load_script('pack.py')['pack']


@pytest.fixture
def folder(tmp_path):
    """Two pictures of one name in different folders, and one more."""
    for name in ('a/x.png', 'b/x.jpg', 'y.png'):
        write(tmp_path / 'images' / name)
    return tmp_path / 'images'


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((40, 50, 3), 90, np.uint8))


def test_pictures_keep_their_folders_and_the_manifest_names_them(pack, folder, tmp_path) -> None:
    rows = 'file,kind\na/x.png,photo\nb/x.jpg,texture\ny.png,photo\nz.png,photo\n'
    (tmp_path / 'manifest.csv').write_text(rows)
    pack(folder, tmp_path / 'out.zip')
    with zipfile.ZipFile(tmp_path / 'out.zip') as file:
        file.extractall(tmp_path / 'out')
    kinds = read_kinds(tmp_path / 'out')
    assert kinds == {'a/x.webp': 'photo', 'b/x.webp': 'texture', 'y.webp': 'photo'}
    found = find_images(tmp_path / 'out')
    assert [find_row(path, kinds) for path in found] == ['photo', 'texture', 'photo']


def test_a_damaged_picture_is_left_out(pack, folder, tmp_path, capsys) -> None:
    (folder / '0.png').write_bytes(b'not a picture')
    pack(folder, tmp_path / 'out.zip')
    assert 'left out' in capsys.readouterr().err
    assert sorted(zipfile.ZipFile(tmp_path / 'out.zip').namelist()) == [
        'a/x.webp', 'b/x.webp', 'y.webp'
    ]  # fmt: skip


def test_nothing_is_written_where_no_picture_can_be_read(pack, tmp_path) -> None:
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images/0.png').write_bytes(b'not a picture')
    with pytest.raises(DataError, match='none of 1 pictures'):
        pack(tmp_path / 'images', tmp_path / 'out.zip')
    assert not (tmp_path / 'out.zip').exists()


def test_pictures_that_differ_only_in_their_ending_are_refused(pack, folder, tmp_path) -> None:
    write(folder / 'a/x.jpg')
    with pytest.raises(DataError, match=r'x\.jpg.*x\.png.*both'):
        pack(folder, tmp_path / 'out.zip')
