"""The fast extraction equals the straightforward one: full-resolution maps, unfolded image."""

from dense_alike import extract_densely
from kpfeat_core.image import image_to_tensor
from kpfeat_core.registry import build_extractor
import pytest
import torch


def varied(extractor):
    """Make batch statistics and weights differ from their neutral initial values."""
    generator = torch.Generator().manual_seed(1)
    for name, value in extractor.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith('running_var'):
            value.copy_(1 + 0.3 * noise.abs())
        elif name.endswith('running_mean') or name.endswith('bias'):
            value.copy_(0.1 * noise)
        elif name == 'convhead2.weight':
            value[-1] *= 40  # spread the scores over more than a sliver of (0, 1)
    return extractor.eval()


def picture(height, width):
    generator = torch.Generator().manual_seed(2)
    coarse = torch.rand((1, 3, height // 8, width // 8), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode='bicubic')
    return (smooth.clamp(0, 1)[0] * 255).byte().permute(1, 2, 0).numpy()


CASES = [
    *((f'alike-{letter}', size, 60) for letter in 'tsnl' for size in ((96, 128), (101, 75))),
    ('alike-t', (32, 32), 5),  # the smallest image
]


@pytest.mark.parametrize('model, size, count', CASES)
def test_fast_extraction_equals_the_dense_one(model, size, count):
    torch.manual_seed(0)
    extractor = varied(build_extractor(model, max_num_keypoints=count))
    image = picture(*size)
    fast = extractor.extract(image)
    dense = extract_densely(extractor, image_to_tensor(image))
    assert fast.count() == dense.count() == count
    distance = torch.cdist(fast.keypoints[0].double(), dense.keypoints[0].double())
    nearest = distance.argmin(1)
    assert len(set(nearest.tolist())) == count
    assert distance.amin(1).max() < 1e-4
    for name in ('keypoint_scores', 'descriptors'):
        ours, theirs = getattr(fast, name)[0], getattr(dense, name)[0][nearest]
        assert (ours - theirs).abs().max() < 1e-4, name
    assert fast.keypoint_scores.std() > 1e-3  # else there would be nothing to get wrong


@pytest.mark.parametrize('model', ['alike-t', 'alike-l'])
def test_working_in_strips_changes_nothing(monkeypatch, model):
    torch.manual_seed(0)
    extractor = varied(build_extractor(model))
    image = torch.rand(2, 3, 64, 96).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        whole = extractor(image).score_map
        monkeypatch.setattr('kpfeat_core.models.alike.STRIP_ELEMENTS', 1)  # one row at a time
        rows = extractor(image).score_map
    trained = extractor(image).score_map.detach()  # with gradients, never in strips
    assert (whole - rows).abs().max() < 1e-5
    assert (whole - trained).abs().max() < 1e-5
