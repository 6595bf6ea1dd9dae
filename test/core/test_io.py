"""Which images are meant, and files that appear whole or not at all."""

import zipfile

import h5py
from kpfeat_core.errors import DataError
from kpfeat_core.io import (
    expand_images,
    find_images,
    hloc_file,
    read_npz,
    replacing,
    unpacked,
    write_npz,
)
import numpy as np
import pytest

ARRAYS = {
    'keypoints': np.array([[1.5, 2], [3, 4], [5, 6]], np.float32),
    'keypoint_scores': np.array([0.9, 0.5, 0.1], np.float32),
    'descriptors': np.arange(12, dtype=np.float32).reshape(3, 4),
    'image_size': np.array([64, 48], np.float32),
}


@pytest.fixture
def folder(tmp_path):
    """Return a folder with images of the same name in two subfolders (empty files will do)."""
    for name in ('a/1.png', 'b/1.png', 'b/2.jpg', 'b/notes.txt'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    'words, expected',
    [
        ([''], ['a/1.png', 'b/1.png', 'b/2.jpg']),
        (['b/2.jpg', 'a/*.png'], ['2.jpg', '1.png']),
        (['a/1.png', 'a/../a/1.png'], ['1.png']),
    ],
    ids=['paths below a folder', 'bare names of files and patterns', 'a file named twice'],
)
def test_names_are_those_below_the_word_each_once(folder, words, expected):
    found = expand_images([f'{folder}/{word}' for word in words])
    assert [item.name.as_posix() for item in found] == expected


def test_two_images_of_one_name_are_refused_and_endings_count_unless_stored_by_stem(folder):
    with pytest.raises(DataError, match="a/1.png' and '.*b/1.png' would both be stored"):
        expand_images([f'{folder}/*/1.png'])
    (folder / 'a/1.jpg').touch()
    assert len(expand_images([f'{folder}/a'])) == 2
    with pytest.raises(DataError, match="stored as '1'"):
        expand_images([f'{folder}/a'], by_stem=True)


@pytest.mark.parametrize('word', ['nothing.png', '*.gif', 'b/nowhere/'])
def test_a_word_that_finds_nothing_is_an_error(folder, word):
    with pytest.raises(DataError, match='no file, no folder, and no pattern'):
        expand_images([f'{folder}/{word}'])


def test_features_survive_the_way_through_npz_and_another_file_is_refused(tmp_path):
    write_npz(tmp_path / 'new/frame.0001.npz', ARRAYS)
    back = read_npz(tmp_path / 'new/frame.0001.npz')
    assert set(back) == set(ARRAYS)
    assert all(np.array_equal(back[name], ARRAYS[name]) for name in ARRAYS)
    (tmp_path / 'x.npz').write_text('hello')
    with pytest.raises(DataError, match="features from '.*x.npz'"):
        read_npz(tmp_path / 'x.npz')


def test_after_an_error_the_old_file_is_as_it_was_and_nothing_lies_around(tmp_path):
    (tmp_path / 'x.txt').write_text('old')
    with pytest.raises(RuntimeError), replacing(tmp_path / 'x.txt') as temporary:
        temporary.write_text('half')
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ['x.txt']
    assert (tmp_path / 'x.txt').read_text() == 'old'


def test_the_hloc_file_has_one_group_an_image_with_descriptors_in_columns(tmp_path):
    with hloc_file(tmp_path / 'features.h5') as add:
        add('query/1.png', ARRAYS)
        assert not (tmp_path / 'features.h5').exists()
    with h5py.File(tmp_path / 'features.h5') as file:
        group = file['query/1.png']
        assert sorted(group) == ['descriptors', 'image_size', 'keypoints', 'scores']
        assert np.array_equal(group['descriptors'], ARRAYS['descriptors'].T)
        assert np.array_equal(group['keypoints'], ARRAYS['keypoints'])
        assert np.array_equal(group['scores'], ARRAYS['keypoint_scores'])
        assert group['keypoints'].attrs['uncertainty'] == 1.0


def test_a_name_that_hdf5_cannot_store_is_refused_and_the_others_are_kept(tmp_path):
    with hloc_file(tmp_path / 'features.h5') as add:
        with pytest.raises(DataError, match='cannot be a name in an HDF5 file'):
            add('\udcff.png', ARRAYS)  # how Python shows bytes that are not UTF-8
        add('größe 1.png', ARRAYS)
    with h5py.File(tmp_path / 'features.h5') as file:
        assert list(file) == ['größe 1.png']


def test_an_hloc_file_that_was_not_finished_does_not_appear(tmp_path):
    with pytest.raises(RuntimeError), hloc_file(tmp_path / 'features.h5') as add:
        add('1.png', ARRAYS)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_zip_file_is_a_folder_for_a_while_unless_it_is_cut_off(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as file:
        file.writestr('sub/x.txt', 'hello')
    with unpacked(tmp_path / 'a.zip') as folder:
        assert (folder / 'sub/x.txt').read_text() == 'hello'
    assert not folder.exists()
    with unpacked(tmp_path) as same:
        assert same == tmp_path
    (tmp_path / 'a.zip').write_bytes(b'PK' + bytes(40))
    with pytest.raises(DataError, match="a.zip' is not a complete"), unpacked(tmp_path / 'a.zip'):
        pass


def test_images_behind_links_are_found_and_each_folder_is_followed_once(tmp_path) -> None:
    folder, elsewhere = tmp_path / 'photos', tmp_path / 'elsewhere'
    for path in (folder / 'z/a.png', folder / 'b.png', elsewhere / 'c.png', folder / '.x/d.png'):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (folder / '._b.png').touch()
    (folder / 'a_link').symlink_to(folder / 'z')
    (folder / 'z/loop').symlink_to(folder)
    (folder / 'z/up').symlink_to(tmp_path)
    (folder / 'there').symlink_to(elsewhere)
    (elsewhere / 'back').symlink_to(elsewhere)
    (folder / 'gone').symlink_to(tmp_path / 'nowhere')
    names = [path.relative_to(folder).as_posix() for path in find_images(folder)]
    assert names == ['b.png', 'there/c.png', 'z/a.png']
    through = tmp_path / 'through'
    through.symlink_to(folder)
    assert len(find_images(through)) == 3
