"""The script that begins a larger ALIKE with the function of a smaller one."""

from kpfeat_core.errors import ConfigError
from kpfeat_core.keypoints import Keypoints
from kpfeat_core.models.alike import Alike
from kpfeat_core.weights.files import load_weights
import pytest
from run_script import FOLDER, load_script, run_script
import torch

SMALL = FOLDER.parent / 'kpfeat_core/weights/alike-t.safetensors'


@pytest.fixture(scope='module')
def widen():
    return load_script('widen.py')['widen']


@pytest.fixture(scope='module')
def small():
    extractor = Alike('alike-t').eval()
    load_weights(extractor, SMALL)
    return extractor


@torch.no_grad()
def seen(extractor, seed=0):
    """Return scores of all pixels of an image, and similarities of descriptors at some points."""
    generator = torch.Generator().manual_seed(seed)
    maps = extractor.eval()(torch.rand(1, 3, 64, 96, generator=generator))
    points = torch.rand(1, 60, 2, generator=generator) * torch.tensor([95, 63])
    descriptors = extractor.describe(maps, Keypoints.at(points))[0]
    return maps.score_map, descriptors @ descriptors.T


@pytest.mark.parametrize('model', ['alike-s', 'alike-n', 'alike-l'])
def test_without_noise_scores_and_similarities_stay(widen, small, model):
    for before, after in zip(seen(small), seen(widen(small, model, noise=0.0)), strict=True):
        torch.testing.assert_close(before, after, atol=1e-5, rtol=0)


def test_copies_part_when_they_learn(widen, small):
    wide = widen(small, 'alike-n', noise=0.05).train()
    score = wide(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))).score_map
    score.square().mean().backward()
    for layer in (wide.block1.conv1, wide.block2.conv2, wide.conv3):
        first, second = layer.weight.grad.chunk(2)
        assert not torch.allclose(first, second, rtol=0.01)


def test_a_smaller_network_is_refused(widen, small):
    with pytest.raises(ConfigError, match='at least as many'):
        widen(widen(small, 'alike-n'), 'alike-s')


def test_the_script_writes_weights_that_load(tmp_path):
    out = tmp_path / 'start.safetensors'
    assert run_script('widen.py', SMALL, '--model', 'alike-s', '--out', out).code == 0
    load_weights(Alike('alike-s'), out)
    failed = run_script('widen.py', SMALL, '--model', 'sift', '--out', out)
    assert failed.code == 1 and "'sift' is no ALIKE" in failed.error
