"""The numbers of one pair under a protocol."""

from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from . import metrics, two_view
from .pairs import Pair, PlanarPair, PosePair
from .results import OVERLAP, Protocol, USAC
from ..axes import Bool, Float, Int
from ..config import MatcherConfig
from ..features import Features
from ..geometry import inside
from ..matching import find_geometry, MutualNearestNeighbor

THRESHOLDS_PX = tuple(range(1, 11))
HOMOGRAPHY_PX = (1, 3, 5)
POSE_DEG = (5, 10, 20)
RIGHT_PX = 3.0
RIGHT_EPIPOLAR = 5e-4  # squared distances in normalised coordinates, as SuperGlue counts
RANSAC_ITERATIONS = 5000


@dataclass(frozen=True)
class Viewed:
    """
    What an extractor made of one view.

    features: of one image; resized: (3, 3) from pixels of the source to pixels of the features;
    seconds: what extracting them took.
    """

    features: Features
    resized: np.ndarray
    seconds: float


@dataclass(frozen=True)
class Measured:
    """
    The numbers of a pair by column, and the matches that they are of.

    points0, points1 (K, 2): matched pixels of the resized views; right (K,).
    """

    values: dict[str, float]
    points0: Float[Tensor, 'k 2']
    points1: Float[Tensor, 'k 2']
    right: Bool[Tensor, ' k']


def measure_pair(pair: Pair, view0: Viewed, view1: Viewed, protocol: Protocol) -> Measured:
    """
    Return every number that the protocol asks of a pair; distances are in resized pixels.

    Matches are mutual nearest neighbours without further filters. MMA@t: share of matches with at
    most t px of error; HA@t: 1 if the corners move by at most t px on average under the estimated
    homography; AUC@t, pose_AUC@t: area under the recall of corner or pose errors up to t;
    coverage: share of the cells of a 10x10 grid over view 0 with a right match; ms: time of
    extracting one image.
    """
    if isinstance(pair, PosePair):
        return _measure_pose(pair, view0, view1, protocol)
    return _measure_planar(pair, view0, view1, protocol)


def _measure_planar(
    pair: PlanarPair, view0: Viewed, view1: Viewed, protocol: Protocol
) -> Measured:
    truth = torch.from_numpy(view1.resized @ pair.H_0to1 @ np.linalg.inv(view0.resized))
    sizes = [view.features.image_size[0].tolist() for view in (view0, view1)]
    features0 = _counted(view0.features, truth, sizes[1], protocol)
    features1 = _counted(view1.features, torch.linalg.inv(truth), sizes[0], protocol)
    points0, points1 = features0.keypoints[0], features1.keypoints[0]
    index0, index1 = _matches(features0, features1).unbind(1)
    matched0, matched1 = points0[index0], points1[index1]
    errors = metrics.match_errors(matched0, matched1, truth)
    right = errors <= RIGHT_PX
    estimated = _estimate_homography(matched0, matched1, protocol)
    corner = metrics.corner_error(estimated, truth, sizes[0])
    accuracy = metrics.matching_accuracy(errors, THRESHOLDS_PX)
    values = {
        **_repeatability(features0, features1, truth, sizes, protocol),
        **{f'MMA@{t}': value for t, value in zip(THRESHOLDS_PX, accuracy, strict=True)},
        **{f'HA@{t}': float(corner <= t) for t in HOMOGRAPHY_PX},
        **{f'AUC@{t}': metrics.recall_area(corner, t) for t in HOMOGRAPHY_PX},
        'corner_error': corner,
        'matching_score': _matching_score(features0, features1, truth, sizes),
        **_counts(features0, features1, matched0, right, sizes[0]),
        'ms': _ms(view0, view1),
    }
    return Measured(values, matched0, matched1, right)


def _measure_pose(pair: PosePair, view0: Viewed, view1: Viewed, protocol: Protocol) -> Measured:
    K0, K1 = view0.resized @ pair.K0, view1.resized @ pair.K1
    features0, features1 = (_best(v.features, protocol.max_num_keypoints) for v in (view0, view1))
    index0, index1 = _matches(features0, features1).unbind(1)
    matched0, matched1 = features0.keypoints[0][index0], features1.keypoints[0][index1]
    pose = two_view.estimate_relative_pose(matched0, matched1, K0, K1, protocol.ransac_px)
    error = two_view.pose_error(pair.T_0to1, pose)
    epipolar = two_view.epipolar_errors(matched0, matched1, K0, K1, pair.T_0to1)
    right = epipolar < RIGHT_EPIPOLAR
    size = view0.features.image_size[0].tolist()
    values = {
        **{f'pose_AUC@{t}': metrics.recall_area(error, t) for t in POSE_DEG},
        'pose_error': error,
        'precision': float(right.double().mean()) if len(right) else 0.0,
        **_counts(features0, features1, matched0, right, size),
        'ms': _ms(view0, view1),
    }
    return Measured(values, matched0, matched1, right)


def _ms(view0: Viewed, view1: Viewed) -> float:
    return 500 * (view0.seconds + view1.seconds)


def _counts(
    features0: Features, features1: Features, matched0: Tensor, right: Tensor, size0: Any
) -> dict[str, float]:
    return {
        'keypoints': (features0.count() + features1.count()) / 2,
        'matches': float(len(right)),
        'right': float(right.sum()),
        'coverage': metrics.match_coverage(matched0[right], size0),
    }


def _counted(
    features: Features, to_other: Tensor, size_other: Any, protocol: Protocol
) -> Features:
    """Keep the best keypoints among those that count, the best first."""
    points, scores = features.keypoints[0], features.keypoint_scores[0]
    kept = features.mask[0].clone()
    if protocol.nms_px:
        kept &= metrics.suppress_points(points, scores, protocol.nms_px)
    if protocol.border_px:
        kept &= _inside(points, features.image_size[0].tolist(), protocol.border_px)
    if protocol.shared_region:
        kept &= _inside(metrics.warp(points, to_other), size_other, protocol.border_px)
    return _best(_rows(features, kept.nonzero()[:, 0]), protocol.max_num_keypoints)


def _inside(points: Tensor, size: Any, margin: float) -> Bool[Tensor, ' n']:
    return inside(points, int(size[1]), int(size[0]), margin)


def _best(features: Features, count: int) -> Features:
    order = features.keypoint_scores[0].argsort(descending=True, stable=True)
    return _rows(features, order[features.mask[0][order]][:count])


def _rows(features: Features, index: Int[Tensor, ' k']) -> Features:
    values = {f.name: getattr(features, f.name) for f in fields(features)}
    size = values.pop('image_size')
    rows = {k: None if v is None else v[:, index] for k, v in values.items()}
    return Features(image_size=size, **rows)


def _matches(features0: Features, features1: Features) -> Int[Tensor, 'k 2']:
    if features0.descriptor_dim == 0:  # a detector alone: it has repeatability and no matches
        return torch.zeros((0, 2), dtype=torch.int64)
    return _MATCHER.match(features0, features1).pairs()


def _matching_score(
    features0: Features, features1: Features, truth: Tensor, sizes: list[Any]
) -> float:
    if features0.descriptor_dim == 0 or not (features0.count() and features1.count()):
        return 0.0
    nearest0 = _ONE_WAY.match(features0, features1).matches0[0]
    nearest1 = _ONE_WAY.match(features1, features0).matches0[0]
    return metrics.matching_score(
        features0.keypoints[0], features1.keypoints[0], nearest0, nearest1, truth, *sizes
    )


def _repeatability(
    features0: Features,
    features1: Features,
    truth: Tensor,
    sizes: list[Any],
    protocol: Protocol,
) -> dict[str, float]:
    points = features0.keypoints[0], features1.keypoints[0]
    if protocol.repeatability != OVERLAP:
        found = metrics.repeatability(*points, truth, *sizes, protocol.repeated_px)
        return {'repeatability': found.share, 'localization_px': found.localization_px}
    radii = [
        torch.ones_like(p[:, 0]) if f.scales is None else f.scales[0]
        for p, f in zip(points, (features0, features1), strict=True)
    ]
    regions = (points[0], radii[0], points[1], radii[1], truth, *sizes)
    alike = metrics.overlap_repeatability(*regions, ignore_scale=True)
    return {
        'repeatability': alike.share,
        'repeatability_scale': metrics.overlap_repeatability(*regions).share,
        'localization_px': alike.localization_px,
    }


def _estimate_homography(points0: Tensor, points1: Tensor, protocol: Protocol) -> Any:
    if protocol.estimator == USAC:
        return find_geometry(points0, points1, 'homography', protocol.ransac_px)[0]
    if len(points0) < 4:
        return None
    cv2.setRNGSeed(0)  # plain RANSAC draws from OpenCV's own generator
    matrix, _ = cv2.findHomography(
        points0.double().numpy(),
        points1.double().numpy(),
        cv2.RANSAC,
        protocol.ransac_px,
        maxIters=RANSAC_ITERATIONS,
    )
    return matrix


_MATCHER = MutualNearestNeighbor(MatcherConfig(mutual=True))
_ONE_WAY = MutualNearestNeighbor(MatcherConfig(mutual=False))
