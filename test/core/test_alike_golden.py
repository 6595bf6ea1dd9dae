"""Parity with the official ALIKE code on its published checkpoints, imported as a user would."""

from dense_alike import dense_descriptors
from kpfeat_core.factory import create_extractor
from kpfeat_core.models.base import DenseMaps
import numpy as np
import pytest
from run_kpfeat import import_weights
import torch


@pytest.fixture(params=['t', 's', 'n', 'l'])
def case(request, reference, tmp_path):
    """Return (extractor with imported weights, image, golden arrays) for one size."""
    letter = request.param
    model, checkpoint = f'alike-{letter}', reference / f'weights/alike/alike-{letter}.pth'
    out = import_weights(checkpoint, model, tmp_path / 'imported.safetensors')
    options = {'detection_threshold': 0.2, 'max_num_keypoints': 5000, 'remove_borders': 2}
    extractor = create_extractor(model, out, **options, upstream_borders=True)
    image = np.load(reference / 'golden/image_synth_240x320.npz')['rgb']
    return extractor, image, np.load(reference / f'golden/alike_{letter}.npz')


def assert_same_points(found, expected, tolerance=0.02):
    """Check that two sets of points (N, 2) are equal up to order; returns expected -> found."""
    assert len(found) == len(expected)
    distance = np.linalg.norm(expected[:, None] - found[None], axis=-1)
    nearest = distance.argmin(1)
    assert len(set(nearest)) == len(expected)
    assert distance.min(1).max() < tolerance
    return nearest


def test_score_map_and_descriptor_map_are_those_of_the_official_code(case):
    extractor, image, golden = case
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    # The official code truncates 6.9999995 to 6 and so reads some descriptors one pixel off;
    # ours are read at the keypoint, hence the comparison at the truncated positions.
    pixels = torch.from_numpy(golden['kpts_int']).floor()[None]
    with torch.no_grad():
        maps = extractor(torch.nn.functional.pad(tensor, (0, 0, 0, 16)))
        dense = dense_descriptors(extractor, maps)[0, :, :240]
        descriptors = extractor.describe_pixels(maps, pixels)[0]
    np.testing.assert_allclose(descriptors, golden['desc_int'], atol=1e-4)
    np.testing.assert_allclose(maps.score_map[0, :240], golden['score_map'], atol=1e-4)
    np.testing.assert_allclose(dense[:, ::8, ::8], golden['desc_map_s8'], atol=1e-4)


def test_keypoints_scores_descriptors_and_dispersity_are_those_of_the_official_code(case):
    extractor, image, golden = case
    found = extractor.extract(image).numpy()
    order = assert_same_points(found['keypoints'], golden['kpts'])
    np.testing.assert_allclose(found['keypoint_scores'][order], golden['scores'], atol=1e-4)
    np.testing.assert_allclose(found['descriptors'][order], golden['desc'], atol=1e-4)
    keypoints = extractor.detect(DenseMaps(torch.from_numpy(golden['score_map'])[None], ()))
    order = assert_same_points(keypoints.keypoints[0].numpy(), golden['kpts'])
    np.testing.assert_allclose(keypoints.dispersity[0][order], golden['dispersity'], atol=1e-4)


def test_integer_keypoints_and_padding_of_odd_sizes_are_those_of_the_official_code(case):
    extractor, image, golden = case
    found = extractor.with_options(sub_pixel=False).extract(image).numpy()
    assert_same_points(found['keypoints'], golden['kpts_int'])
    assert (found['keypoints'] == found['keypoints'].round()).all()
    found = extractor.extract(image[:203, :310]).numpy()
    order = assert_same_points(found['keypoints'], golden['kpts_crop203x310'])
    np.testing.assert_allclose(found['keypoint_scores'][order], golden['scores_crop'], atol=1e-4)
