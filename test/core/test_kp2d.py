"""KP2D beyond its published numbers: geometry, suppression, versions, training mode, import."""

import functools

import cv2
from fill import filled_state
from kpfeat_core.errors import WeightsError
from kpfeat_core.geometry import sample
from kpfeat_core.keypoints import Keypoints
from kpfeat_core.models import kp2d
from kpfeat_core.models.kp2d import nms_points, read_patches
from kpfeat_core.registry import build_extractor
from kpfeat_core.training.kp2d import IoNet
from kpfeat_core.weights.files import read_architecture, read_weights
from kpfeat_core.weights.importing import import_checkpoint
import numpy as np
import pytest
import torch
import torch.nn.functional as F


def picture(height: int, width: int) -> np.ndarray:
    """Return smooth random structure, (H, W, 3) float32 in 0..1."""
    noise = np.random.default_rng(0).random((height // 8, width // 8, 3), np.float32)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)


@functools.cache
def fixed_weights() -> dict:
    network = build_extractor('kp2d')
    return filled_state({name: value.shape for name, value in network.state_dict().items()})


def build(version: str = 'v4', **options):
    """Return an extractor with fixed weights that answer differently to every cell."""
    usual = {'max_num_keypoints': -1, 'detection_threshold': 0.0, 'upsample_to': -1}
    options = usual | options
    extractor = build_extractor('kp2d', version=version, **options)
    values = fixed_weights()
    extractor.load_state_dict({name: values[name] for name in extractor.state_dict()})
    return extractor.eval()


def make_symmetric(extractor) -> None:
    """Make a network answer to a mirrored image with the mirrored answer."""
    for name, value in extractor.state_dict().items():
        mirrored = value.flip(-1) if value.ndim == 4 else value
        if name == 'convPb.weight':  # offsets in x change their sign
            mirrored = mirrored * torch.tensor([-1.0, 1.0])[:, None, None, None]
        if name == 'convPb.bias':
            mirrored = value * torch.tensor([-1.0, 1.0])
        if name.startswith('convFb.') and value.ndim:  # pixels of a cell change their places
            mirrored = mirrored.unflatten(0, (128, 2, 2)).flip(2).flatten(0, 2)
        value.copy_((value + mirrored) / 2)


def nearest(points: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    distance = np.linalg.norm(points[:, None] - others[None], axis=-1)
    return distance.min(1), distance.argmin(1)


@pytest.mark.parametrize('version', ['v0', 'v4'])
@pytest.mark.parametrize('options', [{}, {'resize': 160}, {'upstream_sampling': True}])
def test_a_mirrored_image_gives_mirrored_keypoints_with_equal_descriptors(version, options):
    extractor = build(version, **options)
    make_symmetric(extractor)
    image = picture(192, 320)
    here, there = extractor.extract(image).numpy(), extractor.extract(image[:, ::-1]).numpy()
    mirrored = here['keypoints'] * (-1, 1) + (319, 0)
    distance, index = nearest(mirrored, there['keypoints'])
    assert len(set(index)) == len(index) > 100
    assert distance.max() < 1e-2
    np.testing.assert_allclose(there['descriptors'][index], here['descriptors'], atol=2e-3)


@pytest.mark.parametrize('version', ['v0', 'v4'])
def test_a_shift_by_cells_shifts_keypoints_and_keeps_descriptors(version):
    extractor = build(version)
    image = picture(256, 320)
    here = extractor.extract(image[:, :-24]).numpy()
    there = extractor.extract(image[:, 24:]).numpy()
    points = here['keypoints']
    inner = (points[:, 0] > 24 + 72) & (points[:, 0] < 296 - 72)
    distance, index = nearest(points[inner] - (24, 0), there['keypoints'])
    assert inner.sum() > 100 and distance.max() < 1e-3
    np.testing.assert_allclose(there['descriptors'][index], here['descriptors'][inner], atol=1e-4)


def test_cells_without_offset_have_their_keypoint_in_the_middle_and_the_outermost_go() -> None:
    extractor = build(remove_borders=0)
    extractor.convPb.weight.data.zero_()
    extractor.convPb.bias.data.zero_()
    for side in range(64, 73):  # cells with their middle in the image count
        points = extractor.extract(picture(72, 72)[:side]).keypoints[0]
        middles = [8 * row + 3.5 for row in range(10) if 8 * row + 3.5 <= side - 1]
        assert sorted(set(points[:, 1].tolist())) == middles[1:-1]
    points = extractor.extract(picture(64, 80)).keypoints[0]
    x, y = np.meshgrid(np.arange(8, 72, 8) + 3.5, np.arange(8, 56, 8) + 3.5)
    assert sorted(points.tolist()) == sorted(np.stack([x, y], -1).reshape(-1, 2).tolist())


@pytest.mark.parametrize('version', ['v0', 'v1'])
def test_keypoints_leave_their_cell_only_in_versions_that_cross_cells(version) -> None:
    extractor = build(version)
    extractor.convPb.weight.data *= 100
    with torch.no_grad():
        maps = extractor(torch.from_numpy(picture(96, 96)).permute(2, 0, 1)[None])
    cells = torch.stack(torch.meshgrid(torch.arange(12), torch.arange(12), indexing='xy'), -1)
    offsets = (maps.positions[0] - (8 * cells + 3.5))[1:-1, 1:-1]
    assert offsets.abs().max() == pytest.approx(3.5 if version == 'v0' else 7.0, abs=1e-3)


@pytest.mark.parametrize('border', [0, 4, 9])
def test_keypoints_keep_their_distance_to_the_border_of_any_image_size(border) -> None:
    extractor = build(remove_borders=border)
    extractor.convPb.weight.data *= 100  # as far from the middle of the cells as can be
    for side in range(64, 73):
        points = extractor.extract(picture(72, 72)[:side]).keypoints[0]
        last = torch.tensor([71.0, side - 1.0])
        assert len(points) > 20
        assert (points >= border).all() and (points <= last - border).all()


def test_padding_is_gray_and_gives_no_edge_at_the_border() -> None:
    extractor, image = build(), picture(96, 120)[:, :117]
    framed = np.pad(image, ((0, 0), (0, 3), (0, 0)), constant_values=0.5)
    here, there = extractor.extract(image).numpy(), extractor.extract(framed).numpy()
    order = nearest(here['keypoints'], there['keypoints'])[1]
    for name in ('keypoints', 'keypoint_scores', 'descriptors'):
        np.testing.assert_allclose(here[name], there[name][order], atol=1e-4, err_msg=name)


def test_integer_keypoints_are_the_nearest_pixels_and_the_best_stay_where_less_are_asked_for():
    image = picture(96, 128)
    every, few = build().extract(image), build().with_options(max_num_keypoints=7).extract(image)
    rounded = build(sub_pixel=False).extract(image).keypoints
    assert (rounded == every.keypoints.round()).all()
    assert every.count() == 10 * 14 and few.count() == 7
    torch.testing.assert_close(few.keypoints, every.keypoints[:, :7])


@pytest.mark.parametrize(('radius', 'reach'), [(1, 2), (4, 2), (9, 3), (30, 6)])
def test_suppression_is_that_of_a_greedy_loop(radius, reach) -> None:
    generator = torch.Generator().manual_seed(radius)
    scores = torch.rand(2, 12, 15, generator=generator).mul(20).round().div(20)  # with ties
    cells = torch.stack(torch.meshgrid(torch.arange(15), torch.arange(12), indexing='xy'), -1)
    offsets = torch.rand(2, 12, 15, 2, generator=generator) * 14 - 7
    positions = cells * 8 + 3.5 + offsets
    found = nms_points(scores, positions, radius, reach)
    for image in range(2):
        points, values = positions[image].view(-1, 2), scores[image].flatten()
        kept: list[int] = []
        for candidate in values.argsort(descending=True, stable=True).tolist():
            far = [(points[candidate] - points[k]).abs().max() > radius for k in kept]
            if values[candidate] > 0 and all(far):
                kept.append(candidate)
        assert found[image].flatten().nonzero().flatten().tolist() == sorted(kept)


def test_no_keypoint_has_another_within_the_radius_that_was_asked_for() -> None:
    image = picture(128, 160)
    every = build().extract(image).keypoints[0]
    thin = build(nms_radius=12).extract(image).keypoints[0]
    distance = (thin[:, None] - thin[None]).abs().amax(-1)
    assert 10 < len(thin) < len(every)
    assert (distance + 100 * torch.eye(len(thin)) > 12).all()


@pytest.mark.parametrize('version', ['v0', 'v4'])
def test_descriptors_are_those_of_the_whole_map_at_keypoints(version) -> None:
    extractor = build(version, upstream_sampling=True)
    image = torch.from_numpy(picture(96, 128)).permute(2, 0, 1)[None].expand(2, -1, -1, -1)
    points = torch.rand(2, 1500, 2) * torch.tensor([127.0, 95.0])
    points[:, :4] = torch.tensor([[0.0, 0.0], [127, 0], [0, 95], [127, 95]])
    with torch.no_grad():
        maps = extractor(extractor.prepare(image))
        dense = extractor.convFbb(maps.descriptor_maps[0])
        pixels = points * (torch.tensor(dense.shape[:-3:-1]) - 1) / torch.tensor([127.0, 95.0])
        expected = F.normalize(sample(dense, pixels), dim=-1)
        found = extractor.describe(maps, Keypoints.at(points))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_patches_are_differentiable_in_maps_and_points() -> None:
    maps = torch.rand(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    points = torch.rand(2, 6, 2, dtype=torch.float64) * torch.tensor([4.0, 3.0])
    assert torch.autograd.gradcheck(read_patches, (maps, points.requires_grad_()))


def test_strips_of_rows_give_the_maps_of_the_whole_image(monkeypatch) -> None:
    monkeypatch.setattr(kp2d, 'STRIP_ELEMENTS', 1 << 15)  # 8 to 10 rows of each layer
    extractor = build()
    image = extractor.prepare(torch.rand(1, 3, 104, 96))
    whole = extractor(image)
    with torch.no_grad():
        strips = extractor(image)
    torch.testing.assert_close(strips.score_map, whole.score_map, atol=1e-4, rtol=0)
    torch.testing.assert_close(strips.positions, whole.positions, atol=1e-3, rtol=0)


@pytest.mark.parametrize('version', ['v1', 'v4'])
def test_training_reaches_every_parameter_and_drops_channels(version) -> None:
    extractor = build(version).train()
    image = torch.rand(2, 3, 64, 64) - 0.5
    maps = extractor(image)
    descriptors = extractor.describe(maps, Keypoints.at(maps.positions.flatten(1, 2)))
    total = maps.score_map.sum() + maps.positions.sum() + descriptors[..., 0].sum()
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in extractor.parameters())
    assert (extractor(image).score_map != extractor(image).score_map).any()
    extractor.eval()
    assert (extractor(image).score_map == extractor(image).score_map).all()


def test_the_network_has_the_published_number_of_parameters() -> None:
    assert sum(p.numel() for p in build('v4').parameters()) == 5_312_227
    assert sum(p.numel() for p in IoNet().parameters()) == 135_169


def test_io_net_answers_for_each_match_whatever_their_order() -> None:
    torch.manual_seed(0)
    network, matches = IoNet().eval(), torch.rand(2, 50, 5)
    order = torch.randperm(50)
    torch.testing.assert_close(network(matches[:, order]), network(matches)[:, order])
    changed = matches.clone()
    changed[:, 7:] += 0.5
    assert (network(changed)[:, :7] != network(matches)[:, :7]).all()  # sees the others


def checkpoint(tmp_path, used: bool, without: bool = False):
    """Write a checkpoint; the statistics of convFb are as new if it is not `used`."""
    state = build('v4').state_dict()
    for name, value in state.items():
        if not used and name.startswith('convFb.1.running'):
            value.fill_(name.endswith('var'))
    if without:
        state = {k: v for k, v in state.items() if not k.startswith('convFb.')}
    path = tmp_path / 'published.ckpt'
    torch.save({'state_dict': state, 'config': {}}, path)
    return path


@pytest.mark.parametrize('version', ['v0', 'v1', 'v3'])
def test_import_notes_the_version_and_drops_the_layer_that_it_does_not_use(tmp_path, version):
    path, out = checkpoint(tmp_path, version == 'v3'), tmp_path / 'out.safetensors'
    import_checkpoint(path, 'kp2d', out, architecture={'version': version})
    assert read_architecture(out) == {'version': version}
    assert ('convFb.0.weight' in read_weights(out)[0]) == (version == 'v3')


@pytest.mark.parametrize('without', [False, True])
def test_import_asks_for_the_version_where_the_tensors_are_not_of_v4(tmp_path, without) -> None:
    path = checkpoint(tmp_path, used=False, without=without)
    with pytest.raises(WeightsError, match='version=v0 or version=v1'):
        import_checkpoint(path, 'kp2d', tmp_path / 'out.safetensors')
    import_checkpoint(path, 'kp2d', tmp_path / 'o.safetensors', architecture={'version': 'v1'})


def test_import_takes_a_network_that_upsamples_for_v4_and_refuses_versions_that_do_not(tmp_path):
    path, out = checkpoint(tmp_path, used=True), tmp_path / 'out.safetensors'
    for version in ('v0', 'v1'):
        with pytest.raises(WeightsError, match=f'not of version {version} but of v2, v3 or v4'):
            import_checkpoint(path, 'kp2d', out, architecture={'version': version})
    assert not out.exists()
    assert read_architecture(import_checkpoint(path, 'kp2d', out)) == {'version': 'v4'}


def test_import_of_another_model_does_not_ask_for_a_version(refused) -> None:
    refused(build_extractor('alike-t').state_dict(), 'kp2d', 'lacks conv1a.*It fits alike-t')
