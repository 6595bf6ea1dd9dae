"""Parity with the official ASLFeat code, on fixed weights imported as a user would."""

from fill_tf import filled_aslfeat
from kpfeat_core.factory import create_extractor
import numpy as np
import pytest
from run_kpfeat import import_weights
from tf_table import write_tf_checkpoint
import torch

# The official name of each way to bend kernels, and ours: its 'a' lacks the residual affinity.
MODES = {'none': 'none', 'u': 'u', 'a': 's', 'h': 'h'}


@pytest.fixture(params=MODES, scope='module')
def case(request, reference, tmp_path_factory):
    """Return (extractor with imported weights, image, golden arrays) for one mode."""
    mode, tmp_path = request.param, tmp_path_factory.mktemp('weights')
    checkpoint = tmp_path / 'model.ckpt-380000'
    write_tf_checkpoint(checkpoint, filled_aslfeat(MODES[mode]))
    out = import_weights(checkpoint, 'aslfeat', tmp_path / 'imported.safetensors')
    options = {'detection_threshold': 0.45, 'max_num_keypoints': 1000, 'upsample_to': -1}
    extractor = create_extractor('aslfeat', out, **options)
    assert extractor.config.deform == MODES[mode]
    image = np.load(reference / 'golden/gray_synth_240x320.npz')['gray']
    return extractor, image, np.load(reference / f'golden/aslfeat_fill_{mode}.npz')


def tied(points: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Tell which keypoints rounding may drop: neighbours of equal score, and the last ones."""
    close = np.abs(points[:, None] - points[None]).max(-1) < 2
    equal = np.abs(scores[:, None] - scores[None]) < 2e-6
    np.fill_diagonal(close, False)
    return (close & equal).any(1) | (scores < scores.min() + 2e-6)


def test_dense_maps_are_those_of_the_official_code(case):
    extractor, image, golden = case
    seen = {}
    for name in ('conv1', 'conv3', 'conv6'):
        layer = extractor.get_submodule(name)
        raw = layer.convolve
        layer.convolve = lambda *a, name=name, raw=raw: seen.setdefault(name, raw(*a))
    extractor.conv5.register_forward_hook(lambda layer, x, y: seen.setdefault('conv5', y))
    with torch.no_grad():
        prepared = extractor.prepare(torch.from_numpy(image)[None, None] / 255)
        maps = extractor(prepared)
    assert maps.descriptor_maps[0] is seen['conv6']
    steps = {'conv1_s4': 4, 'conv3_s2': 2, 'conv5': 1, 'conv6': 1}
    for name, step in steps.items():
        found = seen[name[:5]][0].permute(1, 2, 0)[::step, ::step]
        expected = golden[name].astype(np.float32)
        rounding = 1e-3 if golden[name].dtype == np.float16 else 1e-4
        np.testing.assert_allclose(found, expected, atol=rounding * np.ptp(expected))


def test_keypoints_scores_and_descriptors_are_those_of_the_official_code(case):
    extractor, image, golden = case
    found = extractor.extract(image).numpy()
    assert len(found['keypoints']) == len(golden['kpts'])
    distance = np.linalg.norm(golden['kpts'][:, None] - found['keypoints'], axis=-1)
    same = distance.min(1) < 0.02
    assert tied(golden['kpts'], golden['scores'])[~same].all() and (~same).sum() <= 2
    rows = distance.argmin(1)[same]
    assert len(set(rows)) == same.sum()
    others = np.setdiff1d(np.arange(len(found['keypoints'])), rows)
    assert tied(found['keypoints'], found['keypoint_scores'])[others].all()
    for ours, name in (('keypoint_scores', 'scores'), ('descriptors', 'descs')):
        np.testing.assert_allclose(found[ours][rows], golden[name][same], atol=1e-4)
