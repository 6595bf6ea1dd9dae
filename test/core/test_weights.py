"""Weight files: found, read, written, imported and verified."""

import json
import os
import sys
import types
import zipfile

from kpfeat_core.errors import ConfigError, WeightsError
from kpfeat_core.factory import create_extractor
from kpfeat_core.registry import build_extractor
from kpfeat_core.weights import files as weights
from kpfeat_core.weights.files import (
    dequantize,
    find_weights,
    load_weights,
    quantize,
    read_architecture,
    read_metadata,
    read_weights,
    save_weights,
)
from kpfeat_core.weights.importing import import_checkpoint
from kpfeat_core.weights.manifest import verify_bundled, verify_file, write_manifest
import pytest
from safetensors.torch import load_file, save_file
import torch

MODEL = 'alike-t'


@pytest.fixture
def model():
    """Return an extractor with random weights and lived-in batch statistics."""
    torch.manual_seed(0)
    extractor = build_extractor(MODEL).train()
    extractor(torch.rand(2, 3, 64, 64))
    return extractor.eval()


@pytest.fixture
def file(model, tmp_path):
    """Return a weight file of that extractor."""
    save_weights(model, tmp_path / f'{MODEL}.safetensors', {'licence': 'Apache-2.0'})
    return tmp_path / f'{MODEL}.safetensors'


@pytest.fixture
def empty_places(monkeypatch, tmp_path):
    """Take away the bundled weights and the environment variable."""
    monkeypatch.delenv(weights.ENVIRONMENT, raising=False)
    monkeypatch.setattr(weights, 'BUNDLED', tmp_path / 'bundled')
    (tmp_path / 'bundled').mkdir()
    return tmp_path


def assert_same(module, other):
    """Check that two modules have the same weights."""
    state, expected = module.state_dict(), other.state_dict()
    assert all(torch.equal(state[key], expected[key]) for key in expected)


def test_an_explicit_file_or_folder_is_taken_before_all_else_or_an_error(empty_places, file):
    (weights.BUNDLED / file.name).write_bytes(file.read_bytes())
    assert find_weights(MODEL, file) == file
    assert find_weights(MODEL, str(file.parent)) == file
    with pytest.raises(WeightsError, match='no weight file .*/nowhere'):
        find_weights(MODEL, empty_places / 'nowhere')


def test_a_path_that_cannot_be_looked_at_is_an_error_that_names_it(empty_places, monkeypatch):
    with pytest.raises(WeightsError, match='x{300}'):
        find_weights(MODEL, empty_places / (300 * 'x'))
    with pytest.raises(WeightsError, match='~nobody-of-this-name/x'):
        find_weights(MODEL, '~nobody-of-this-name/x')
    for place in (300 * 'x', '/no/such/folder'):
        monkeypatch.setenv('KPFEAT_WEIGHTS', place)
        with pytest.raises(WeightsError, match=place):
            find_weights(MODEL)


def test_the_environment_comes_before_the_bundled_weights_where_it_has_the_model(
    empty_places, file, monkeypatch
):
    bundled = weights.BUNDLED / file.name
    bundled.write_bytes(file.read_bytes())
    assert find_weights(MODEL) == bundled
    for place in (file.parent, file):
        monkeypatch.setenv('KPFEAT_WEIGHTS', str(place))
        assert find_weights(MODEL) == file
    (empty_places / 'other').mkdir()
    monkeypatch.setenv('KPFEAT_WEIGHTS', str(empty_places / 'other'))
    assert find_weights(MODEL) == bundled


def test_nothing_found_names_every_place_and_the_remedies(empty_places, monkeypatch):
    monkeypatch.setenv('KPFEAT_WEIGHTS', str(empty_places))
    with pytest.raises(WeightsError) as caught:
        find_weights(MODEL)
    text = str(caught.value)
    assert f'{empty_places}/{MODEL}.safetensors' in text
    assert f'{weights.BUNDLED}/{MODEL}.safetensors' in text
    assert 'kpfeat weights import' in text and 'kpfeat train' in text


def test_half_precision_halves_the_file_and_loads_as_single(model, file, tmp_path):
    half = tmp_path / 'half.safetensors'
    save_weights(model, half, dtype=torch.float16)
    stored = load_file(half)
    assert stored['block4.conv1.weight'].dtype == torch.float16
    assert stored['block4.bn1.running_var'].dtype == torch.float32
    assert half.stat().st_size < 0.6 * file.stat().st_size
    fresh = build_extractor(MODEL)
    load_weights(fresh, half)
    assert fresh.block4.conv1.weight.dtype == torch.float32
    assert torch.allclose(fresh.block4.conv1.weight, model.block4.conv1.weight, atol=1e-3)


def test_eight_bits_are_off_by_half_a_step_of_their_channel_at_most(model, tmp_path):
    small = tmp_path / 'small.safetensors'
    save_weights(model, small, dtype=torch.int8)
    assert load_file(small)['block4.conv1.weight'].dtype == torch.int8
    fresh = build_extractor(MODEL)
    load_weights(fresh, small)
    ours, theirs = fresh.state_dict(), model.state_dict()
    for name, value in theirs.items():
        step = value.flatten(1).abs().amax(1) / 127 if value.ndim > 1 else torch.zeros(1)
        error = (ours[name].float() - value.float()).reshape(len(step), -1).abs().amax(1)
        assert (error <= 0.501 * step).all(), name


def test_a_channel_of_zeros_stays_zero_in_eight_bits():
    weight = torch.tensor([[0.0, 0.0], [1.0, -0.5]])
    stored = quantize({'w': weight, 'w_bias': weight[1]})
    assert stored['w'].tolist() == [[0, 0], [127, -64]]
    assert stored['w_bias'].dtype == torch.float32
    assert torch.allclose(dequantize(stored)['w'], weight, atol=0.5 / 127)


def test_eight_bits_without_their_scale_are_refused(model, tmp_path):
    small = tmp_path / 'small.safetensors'
    save_weights(model, small, dtype=torch.int8)
    tensors = load_file(small)
    del tensors['block4.conv1.weight.scale']
    save_file(tensors, small)
    with pytest.raises(WeightsError, match='block4.conv1.weight of torch.int8'):
        load_weights(build_extractor(MODEL), small)


def test_weights_of_another_model_are_refused_by_name(file):
    with pytest.raises(
        WeightsError, match='model alike-t, expected model alike-n; choose model alike-t'
    ):
        load_weights(build_extractor('alike-n'), file)


def test_without_a_name_the_shapes_tell_and_the_fitting_model_is_named(model, tmp_path):
    save_file(model.state_dict(), tmp_path / 'anonymous.safetensors')
    with pytest.raises(WeightsError) as caught:
        load_weights(build_extractor('alike-n'), tmp_path / 'anonymous.safetensors')
    assert 'block1.conv1.weight (8, 3, 3, 3) instead of (16, 3, 3, 3)' in str(caught.value)
    assert 'It fits alike-t' in str(caught.value)


def test_missing_and_unknown_tensors_are_named(model, tmp_path):
    state = model.state_dict()
    del state['conv1.weight']
    state['extra'] = torch.zeros(2)
    save_file(state, tmp_path / 'odd.safetensors')
    with pytest.raises(WeightsError, match='lacks conv1.weight; it has unknown extra'):
        load_weights(build_extractor(MODEL), tmp_path / 'odd.safetensors')


def test_the_architecture_of_files_written_before_it_was_called_so_is_read(tmp_path):
    old = tmp_path / 'old.safetensors'
    save_file(
        build_extractor('kp2d', version='v1').state_dict(), old, {'structure': '{"version": "v1"}'}
    )
    assert read_architecture(old) == {'version': 'v1'}
    assert create_extractor('kp2d', str(old)).config.version == 'v1'


def test_a_file_that_is_cut_off_and_a_checkpoint_are_refused(model, file):
    checkpoint = file.with_name('model.pth')
    torch.save(model.state_dict(), checkpoint)
    with pytest.raises(WeightsError, match='kpfeat weights import'):
        load_weights(build_extractor(MODEL), checkpoint)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match='not a complete safetensors file: it is cut off'):
        load_weights(build_extractor(MODEL), file)


def test_nan_is_refused_when_read_and_when_written(model, file, tmp_path):
    state = load_file(file)
    state['conv2.weight'][0] = torch.nan
    save_file(state, file)
    with pytest.raises(WeightsError, match='conv2.weight hold NaN.*too small for them$'):
        load_weights(build_extractor(MODEL), file)
    model.conv2.weight.data[0] = torch.inf
    with pytest.raises(WeightsError, match='conv2.weight hold NaN or infinite'):
        save_weights(model, tmp_path / 'new.safetensors')
    assert not (tmp_path / 'new.safetensors').exists()


def test_a_file_of_a_newer_format_asks_for_an_update(model, tmp_path):
    save_weights(model, tmp_path / 'new.safetensors', {'format_version': 99})
    with pytest.raises(WeightsError, match='format version 99.*update kpfeat'):
        load_weights(build_extractor(MODEL), tmp_path / 'new.safetensors')


@pytest.mark.parametrize('wrap', ['bare', 'state_dict', 'model', 'model_state_dict'])
@pytest.mark.parametrize('prefix', ['', 'module.', 'module._orig_mod.'])
def test_checkpoints_of_common_layouts_are_imported(model, tmp_path, wrap, prefix):
    state = {prefix + key: value for key, value in model.state_dict().items()}
    content = state if wrap == 'bare' else {wrap: state, 'epoch': 7, 'optimizer': {'lr': 0.1}}
    torch.save(content, tmp_path / 'checkpoint.pth')
    import_checkpoint(tmp_path / 'checkpoint.pth', MODEL, tmp_path / 'out.safetensors')
    fresh = build_extractor(MODEL)
    metadata = load_weights(fresh, tmp_path / 'out.safetensors')
    assert_same(fresh, model)
    assert metadata['imported_from'] == 'checkpoint.pth'
    assert metadata['imported_sha256'] == weights.sha256(tmp_path / 'checkpoint.pth')


def test_importing_a_weight_file_keeps_its_notes_and_the_shape_of_its_network(tmp_path):
    file, out = tmp_path / 'v1.safetensors', tmp_path / 'out.safetensors'
    save_weights(build_extractor('kp2d', version='v1'), file, {'steps': 7, 'licence': 'none'})
    metadata = read_metadata(import_checkpoint(file, 'kp2d', out, {'licence': 'Apache-2.0'}))
    assert (metadata['steps'], metadata['licence']) == ('7', 'Apache-2.0')
    assert read_architecture(import_checkpoint(file, 'kp2d', out)) == {'version': 'v1'}
    import_checkpoint(file, 'kp2d', out, architecture={'version': 'auto'})
    with pytest.raises(WeightsError, match="made with version='v1', expected version='v0'; leave"):
        import_checkpoint(file, 'kp2d', out, architecture={'version': 'v0'})


@pytest.mark.unchecked
def test_options_that_weights_do_not_keep_and_unknown_models_are_refused_by_the_import(
    file, tmp_path
):
    out = tmp_path / 'out.safetensors'
    with pytest.raises(ConfigError, match="'nms_radius' does not shape .*alike-t.*expected none"):
        import_checkpoint(file, MODEL, out, architecture={'nms_radius': 3})
    with pytest.raises(ConfigError, match="no model 'nope'; .*alike-t.*hardnet.*superpoint"):
        import_checkpoint(file, 'nope', out)
    assert not out.exists()


def test_integers_are_not_taken_for_weights(model, refused):
    state = model.state_dict() | {'conv2.weight': model.conv2.weight.to(torch.int8)}
    refused(state, MODEL, r'conv2\.weight of torch\.int8 instead of torch\.fl')


def test_batch_counters_that_old_checkpoints_lack_are_no_reason_to_refuse(model, tmp_path):
    state = {k: v for k, v in model.state_dict().items() if 'num_batches' not in k}
    torch.save(state, tmp_path / 'old.pth')
    import_checkpoint(tmp_path / 'old.pth', MODEL, tmp_path / 'out.safetensors')
    assert verify_file(tmp_path / 'out.safetensors').problem == ''


def test_checkpoints_with_code_inside_or_without_a_state_dict_are_refused(refused):
    code = {'state_dict': zipfile.ZipInfo('x')}
    refused(code, MODEL, 'Python objects, which are not run')
    refused({'epoch': 3, 'loss': 0.1}, MODEL, 'no state dict.*found epoch, loss')


def test_settings_of_yacs_beside_the_weights_are_no_reason_to_refuse(model, tmp_path, monkeypatch):
    module = types.ModuleType('yacs.config')
    node = type('CfgNode', (dict,), {'__module__': 'yacs.config'})
    module.CfgNode = node
    monkeypatch.setitem(sys.modules, 'yacs', types.ModuleType('yacs'))
    monkeypatch.setitem(sys.modules, 'yacs.config', module)
    settings = node({'model': node({'params': node({'do_cross': True})})})
    torch.save({'state_dict': model.state_dict(), 'config': settings}, tmp_path / 'c.ckpt')
    monkeypatch.delitem(sys.modules, 'yacs.config')
    import_checkpoint(tmp_path / 'c.ckpt', MODEL, tmp_path / 'w.safetensors')
    assert read_weights(tmp_path / 'w.safetensors')[0].keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    'content',
    [b'', b'PK\x03\x04 nothing', b'hello, this is a text file', b'broken\n', b'\x80\x02}.'],
)
def test_a_file_that_is_no_checkpoint_is_refused_in_our_words(refused, content):
    text = refused(content, MODEL, "x.pth'.*damaged")
    assert not any(word in text for word in ('weights_only', 'miniz', 'PytorchStream'))


@pytest.mark.parametrize('letter', 'tsnl')
def test_published_checkpoints_are_imported_under_their_own_name_only(reference, tmp_path, letter):
    checkpoint = reference / f'weights/alike/alike-{letter}.pth'
    out = import_checkpoint(checkpoint, f'alike-{letter}', tmp_path / 'out.safetensors')
    create_extractor(f'alike-{letter}', str(out))
    other = 'alike-l' if letter != 'l' else 'alike-t'
    with pytest.raises(WeightsError, match=f'It fits alike-{letter}$'):
        import_checkpoint(checkpoint, other, tmp_path / 'other.safetensors')


def test_a_complete_folder_verifies_and_changed_missing_and_undocumented_files_do_not(model, file):
    record = write_manifest(file.parent)[file.name]
    assert (record['licence'], record['size']) == ('Apache-2.0', file.stat().st_size)
    assert 'model card' in verify_bundled(file.parent)[0].problem
    file.with_suffix('.md').write_text('# Model card\n')
    assert [verdict.problem for verdict in verify_bundled(file.parent)] == ['']
    save_weights(model, file, {'licence': 'Apache-2.0', 'note': 'changed'})
    assert 'SHA-256' in verify_bundled(file.parent)[0].problem
    save_weights(model, file.with_name('zz.safetensors'))
    assert 'not in manifest' in verify_bundled(file.parent)[1].problem
    file.unlink()
    assert 'no weight file' in verify_bundled(file.parent)[0].problem
    (file.parent / 'manifest.json').write_text('{')
    with pytest.raises(WeightsError, match="manifest.json' is damaged"):
        verify_bundled(file.parent)


def test_the_weights_that_come_with_the_package_are_as_the_manifest_says():
    verdicts = verify_bundled()
    assert not {v.path.name: v.problem for v in verdicts if v.problem}
    assert {v.model for v in verdicts} >= {'alike-t', 'hardnet'}
    assert {v.licence for v in verdicts} == {'Apache-2.0'}
    assert sum(v.size for v in verdicts) < 20e6


def test_weights_survive_the_way_through_a_file_whose_metadata_are_text_and_read_alone(
    model, file, monkeypatch
):
    fresh = build_extractor(MODEL)
    metadata = load_weights(fresh, file)
    assert_same(fresh, model)
    assert (metadata['model'], metadata['licence']) == (MODEL, 'Apache-2.0')
    assert metadata['format_version'] == '1' and json.dumps(metadata)
    assert len(read_weights(file)[0]) == len(fresh.state_dict())
    monkeypatch.setattr(weights, 'dequantize', lambda tensors: pytest.fail('tensors were read'))
    assert read_metadata(file) == metadata
    assert read_architecture(weights.BUNDLED / 'kp2d.safetensors') == {'version': 'v4'}


def test_saved_weights_may_be_read_by_everybody_whom_the_umask_lets(tmp_path) -> None:
    before = os.umask(0o022)
    try:
        save_weights(build_extractor('alike-t'), tmp_path / 'a.safetensors')
    finally:
        os.umask(before)
    assert (tmp_path / 'a.safetensors').stat().st_mode & 0o777 == 0o644


def test_bundled_weights_for_any_roll_are_found_by_name() -> None:
    upright, turned = find_weights('alike-t'), find_weights('alike-t', 'rotation')
    assert (upright.name, turned.name) == ('alike-t.safetensors', 'alike-t-rotation.safetensors')
    assert read_metadata(turned)['model'] == 'alike-t'


def test_a_model_without_weights_for_any_roll_is_told_which_have_them() -> None:
    with pytest.raises(
        WeightsError, match=r"superpoint has no bundled weights 'rotation'.*alike-t"
    ):
        find_weights('superpoint', 'rotation')
