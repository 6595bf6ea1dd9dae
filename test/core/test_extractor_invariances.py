"""What must not change what any extractor finds: position, number type, compilation, batches."""

from kpfeat_core.features import Features
from kpfeat_core.keypoints import Keypoints
from kpfeat_core.registry import build_extractor, extractor_names
import numpy as np
import pytest
import torch
import torch.nn.functional as F

# These resample between their levels in a way that depends on the place in the image, as
# published: positions follow a shift to a fraction of a pixel only.
INEXACT = ('alike', 'keynet')
# They differ from others that are compiled in the numbers of channels alone.
SAME_CODE = ('alike-s', 'alike-n', 'magicpoint')


@pytest.fixture(params=extractor_names(), scope='module')
def extractor(request):
    torch.manual_seed(0)
    options = {'max_num_keypoints': -1, 'multi_scale': False, 'nms_radius': 6}
    options |= {'detection_threshold': 0.0, 'upsample_to': -1}  # random weights, counted pixels
    if 'descriptor' in vars(build_extractor(request.param).config):
        options['descriptor'] = 'sift'
    return build_extractor(request.param, **options).eval()


@pytest.fixture(scope='module')
def image() -> torch.Tensor:
    """Return (1, 3, 256, 320), smooth random structure that continues across the borders."""
    noise = torch.rand(1, 3, 32, 40, generator=torch.Generator().manual_seed(1))
    smooth = F.interpolate(F.pad(noise, (2, 2, 2, 2), 'circular'), scale_factor=8, mode='bicubic')
    return smooth[..., 16:-16, 16:-16].clamp(0, 1)


@pytest.fixture(scope='module')
def small(image) -> torch.Tensor:
    """Return (1, 3, 64, 96), enough where places do not matter."""
    return image[..., :64, :96]


def inner(features: Features, margin: int) -> torch.Tensor:
    """Return the keypoints (N, 2) that are at least `margin` pixels from all borders."""
    points = features.keypoints[0]
    last = features.image_size[0] - 1
    return points[((points >= margin) & (points <= last - margin)).all(-1)]


def nearest(points: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    distance = torch.cdist(points, others, compute_mode='donot_use_mm_for_euclid_dist')
    return distance.min(1).values


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]).double())[0, 1])


def dense(extractor, image: torch.Tensor):
    with torch.no_grad():
        prepared = extractor.prepare(image if extractor.channels == 3 else image[:, :1])
        return extractor(prepared.to(next(extractor.parameters()).dtype))


def test_keypoints_move_with_the_image(extractor, image) -> None:
    step = max(extractor.stride, 8)
    moved = image.roll((step, 2 * step), (2, 3))
    if extractor.name.startswith(INEXACT):
        here, there = (dense(extractor, view).score_map for view in (image, moved))
        here = here.roll((step, 2 * step), (1, 2))
        middle = (0, slice(96, -96), slice(96, -96))
        assert correlation(here[middle], there[middle]) > 0.98
        return
    here, there = inner(extractor.extract(image), 96), extractor.extract(moved).keypoints[0]
    assert len(here) >= 10
    assert nearest(here + torch.tensor([2.0 * step, step]), there).max() < 1e-3


def test_positions_have_no_bias_after_resizing(extractor, image) -> None:
    large = F.interpolate(image, scale_factor=2, mode='bicubic').clamp(0, 1)
    same = extractor.with_options(resize=320).extract(large)  # the network sees the small image
    small = extractor.extract(image)
    points = (inner(small, 16) + 0.5) * 2 - 0.5  # pixel areas align
    offsets = points[:, None] - same.keypoints[0]
    close = offsets.norm(dim=-1).min(1)
    found = offsets[torch.arange(len(points)), close.indices][close.values < 2]
    assert len(found) > 0.7 * len(points)
    assert found.mean(0).abs().max() < 0.15


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_sees_what_single_precision_sees(extractor, small, dtype) -> None:
    half = build_extractor(extractor.name, **vars(extractor.config)).eval()
    half.load_state_dict(extractor.state_dict())
    half = half.to(dtype)
    least = 0.995 if dtype == torch.float16 else 0.95
    maps, expected = dense(half, small), dense(extractor, small)
    assert correlation(maps.score_map, expected.score_map) > least
    for one, other in zip(maps.descriptor_maps, expected.descriptor_maps, strict=True):
        assert correlation(one, other) > least
    found = half.extract(small)
    for values in (found.keypoints, found.keypoint_scores, found.descriptors):
        assert values.dtype == torch.float32 and values.isfinite().all()
    if not extractor.descriptor_dim:
        return
    norms = found.descriptors.norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms), atol=1e-3, rtol=0)


def test_forward_compiles_as_one_graph_and_gives_the_same(extractor, small) -> None:
    if extractor.name in SAME_CODE:
        return
    prepared = extractor.prepare(small if extractor.channels == 3 else small[:, :1])
    torch._dynamo.reset()
    compiled = torch.compile(extractor, backend='aot_eager', fullgraph=True)
    with torch.no_grad():
        expected, maps = extractor(prepared), compiled(prepared)
    torch.testing.assert_close(maps.score_map, expected.score_map, atol=1e-4, rtol=1e-3)
    for one, other in zip(maps.descriptor_maps, expected.descriptor_maps, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_training_gives_gradients_to_every_parameter_of_the_network(extractor, small) -> None:
    network = build_extractor(extractor.name, **vars(extractor.config)).train()
    maps = network(network.prepare(small if network.channels == 3 else small[:, :1]))
    total = maps.score_map.sum() + sum(m.square().sum() for m in maps.descriptor_maps)
    if maps.positions is not None:
        total = total + maps.positions.sum()
    described = network.describe(maps, Keypoints.at(torch.rand(1, 9, 2) * 63))
    (total + described[..., :1].sum()).backward()
    without = [n for n, p in network.network.named_parameters() if p.grad is None]
    assert not without
    assert np.isfinite(float(total.detach()))
