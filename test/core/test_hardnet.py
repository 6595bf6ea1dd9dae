"""HardNet: the published architecture and layout."""

from kpfeat_core.models.keynet import HardNet
from kpfeat_core.registry import network_names
from kpfeat_core.weights.files import load_weights
from kpfeat_core.weights.importing import import_checkpoint
import pytest
import torch


@pytest.fixture
def network() -> HardNet:
    torch.manual_seed(0)
    network = HardNet().eval()
    for layer in network.features:
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.1, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return network


def patches(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(1))


def test_the_layers_are_those_of_the_published_network(network) -> None:
    assert sum(p.numel() for p in network.parameters()) == 1_334_560
    shapes = {k: tuple(v.shape) for k, v in network.state_dict().items() if k.endswith('weight')}
    assert shapes == {
        'features.0.weight': (32, 1, 3, 3),
        'features.3.weight': (32, 32, 3, 3),
        'features.6.weight': (64, 32, 3, 3),
        'features.9.weight': (64, 64, 3, 3),
        'features.12.weight': (128, 64, 3, 3),
        'features.15.weight': (128, 128, 3, 3),
        'features.19.weight': (128, 128, 8, 8),
    }
    assert 'features.20.running_mean' in network.state_dict()


def test_the_folded_network_is_the_layers_one_after_the_other(network) -> None:
    images = patches(5)
    deviation, mean = torch.std_mean(images, (1, 2, 3), keepdim=True)
    with torch.no_grad():
        expected = network.features((images - mean) / (deviation + 1e-7)).flatten(1)
        expected = torch.nn.functional.normalize(expected, dim=1)
        torch.testing.assert_close(network(images), expected, atol=1e-5, rtol=0)


def test_brightness_and_contrast_change_nothing_and_flat_patches_are_described(network) -> None:
    images = patches(4)
    with torch.no_grad():
        torch.testing.assert_close(network(images), network(images * 0.3 + 0.2), atol=1e-4, rtol=0)
        assert network(torch.full((1, 1, 32, 32), 0.4)).isfinite().all()


@pytest.mark.parametrize('count', [0, 1, 300])
def test_any_number_of_patches_gives_unit_descriptors_one_by_one_or_together(
    network, count
) -> None:
    images = patches(count)
    with torch.no_grad():
        described = network.describe(images)
        alone = network(images[-1:]) if count else None
    assert described.shape == (count, 128)
    torch.testing.assert_close(described.norm(dim=1), torch.ones(count))
    if count:
        torch.testing.assert_close(described[-1:], alone, atol=1e-5, rtol=0)


def test_half_precision_gives_about_the_same_descriptors(network) -> None:
    images = patches(8)
    with torch.no_grad():
        single, half = network(images), network.half()(images)
    assert half.dtype == torch.float32
    assert ((single * half).sum(1) > 0.999).all()


def test_training_reaches_every_weight(network) -> None:
    network.train()(patches(8)).square().sum(0).prod().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_the_published_layout_is_imported(network, tmp_path) -> None:
    state = {k: v for k, v in network.state_dict().items() if 'num_batches' not in k}
    torch.save({'epoch': 7, 'state_dict': state}, tmp_path / 'HardNet++.pth')
    out = import_checkpoint(tmp_path / 'HardNet++.pth', 'hardnet', tmp_path / 'h.safetensors')
    other = HardNet().eval()
    load_weights(other, out)
    with torch.no_grad():
        assert torch.equal(other(patches(2)), network(patches(2)))
    assert 'hardnet' in network_names()
