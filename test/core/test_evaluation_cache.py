"""Features that are kept, so that a second run does not extract them again."""

from kpfeat_core.errors import DataError
from kpfeat_core.evaluation import (
    evaluate,
    planar_pairs,
)
from kpfeat_core.evaluation.sources import FeatureCache, Source
import numpy as np
import pytest
import torch


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
    from kpfeat_core.registry import build_extractor
    from kpfeat_core.weights.files import save_weights

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
