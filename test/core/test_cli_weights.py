"""`kpfeat weights`, as a user sees it."""

from kpfeat_core.registry import build_extractor
from kpfeat_core.weights.files import read_weights
from run_kpfeat import assert_one_error, run
import torch


def test_imported_weights_serve_extract(weights, photos, tmp_path):
    torch.save({'state_dict': build_extractor('alike-t').state_dict()}, tmp_path / 'c.pth')
    out = tmp_path / 'w.safetensors'
    words = ('--model', 'alike-t', '--out', out, '--licence', 'MIT')
    assert run('weights', 'import', tmp_path / 'c.pth', *words).exit_code == 0
    assert 'alike-t, ' in run('weights', 'verify', out).stdout
    result = run('extract', photos / 'a.png', '--weights', out, '--out', tmp_path / 'out')
    assert result.exit_code == 0


def test_smaller_types_make_smaller_files(weights, tmp_path):
    sizes = []
    for kind in ('float32', 'float16', 'int8'):
        out = tmp_path / f'{kind}.safetensors'
        words = ('-m', 'alike-t', '-o', out, '--type', kind)
        assert run('weights', 'import', weights, *words).exit_code == 0
        assert run('weights', 'verify', out).exit_code == 0
        sizes.append(out.stat().st_size)
    assert sizes[1] < 0.6 * sizes[0] and sizes[2] < 0.4 * sizes[0]
    assert read_weights(tmp_path / 'float16.safetensors')[0]['conv1.weight'].dtype == torch.float16


def test_unknown_models_and_imports_that_do_not_fit_are_one_sentence(tmp_path):
    assert_one_error(run('weights', 'list', 'alike-z'), "'alike-z'")
    torch.save(build_extractor('alike-s').state_dict(), tmp_path / 'c.pth')
    words = ('weights', 'import', tmp_path / 'c.pth', '--out', tmp_path / 'w.safetensors')
    result = run(*words, '--model', 'alike-t')
    assert_one_error(result, 'does not fit model alike-t', 'It fits alike-s')
    assert_one_error(run(*words, '--model', 'alike-s', '--set', 'version=v4'), "'version'")


def test_list_names_every_model_and_where_its_weights_come_from(weights):
    result = run('weights', 'list', KPFEAT_WEIGHTS=str(weights.parent))
    line = next(line for line in result.stdout.splitlines() if line.startswith('alike-t'))
    assert 'default' in line and '$KPFEAT_WEIGHTS' in line and 'Apache-2.0' in line
    assert str(weights) in line
    assert all(f'alike-{size}' in result.stdout for size in 'tsnl')


def test_list_says_where_published_weights_come_from_and_under_which_licence():
    lines = run('weights', 'list', 'magicpoint').stdout.splitlines()
    assert any(line.split() == ['magicpoint', 'no', 'weights'] for line in lines)
    lines = run('weights', 'list', 'alike-n').stdout.splitlines()
    assert any(
        'alike-n.pth' in line and 'BSD-3-Clause' in line and 'https://' in line for line in lines
    )
    assert not any('alike-t' in line for line in lines)


def test_a_file_for_one_model_does_not_hide_the_bundled_weights_of_its_companion(weights):
    lines = run('weights', 'list', 'hardnet', KPFEAT_WEIGHTS=str(weights)).stdout.splitlines()
    row = next(line.split() for line in lines if line.startswith('hardnet'))
    assert row[:3] == ['hardnet', 'bundled', 'Apache-2.0']


def test_list_shows_folders_with_brackets_and_colons_as_they_are(weights, tmp_path):
    folder = tmp_path / '[red] :smile:'
    folder.mkdir()
    file = folder / weights.name
    file.write_bytes(weights.read_bytes())
    assert str(file) in run('weights', 'list', 'alike-t', KPFEAT_WEIGHTS=str(folder)).stdout


def test_verify_tells_good_from_bad_files(weights, tmp_path):
    (tmp_path / 'bad.safetensors').write_bytes(weights.read_bytes()[:-8])
    result = run('weights', 'verify', weights, tmp_path / 'bad.safetensors')
    assert f'ok  {weights}' in result.stdout
    assert f'BAD {tmp_path}/bad.safetensors' in result.stdout
    assert_one_error(result, '1 of 2')
