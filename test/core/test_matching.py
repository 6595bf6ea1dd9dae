"""Mutual nearest neighbours, geometric verification and matched pairs, checked by hand."""

import cv2
from kpfeat_core import matching as mutual_nn
from kpfeat_core.config import MatcherConfig
from kpfeat_core.errors import ConfigError, ShapeError
from kpfeat_core.factory import create_matcher
from kpfeat_core.features import Features
from kpfeat_core.matching import find_geometry, match_pair, MutualNearestNeighbor
import numpy as np
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
    return create_matcher(**options).match(features0, features1)


def at_angles(*degrees):
    """Return unit vectors (N, 2) at angles, so that distances can be worked out by hand."""
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return features_of(torch.stack([angle.cos(), angle.sin()], 1).float())


def test_only_pairs_that_choose_each_other_match_unless_each_may_take_its_nearest():
    # 0 and 10 degrees both prefer 8; 8 prefers 10
    here, there = at_angles(0, 10), at_angles(8, 90)
    assert match(here, there).matches0.tolist() == [[-1, 0]]
    assert match(here, there, mutual=False).matches0.tolist() == [[0, 0]]


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


def test_the_only_candidate_passes_the_ratio_test_and_equal_ones_fail_it():
    assert match(at_angles(0), at_angles(30), ratio_threshold=0.5).matches0.tolist() == [[0]]
    assert match(at_angles(0), at_angles(0, 0), ratio_threshold=0.99).matches0.tolist() == [[-1]]


def test_min_similarity_drops_weak_matches():
    here, there = at_angles(0, 90), at_angles(10, 160)  # cosines 0.985 and 0.342
    assert match(here, there, min_similarity=0.5).matches0.tolist() == [[0, -1]]


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
    single = match(features0, features1)
    half = match(*(features_of(f.descriptors.half()) for f in (features0, features1)))
    assert (single.matches0 == half.matches0).float().mean() > 0.95
    assert half.matching_scores0.dtype == torch.float32


def test_a_descriptor_that_is_not_finite_does_not_spoil_the_others():
    broken = torch.eye(3)
    broken[1] = torch.nan
    matches = match(features_of(torch.eye(3)), features_of(broken))
    assert matches.matches0.tolist() == [[0, -1, 2]]


def test_descriptors_of_different_length_and_batches_of_different_size_are_refused():
    with pytest.raises(ShapeError, match='16 numbers .* 8'):
        match(random_features(3, 16), random_features(3, 8))
    with pytest.raises(ShapeError, match='2 images cannot be matched to 3'):
        match(random_features(3, b=2), random_features(3, b=3))


def test_with_options_changes_only_what_is_named():
    matcher = MutualNearestNeighbor(MatcherConfig(min_similarity=0.5))
    changed = matcher.with_options(ratio_threshold=0.8)
    assert (changed.config.ratio_threshold, changed.config.min_similarity) == (0.8, 0.5)
    assert matcher.config.ratio_threshold == 1.0
    with pytest.raises(ConfigError, match='ratio_threshold is 2'):
        matcher.with_options(ratio_threshold=2.0)


HOMOGRAPHY = np.array([[0.9, 0.1, 20.0], [-0.1, 1.1, 5.0], [1e-4, 2e-4, 1.0]])
CORNERS = np.array([[0.0, 0], [639, 0], [639, 479], [0, 479]])


def warp(matrix, points):
    """Apply a homography to points (K, 2)."""
    lifted = np.c_[points, np.ones(len(points))] @ matrix.T
    return lifted[:, :2] / lifted[:, 2:]


def homography_scene(count=200, outliers=60, noise=0.3):
    """Return matched points, the first `outliers` of them wrong by far."""
    rng = np.random.default_rng(0)
    points0 = rng.uniform(0, 640, (count, 2))
    points1 = warp(HOMOGRAPHY, points0) + rng.normal(0, noise, (count, 2))
    points1[:outliers] += rng.choice([-1, 1], (outliers, 2)) * rng.uniform(40, 90, (outliers, 2))
    return points0, points1


def epipolar_scene(count=200, outliers=60, noise=0.2):
    """Return projections of random 3D points into two cameras."""
    rng = np.random.default_rng(0)
    world = rng.uniform([-3, -2, 4], [3, 2, 12], (count, 3))
    camera = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    rotation = cv2.Rodrigues(np.array([0.02, 0.1, 0.03]))[0]
    moved = world @ rotation.T + [0.5, 0.05, 0.1]
    points0, points1 = ((x @ camera.T)[:, :2] / x[:, 2:] for x in (world, moved))
    points1 = points1 + rng.normal(0, noise, points1.shape)
    points1[:outliers] = rng.uniform(0, 480, (outliers, 2))
    return points0, points1


def test_homography_and_its_inliers_are_found_among_outliers():
    points0, points1 = homography_scene()
    matrix, inliers = find_geometry(points0, points1, 'homography', 3.0)
    assert inliers.dtype == bool
    assert not inliers[:60].any() and inliers[60:].all()
    assert np.linalg.norm(warp(matrix, CORNERS) - warp(HOMOGRAPHY, CORNERS), axis=1).max() < 1.0
    assert matrix[2, 2] == 1.0


def test_inliers_of_a_homography_are_the_points_within_the_threshold():
    points0, points1 = homography_scene(noise=1.5)
    matrix, inliers = find_geometry(points0, points1, 'homography', 2.0)
    error = np.linalg.norm(warp(matrix, points0) - points1, axis=1)
    assert 0.3 < inliers.mean() < 0.7
    assert np.array_equal(inliers, error <= 2.0)


def test_fundamental_matrix_takes_points_to_epipolar_lines():
    points0, points1 = epipolar_scene()
    matrix, inliers = find_geometry(points0, points1, 'fundamental', 1.0)
    assert inliers[60:].mean() > 0.95 and inliers[:60].mean() < 0.1
    assert np.isclose(np.linalg.norm(matrix), 1.0)
    lines = np.c_[points0[60:], np.ones(140)] @ matrix.T  # x1ᵀ F x0 = 0
    distance = (np.c_[points1[60:], np.ones(140)] * lines).sum(1)
    distance = np.abs(distance) / np.linalg.norm(lines[:, :2], axis=1)
    assert np.median(distance) < 0.5


@pytest.mark.parametrize('kind', ['homography', 'fundamental'])
def test_the_same_points_give_the_same_answer(kind):
    points = homography_scene(noise=2.0) if kind == 'homography' else epipolar_scene(noise=1.0)
    first = find_geometry(*points, kind, 1.5)
    cv2.setRNGSeed(77)
    second = find_geometry(*points, kind, 1.5)
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])


@pytest.mark.parametrize('kind, enough', [('homography', 12), ('fundamental', 24)])
def test_too_few_points_give_no_matrix_and_no_inliers(kind, enough):
    scene = homography_scene if kind == 'homography' else epipolar_scene
    points0, points1 = scene(enough, outliers=0, noise=0.0)
    assert find_geometry(points0, points1, kind)[0] is not None
    for count in (1, 3, 4, 7, 8):  # a matrix through all points that fix it shows nothing
        if kind == 'homography' and count > 4:
            break
        matrix, inliers = find_geometry(points0[:count], points1[:count], kind)
        assert matrix is None
        assert inliers.tolist() == [False] * count


@pytest.mark.parametrize('kind', ['homography', 'fundamental'])
@pytest.mark.parametrize('count', [10, 16, 60, 432])
def test_matches_that_mean_nothing_fix_no_geometry(kind, count):
    for seed in range(10):
        random = np.random.default_rng(seed)
        points = random.uniform(0, (320, 240), (2, count, 2)).astype(np.float32)
        matrix, inliers = find_geometry(*points, kind)
        assert matrix is None and not inliers.any()


@pytest.mark.parametrize('kind', ['homography', 'fundamental'])
def test_points_on_a_line_fix_no_geometry(kind):
    random = np.random.default_rng(0)
    along = np.sort(random.uniform(0, 300, 30))
    points0 = np.column_stack([along, 0.5 * along + 20])
    points1 = np.column_stack([along + 7, 0.5 * along + 31])
    for noise in (0.0, 0.01):
        moved = points1 + noise * random.standard_normal(points1.shape)
        matrix, inliers = find_geometry(points0, moved, kind)
        assert matrix is None and not inliers.any()


@pytest.mark.parametrize('kind', ['homography', 'fundamental', 'none'])
def test_no_points_at_all_are_no_error(kind):
    matrix, inliers = find_geometry(np.zeros((0, 2)), np.zeros((0, 2)), kind)
    assert matrix is None and inliers.shape == (0,)


@pytest.mark.parametrize('points', [np.ones((20, 2)), np.arange(20.0)[:, None] * [1.0, 2.0]])
def test_points_that_fix_no_homography_give_none(points):
    matrix, inliers = find_geometry(points, points + 1, 'homography')
    assert matrix is None and not inliers.any()


def test_points_that_are_not_finite_are_never_inliers():
    points0, points1 = homography_scene(outliers=0)
    points0[3, 0], points1[5, 1] = np.nan, np.inf
    matrix, inliers = find_geometry(points0, points1)
    assert matrix is not None
    assert np.flatnonzero(~inliers).tolist() == [3, 5]


def test_none_fits_nothing_and_tensors_are_taken_as_they_are():
    points0, points1 = homography_scene()
    matrix, inliers = find_geometry(points0, points1, 'none')
    assert matrix is None and inliers.all()
    expected = find_geometry(points0, points1)
    found = find_geometry(torch.tensor(points0), torch.tensor(points1))
    assert np.array_equal(found[1], expected[1])


def test_unequal_counts_wrong_shapes_unknown_kinds_and_a_threshold_of_zero_are_refused():
    with pytest.raises(ShapeError, match='5 points0 beside 4'):
        find_geometry(np.zeros((5, 2)), np.zeros((4, 2)))
    with pytest.raises(ShapeError, match=r'\(2, 5\), expected \(K, 2\)'):
        find_geometry(np.zeros((2, 5)), np.zeros((2, 5)))

    points = np.zeros((9, 2))
    with pytest.raises(ConfigError, match="'affine', expected none, homography, fundamental"):
        find_geometry(points, points, 'affine')
    with pytest.raises(ConfigError, match='more than 0'):
        find_geometry(points, points, 'homography', 0.0)


def features(order: list[int], shift: float = 0.0) -> Features:
    """Return points of a grid in this order, each with a descriptor of its own."""
    points = [[10 * (k % 4) + shift, 10 * (k // 4) + k % 3 + shift] for k in order]
    arrays = {
        'keypoints': np.array(points).reshape(-1, 2),
        'keypoint_scores': np.ones(len(order)),
        'descriptors': np.eye(12)[order],
        'image_size': np.array([100, 100]),
    }
    return Features.from_numpy(arrays)


def test_indices_and_coordinates_of_a_match_belong_together() -> None:
    features0, features1 = features(list(range(12))), features(list(range(11, -1, -1)), 5.0)
    pair = match_pair(create_matcher(), features0, features1)
    assert pair.indices0.tolist() == list(range(12))
    assert pair.indices1.tolist() == list(range(11, -1, -1))
    assert np.array_equal(pair.keypoints0, features0.keypoints[0].numpy()[pair.indices0])
    assert np.allclose(pair.keypoints1 - pair.keypoints0, 5)


def test_image_of_a_batch_is_matched_with_its_partner_and_without_padding() -> None:
    batch0 = Features.cat([features([0, 1, 2, 3, 4, 5]), features([7, 8])])
    batch1 = Features.cat([features([0]), features([8, 7, 1])])
    pair = match_pair(create_matcher(geometry='none'), batch0, batch1, 1)
    assert (pair.indices0.tolist(), pair.indices1.tolist()) == ([0, 1], [1, 0])


def test_wrong_match_is_no_inlier_and_the_homography_is_that_of_the_others() -> None:
    features0, features1 = features(list(range(12))), features(list(range(12)), 5.0)
    features1.keypoints[0, 3] += 40
    pair = match_pair(create_matcher(geometry='homography'), features0, features1)
    assert pair.inliers.tolist() == [k != 3 for k in range(12)]
    assert np.allclose(pair.matrix, [[1, 0, 5], [0, 1, 5], [0, 0, 1]], atol=1e-3)


def test_nothing_is_rejected_without_a_geometry_and_nothing_matched_without_keypoints() -> None:
    pair = match_pair(create_matcher(geometry='none'), features(list(range(12))), features([0, 5]))
    assert len(pair) == 2 and pair.inliers.all() and pair.matrix is None
    pair = match_pair(create_matcher(), features([]), features([0, 1, 2]))
    assert len(pair) == 0 and pair.keypoints0.shape == (0, 2) and pair.matrix is None


def test_a_protocol_may_take_a_fit_that_chance_could_reach() -> None:
    points = np.array([[0, 0], [90, 5], [80, 70], [5, 60], [40, 30]], float)
    assert find_geometry(points, points + 2)[0] is None
    matrix, inliers = find_geometry(points, points + 2, beyond_chance=False)
    assert inliers.all() and matrix == pytest.approx(np.array([[1, 0, 2], [0, 1, 2], [0, 0, 1]]))
