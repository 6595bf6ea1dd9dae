"""The numbers of one pair under a protocol."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import math
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from . import metrics, two_view
from .pairs import load_depth, MotionPair, Pair, PlanarPair, PosePair
from .results import OVERLAP, Protocol, RANSAC, USAC
from ..axes import Bool, Float
from ..config import MatcherConfig
from ..errors import DataError
from ..features import Features
from ..matching import find_geometry, MutualNearestNeighbor

THRESHOLDS_PX = tuple(range(1, 11))
HOMOGRAPHY_PX = (1, 3, 5)
POSE_DEG = (5, 10, 20)
EPIPOLAR_PX, CORRECT_LINE_PX = (1, 2, 5), 2.0
DEPTH_PX, COARSE_PX = (1, 2, 3, 5), 5.0  # from here on a coarse truth is precise enough
REPEATED = ('repeatability', 'localization_px')
CORRECT_PX = 3.0
CORRECT_EPIPOLAR = 5e-4  # squared distances in normalized coordinates, as SuperGlue counts
RANSAC_ITERATIONS = 5000


@dataclass(frozen=True)
class Viewed:
    """
    What an extractor made of one view.

    features: of one image; resized: (3, 3) from pixels of the source to pixels of the features;
    size: (width, height) of the source; seconds: the time of extracting them.
    """

    features: Features
    resized: np.ndarray
    size: tuple[int, int]
    seconds: float


@dataclass(frozen=True)
class Measured:
    """
    The numbers of a pair by column, and the matches that they are of.

    points0, points1 (K, 2): matched pixels of the resized views; correct (K,).
    """

    values: dict[str, float]
    points0: Float[Tensor, 'k 2']
    points1: Float[Tensor, 'k 2']
    correct: Bool[Tensor, ' k']


Found = tuple[dict[str, float], Sequence[Features], tuple[Tensor, Tensor], Tensor]


def measure_pair(pair: Pair, view0: Viewed, view1: Viewed, protocol: Protocol) -> Measured:
    """
    Return every number that the protocol asks of a pair; distances are in resized pixels.

    Matches are mutual nearest neighbours without further filters. MMA@t: share of matches with at
    most t px of error; HA@t: 1 if the corners move by at most t px on average under the estimated
    homography; AUC@t, pose_AUC@t: area under the recall of corner or pose errors up to t;
    epipolar@t: share of matches within t px of the true epipolar line; coverage: share of the
    cells of a 10x10 grid over view 0 with a right match; ms: time of extracting one image. Raises
    DataError for views of another size than their intrinsics are of.
    """
    measure = _measure_pose if isinstance(pair, PosePair) else _measure_planar
    values, features, matched, correct = measure(pair, (view0, view1), protocol)
    size0 = view0.features.image_size[0].tolist()
    values |= {
        'keypoints': (features[0].count() + features[1].count()) / 2,
        'matches': float(len(correct)),
        'right': float(correct.sum()),
        'coverage': metrics.match_coverage(matched[0][correct], size0),
        'ms': 500 * (view0.seconds + view1.seconds),
    }
    return Measured(values, *matched, correct)


def _measure_planar(pair: PlanarPair, views: tuple[Viewed, Viewed], protocol: Protocol) -> Found:
    """Return numbers of matches and keypoints, the features that count, matches and right ones."""
    truth = torch.from_numpy(views[1].resized @ pair.H_0to1 @ np.linalg.inv(views[0].resized))
    sizes = [view.features.image_size[0].tolist() for view in views]
    features = [
        _counted(views[0].features, truth, sizes[1], protocol),
        _counted(views[1].features, torch.linalg.inv(truth), sizes[0], protocol),
    ]
    matched = _match(*features)
    errors = metrics.match_errors(*matched, truth)
    corner = metrics.corner_error(_estimate_homography(*matched, protocol), truth, sizes[0])
    values = {
        **_repeatability(*features, truth, sizes, protocol),
        **_shares('MMA', errors, THRESHOLDS_PX),
        **{f'HA@{t}': float(corner <= t) for t in HOMOGRAPHY_PX},
        **{f'AUC@{t}': metrics.recall_area(corner, t) for t in HOMOGRAPHY_PX},
        'corner_error': corner,
        'matching_score': _matching_score(*features, truth, sizes),
    }
    return values, features, matched, errors <= CORRECT_PX


def _measure_pose(pair: PosePair, views: tuple[Viewed, Viewed], protocol: Protocol) -> Found:
    """Return the same for a pair whose pose is known."""
    cameras = [view.resized @ K for view, K in zip(views, (pair.K0, pair.K1), strict=True)]
    features = [_best(view.features, protocol.max_num_keypoints) for view in views]
    matched = _match(*features)
    if isinstance(pair, MotionPair):
        found, correct = _motion_values(pair, views, cameras, features, matched, protocol)
    else:
        correct = two_view.epipolar_errors(*matched, *cameras, pair.T_0to1) < CORRECT_EPIPOLAR
        found = {'precision': float(correct.double().mean()) if len(correct) else 0.0}
    values = {f'pose_AUC@{t}': math.nan for t in POSE_DEG} | {'pose_error': math.nan}
    if not (isinstance(pair, MotionPair) and pair.is_stereo):
        plain = protocol.estimator == RANSAC
        pose = two_view.estimate_relative_pose(*matched, *cameras, protocol.ransac_px, plain)
        coarse = isinstance(pair, MotionPair) and pair.coarse
        error = two_view.pose_error(pair.T_0to1, pose, rotation_only=coarse)
        values = {f'pose_AUC@{t}': metrics.recall_area(error, t) for t in POSE_DEG}
        values['pose_error'] = error
    return values | found, features, matched, correct


def _motion_values(
    pair: MotionPair,
    views: tuple[Viewed, Viewed],
    cameras: Sequence[np.ndarray],
    features: Sequence[Features],
    matched: tuple[Tensor, Tensor],
    protocol: Protocol,
) -> tuple[dict[str, float], Bool[Tensor, ' k']]:
    """Return shares near epipolar lines and, where there is depth, near the true points."""
    for view, size, path in zip(views, pair.sizes, (pair.view0, pair.view1), strict=False):
        if view.size != size:
            raise DataError(
                f"'{path}' has {view.size[0]}x{view.size[1]} pixels, but its intrinsics are of "
                f'{size[0]}x{size[1]}; correct its line in intrinsics.txt'
            )
    beside = two_view.line_distances(*matched, *cameras, pair.T_0to1)
    correct = beside <= CORRECT_LINE_PX
    values = _shares('epipolar', beside, EPIPOLAR_PX)
    values |= dict.fromkeys([*(f'MMA@{t}' for t in DEPTH_PX), *REPEATED], math.nan)
    if pair.depth0 is not None or pair.depth1 is not None:
        move = _mover(pair, views)
        there, back = move(matched[0], 0), move(matched[1], 1)
        errors = (there - matched[1]).norm(dim=1)
        errors = torch.where(errors.isnan(), (back - matched[0]).norm(dim=1), errors)
        known = ~errors.isnan()
        correct = torch.where(known, errors <= (COARSE_PX if pair.coarse else CORRECT_PX), correct)
        if known.any() or not len(known):
            values |= _shares('MMA', errors[known], DEPTH_PX)
        points = [f.keypoints[0] for f in features]
        moved = [move(p, k) for k, p in enumerate(points)]
        found = metrics.mutual_repeatability(points, moved, protocol.repeated_px)
        values |= zip(REPEATED, found, strict=False)
    if pair.coarse:
        fine = [f'epipolar@{t}' for t in EPIPOLAR_PX]
        fine += [f'MMA@{t}' for t in DEPTH_PX if t < COARSE_PX]
        values |= dict.fromkeys(fine, math.nan)
    return values, correct


def _mover(pair: MotionPair, views: Sequence[Viewed]) -> Callable[[Tensor, int], Tensor]:
    """Return a function that moves pixels of resized view k to the other one by their depth."""
    scales = [torch.from_numpy(view.resized.diagonal()[:2].copy()) for view in views]
    shifts = [torch.from_numpy(view.resized[:2, 2].copy()) for view in views]
    depths = [
        load_depth(depth, pair.depth_scale, view.size[::-1])
        for depth, view in zip((pair.depth0, pair.depth1), views, strict=True)
    ]
    cameras = pair.K0, pair.K1
    poses = pair.T_0to1, np.linalg.inv(pair.T_0to1)

    def move(points: Float[Tensor, 'n 2'], k: int) -> Float[Tensor, 'n 2']:
        source, j = (points.double() - shifts[k]) / scales[k], 1 - k
        moved = two_view.warp_through_depth(
            source, depths[k], depths[j], cameras[k], cameras[j], poses[k]
        )
        return moved * scales[j] + shifts[j]

    return move


def _shares(name: str, errors: Tensor, thresholds: Sequence[float]) -> dict[str, float]:
    shares = metrics.matching_accuracy(errors, thresholds)
    return {f'{name}@{t}': share for t, share in zip(thresholds, shares, strict=True)}


def _counted(
    features: Features, to_other: Tensor, size_other: Any, protocol: Protocol
) -> Features:
    """Keep the best keypoints among those that count, the best first."""
    points, scores = features.keypoints[0], features.keypoint_scores[0]
    kept = features.mask[0].clone()
    if protocol.nms_px:
        kept &= metrics.suppress_points(points, scores, protocol.nms_px)
    if protocol.border_px:
        kept &= metrics.within(points, features.image_size[0].tolist(), protocol.border_px)
    if protocol.shared_region:
        moved = metrics.warp(points, to_other)
        kept &= metrics.within(moved, size_other, protocol.border_px)
    return _best(features.take(kept), protocol.max_num_keypoints)


def _best(features: Features, count: int) -> Features:
    order = features.keypoint_scores[0].argsort(descending=True, stable=True)
    return features.take(order[features.mask[0][order]][:count])


def _match(features0: Features, features1: Features) -> tuple[Tensor, Tensor]:
    """Return the matched points of both, (K, 2) each; none where there are no descriptors."""
    pairs = torch.zeros((0, 2), dtype=torch.int64)
    if features0.descriptor_dim:  # a detector alone: it has repeatability and no matches
        pairs = _MATCHER.match(features0, features1).pairs()
    return features0.keypoints[0][pairs[:, 0]], features1.keypoints[0][pairs[:, 1]]


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
        return dict(zip(REPEATED, found, strict=False))
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
        return find_geometry(
            points0, points1, 'homography', protocol.ransac_px, beyond_chance=False
        )[0]
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
