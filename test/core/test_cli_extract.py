"""`kpfeat extract`, as a user sees it: output, files, exit codes."""

import cv2
import h5py
from kpfeat_core.factory import create_extractor
from kpfeat_core.features import Features
from kpfeat_core.image import read_image
from kpfeat_core.io import read_npz
import numpy as np
import pytest
from run_kpfeat import assert_one_error, run


@pytest.fixture
def extract(weights, tmp_path):
    """Return a function that runs `kpfeat extract` into a folder of its own."""
    return lambda *words: run('extract', *words, '--weights', weights, '--out', tmp_path / 'out')


def test_one_npz_for_each_image_holds_what_extract_gives(extract, photos, weights, tmp_path):
    result = extract(photos / 'a.png', photos / 'b.png', '--max-keypoints', 50)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith('2 images, 100 keypoints')
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['a.npz', 'b.npz']
    arrays = read_npz(tmp_path / 'out/b.npz')
    extractor = create_extractor('alike-t', str(weights), max_num_keypoints=50)
    expected = extractor.extract(read_image(photos / 'b.png')).numpy()
    assert set(arrays) == {'keypoints', 'keypoint_scores', 'descriptors', 'image_size'}
    assert all(np.array_equal(arrays[name], expected[name]) for name in arrays)
    assert arrays['keypoints'].shape == (50, 2) and arrays['descriptors'].shape == (50, 64)
    assert arrays['image_size'].tolist() == [160, 120]
    assert Features.from_numpy(arrays).count() == 50


def test_a_folder_keeps_its_subfolders(extract, photos, tmp_path):
    assert extract(photos).exit_code == 0
    found = sorted(p.relative_to(tmp_path / 'out') for p in (tmp_path / 'out').rglob('*.npz'))
    assert [p.as_posix() for p in found] == ['a.npz', 'b.npz', 'deep/a.npz']


def test_the_h5_file_has_the_layout_of_hloc(weights, photos, tmp_path):
    out = tmp_path / 'all.h5'
    result = run('extract', photos, '-w', weights, '--format', 'h5', '--out', out)
    assert result.exit_code == 0, result.output
    with h5py.File(out) as file:
        names = []
        file.visit(names.append)
        groups = {name.rpartition('/')[0] for name in names if name.endswith('scores')}
        assert groups == {'a.png', 'b.png', 'deep/a.png'}
        group = file['deep/a.png']
        count = len(group['scores'])
        assert group['keypoints'].shape == (count, 2)
        assert group['descriptors'].shape == (64, count)
        assert group['image_size'][:].tolist() == [96, 64]


def test_the_ending_of_out_tells_the_format_and_h5_has_a_name_in_folders(
    weights, photos, tmp_path
):
    words = ('extract', photos / 'a.png', '-w', weights, '--out')
    run(*words, tmp_path / 'out', '--format', 'h5')
    assert [p.name for p in (tmp_path / 'out').iterdir()] == ['features.h5']
    assert run(*words, tmp_path / 'a.h5').exit_code == 0
    assert h5py.is_hdf5(tmp_path / 'a.h5')
    assert_one_error(run(*words, tmp_path / 'a.npz'), 'expected a folder')
    assert not (tmp_path / 'a.npz').exists()


def test_hloc_gets_pixels_as_stored_and_npz_as_viewers_show_them(
    weights, photos, tmp_path, monkeypatch
):
    seen = []

    def read(path, upright=True, all_bits=False):
        seen.append(upright)
        return read_image(path, upright, all_bits)

    monkeypatch.setattr('kpfeat_core.image.read_image', read)
    for out in ('a.h5', 'folder'):
        run('extract', photos / 'a.png', '-w', weights, '--out', tmp_path / out)
    assert seen == [False, True]


def test_options_are_taken_from_flags_and_from_set(extract, photos, tmp_path):
    words = ('--max-keypoints', 9, '--nms-radius', 8, '--set', 'upstream_borders=true')
    assert extract(photos / 'a.png', *words, '--no-sub-pixel').exit_code == 0
    keypoints = read_npz(tmp_path / 'out/a.npz')['keypoints']
    assert len(keypoints) <= 9
    assert np.array_equal(keypoints, keypoints.round())
    with pytest.warns(FutureWarning, match="'enlarge_to' is called 'upsample_to' now"):
        assert extract(photos / 'a.png', '--enlarge-to', 200).exit_code == 0
    assert 'enlarge' not in run('extract', '--help').output.replace('enlarge images', '')


def test_bad_images_are_named_skipped_and_counted_with_exit_code_3(extract, photos, tmp_path):
    (tmp_path / 'broken.jpg').write_bytes(b'\xff\xd8\xff\xe0 no more')
    cv2.imwrite(str(tmp_path / 'tiny.png'), np.zeros((8, 8), np.uint8))
    result = extract(tmp_path / 'broken.jpg', photos / 'a.png', tmp_path / 'tiny.png')
    assert result.exit_code == 3
    assert 'broken.jpg' in result.stderr and 'tiny.png' in result.stderr
    assert '8x8 pixels' in result.stderr
    assert '2 of 3 images were skipped' in result.stderr
    assert result.stdout.startswith('1 image,')
    assert [p.name for p in (tmp_path / 'out').iterdir()] == ['a.npz']


def test_no_usable_image_at_all_is_an_error(extract, tmp_path):
    (tmp_path / 'broken.jpg').write_bytes(b'nothing')
    assert_one_error(extract(tmp_path / 'broken.jpg'), 'no image could be used', 'broken.jpg')
    assert not (tmp_path / 'out').exists()


def test_images_that_would_overwrite_each_other_are_refused(extract, photos, tmp_path):
    result = extract(photos / 'a.png', photos / 'deep/a.png')
    assert_one_error(result, 'a.png', "would both be stored as 'a'; give the folder above")
    twins = [tmp_path / name for name in ('a.png', 'a.jpg')]
    for path in twins:
        path.write_bytes((photos / 'a.png').read_bytes())
    assert_one_error(extract(*twins), 'rename one of them', '.h5')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    'words, texts',
    [
        (['nowhere.png'], ['nowhere.png']),
        (['--bogus'], ['--bogus', 'kpfeat extract --help']),
        ([], ['kpfeat extract --help']),
        (['a.png', '--model', 'alike'], ["no model 'alike'", 'alike-t']),
        (['a.png', '--max-keypoints', '-7'], ['max_num_keypoints is -7', 'at least -1']),
        (['a.png', '--nms-radius', 'x'], ['--nms-radius']),
        (['a.png', '--set', 'nms=3'], ["unknown option 'nms'"]),
        (['a.png', '--set', 'nms_radius'], ['expected KEY=VALUE']),
        (['a.png', '--device', 'gpu'], ["device is 'gpu'", 'cuda:N']),
        (['a.png', '--format', 'zip'], ['zip', 'npz']),
    ],
)
def test_mistakes_in_the_words_are_one_sentence(extract, photos, monkeypatch, words, texts):
    monkeypatch.chdir(photos)
    assert_one_error(extract(*words), *texts)


def test_a_missing_weight_file_and_an_output_folder_that_is_a_file_are_one_sentence(
    extract, photos, tmp_path
):
    result = run('extract', photos, '--weights', '/no/file', '--out', tmp_path / 'out')
    assert_one_error(result, "'/no/file'", 'alike-t')
    (tmp_path / 'out').touch()
    assert_one_error(extract(photos / 'a.png'), 'which is a file')
