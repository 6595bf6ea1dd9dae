"""ASLFeat in each of its modes: building, training, weight files, sizes that 4 does not divide."""

from fill_tf import filled_aslfeat
from kpfeat_core.errors import ConfigError, WeightsError
from kpfeat_core.factory import create_extractor
from kpfeat_core.models.aslfeat import AslFeat
from kpfeat_core.registry import build_extractor
from kpfeat_core.weights.checkpoints import find_tf_index
from kpfeat_core.weights.files import read_weights, save_weights
from kpfeat_core.weights.importing import import_checkpoint
import numpy as np
import pytest
from run_kpfeat import import_weights
from tf_table import write_tf_checkpoint
import torch

MODES = ('none', 'u', 's', 'a', 'h')


def network(mode: str, **options) -> AslFeat:
    """Return an extractor whose predictors of shape have random weights as well."""
    torch.manual_seed(0)
    extractor = build_extractor('aslfeat', deform=mode, upsample_to=-1, **options)
    for name, parameter in extractor.named_parameters():
        if name.count('.') == 2:
            torch.nn.init.normal_(parameter, std=0.02)
    return extractor.eval()


def picture(height: int, width: int, batch: int = 1) -> torch.Tensor:
    """Return (B, 1, H, W) smooth random structure."""
    noise = torch.rand(
        batch, 1, height // 4, width // 4, generator=torch.Generator().manual_seed(1)
    )
    return torch.nn.functional.interpolate(noise, (height, width), mode='bicubic').clamp(0, 1)


@pytest.mark.parametrize(
    ('mode', 'count'), [('none', 728352), ('u', 821745), ('s', 769860), ('h', 790614)]
)
def test_the_number_of_parameters_is_the_published_one_and_a_new_network_affine(mode, count):
    assert sum(p.numel() for p in build_extractor('aslfeat', deform=mode).parameters()) == count
    assert build_extractor('aslfeat').config.deform == 'a'


@pytest.mark.parametrize('mode', MODES)
def test_every_parameter_gets_a_gradient_also_from_two_images_in_a_row(mode):
    extractor = network(mode).train()
    total = 0
    for image in picture(64, 64, 2)[:, None]:
        maps = extractor(extractor.prepare(image))
        total = total + maps.score_map.mean() + maps.descriptor_maps[0].square().mean()
    total.backward()
    for name, parameter in extractor.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize('mode', MODES)
def test_a_batch_equals_its_images_in_every_mode(mode):
    extractor, images = network(mode, max_num_keypoints=50), picture(64, 96, 2)
    together = extractor.extract(images)
    for b in range(2):
        alone, joined = extractor.extract(images[b]).numpy(), together.numpy(b)
        assert len(alone['keypoints']) == len(joined['keypoints']) > 20
        for name, value in alone.items():
            np.testing.assert_allclose(joined[name], value, atol=1e-3, err_msg=name)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_works_in_every_mode(mode, dtype):
    extractor, image = network(mode, max_num_keypoints=-1), picture(64, 96)
    expected = extractor.extract(image).keypoints[0]
    found = extractor.to(dtype).extract(image)
    assert found.keypoints.dtype == found.descriptors.dtype == torch.float32
    near = torch.cdist(expected, found.keypoints[0]).min(1).values < 0.5
    assert near.float().mean() > (0.8 if dtype == torch.float16 else 0.4)


@pytest.mark.unchecked
@pytest.mark.parametrize('mode', ['u', 'h'])  # test_extractor_invariances has 'a'
def test_other_modes_compile_as_one_graph(mode):
    extractor = network(mode)
    image = extractor.prepare(picture(64, 64))
    torch._dynamo.reset()
    compiled = torch.compile(extractor, backend='aot_eager', fullgraph=True)
    with torch.no_grad():
        expected, found = extractor(image), compiled(image)
    torch.testing.assert_close(found.score_map, expected.score_map, atol=1e-4, rtol=1e-4)


def test_brightness_and_contrast_do_not_matter():
    extractor, image = network('a'), 0.5 * picture(64, 96)
    same = extractor.extract(0.1 + 1.5 * image)
    expected = extractor.extract(image)
    torch.testing.assert_close(same.keypoints, expected.keypoints, atol=1e-2, rtol=0)


def test_sizes_that_4_does_not_divide_change_nothing_inside():
    extractor, image = network('a'), picture(192, 224)
    prepared = extractor.prepare(image)
    full = extractor(prepared)
    cut = torch.nn.functional.pad(prepared[..., :189, :222], (0, 2, 0, 3))
    maps = extractor.crop(extractor(cut), (189, 222))
    assert maps.score_map.shape == (1, 189, 222)
    inner = (..., slice(None, 96), slice(None, 128))
    torch.testing.assert_close(maps.score_map[inner], full.score_map[inner])


def test_the_largest_output_is_followed_in_training_only():
    extractor, image = network('none'), picture(64, 64)
    prepared = extractor.prepare(image)
    with torch.no_grad():
        extractor(prepared)
        assert extractor.conv1.instance_max == 1
        raw = extractor.conv1.convolve(extractor.train().conv0(prepared), extractor.conv1.weight)
        extractor(prepared)
    torch.testing.assert_close(extractor.conv1.instance_max, 0.99 + 0.01 * raw.max())


def test_edges_are_dropped_unless_their_test_is_off():
    extractor, image = network('a', max_num_keypoints=-1), picture(96, 96)
    strict, usual, off = (
        extractor.with_options(edge_threshold=threshold).extract(image).count()
        for threshold in (1.5, 10.0, 0.0)
    )
    assert 0 < strict < usual < off


def test_without_refinement_keypoints_are_pixels_apart_and_off_the_border():
    extractor, image = network('a', max_num_keypoints=-1), picture(96, 96)
    moved = extractor.extract(image).keypoints[0]
    assert (moved != moved.round()).any(1).float().mean() > 0.9
    sparse = extractor.with_options(sub_pixel=False, nms_radius=4, remove_borders=9)
    found = sparse.extract(image).keypoints[0]
    assert len(found) > 10 and (found == found.round()).all()
    assert torch.nn.functional.pdist(found, torch.inf).min() > 4
    assert found.min() >= 9 and found.max() <= 95 - 9


@pytest.mark.parametrize('mode', MODES)
def test_a_weight_file_and_our_own_state_dicts_say_how_their_kernels_bend(mode, tmp_path):
    saved, file = network(mode), tmp_path / 'w.safetensors'
    save_weights(saved, file)
    loaded = create_extractor('aslfeat', str(file), upsample_to=-1)
    assert loaded.config.deform == mode
    image = picture(64, 64)
    torch.testing.assert_close(loaded.extract(image).keypoints, saved.extract(image).keypoints)
    other = 'u' if mode != 'u' else 'none'
    with pytest.raises(WeightsError, match=f"deform='{mode}', expected deform='{other}'"):
        create_extractor('aslfeat', str(file), deform=other)
    with pytest.raises(ConfigError, match='shapes the network'):
        loaded.with_options(deform=other)
    torch.save(saved.state_dict(), tmp_path / 'own.pth')
    out = import_checkpoint(tmp_path / 'own.pth', 'aslfeat', tmp_path / 'out.safetensors')
    assert create_extractor('aslfeat', str(out)).config.deform == mode


def test_a_tensorflow_checkpoint_is_imported_by_any_of_its_names(tmp_path):
    values = filled_aslfeat('u')
    slots = {f'{key}/Momentum': np.ones_like(value) for key, value in values.items()}
    write_tf_checkpoint(tmp_path / 'm.ckpt-7', values | slots | {'global_step': np.array(7)})
    for name in ('m.ckpt-7.index', 'm.ckpt-7.data-00000-of-00001', 'm.ckpt-7'):
        assert find_tf_index(tmp_path / name) == tmp_path / 'm.ckpt-7.index'
    out = import_weights(tmp_path / 'm.ckpt-7', 'aslfeat', tmp_path / 'out.safetensors')
    tensors, noted = read_weights(out)
    assert noted['imported_from'] == 'm.ckpt-7.index' and '"u"' in noted['architecture']
    kernel = values['conv6_0/kernel']
    np.testing.assert_array_equal(tensors['conv6_0.weight'], kernel.transpose(3, 2, 0, 1))
    offset = values['deform_param/conv6/offset/bias']
    np.testing.assert_array_equal(tensors['conv6.offset.bias'], offset)
    assert tensors['conv3.instance_max'] == values['tower/conv3/instance_max']


def test_a_tensorflow_checkpoint_of_another_network_is_refused(tmp_path):
    values = filled_aslfeat('none')
    values['conv0/kernel'] = np.zeros((3, 3, 3, 32), np.float32)
    del values['conv4/kernel']
    index = write_tf_checkpoint(tmp_path / 'm.ckpt-7', values)
    with pytest.raises(WeightsError, match=r'it lacks conv4\.weight; it has conv0\.weight'):
        import_checkpoint(index, 'aslfeat', tmp_path / 'out.safetensors')
