"""Pairs on disk: what is read, and what is refused in words."""

from kpfeat_core.errors import DataError
from kpfeat_core.evaluation import balanced_subset, planar_pairs, pose_pairs
import numpy as np
import pytest


@pytest.fixture
def sequences(tmp_path):
    """Write two sequences in the HPatches layout, with images that nobody opens."""
    for name, shift in (('v_shift', -12.0), ('i_same', 0.0)):
        folder = tmp_path / name
        folder.mkdir()
        for k in ('1', '2', '10'):
            (folder / f'{k}.png').touch()
            if k != '1':
                np.savetxt(folder / f'H_1_{k}', [[1, 0, shift], [0, 1, -8], [0, 0, 1]])
    return tmp_path


def test_pairs_of_a_folder_are_in_order_and_a_subset_takes_an_equal_share_of_every_group(
    sequences,
):
    pairs = planar_pairs(sequences)
    names = [f'{sequence}/1-{k}' for sequence in ('i_same', 'v_shift') for k in (2, 10)]
    assert [pair.name for pair in pairs] == names
    assert pairs[2].H_0to1[:2, 2].tolist() == [-12, -8]
    assert [pair.name for pair in balanced_subset(pairs, 2)] == ['i_same/1-2', 'v_shift/1-2']
    assert balanced_subset(pairs, -1) == pairs


def test_missing_sequences_and_images_are_named_and_numbers_may_be_missing(sequences):
    (sequences / 'none').mkdir()
    with pytest.raises(DataError, match='H_1_2'):
        planar_pairs(sequences / 'none')
    (sequences / 'v_shift/H_1_2').rename(sequences / 'v_shift/H_1_2.bak')
    names = [pair.name for pair in planar_pairs(sequences)]
    assert names == ['i_same/1-2', 'i_same/1-10', 'v_shift/1-10']
    (sequences / 'v_shift/10.png').unlink()
    with pytest.raises(DataError, match='no image 10'):
        planar_pairs(sequences)


@pytest.mark.parametrize('text', ['1 0 5\r\n0 1 0\r\n0 0 1\r\n', '\ufeff1 0 5\n\n0 1 0\n0 0 1'])
def test_homographies_of_other_systems_are_read(sequences, text):
    (sequences / 'i_same/H_1_2').write_bytes(text.encode())
    assert planar_pairs(sequences)[0].H_0to1.tolist() == [[1, 0, 5], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    'text',
    [
        '',
        '1 0 0\n0 1 0\n',
        'not numbers\n',
        '1 0 0\n0 1\n0 0 1\n',
        '1 0 0\n0 nan 0\n0 0 1\n',
        '1 0 0\n2 0 0\n0 0 1\n',
    ],
)
def test_a_broken_homography_file_is_named(sequences, text):
    (sequences / 'v_shift/H_1_2').write_text(text)
    with pytest.raises(DataError, match='H_1_2'):
        planar_pairs(sequences)


POSE = np.eye(4)
POSE[:3, 3] = 1, 0, 0
K0, K1 = np.diag([500.0, 501, 1]), np.diag([400.0, 401, 1])


def pose_line(T_0to1=POSE, name='scene/b.jpg'):
    numbers = [*K0.ravel(), *K1.ravel(), *T_0to1.ravel()]
    return ' '.join(['scene/a.jpg', name, '0', '0', *map(str, numbers)]) + '\n'


@pytest.fixture
def pair_file(tmp_path):
    (tmp_path / 'images' / 'scene').mkdir(parents=True)
    for name in ('a', 'b'):
        (tmp_path / 'images' / 'scene' / f'{name}.jpg').touch()
    path = tmp_path / 'pairs.txt'
    path.write_text(pose_line() + '\n')
    return path


def test_a_line_of_a_pair_file_gives_intrinsics_and_pose(pair_file):
    (pair,) = pose_pairs(pair_file, pair_file.parent / 'images')
    assert pair.view1 == pair_file.parent / 'images' / 'scene' / 'b.jpg'
    assert pair.group == 'scene'
    for got, expected in ((pair.K0, K0), (pair.K1, K1), (pair.T_0to1, POSE)):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ('folders', 'groups'),
    [
        (('a/1/images', 'a/2/images'), ['1', '2']),
        (('a/images', 'a/images'), ['images', 'images']),
        (('a', 'a/b'), ['a', 'a/b']),
    ],
)
def test_groups_are_the_folders_that_differ(tmp_path, folders, groups):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / 'a.jpg').touch()
    lines = [
        pose_line(name=f'{folder}/a.jpg').replace('scene/a.jpg', f'{folder}/a.jpg')
        for folder in folders
    ]
    (tmp_path / 'pairs.txt').write_text(''.join(lines))
    assert [pair.group for pair in pose_pairs(tmp_path / 'pairs.txt')] == groups


@pytest.mark.parametrize(
    ('line', 'words'),
    [
        ('a.jpg b.jpg 0 0 1 2 3\n', 'line 2: 7 columns, expected 38'),
        (pose_line(name='scene/c.jpg'), 'line 2: there is no image'),
        (pose_line(np.diag([2.0, 2, 2, 1])), 'line 2: the last 16 numbers are no pose'),
        (pose_line().replace('500.0', 'x'), 'line 2: could not convert'),
    ],
)
def test_a_broken_line_of_a_pair_file_is_named(pair_file, line, words):
    pair_file.write_text(pose_line() + line)
    with pytest.raises(DataError, match=words):
        pose_pairs(pair_file, pair_file.parent / 'images')


def test_a_pair_file_that_is_missing_or_empty_is_refused(pair_file):
    with pytest.raises(DataError, match="cannot read '.*none.txt'"):
        pose_pairs(pair_file.with_name('none.txt'))
    pair_file.write_text('\n')
    with pytest.raises(DataError, match='holds no pairs'):
        pose_pairs(pair_file)
