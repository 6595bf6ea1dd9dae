"""
Accuracy of keypoints and matches between two views of a plane, as pure functions.

Points are (x, y) pixels as tensors (N, 2), row k of points0 matched to row k of points1;
H_0to1 (3, 3) takes pixels of image 0 to image 1. Sizes are (width, height). All distances are in
pixels of the images given. Points that go to or behind infinity count as infinitely wrong.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..geometry import inside, warp_points
from ..shapes import Float

Size = Sequence[float]


class Repeatability(NamedTuple):
    """
    How many keypoints both images have in common, and how precisely.

    share: of the keypoints in the region both images see, those found again; 0 where none is in
    it. localization_px: mean distance of those found again, NaN where there are none. count: the
    keypoints in the shared region of both images together.
    """

    share: float
    localization_px: float
    count: int


def warp(points: Float[Tensor, 'n 2'], H_0to1: Float[Tensor, '3 3']) -> Float[Tensor, 'n 2']:
    """Move points of image 0 to image 1 in float64; NaN at or behind infinity."""
    return warp_points(points.double()[None], H_0to1.double()[None])[0]


def match_errors(
    points0: Float[Tensor, 'k 2'], points1: Float[Tensor, 'k 2'], H_0to1: Float[Tensor, '3 3']
) -> Float[Tensor, ' k']:
    """
    Return the distance in image 1 from each point of image 0, moved there, to its match.

    The reprojection error of the D2-Net protocol (Dusmanu et al. 2019).
    """
    distance = (warp(points0, H_0to1) - points1.double()).norm(dim=-1)
    return distance.nan_to_num(nan=torch.inf)


def matching_accuracy(errors: Float[Tensor, ' k'], thresholds: Sequence[float]) -> list[float]:
    """
    Return the share of the matches with an error of at most each threshold; 0 without matches.

    Its mean over image pairs is the mean matching accuracy, MMA (Mikolajczyk and Schmid 2005;
    Dusmanu et al. 2019).
    """
    if len(errors) == 0:
        return [0.0] * len(thresholds)
    return [float((errors <= threshold).double().mean()) for threshold in thresholds]


def repeatability(
    points0: Float[Tensor, 'n0 2'],
    points1: Float[Tensor, 'n1 2'],
    H_0to1: Float[Tensor, '3 3'],
    size0: Size,
    size1: Size,
    threshold: float = 3.0,
) -> Repeatability:
    """
    Return the share of the keypoints in the shared region that are found in the other image too.

    A keypoint is in the shared region if it falls inside the other image, and is repeated if a
    keypoint of the other image in that region lies within the threshold of where it falls; both
    directions are counted, (r0 + r1) / (n0 + n1) (DeTone et al. 2018, appendix A).
    """
    moved0, moved1 = warp(points0, H_0to1), warp(points1, torch.linalg.inv(H_0to1.double()))
    shared0 = inside(moved0, int(size1[1]), int(size1[0]))
    shared1 = inside(moved1, int(size0[1]), int(size0[0]))
    count = int(shared0.sum() + shared1.sum())
    if not (shared0.any() and shared1.any()):
        return Repeatability(0.0, float('nan'), count)
    to1 = torch.cdist(moved0[shared0], points1[shared1].double()).amin(1)
    to0 = torch.cdist(moved1[shared1], points0[shared0].double()).amin(1)
    nearest = torch.cat([to1, to0])
    repeated = nearest[nearest <= threshold]
    return Repeatability(len(repeated) / count, float(repeated.mean()), count)


def corner_error(
    estimated: Float[np.ndarray, '3 3'] | None,
    H_0to1: Float[Tensor, '3 3'],
    size0: Size,
) -> float:
    """
    Return the mean distance of the four corners of image 0, moved by estimate and truth.

    Infinity where there is no estimate or it sends a corner to infinity. At most t pixels means
    that the homography is accurate at t (DeTone et al. 2018, section 6.2).
    """
    if estimated is None:
        return float('inf')
    right, bottom = size0[0] - 1, size0[1] - 1
    corners = torch.tensor([[0, 0], [right, 0], [right, bottom], [0, bottom]], dtype=torch.float64)
    error = match_errors(corners, warp(corners, torch.from_numpy(np.asarray(estimated))), H_0to1)
    return float(error.mean())


def bootstrap_interval(
    values: Sequence[float], share: float = 0.95, rounds: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """
    Return the interval that holds the mean with this confidence, from resampled image pairs.

    The percentile bootstrap (Efron 1979): what the mean would have been with other pairs of the
    same kind. It does not see how much the pairs of one sequence resemble each other.
    """
    means = _resampled_means(np.asarray(values, float)[:, None], rounds, seed)[:, 0]
    return _percentiles(means, share)


def bootstrap_ratio(
    values: Sequence[float],
    others: Sequence[float],
    share: float = 0.95,
    rounds: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """
    Return mean(values) / mean(others) and its interval; both measured on the same pairs.

    Pairs are drawn for both at once, so that what makes a pair easy or hard for everybody
    cancels out.
    """
    table = np.stack([np.asarray(values, float), np.asarray(others, float)], 1)
    means = _resampled_means(table, rounds, seed)
    with np.errstate(divide='ignore', invalid='ignore'):
        ratios = means[:, 0] / means[:, 1]
        ratio = float(np.divide(*table.mean(0))) if len(table) else float('nan')
    return ratio, *_percentiles(ratios[np.isfinite(ratios)], share)


def _resampled_means(table: np.ndarray, rounds: int, seed: int) -> np.ndarray:
    """Return (rounds, columns) means of rows drawn with replacement."""
    if len(table) == 0:
        return np.full((rounds, table.shape[1]), np.nan)
    draws = np.random.default_rng(seed).integers(0, len(table), (rounds, len(table)))
    return table[draws].mean(1)


def _percentiles(values: np.ndarray, share: float) -> tuple[float, float]:
    if len(values) == 0:
        return float('nan'), float('nan')
    low, high = np.percentile(values, [50 * (1 - share), 50 * (1 + share)])
    return float(low), float(high)
