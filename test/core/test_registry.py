"""Extractors and matchers by name."""

from kpfeat_core.config import DEFAULT_MODEL
from kpfeat_core.errors import ConfigError, WeightsError
from kpfeat_core.factory import check_device, create_extractor, create_matcher
from kpfeat_core.registry import (
    build_extractor,
    extractor_config_class,
    extractor_names,
)
from kpfeat_core.weights.files import save_weights
import pytest
import torch


def test_the_default_model_is_registered():
    assert DEFAULT_MODEL in extractor_names()


@pytest.mark.parametrize('name', extractor_names())
def test_every_extractor_knows_its_name_and_keeps_the_contract(name):
    extractor = build_extractor(name, max_num_keypoints=20).eval()
    features = extractor.extract(torch.rand(3, 47, 70))
    assert extractor.name == name
    assert isinstance(extractor.config, extractor_config_class(name))
    assert features.keypoints.shape[1] <= 20
    assert features.descriptor_dim == extractor.descriptor_dim
    assert features.image_size.tolist() == [[70.0, 47.0]]


def test_an_unknown_model_gets_the_list_of_models():
    with pytest.raises(ConfigError, match="no model 'alike'; expected one of alike-l, alike-n"):
        build_extractor('alike')


def test_an_unknown_matcher_is_refused():
    with pytest.raises(ConfigError, match="no matcher 'glue'; expected mnn"):
        create_matcher('glue')


def test_created_extractors_have_the_weights_of_the_file_and_do_not_train(tmp_path):
    source = build_extractor('alike-t')
    save_weights(source, tmp_path / 'w.safetensors')
    made = create_extractor('alike-t', str(tmp_path / 'w.safetensors'), nms_radius=3)
    assert not made.training
    assert made.config.nms_radius == 3
    pairs = zip(source.state_dict().values(), made.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_missing_weight_file_is_named():
    with pytest.raises(WeightsError, match='/does/not/exist'):
        create_extractor('alike-t', '/does/not/exist')


@pytest.mark.parametrize('device', ['gpu', 'cuda:x', '', 'meta'])
def test_an_unknown_device_is_refused_with_the_choices(device):
    with pytest.raises(ConfigError, match='expected cpu, cuda, cuda:N, mps or auto'):
        check_device(device)


def test_a_gpu_that_is_not_there_is_refused_with_the_count():
    with pytest.raises(ConfigError, match=r'sees \d+ CUDA'):
        check_device('cuda:99')


def test_auto_takes_a_device_that_is_there():
    expected = 'cuda' if torch.cuda.is_available() else 'cpu'
    assert check_device('auto').type == expected
