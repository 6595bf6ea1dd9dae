"""Parity with the official SuperPoint codes, on fixed weights imported as a user would."""

import ast

from fill import filled_state
from kpfeat_core.factory import create_extractor
from kpfeat_core.keypoints import Keypoints
import numpy as np
import pytest
from run_kpfeat import import_weights
import torch

# (outputs, inputs, kernel) of the layers in the layout of Magic Leap
MAGIC_LEAP = {
    'conv1a': (64, 1, 3),
    'conv1b': (64, 64, 3),
    'conv2a': (64, 64, 3),
    'conv2b': (64, 64, 3),
    'conv3a': (128, 64, 3),
    'conv3b': (128, 128, 3),
    'conv4a': (128, 128, 3),
    'conv4b': (128, 128, 3),
    'convPa': (256, 128, 3),
    'convPb': (65, 256, 1),
    'convDa': (256, 128, 3),
    'convDb': (256, 256, 1),
}
OPEN = {'detection_threshold': 0.0005, 'max_num_keypoints': 500}  # of the open implementation


def import_as_a_user(state, folder, model='superpoint', **options):
    """Write a .pth file, convert it with the command line, and load the result."""
    torch.save(state, folder / 'published.pth')
    out = import_weights(folder / 'published.pth', model, folder / 'imported.safetensors')
    return create_extractor(model, out, **options, sub_pixel=False, upsample_to=-1)


@pytest.fixture(scope='module')
def gray(reference):
    return np.load(reference / 'golden/gray_synth_240x320.npz')['gray']


@pytest.fixture(scope='module')
def magic_leap(reference, tmp_path_factory):
    """Return (extractor set as Magic Leap's program, golden arrays)."""
    shapes = {f'{k}.weight': (o, i, s, s) for k, (o, i, s) in MAGIC_LEAP.items()}
    shapes |= {f'{k}.bias': (o,) for k, (o, _, _) in MAGIC_LEAP.items()}
    options = {'nms': 'exact', 'detection_threshold': 0.015, 'max_num_keypoints': -1}
    folder = tmp_path_factory.mktemp('magic_leap')
    extractor = import_as_a_user(filled_state(shapes), folder, **options, upstream_sampling=True)
    return extractor, np.load(reference / 'golden/superpoint_ml_fill.npz')


@pytest.fixture(scope='module')
def rpautrat(reference, tmp_path_factory):
    """Return (extractor set as the open implementation, golden arrays)."""
    golden = np.load(reference / 'golden/superpoint_open_fill.npz')
    shapes = map(ast.literal_eval, golden['shapes'])
    state = filled_state(dict(zip(golden['keys'].tolist(), shapes, strict=True)))
    return import_as_a_user(state, tmp_path_factory.mktemp('open'), **OPEN), golden


def assert_close_to_the_range(found, golden):
    np.testing.assert_allclose(found, golden, atol=1e-4 * float(np.ptp(golden)), rtol=0)


def test_dense_maps_are_those_of_magic_leap_which_reads_descriptors_half_a_pixel_off(
    magic_leap, gray
):
    extractor, golden = magic_leap
    image = torch.from_numpy(gray)[None, None].float() / 255
    points = torch.from_numpy(golden['pts'][:2, :300].T).float()[None]
    right = extractor.with_options(upstream_sampling=False)
    with torch.no_grad():
        logits, _ = extractor.heads(image)
        maps = extractor(image)
        at_keypoints = right.describe(maps, Keypoints.at(points))[0].numpy()
        half_a_pixel_off = right.describe(maps, Keypoints.at(points - 0.5))[0].numpy()
    assert np.abs(at_keypoints - golden['desc'].T).max() > 1e-3
    np.testing.assert_allclose(half_a_pixel_off, golden['desc'].T, atol=1e-4)
    assert_close_to_the_range(logits, golden['semi'])
    assert_close_to_the_range(maps.score_map[0], golden['heatmap'])
    assert_close_to_the_range(maps.descriptor_maps[0][0, :, ::3, ::3], golden['desc_s'])


def test_keypoints_and_descriptors_are_those_of_magic_leap(magic_leap, gray):
    extractor, golden = magic_leap
    found = extractor.extract(gray).numpy()
    x, y, scores = golden['pts']
    order = np.lexsort(found['keypoints'].T), np.lexsort((x, y))
    expected = np.stack([x, y], -1)[order[1]]
    np.testing.assert_array_equal(found['keypoints'][order[0]], expected)
    np.testing.assert_allclose(found['keypoint_scores'][order[0]], scores[order[1]], atol=1e-5)
    back = np.empty(len(x), int)  # from the order of the file to ours
    back[order[1]] = order[0]
    descriptors = found['descriptors'][back[:300]]
    np.testing.assert_allclose(descriptors, golden['desc'].T, atol=1e-4)


@pytest.mark.parametrize('nms', ['fast', 'exact'])
def test_features_are_those_of_the_open_implementation(rpautrat, gray, nms):
    extractor, golden = rpautrat
    found = extractor.with_options(nms=nms).extract(gray).numpy()
    np.testing.assert_array_equal(found['keypoints'], golden['kpts'])
    np.testing.assert_allclose(found['keypoint_scores'], golden['scores'], atol=1e-5)
    np.testing.assert_allclose(found['descriptors'], golden['desc'], atol=1e-4)


def test_colour_becomes_gray_as_in_the_open_implementation(rpautrat, reference):
    extractor, golden = rpautrat
    rgb = np.load(reference / 'golden/image_synth_240x320.npz')['rgb']
    found = extractor.extract(rgb).numpy()['keypoints']
    assert set(map(tuple, found)) == set(map(tuple, golden['kpts_rgb']))


def test_magicpoint_imports_the_detector_of_a_whole_checkpoint(rpautrat, gray, tmp_path):
    extractor, golden = rpautrat
    alone = import_as_a_user(extractor.state_dict(), tmp_path, 'magicpoint', **OPEN)
    found = alone.extract(gray).numpy()
    np.testing.assert_array_equal(found['keypoints'], golden['kpts'])
    assert found['descriptors'].shape == (500, 0)
