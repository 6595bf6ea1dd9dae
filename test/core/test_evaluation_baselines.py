"""OpenCV's features behind the contract of extractors."""

import cv2
from kpfeat_core.errors import ConfigError
from kpfeat_core.evaluation import OpencvExtractor
from kpfeat_core.evaluation.sources import available_baselines
from made_scene import made_scene
import numpy as np
import pytest


@pytest.fixture(scope='module')
def scene() -> np.ndarray:
    return made_scene()


@pytest.mark.parametrize(('name', 'bits'), [('orb', 256), ('akaze', 488)])
def test_the_similarity_of_binary_descriptors_is_their_hamming_distance(scene, name, bits):
    if name not in available_baselines():
        pytest.skip(f'OpenCV {cv2.__version__} has no {name}')
    features = OpencvExtractor(name, 50).extract(scene)
    found, rows = OpencvExtractor(name, 50).detect_and_compute(scene)
    best = np.argsort([-point.response for point in found], kind='stable')[:50]
    mine = features.descriptors[0].numpy()
    theirs = [[cv2.norm(rows[i], rows[j], cv2.NORM_HAMMING) for j in best] for i in best]
    np.testing.assert_allclose((1 - mine @ mine.T) * bits / 2, theirs, atol=1e-2)


@pytest.mark.parametrize('name', available_baselines())
def test_opencv_features_of_a_blank_image_are_empty(name):
    assert OpencvExtractor(name).extract(np.zeros((50, 60, 3), np.uint8)).count() == 0


def test_opencv_features_obey_the_limit_and_come_best_first(scene):
    features = OpencvExtractor('sift', 30).extract(scene)
    assert features.count() == 30
    scores = features.keypoint_scores[0]
    assert (scores[:-1] >= scores[1:]).all()


def test_an_unknown_baseline_is_refused():
    with pytest.raises(ConfigError, match='sift, orb, akaze'):
        OpencvExtractor('surf')


def test_a_baseline_that_opencv_lacks_says_what_to_install(monkeypatch):
    monkeypatch.setattr('kpfeat_core.evaluation.sources._akaze', lambda: None)
    with pytest.raises(ConfigError, match='install opencv-contrib-python'):
        OpencvExtractor('akaze')
    assert available_baselines() == ['sift', 'orb']
