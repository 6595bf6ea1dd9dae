"""Parity with the official KP2D code: its networks with fixed weights, imported as users do."""

from fill import fill, filled_state
from kpfeat_core.factory import create_extractor
from kpfeat_core.image import image_to_tensor
from kpfeat_core.keypoints import Keypoints
from kpfeat_core.training.kp2d import IoNet
import numpy as np
import pytest
from run_kpfeat import import_weights
import torch


@pytest.fixture(scope='module')
def golden(reference):
    return np.load(reference / 'golden/kp2d_fill.npz')


@pytest.fixture(scope='module')
def image(reference):
    return np.load(reference / 'golden/image_synth_240x320.npz')['rgb']


def published(golden, version: str) -> dict:
    """Return a checkpoint in the published layout, with the fixed weights."""
    names, shapes = golden[f'{version}_keys'], golden[f'{version}_shapes']
    tuples = [tuple(int(n) for n in text.strip('()').split(',') if n) for text in shapes]
    state = filled_state(dict(zip(names.tolist(), tuples, strict=True)))
    if version == 'v0':  # whose training leaves the statistics of this layer as they begin
        state['convFb.1.running_mean'].zero_()
        state['convFb.1.running_var'].fill_(1)
    return {'state_dict': state, 'config': {}}


@pytest.fixture(scope='module', params=['v0', 'v4'])
def case(request, golden, tmp_path_factory):
    """Return (version, extractor with imported weights), which keeps every cell."""
    version = request.param
    folder = tmp_path_factory.mktemp(version)
    torch.save(published(golden, version), folder / 'published.ckpt')
    out = folder / 'imported.safetensors'
    import_weights(folder / 'published.ckpt', 'kp2d', out, f'version={version}')
    options = {'detection_threshold': 0.0, 'upstream_sampling': True, 'upsample_to': -1}
    return version, create_extractor('kp2d', str(out), max_num_keypoints=-1, **options)


def test_scores_positions_and_descriptors_of_all_cells_are_those_of_the_official_code(
    case, golden, image
):
    version, extractor = case
    with torch.no_grad():
        maps = extractor(extractor.prepare(image_to_tensor(image)))
        found = extractor.describe(maps, Keypoints.at(maps.positions.flatten(1, 2)))
    np.testing.assert_allclose(maps.score_map, golden[f'{version}_score'][0], atol=1e-5)
    expected = golden[f'{version}_coord'][0].transpose(1, 2, 0)
    np.testing.assert_allclose(maps.positions[0], expected, atol=1e-3)
    found = found.mT.view(256, 30, 40)[:, ::3, ::3]
    np.testing.assert_allclose(found, golden[f'{version}_feat_s'], atol=1e-5)


def test_extraction_gives_the_official_keypoint_of_every_cell_but_the_outermost(
    case, golden, image
):
    version, extractor = case
    found = extractor.extract(image).numpy()
    inner = (slice(1, -1), slice(1, -1))
    expected = golden[f'{version}_coord'][0].transpose(1, 2, 0)[inner].reshape(-1, 2)
    scores = golden[f'{version}_score'][0, 0][inner].ravel()
    assert len(found['keypoints']) == len(expected) == 28 * 38
    distance = np.linalg.norm(expected[:, None] - found['keypoints'], axis=-1)
    assert distance.min(1).max() < 1e-3
    np.testing.assert_allclose(found['keypoint_scores'][distance.argmin(1)], scores, atol=1e-5)


def test_io_net_gives_the_official_answers(golden):
    network = IoNet().eval()
    assert list(network.state_dict()) == golden['io_keys'].tolist()
    fill(network)
    matches = torch.from_numpy(golden['io_in'])[..., 0].mT
    with torch.no_grad():
        found = network(matches)
    np.testing.assert_allclose(found, golden['io_out'][:, 0, :, 0], atol=1e-4)
