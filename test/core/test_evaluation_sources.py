"""What is compared, described in a word."""

from kpfeat_core.errors import ConfigError, WeightsError
from kpfeat_core.evaluation.sources import parse_source
from kpfeat_core.registry import build_extractor
import pytest
import torch


@pytest.mark.parametrize(
    ('text', 'label', 'model', 'options'),
    [
        ('alike-t', 'alike-t', 'alike-t', {}),
        ('mine=alike-t', 'mine', 'alike-t', {}),
        ('alike-t,nms_radius=3', 'alike-t nms_radius=3', 'alike-t', {'nms_radius': 3}),
        ('a=alike-t:x/y.safetensors', 'a', 'alike-t', {}),
        ('alike-t:x/y.safetensors', 'alike-t (y)', 'alike-t', {}),
        ('alike-t:lr=0.1/y.safetensors', 'alike-t (y)', 'alike-t', {}),
        ('old=sift', 'old', 'sift', {}),
    ],
)
def test_an_extractor_is_described_in_a_word(text, label, model, options, tmp_path) -> None:
    source = parse_source(text, 'cpu', tmp_path)
    assert (source.label, source.model, source.options) == (label, model, options)


def test_a_published_checkpoint_is_imported_once(tmp_path, reference, monkeypatch) -> None:
    checkpoint = reference / 'weights/alike/alike-t.pth'
    source = parse_source(f'alike-t:{checkpoint}', 'cpu', tmp_path)
    assert source.about()['file'] == 'alike-t.pth'
    assert source.create(10).config.max_num_keypoints == 10
    monkeypatch.setattr('kpfeat_core.weights.importing.import_checkpoint', None)
    assert parse_source(f'alike-t:{checkpoint}', 'cpu', tmp_path) == source


def test_options_that_shape_the_network_reach_the_import(tmp_path) -> None:
    state = build_extractor('kp2d', version='v3').state_dict()
    torch.save({'state_dict': state}, tmp_path / 'k.ckpt')
    for version in ('v3', 'v4'):
        source = parse_source(f'kp2d:{tmp_path}/k.ckpt,version={version}', 'cpu', tmp_path)
        assert source.create(10).config.version == version


@pytest.mark.parametrize(
    ('text', 'error', 'words'),
    [
        ('surf', ConfigError, "there is no model 'surf'"),
        ('alike-t:missing.pth', WeightsError, "there is no checkpoint 'missing.pth'"),
        ('alike-t,nms=3', ConfigError, "unknown option 'nms'"),
        ('sift:file.pth', ConfigError, "sift is OpenCV's"),
        ('alike-t,max_num_keypoints=9', ConfigError, 'the protocol says how many keypoints'),
    ],
)
def test_a_wrong_description_is_refused_in_words(text, error, words, tmp_path) -> None:
    with pytest.raises(error, match=words):
        parse_source(text, 'cpu', tmp_path)
