"""Mutual nearest neighbours on descriptors small enough to match by hand."""

from kpfeat_core import matching as mutual_nn
from kpfeat_core.config import MatcherConfig
from kpfeat_core.errors import ConfigError, ShapeError
from kpfeat_core.factory import create_matcher
from kpfeat_core.features import Features
from kpfeat_core.matching import MutualNearestNeighbor
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode


def features_of(descriptors, mask=None):
    """Wrap descriptors (B, N, D) or (N, D), made unit length."""
    descriptors = torch.as_tensor(descriptors)
    descriptors = descriptors[None] if descriptors.ndim == 2 else descriptors
    unit = F.normalize(descriptors.float(), dim=-1).to(descriptors.dtype)
    b, n = unit.shape[:2]
    mask = torch.ones(b, n, dtype=torch.bool) if mask is None else torch.as_tensor(mask)
    return Features(torch.zeros(b, n, 2), torch.ones(b, n), unit, mask, torch.ones(b, 2))


def random_features(n, d=16, b=1, seed=0):
    """Return unit descriptors drawn from a seed."""
    return features_of(torch.randn(b, n, d, generator=torch.Generator().manual_seed(seed)))


def match(features0, features1, **options):
    """Match with some options."""
    return create_matcher(**options).match(features0, features1)


def at_angles(*degrees):
    """Return unit vectors (N, 2) at angles, so that distances can be worked out by hand."""
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return features_of(torch.stack([angle.cos(), angle.sin()], 1).float())


def test_only_pairs_that_choose_each_other_match():
    # 0 and 10 degrees both prefer 8; 8 prefers 10
    matches = match(at_angles(0, 10), at_angles(8, 90))
    assert matches.matches0.tolist() == [[-1, 0]]


def test_without_mutual_every_keypoint_takes_its_nearest():
    matches = match(at_angles(0, 10), at_angles(8, 90), mutual=False)
    assert matches.matches0.tolist() == [[0, 0]]


def test_score_is_half_of_one_plus_cosine_and_zero_where_unmatched():
    matches = match(at_angles(0, 50), at_angles(60))
    assert matches.matches0.tolist() == [[-1, 0]]
    expected = (1 + torch.cos(torch.deg2rad(torch.tensor(10.0)))) / 2
    assert torch.allclose(matches.matching_scores0, torch.tensor([[0.0, expected]]), atol=1e-6)


def test_ratio_compares_euclidean_distances_of_unit_vectors():
    # chords: 2 sin(10°/2) = 0.1743 and 2 sin(24°/2) = 0.4158, their ratio 0.4192
    features0, features1 = at_angles(0), at_angles(10, -24)
    assert match(features0, features1, ratio_threshold=0.42).matches0.tolist() == [[0]]
    assert match(features0, features1, ratio_threshold=0.41).matches0.tolist() == [[-1]]


def test_ratio_works_in_both_directions_with_mutual():
    # the partner at 0 has a second choice at 12 degrees, hardly worse than the one at 10
    features0, features1 = at_angles(10, -12), at_angles(0)
    assert match(features0, features1, ratio_threshold=0.8).matches0.tolist() == [[-1, -1]]
    one_way = match(features0, features1, ratio_threshold=0.8, mutual=False)
    assert one_way.matches0.tolist() == [[0, 0]]


def test_the_only_candidate_passes_the_ratio_test():
    assert match(at_angles(0), at_angles(30), ratio_threshold=0.5).matches0.tolist() == [[0]]


def test_equal_candidates_are_ambiguous_and_fail_the_ratio_test():
    assert match(at_angles(0), at_angles(0, 0), ratio_threshold=0.99).matches0.tolist() == [[-1]]


def test_min_similarity_drops_weak_matches():
    features0, features1 = at_angles(0, 90), at_angles(10, 160)  # cosines 0.985 and 0.342
    matches = match(features0, features1, min_similarity=0.5)
    assert matches.matches0.tolist() == [[0, -1]]


def test_swapping_the_images_swaps_the_matches():
    features0, features1 = random_features(70), random_features(90, seed=1)
    forward = match(features0, features1, ratio_threshold=0.95).pairs()
    backward = match(features1, features0, ratio_threshold=0.95).pairs()
    assert len(forward) > 5
    assert sorted(forward.tolist()) == sorted(backward.flip(1).tolist())


def test_padding_is_never_matched():
    same = torch.eye(4)[None]
    features0 = features_of(same, [[True, True, True, False]])
    features1 = features_of(same, [[True, True, False, False]])
    assert match(features0, features1, mutual=False).matches0[0, :2].tolist() == [0, 1]
    assert match(features0, features1, mutual=False).matches0[0, 3] == -1
    assert match(features0, features1).matches0[0, :2].tolist() == [0, 1]
    assert int(match(features0, features1, mutual=False).matches0.max()) < 2


def test_a_batch_matches_each_pair_as_if_alone():
    features0, features1 = random_features(40, b=3), random_features(50, b=3, seed=1)
    together = match(features0, features1)
    for b in range(3):
        alone = match(features0.select(b), features1.select(b))
        assert torch.equal(together.matches0[b], alone.matches0[0])


@pytest.mark.parametrize('counts', [(0, 5), (5, 0), (0, 0)])
def test_an_image_without_keypoints_matches_nothing(counts):
    matches = match(random_features(counts[0]), random_features(counts[1]))
    assert matches.matches0.tolist() == [[-1] * counts[0]]
    assert matches.matching_scores0.tolist() == [[0.0] * counts[0]]
    assert matches.pairs().shape == (0, 2)


@pytest.mark.parametrize('options', [{}, {'ratio_threshold': 0.9}, {'mutual': False}])
def test_chunks_do_not_change_the_result(monkeypatch, options):
    features0, features1 = random_features(101, b=2), random_features(83, b=2, seed=1)
    whole = match(features0, features1, **options)
    monkeypatch.setattr(mutual_nn, 'CHUNK_ELEMENTS', 2 * 83 * 7)  # 7 rows at a time, 3 left over
    parts = match(features0, features1, **options)
    assert torch.equal(whole.matches0, parts.matches0)
    assert torch.allclose(whole.matching_scores0, parts.matching_scores0)


class LargestTensor(TorchDispatchMode):
    """Remember the size of the largest tensor that any operation makes."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, torch.Tensor):
                self.bytes = max(self.bytes, value.numel() * value.element_size())
        return out


@pytest.mark.parametrize('ratio', [1.0, 0.9])
def test_no_tensor_is_larger_than_a_chunk_however_many_keypoints(ratio):
    features0, features1 = random_features(4000, 8), random_features(5000, 8, seed=1)
    with LargestTensor() as largest:
        match(features0, features1, ratio_threshold=ratio)
    assert largest.bytes <= 4 * mutual_nn.CHUNK_ELEMENTS  # the whole table takes 80 MB


def test_half_precision_descriptors_match_like_single_precision():
    features0, features1 = random_features(60), random_features(60, seed=1)
    half0 = features_of(features0.descriptors.half())
    half1 = features_of(features1.descriptors.half())
    single = match(features0, features1)
    half = match(half0, half1)
    assert (single.matches0 == half.matches0).float().mean() > 0.95
    assert half.matching_scores0.dtype == torch.float32


def test_a_descriptor_that_is_not_finite_does_not_spoil_the_others():
    broken = torch.eye(3)
    broken[1] = torch.nan
    matches = match(features_of(torch.eye(3)), features_of(broken))
    assert matches.matches0.tolist() == [[0, -1, 2]]


def test_descriptors_of_different_length_are_refused_with_both_lengths():
    with pytest.raises(ShapeError, match='16 numbers .* 8'):
        match(random_features(3, 16), random_features(3, 8))


def test_batches_of_different_size_are_refused():
    with pytest.raises(ShapeError, match='2 images cannot be matched to 3'):
        match(random_features(3, b=2), random_features(3, b=3))


def test_with_options_changes_only_what_is_named():
    matcher = MutualNearestNeighbor(MatcherConfig(min_similarity=0.5))
    changed = matcher.with_options(ratio_threshold=0.8)
    assert (changed.config.ratio_threshold, changed.config.min_similarity) == (0.8, 0.5)
    assert matcher.config.ratio_threshold == 1.0
    with pytest.raises(ConfigError, match='ratio_threshold is 2'):
        matcher.with_options(ratio_threshold=2.0)
