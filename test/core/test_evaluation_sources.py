"""What is compared, described in a word, its features kept, and OpenCV's beside ours."""

import cv2
from kpfeat_core.errors import ConfigError, DataError, WeightsError
from kpfeat_core.evaluation import evaluate, OpencvExtractor, planar_pairs
from kpfeat_core.evaluation.sources import (
    available_baselines,
    FeatureCache,
    parse_source,
    Source,
)
from kpfeat_core.registry import build_extractor
from kpfeat_core.weights.files import save_weights
import numpy as np
import pytest
import torch


@pytest.mark.parametrize(
    ('text', 'label', 'model', 'options'),
    [
        ('alike-t', 'alike-t', 'alike-t', {}),
        ('mine=alike-t', 'mine', 'alike-t', {}),
        ('alike-t,nms_radius=3', 'alike-t nms_radius=3', 'alike-t', {'nms_radius': 3}),
        ('a=alike-t:x/y.safetensors', 'a', 'alike-t', {}),
        ('alike-t:x/y.safetensors', 'alike-t (y)', 'alike-t', {}),
        ('alike-t:lr=0.1/y.safetensors', 'alike-t (y)', 'alike-t', {}),
        ('old=sift', 'old', 'sift', {}),
    ],
)
def test_an_extractor_is_described_in_a_word(text, label, model, options, tmp_path) -> None:
    source = parse_source(text, 'cpu', tmp_path)
    assert (source.label, source.model, source.options) == (label, model, options)


def test_a_published_checkpoint_is_imported_once(tmp_path, reference, monkeypatch) -> None:
    checkpoint = reference / 'weights/alike/alike-t.pth'
    source = parse_source(f'alike-t:{checkpoint}', 'cpu', tmp_path)
    assert source.about()['file'] == 'alike-t.pth'
    assert source.create(10).config.max_num_keypoints == 10
    monkeypatch.setattr('kpfeat_core.weights.importing.import_checkpoint', None)
    assert parse_source(f'alike-t:{checkpoint}', 'cpu', tmp_path) == source


def test_options_that_shape_the_network_reach_the_import(tmp_path) -> None:
    state = build_extractor('kp2d', version='v3').state_dict()
    torch.save({'state_dict': state}, tmp_path / 'k.ckpt')
    for version in ('v3', 'v4'):
        source = parse_source(f'kp2d:{tmp_path}/k.ckpt,version={version}', 'cpu', tmp_path)
        assert source.create(10).config.version == version


@pytest.mark.parametrize(
    ('text', 'error', 'words'),
    [
        ('surf', ConfigError, "there is no model 'surf'"),
        ('alike-t:missing.pth', WeightsError, "there is no checkpoint 'missing.pth'"),
        ('alike-t,nms=3', ConfigError, "unknown option 'nms'"),
        ('sift:file.pth', ConfigError, "sift is OpenCV's"),
        ('alike-t,max_num_keypoints=9', ConfigError, 'the protocol says how many keypoints'),
    ],
)
def test_a_wrong_description_is_refused_in_words(text, error, words, tmp_path) -> None:
    with pytest.raises(error, match=words):
        parse_source(text, 'cpu', tmp_path)


def test_times_of_other_conditions_do_not_count(tmp_path, scene) -> None:
    source = Source('orb', 'orb')
    _, seconds = FeatureCache(source, 50, tmp_path)(scene)
    assert FeatureCache(source, 50, tmp_path)(scene)[1] == seconds
    assert np.isnan(FeatureCache(source, 50, tmp_path, workers=2)(scene)[1])


def test_a_full_disk_is_said_in_a_sentence(tmp_path, scene, monkeypatch) -> None:
    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('kpfeat_core.evaluation.sources.write_npz', full)
    with pytest.raises(DataError, match='No space left on device; make room'):
        FeatureCache(Source('orb', 'orb'), 50, tmp_path)(scene)


def test_a_second_run_extracts_nothing_and_measures_the_same(
    sequences, tmp_path, monkeypatch
) -> None:
    source, pairs = Source('orb', 'orb'), planar_pairs(sequences)
    first = evaluate(source, pairs, cache=tmp_path / 'cache')

    def fail(*_):
        raise AssertionError('extracted again')

    monkeypatch.setattr(FeatureCache, '_extract', fail)
    assert evaluate(source, pairs, cache=tmp_path / 'cache').pairs == first.pairs


def test_kept_features_depend_on_image_weights_options_and_count(tmp_path, scene) -> None:
    def extraction(weights='', count=50, **options):
        return FeatureCache(Source('x', 'alike-t', weights, options=options), count, tmp_path)

    def misses(extraction, image):
        extraction(image)
        return extraction.misses

    small = scene[:96, :128].copy()
    assert misses(extraction(), small) == 1
    assert misses(extraction(), small) == 0
    assert misses(extraction(), small[:, ::-1].copy()) == 1
    assert misses(extraction(count=49), small) == 1
    assert misses(extraction(nms_radius=3), small) == 1
    torch.manual_seed(0)
    other = tmp_path / 'other.safetensors'
    save_weights(build_extractor('alike-t'), other)
    assert misses(extraction(str(other)), small) == 1


def test_a_damaged_file_in_the_cache_is_extracted_again(tmp_path, scene) -> None:
    source = Source('orb', 'orb')
    expected, _ = FeatureCache(source, 50, tmp_path)(scene)
    (path,) = tmp_path.rglob('*.npz')
    path.write_bytes(path.read_bytes()[:100])
    again = FeatureCache(source, 50, tmp_path)
    features, _ = again(scene)
    assert again.misses == 1
    assert torch.equal(features.keypoints, expected.keypoints)


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


def test_opencv_features_obey_the_limit_come_best_first_and_are_none_of_a_blank_image(scene):
    features = OpencvExtractor('sift', 30).extract(scene)
    assert features.count() == 30
    scores = features.keypoint_scores[0]
    assert (scores[:-1] >= scores[1:]).all()
    for name in available_baselines():
        assert OpencvExtractor(name).extract(np.zeros((50, 60, 3), np.uint8)).count() == 0


def test_a_baseline_that_is_unknown_or_that_opencv_lacks_is_refused_in_words(
    monkeypatch,
):
    with pytest.raises(ConfigError, match='sift, orb, akaze'):
        OpencvExtractor('surf')
    monkeypatch.setattr('kpfeat_core.evaluation.sources._akaze', lambda: None)
    with pytest.raises(ConfigError, match='install opencv-contrib-python'):
        OpencvExtractor('akaze')
    assert available_baselines() == ['sift', 'orb']
