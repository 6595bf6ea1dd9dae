"""The `kpfeat` command, as a user sees it: output, files, exit codes."""

import os
from pathlib import Path
import subprocess
import sys

import cv2
import h5py
import kpfeat_core
from kpfeat_core.cli import app
from kpfeat_core.features import Features
from kpfeat_core.image import read_image
from kpfeat_core.io import read_npz
from kpfeat_core.registry import build_extractor, create_extractor
from kpfeat_core.weights import save_weights
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

ROOT = Path(kpfeat_core.__file__).parents[1]
VERBS = (
    'extract',
    'match',
    'train',
    'shapes',
    'demo',
    'weights list',
    'weights import',
    'weights verify',
)


def run(*words, **environment):
    """Run `kpfeat` with these words in this process."""
    return CliRunner().invoke(app, [str(word) for word in words], env=environment)


def assert_one_error(result, *texts):
    """Check for exit code 2, one `error:` line that holds the texts, and no traceback."""
    lines = [line for line in result.stderr.splitlines() if line]
    assert result.exit_code == 2, result.output
    assert len(lines) == 1 and lines[0].startswith('error: ')
    assert all(text in lines[0] for text in texts), lines[0]
    assert 'Traceback' not in result.output


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """Return a file with random weights, which find keypoints as well as any."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights') / 'alike-t.safetensors'
    save_weights(build_extractor('alike-t'), path, {'licence': 'Apache-2.0'})
    return path


@pytest.fixture(scope='module')
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


@pytest.fixture
def extract(weights, tmp_path):
    """Return a function that runs `kpfeat extract` into a folder of its own."""
    return lambda *words: run('extract', *words, '--weights', weights, '--out', tmp_path / 'out')


@pytest.mark.parametrize('verb', VERBS)
def test_every_verb_has_help_with_examples(verb):
    result = run(*verb.split(), '--help')
    assert result.exit_code == 0
    assert 'Examples' in result.output
    assert f'kpfeat {verb}' in result.output


def test_help_needs_no_torch():
    code = (
        'import sys\nfrom kpfeat_core.cli import main\n'
        'try:\n    main()\nexcept SystemExit:\n    print("torch" in sys.modules)'
    )
    words = [sys.executable, '-c', code, 'train', '--help']
    result = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.splitlines()[-1] == 'False'


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


def test_h5_goes_to_features_h5_in_a_folder(weights, photos, tmp_path):
    run('extract', photos / 'a.png', '-w', weights, '--format', 'h5', '--out', tmp_path / 'out')
    assert [p.name for p in (tmp_path / 'out').iterdir()] == ['features.h5']


def test_options_are_taken_from_flags_and_from_set(extract, photos, tmp_path):
    words = ('--max-keypoints', 9, '--nms-radius', 8, '--set', 'upstream_borders=true')
    assert extract(photos / 'a.png', *words, '--no-sub-pixel').exit_code == 0
    keypoints = read_npz(tmp_path / 'out/a.npz')['keypoints']
    assert len(keypoints) <= 9
    assert np.array_equal(keypoints, keypoints.round())


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
    assert_one_error(result, 'a.png', "would both be stored as 'a'")
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    'words, texts',
    [
        (['nowhere.png'], ['nowhere.png']),
        (['--bogus'], ['--bogus', 'kpfeat extract --help']),
        ([], ['images', 'kpfeat extract --help']),
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


def test_a_missing_weight_file_is_one_sentence(photos, tmp_path):
    result = run('extract', photos, '--weights', '/no/file', '--out', tmp_path / 'out')
    assert_one_error(result, "'/no/file'", 'alike-t')


def test_an_output_folder_that_is_a_file_is_one_sentence(photos, weights, tmp_path):
    (tmp_path / 'out').touch()
    result = run('extract', photos / 'a.png', '-w', weights, '-o', tmp_path / 'out')
    assert_one_error(result, 'which is a file')


def test_match_counts_and_draws(photos, weights, tmp_path):
    words = ('match', photos / 'a.png', photos / 'b.png', '-w', weights)
    result = run(*words, '--out', tmp_path / 'new/m.png', '--geometry', 'homography')
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert 'a.png: ' in lines[0] and 'keypoints' in lines[0]
    assert 'matches' in lines[2] and 'inliers' in lines[2] and 'homography within 3 px' in lines[2]
    picture = read_image(tmp_path / 'new/m.png')
    assert picture.shape[0] == 120 and picture.shape[1] >= 2 * 160


def test_identical_images_match_perfectly(photos, weights):
    result = run('match', photos / 'a.png', photos / 'a.png', '-w', weights)
    assert result.exit_code == 0
    assert '(100 %)' in result.stdout


def test_match_without_geometry_counts_no_inliers(photos, weights):
    words = ('match', photos / 'a.png', photos / 'b.png', '-w', weights, '--geometry', 'none')
    assert 'inliers' not in run(*words).stdout


@pytest.mark.parametrize(
    'words, texts',
    [
        (['--geometry', 'affine'], ["geometry is 'affine'", 'fundamental']),
        (['--ratio-threshold', '2'], ['ratio_threshold is 2', 'at most 1']),
        (['--out', 'picture.xyz'], ['picture.xyz', 'matches.png']),
        (['--out', 'picture'], ['picture', 'matches.png']),
    ],
)
def test_mistakes_in_match_are_one_sentence(photos, weights, words, texts):
    result = run('match', photos / 'a.png', photos / 'b.png', '-w', weights, *words)
    assert_one_error(result, *texts)


def test_match_names_the_image_it_cannot_read(photos, weights):
    assert_one_error(run('match', photos / 'a.png', '/no.png', '-w', weights), "'/no.png'")


def test_imported_weights_serve_extract(weights, photos, tmp_path):
    torch.save({'state_dict': build_extractor('alike-t').state_dict()}, tmp_path / 'c.pth')
    out = tmp_path / 'w.safetensors'
    words = ('--model', 'alike-t', '--out', out, '--licence', 'MIT')
    assert run('weights', 'import', tmp_path / 'c.pth', *words).exit_code == 0
    assert 'alike-t, ' in run('weights', 'verify', out).stdout
    result = run('extract', photos / 'a.png', '--weights', out, '--out', tmp_path / 'out')
    assert result.exit_code == 0


def test_an_import_that_does_not_fit_is_one_sentence(tmp_path):
    torch.save(build_extractor('alike-s').state_dict(), tmp_path / 'c.pth')
    words = ('--model', 'alike-t', '--out', tmp_path / 'w.safetensors')
    result = run('weights', 'import', tmp_path / 'c.pth', *words)
    assert_one_error(result, 'does not fit model alike-t', 'It fits alike-s')


def test_list_names_every_model_and_where_its_weights_come_from(weights):
    result = run('weights', 'list', KPFEAT_WEIGHTS=str(weights.parent))
    line = next(line for line in result.stdout.splitlines() if line.startswith('alike-t'))
    assert 'default' in line and '$KPFEAT_WEIGHTS' in line and 'Apache-2.0' in line
    assert str(weights) in line
    assert all(f'alike-{size}' in result.stdout for size in 'tsnl')


def test_list_says_where_published_weights_come_from_and_under_which_licence():
    lines = run('weights', 'list', 'alike-n').stdout.splitlines()
    assert any(line.split() == ['alike-n', 'no', 'weights'] for line in lines)
    assert any(
        'alike-n.pth' in line and 'BSD-3-Clause' in line and 'https://' in line for line in lines
    )
    assert not any('alike-t' in line for line in lines)


def test_list_shows_folders_with_brackets_and_colons_as_they_are(weights, tmp_path):
    folder = tmp_path / '[red] :smile:'
    folder.mkdir()
    file = folder / weights.name
    file.write_bytes(weights.read_bytes())
    assert str(file) in run('weights', 'list', 'alike-t', KPFEAT_WEIGHTS=str(folder)).stdout


def test_list_of_an_unknown_model_is_one_sentence():
    assert_one_error(run('weights', 'list', 'alike-z'), "'alike-z'")


def test_import_refuses_an_option_that_the_model_lacks(tmp_path):
    torch.save(build_extractor('alike-t').state_dict(), tmp_path / 'c.pth')
    words = ('--model', 'alike-t', '--out', tmp_path / 'o.safetensors', '--set', 'version=v4')
    assert_one_error(run('weights', 'import', tmp_path / 'c.pth', *words), "'version'")


def test_verify_tells_good_from_bad_files(weights, tmp_path):
    (tmp_path / 'bad.safetensors').write_bytes(weights.read_bytes()[:-8])
    result = run('weights', 'verify', weights, tmp_path / 'bad.safetensors')
    assert f'ok  {weights}' in result.stdout
    assert f'BAD {tmp_path}/bad.safetensors' in result.stdout
    assert_one_error(result, '1 of 2')


def test_train_refuses_what_it_does_not_know_before_it_starts(tmp_path):
    words = ('train', 'alike-t', '--data', tmp_path, '--out', tmp_path / 'run')
    assert_one_error(run(*words, '--set', 'colour=1'), "unknown training option 'colour'")
    assert_one_error(run(*words, '--steps', 0), 'steps is 0')


@pytest.mark.parametrize(
    ('text', 'complaint'),
    [
        ('steps: [', 'no YAML file'),
        ('just words', 'holds no options'),
        ('nothing: 1', "unknown training option 'nothing'"),
        ('steps: many', "steps is 'many', expected int"),
    ],
)
def test_a_recipe_that_cannot_be_is_one_sentence(photos, tmp_path, text, complaint):
    pytest.importorskip('lightning_fabric', reason='training needs Lightning Fabric')
    (tmp_path / 'r.yaml').write_text(text)
    words = ('--data', photos, '--out', tmp_path / 'run', '--recipe', tmp_path / 'r.yaml')
    assert_one_error(run('train', 'alike-t', *words), complaint)


def test_recipes_of_this_repository_have_known_options_and_their_command():
    from kpfeat_core.training.catalogue import recipe_class
    from kpfeat_core.training.options import Options, read_recipe

    paths = sorted((Path(__file__).parents[2] / 'training/recipes').glob('*.yaml'))
    assert paths
    for path in paths:
        words = path.read_text().splitlines()[0].split()
        assert words[:3] == ['#', 'kpfeat', 'train'] and f'training/recipes/{path.name}' in words
        recipe = recipe_class(words[3])
        Options.build({**recipe.defaults, **read_recipe(path)}, recipe.loss_class)


def test_train_writes_weights_that_extract_takes(photos, tmp_path):
    pytest.importorskip('lightning_fabric', reason='training needs Lightning Fabric')
    for index in range(12):
        noise = np.random.default_rng(index).integers(0, 255, (20, 20, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f'{index}.png'), cv2.resize(noise, (96, 96)))
    words = ('--data', tmp_path, '--out', tmp_path / 'run', '--steps', 2, '--batch-size', 1)
    sizes = ('--set', 'view_size=64', '--set', 'detected=20', '--set', 'random=10')
    share = ('--validation-share', '0.3', '--validation-pairs', 1, '--device', 'cpu')
    result = run('train', 'alike-t', *words, *sizes, *share)
    assert result.exit_code == 0, result.output
    weights = tmp_path / 'run/alike-t.safetensors'
    assert run('weights', 'verify', weights).exit_code == 0
    result = run('extract', photos / 'a.png', '-w', weights, '-o', tmp_path / 'out')
    assert result.exit_code == 0


def test_train_lists_the_options_of_pairs_and_losses():
    result = run('train', '--list-options')
    assert result.exit_code == 0
    assert all(name in result.stdout for name in ('steps', 'rotation_deg', 'reprojection'))


@pytest.mark.unchecked  # contexts of newer typers are of another class
def test_demo_without_ros_says_what_to_do(monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    assert_one_error(run('demo'), 'rclpy', 'make demo')


@pytest.mark.unchecked  # contexts of newer typers are of another class
def test_demo_hands_its_arguments_and_exit_code_on(monkeypatch):
    seen = []
    module = type(sys)('kpfeat_ros.demo')
    module.main = lambda words: seen.extend(words) or 4
    monkeypatch.setattr('importlib.util.find_spec', lambda name: name)
    monkeypatch.setitem(sys.modules, 'kpfeat_ros.demo', module)
    assert run('demo', '--images', 'drive/', '--rate', '5').exit_code == 4
    assert seen == ['--images', 'drive/', '--rate', '5']


@pytest.mark.parametrize(
    'error, code', [(KeyboardInterrupt(), 130), (OSError('disk is full'), 2), (MemoryError(), 2)]
)
def test_what_interrupts_a_command_ends_it_without_a_traceback(
    monkeypatch, photos, weights, tmp_path, error, code
):
    def fail(path):
        raise error

    monkeypatch.setattr('kpfeat_core.image.read_image', fail)
    result = run('extract', photos, '-w', weights, '--out', tmp_path / 'out')
    assert result.exit_code == code
    assert 'Traceback' not in result.output


def test_a_mistake_of_ours_is_not_hidden(monkeypatch, photos, weights, tmp_path):
    def fail(path):
        raise ZeroDivisionError

    monkeypatch.setattr('kpfeat_core.image.read_image', fail)
    result = run('extract', photos, '-w', weights, '--out', tmp_path / 'out')
    assert isinstance(result.exception, ZeroDivisionError)


def test_the_module_runs_as_a_program(photos, weights, tmp_path):
    words = ['extract', photos / 'a.png', photos / 'no.png', '-w', weights, '-o', tmp_path]
    command = [sys.executable, '-m', 'kpfeat_core.cli', *map(str, words)]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert result.returncode == 2
    assert result.stdout == ''
    assert result.stderr.count('\n') == 1 and result.stderr.startswith('error: ')


def test_version_is_shown():
    assert run('--version').stdout == f'kpfeat {kpfeat_core.__version__}\n'
