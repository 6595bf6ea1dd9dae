"""Pseudo-labels of a folder: the same bytes however often it was stopped, and `kpfeat adapt`."""

from dataclasses import replace
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time

import cv2
import kpfeat_core
from kpfeat_core.adaptation import label_image, make_labels, working_size
from kpfeat_core.data.config import AdaptConfig
from kpfeat_core.data.labelled import read_index, read_labels
from kpfeat_core.errors import ConfigError, DataError
from kpfeat_core.io import expand_images
from kpfeat_core.registry import build_extractor
from kpfeat_core.weights.files import save_weights, sha256
import numpy as np
import pytest
from run_kpfeat import run as run_kpfeat
import torch

ROOT = Path(kpfeat_core.__file__).parents[1]
QUICK = AdaptConfig(num=4, max_num_keypoints=40)


@pytest.fixture(scope='module')
def extractor():
    torch.manual_seed(0)
    return build_extractor('alike-t').eval()


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """Return a folder with blotchy photographs of different sizes, and one that is none."""
    folder = tmp_path_factory.mktemp('photos')
    rng = np.random.default_rng(0)
    (folder / 'deep').mkdir()
    sizes = {'a.png': (96, 128), 'b.png': (150, 100), 'deep/c.png': (90, 200), 'd.png': (80, 80)}
    for name, size in sizes.items():
        noise = rng.integers(0, 255, (size[0] // 5, size[1] // 5, 3), np.uint8)
        cv2.imwrite(str(folder / name), cv2.resize(noise, size[::-1]))
    (folder / 'broken.jpg').write_bytes(b'not an image')
    return folder


@pytest.fixture(scope='module')
def images(photos):
    return expand_images([str(photos)], by_stem=True)


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder, hidden ones too."""
    files = [path for path in folder.rglob('*') if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope='module')
def finished(extractor, images, tmp_path_factory):
    """Return what a run leaves that nothing disturbed."""
    out = tmp_path_factory.mktemp('labels')
    list(make_labels(extractor, images, out, QUICK))
    return contents(out)


def test_every_photograph_has_its_labels_and_the_index_tells_of_all(finished, tmp_path) -> None:
    names = {'a.npz', 'b.npz', 'd.npz', 'deep/c.npz', 'index.json'}
    assert set(finished) == names
    for name, content in finished.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    index = read_index(tmp_path)
    assert list(index['images']) == ['a.png', 'b.png', 'd.png', 'deep/c.png']
    assert list(index['skipped']) == ['broken.jpg']
    assert index['model'] == 'alike-t' and index['options']['num'] == 4
    for name, count in index['images'].items():
        labels = read_labels((tmp_path / name).with_suffix('.npz'))
        assert len(labels['keypoints']) == len(labels['keypoint_scores']) == count > 0
        assert labels['keypoints'].dtype == np.float32
        assert (np.diff(labels['keypoint_scores']) <= 0).all()
        assert (labels['keypoints'] >= 0).all()
        assert (labels['keypoints'] <= labels['image_size'] - 1).all()


def test_the_same_seed_gives_the_same_bytes_and_another_other_labels(
    extractor, images, tmp_path, finished
) -> None:
    for seed in (0, 1):
        list(make_labels(extractor, images, tmp_path / str(seed), replace(QUICK, seed=seed)))
    assert contents(tmp_path / '0') == finished
    other = contents(tmp_path / '1')
    assert all(other[name] != content for name, content in finished.items())


@pytest.mark.parametrize('done', [1, 2, 4])
def test_a_run_that_was_left_goes_on_where_it_was(
    extractor, images, tmp_path, finished, done
) -> None:
    labels = make_labels(extractor, images, tmp_path, QUICK)
    for _ in range(done):
        next(labels)
    labels.close()
    assert set(contents(tmp_path)) < set(finished)
    kept = [item.name for item in make_labels(extractor, images, tmp_path, QUICK) if item.kept]
    assert kept == [image.name for image in images[:done] if image.name.suffix == '.png']
    assert contents(tmp_path) == finished


def test_a_disk_that_fills_up_leaves_no_half_files(
    extractor, images, tmp_path, finished, monkeypatch
) -> None:
    def fail(path, **arrays):
        Path(path).write_bytes(b'half')
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch, pytest.raises(OSError, match='No space'):
        patch.setattr(np, 'savez', fail)
        list(make_labels(extractor, images, tmp_path, QUICK))
    assert set(contents(tmp_path)) == {'index.json'}
    list(make_labels(extractor, images, tmp_path, QUICK))
    assert contents(tmp_path) == finished


def test_what_a_killed_process_left_is_removed_and_broken_labels_are_made_again(
    extractor, images, tmp_path, finished
) -> None:
    list(make_labels(extractor, images, tmp_path, QUICK))
    ended = subprocess.Popen([sys.executable, '-c', ''])
    ended.wait()
    (tmp_path / f'.a.{ended.pid}.npz').write_bytes(b'half')
    (tmp_path / f'.b.{os.getpid()}.npz').write_bytes(b'in work')
    (tmp_path / 'deep/c.npz').write_bytes(b'damaged')
    list(make_labels(extractor, images, tmp_path, QUICK))
    found = contents(tmp_path)
    assert found.pop(f'.b.{os.getpid()}.npz') == b'in work'
    assert found == finished


def test_labels_made_in_another_way_are_not_mixed(extractor, images, tmp_path) -> None:
    list(make_labels(extractor, images[:1], tmp_path, QUICK))
    other = AdaptConfig(num=5, max_num_keypoints=40)
    with pytest.raises(DataError, match='num=4 instead of 5'):
        list(make_labels(extractor, images[:1], tmp_path, other))
    with pytest.raises(DataError, match="weights_sha256='' instead of 'abc'"):
        list(make_labels(extractor, images[:1], tmp_path, QUICK, weights_sha256='abc'))


def test_half_precision_finds_nearly_the_same_labels(extractor, images, tmp_path) -> None:
    found = []
    for precision in ('float32', 'bfloat16'):
        config = replace(QUICK, precision=precision)
        list(make_labels(extractor, images[:1], tmp_path / precision, config))
        found.append(read_labels(tmp_path / precision / images[0].name.with_suffix('.npz')))
    first, second = (torch.from_numpy(labels['keypoints']) for labels in found)
    assert (torch.cdist(first[:10], second).amin(1) < 2).all()  # the best ones
    assert (found[0]['keypoint_scores'] != found[1]['keypoint_scores']).any()
    assert next(extractor.parameters()).dtype == torch.float32


def test_labels_of_version_0_1_go_on(extractor, images, tmp_path) -> None:
    list(make_labels(extractor, images[:1], tmp_path, QUICK))
    index = json.loads((tmp_path / 'index.json').read_text())
    del index['options']['precision']
    index['model_options']['enlarge_to'] = index['model_options'].pop('upsample_to')
    (tmp_path / 'index.json').write_text(json.dumps(index))
    assert next(make_labels(extractor, images[:1], tmp_path, QUICK)).kept


def test_a_folder_with_another_index_is_refused(extractor, images, tmp_path) -> None:
    (tmp_path / 'index.json').write_text('[]')
    with pytest.raises(DataError, match='no index of labels'):
        list(make_labels(extractor, images, tmp_path, QUICK))


def test_keypoints_are_pixels_of_the_photograph_whatever_the_size_at_work(extractor) -> None:
    corners = np.zeros((200, 300, 3), np.uint8)
    corners[60:120, 90:180] = 255
    for options in ({'resize': 150}, {'height': 100, 'width': 200}):
        config = AdaptConfig(num=1, border_erosion=0, nms_radius=8, **options)
        labels = label_image(extractor, corners, 'corners', config)
        assert labels['image_size'].tolist() == [300, 200]
        size = working_size(200, 300, config)
        assert labels['work_size'].tolist() == [size[1], size[0]]
        # pixel centers at work are pixels of the photograph by whole steps
        steps = (labels['keypoints'] + 0.5) * labels['work_size'] / labels['image_size'] - 0.5
        np.testing.assert_allclose(steps, steps.round(), atol=1e-3)
        assert labels['keypoints'][:, 0].max() > 200


def test_height_needs_width() -> None:
    assert working_size(300, 400, AdaptConfig(resize=-1)) == (300, 400)
    with pytest.raises(ConfigError, match='expected both or none'):
        working_size(300, 400, AdaptConfig(height=240))


def test_photographs_that_are_too_small_at_work_are_skipped(extractor, tmp_path) -> None:
    cv2.imwrite(str(tmp_path / 'strip.png'), np.zeros((40, 900, 3), np.uint8))
    images = expand_images([str(tmp_path / 'strip.png')])
    (item,) = make_labels(extractor, images, tmp_path / 'out', QUICK)
    assert 'strip.png' in item.problem and '320x14' in item.problem


@pytest.fixture(scope='module')
def weights(extractor, tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'alike-t.safetensors'
    save_weights(extractor, path, {'licence': 'Apache-2.0'})
    return path


def run(*words):
    return run_kpfeat('adapt', *words)


def test_the_command_labels_a_folder_and_names_what_it_skips(
    photos, weights, tmp_path, finished
) -> None:
    words = [photos, '-w', weights, '--out', tmp_path, '--set', 'max_num_keypoints=40']
    result = run(*words, '--num', 4)
    assert result.exit_code == 3, result.output
    assert result.stdout.startswith('4 images, ')
    assert 'skipped' in result.stderr and 'broken.jpg' in result.stderr
    found = contents(tmp_path)
    assert {k: v for k, v in found.items() if k != 'index.json'} == {
        k: v for k, v in finished.items() if k != 'index.json'
    }
    assert read_index(tmp_path)['weights_sha256'] == sha256(weights)
    assert '4 images (4 of them before)' in run(*words, '--set', 'num=4').stdout


def test_a_zip_of_photographs_gives_the_bytes_of_its_folder(photos, weights, tmp_path) -> None:
    archive = shutil.make_archive(str(tmp_path / 'photos'), 'zip', photos)
    for place, out in ((photos, 'folder'), (archive, 'zip')):
        result = run(place, '-w', weights, '--out', tmp_path / out, '--num', 2)
        assert result.exit_code == 3, result.output  # broken.jpg, whose name is in the index
    assert contents(tmp_path / 'zip') == contents(tmp_path / 'folder')
    assert set(read_index(tmp_path / 'zip')['images']) == {'a.png', 'b.png', 'd.png', 'deep/c.png'}


def test_settings_reach_the_labels_the_homographies_and_the_model(
    photos, weights, tmp_path
) -> None:
    settings = ('num=2', 'max_angle_deg=45', 'upstream_borders=yes')
    words = [word for setting in settings for word in ('--set', setting)]
    result = run(photos / 'a.png', '-w', weights, '--out', tmp_path, *words)
    assert result.exit_code == 0, result.output
    index = read_index(tmp_path)
    assert index['options']['num'] == 2
    assert index['homographies']['max_angle_deg'] == 45
    assert index['model_options']['upstream_borders'] is True


@pytest.mark.parametrize(
    ('words', 'text'),
    [
        (('--set', 'nmu=3'), "unknown option 'nmu'"),
        (('--num', '0'), 'num is 0'),
        (('--set', 'max_shear=1'), "unknown option 'max_shear'"),
        (('--set', 'homographies=none'), 'expected one of superpoint'),
        (('--height', '240'), 'expected both or none'),
    ],
)
def test_wrong_options_are_one_error(photos, weights, tmp_path, words, text) -> None:
    result = run(photos, '-w', weights, '--out', tmp_path / 'out', *words)
    assert result.exit_code == 2 and text in result.stderr
    assert not (tmp_path / 'out').exists()


def test_nothing_but_broken_images_is_an_error(photos, weights, tmp_path) -> None:
    result = run(photos / 'broken.jpg', '-w', weights, '--out', tmp_path / 'out')
    assert result.exit_code == 2
    assert result.stderr.strip().startswith('error: no image could be used')


def test_help_shows_examples_and_needs_no_torch() -> None:
    code = (
        'import sys\nfrom kpfeat_core.cli import main\n'
        'try:\n    main()\nexcept SystemExit:\n    print("torch" in sys.modules)'
    )
    words = [sys.executable, '-c', code, 'adapt', '--help']
    result = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.splitlines()[-1] == 'False'
    assert 'Examples' in result.stdout and 'kpfeat adapt' in result.stdout


def test_a_kill_at_any_point_loses_nothing_but_the_image_in_work(
    photos, weights, tmp_path
) -> None:
    words = [photos, '-w', weights, '--num', 30, '--out']
    killed, whole = tmp_path / 'killed', tmp_path / 'whole'
    command = [sys.executable, '-m', 'kpfeat_core.cli', 'adapt', *map(str, words), str(killed)]
    threads = {'OMP_NUM_THREADS': str(torch.get_num_threads())}  # sums are rounded alike
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.DEVNULL, env=os.environ | threads
    )
    while not list(killed.glob('*.npz')) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = contents(killed)
    assert 'images' not in read_index(killed)
    for out in (killed, whole):
        assert run(*words, out).exit_code == 3
    assert contents(killed) == contents(whole)
    assert all(contents(killed)[name] == before[name] for name in before if name[0] in 'abd')
