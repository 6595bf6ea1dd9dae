"""Extractors and matchers by name."""

from kpfeat_core.config import DEFAULT_MODEL
from kpfeat_core.errors import ConfigError
from kpfeat_core.factory import check_device, create_extractor, create_matcher
from kpfeat_core.registry import build_extractor, extractor_config_class, extractor_names
from kpfeat_core.weights.files import save_weights
import pytest
import torch


def test_the_default_model_is_registered_and_every_extractor_knows_its_name():
    assert DEFAULT_MODEL in extractor_names()
    for name in extractor_names():
        extractor = build_extractor(name)
        assert extractor.name == name
        assert isinstance(extractor.config, extractor_config_class(name))


def test_an_unknown_model_or_matcher_gets_the_names_that_there_are():
    with pytest.raises(ConfigError, match="no model 'alike'; expected one of alike-l, alike-n"):
        build_extractor('alike')
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


@pytest.mark.parametrize('device', ['gpu', 'cuda:x', '', 'meta'])
def test_an_unknown_device_is_refused_with_the_choices(device):
    with pytest.raises(ConfigError, match='expected cpu, cuda, cuda:N, mps or auto'):
        check_device(device)


def test_auto_takes_a_device_that_is_there_and_one_that_is_not_is_refused():
    with pytest.raises(ConfigError, match=r'sees \d+ CUDA'):
        check_device('cuda:99')
    expected = 'cuda' if torch.cuda.is_available() else 'cpu'
    assert check_device('auto').type == expected
