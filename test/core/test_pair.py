"""Matched, verified coordinates of a pair of images."""

from kpfeat_core.config import MatcherConfig
from kpfeat_core.features import Features
from kpfeat_core.matching import match_pair, MutualNearestNeighbor
import numpy as np
import torch


def features(order: list[int], shift: float = 0.0) -> Features:
    """Return points of a grid in this order, each with a descriptor of its own."""
    keypoints = np.array(
        [[10 * (k % 4), 10 * (k // 4) + k % 3] for k in order], np.float32
    ).reshape(-1, 2)
    return Features.from_numpy(
        {
            'keypoints': keypoints + np.float32(shift),
            'keypoint_scores': np.ones(len(order), np.float32),
            'descriptors': np.eye(12, dtype=np.float32)[order],
            'image_size': np.array([100, 100], np.float32),
        }
    )


def matcher(**options) -> MutualNearestNeighbor:
    return MutualNearestNeighbor(MatcherConfig(**options))


def test_indices_and_coordinates_of_a_match_belong_together() -> None:
    features0, features1 = features(list(range(12))), features(list(range(11, -1, -1)), 5.0)
    pair = match_pair(matcher(), features0, features1)
    assert pair.indices0.tolist() == list(range(12))
    assert pair.indices1.tolist() == list(range(11, -1, -1))
    assert np.array_equal(pair.keypoints0, features0.keypoints[0].numpy()[pair.indices0])
    assert np.allclose(pair.keypoints1 - pair.keypoints0, 5)


def test_image_of_a_batch_is_matched_with_its_partner_and_without_padding() -> None:
    batch0 = Features.cat([features([0, 1, 2, 3, 4, 5]), features([7, 8])])
    batch1 = Features.cat([features([0]), features([8, 7, 1])])
    pair = match_pair(matcher(geometry='none'), batch0, batch1, 1)
    assert (pair.indices0.tolist(), pair.indices1.tolist()) == ([0, 1], [1, 0])


def test_wrong_match_is_no_inlier_and_the_homography_is_that_of_the_others() -> None:
    features0, features1 = features(list(range(12))), features(list(range(12)), 5.0)
    features1.keypoints[0, 3] += 40
    pair = match_pair(matcher(geometry='homography'), features0, features1)
    assert pair.inliers.tolist() == [k != 3 for k in range(12)]
    assert np.allclose(pair.matrix, [[1, 0, 5], [0, 1, 5], [0, 0, 1]], atol=1e-3)


def test_nothing_is_rejected_where_no_geometry_is_asked_for() -> None:
    pair = match_pair(matcher(geometry='none'), features(list(range(12))), features([0, 5]))
    assert len(pair) == 2
    assert pair.inliers.all()
    assert pair.matrix is None


def test_image_without_keypoints_gives_no_matches() -> None:
    pair = match_pair(matcher(), features([]), features([0, 1, 2]))
    assert len(pair) == 0
    assert pair.keypoints0.shape == (0, 2)
    assert pair.matrix is None


def test_padding_is_never_matched() -> None:
    batch = Features.cat([features([0, 1]), features([2, 3, 4])])
    pair = match_pair(matcher(geometry='none'), batch, batch, b=0)
    assert pair.indices0.tolist() == [0, 1]
    assert torch.equal(batch.mask[0], torch.tensor([True, True, False]))
