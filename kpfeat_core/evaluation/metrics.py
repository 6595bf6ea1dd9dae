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

from ..axes import Bool, Float, Int
from ..geometry import inside, match_errors, warp

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


def in_shared_region(
    points: Float[Tensor, 'n 2'], H_to_other: Float[Tensor, '3 3'], size_other: Size
) -> Bool[Tensor, ' n']:
    """
    Tell which points of an image the other one shows too, by where the homography moves them.

    On the other's outermost pixel centres still counts (DeTone et al. 2018, appendix A).
    """
    return inside(warp(points, H_to_other), int(size_other[1]), int(size_other[0]))


def suppress_points(
    points: Float[Tensor, 'n 2'], scores: Float[Tensor, ' n'], radius_px: float
) -> Bool[Tensor, ' n']:
    """
    Tell which keypoints remain if each drops all worse ones around it; the best goes first.

    Around: at most the radius away in x and in y, a square; a radius of 0 drops nothing. Of equal
    scores the first in the list is the better. Non-maximum suppression of sparse points as in
    SuperPoint's evaluation (DeTone et al. 2018), for methods that bring none or another.
    """
    if radius_px <= 0:
        return torch.ones(len(points), dtype=torch.bool, device=points.device)
    order = scores.argsort(descending=True, stable=True)
    x, y = points.detach().double()[order].cpu().numpy().T.copy()
    free, kept = np.ones(len(x), bool), np.zeros(len(x), bool)
    for i in range(len(x)):
        if free[i]:
            kept[i] = True
            near = (np.abs(x[i:] - x[i]) <= radius_px) & (np.abs(y[i:] - y[i]) <= radius_px)
            free[i:] &= ~near
    mask = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    mask[order] = torch.from_numpy(kept).to(points.device)
    return mask


def matching_accuracy(errors: Float[Tensor, ' k'], thresholds: Sequence[float]) -> list[float]:
    """
    Return the share of the matches with an error of at most each threshold; 0 without matches.

    Its mean over image pairs is the mean matching accuracy, MMA (Mikolajczyk and Schmid 2005;
    Dusmanu et al. 2019).
    """
    if len(errors) == 0:
        return [0.0] * len(thresholds)
    return [float((errors <= threshold).double().mean()) for threshold in thresholds]


def matching_score(
    points0: Float[Tensor, 'n0 2'],
    points1: Float[Tensor, 'n1 2'],
    nearest0: Int[Tensor, ' n0'],
    nearest1: Int[Tensor, ' n1'],
    H_0to1: Float[Tensor, '3 3'],
    size0: Size,
    size1: Size,
    threshold: float = 3.0,
) -> float:
    """
    Return the share of the features in the shared region whose nearest neighbour is right.

    nearest0: for each feature of image 0 the index of the most similar one of image 1, one-way,
    -1 for none; nearest1 the other way round. Right: at most threshold pixels from where the
    feature falls. The mean of both directions; 0 in a direction without features in the shared
    region (DeTone et al. 2018, section 7.3; Tang et al. 2020). It falls with keypoints that are
    not repeated and with descriptors that mix them up.
    """
    forward = _nearest_right(points0, points1, nearest0, H_0to1, size1, threshold)
    inverse = torch.linalg.inv(H_0to1.double())
    return (forward + _nearest_right(points1, points0, nearest1, inverse, size0, threshold)) / 2


def _nearest_right(
    points: Tensor, others: Tensor, nearest: Tensor, H: Tensor, size_other: Size, threshold: float
) -> float:
    shared = in_shared_region(points, H, size_other)
    matched = shared & (nearest >= 0)
    errors = match_errors(points[matched], others[nearest[matched]], H)
    return float((errors <= threshold).sum() / shared.sum().clamp(min=1))


def match_coverage(points: Float[Tensor, 'k 2'], size: Size, cells: int = 10) -> float:
    """
    Return the share of the cells x cells equal parts of an image that hold a match.

    points: the matched ones, or only the right ones. 1 means matches everywhere, which an estimate
    from them needs; images that share half of the view reach about 0.5. Points outside the image
    do not count.
    """
    points = points[inside(points, int(size[1]), int(size[0]))].double()
    cell = ((points + 0.5) / points.new_tensor(list(size)) * cells).long().clamp(max=cells - 1)
    return len(torch.unique(cell, dim=0)) / cells**2 if len(cell) else 0.0


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


def recall_area(error: float, threshold: float) -> float:
    """
    Return the area under one pair's curve of recall over error up to a threshold, 0 to 1.

    The recall of one pair is a step at its error, so that the area is 1 - error / threshold. The
    mean over pairs is the AUC of the data set, exactly, and can be bootstrapped like any mean. The
    AUC of SuperGlue (Sarlin et al. 2020) and glue-factory joins the steps by slanted lines, which
    adds e / (2 K threshold), at most 1 / (2 K): K pairs, e the largest error below the threshold.
    An error of infinity, or NaN, gives 0. Error and threshold share a unit: pixels or degrees.
    """
    return max(0.0, 1 - error / threshold)


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    share: float = 0.95,
    rounds: int = 2000,
    seed: int = 0,
    origins: Sequence[str] | np.ndarray | None = None,
) -> tuple[float, float]:
    """
    Return the interval that holds the mean with this confidence, from resampled image pairs.

    The percentile bootstrap (Efron 1979): what the mean would have been with other pairs of the
    same kind. origins: what each pair shows, such as a sequence. Pairs of one origin resemble each
    other, so origins are drawn, with all their pairs (the cluster bootstrap: Davison and Hinkley
    1997, section 3.8); else intervals are too narrow. Of a single origin, and without origins,
    pairs are drawn. With few origins intervals are still too narrow.
    """
    means = _resampled_means(np.asarray(values, float)[:, None], rounds, seed, origins)[:, 0]
    return _percentiles(means, share)


def bootstrap_difference(
    values: Sequence[float] | np.ndarray,
    others: Sequence[float] | np.ndarray,
    share: float = 0.95,
    rounds: int = 2000,
    seed: int = 0,
    origins: Sequence[str] | np.ndarray | None = None,
) -> tuple[float, float, float]:
    """
    Return mean(values) - mean(others) and its interval; both measured on the same pairs.

    Pairs, or with origins these as in `bootstrap_interval`, are drawn for both at once, so that
    what makes a pair easy or hard for everybody cancels out (Efron 1979). An interval on one side
    of 0 means more than chance; NaN without pairs.
    """
    table = np.stack([np.asarray(values, float), np.asarray(others, float)], 1)
    gain = table[:, :1] - table[:, 1:]
    means = _resampled_means(gain, rounds, seed, origins)[:, 0]
    return float(gain.mean()) if len(gain) else float('nan'), *_percentiles(means, share)


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


def _resampled_means(
    table: np.ndarray,
    rounds: int,
    seed: int,
    origins: Sequence[str] | np.ndarray | None = None,
) -> np.ndarray:
    """Return (rounds, columns) means of rows, or all rows of origins, drawn with replacement."""
    if len(table) == 0:
        return np.full((rounds, table.shape[1]), np.nan)
    of_row = np.arange(len(table))
    if origins is not None and len(set(origins)) > 1:
        of_row = np.unique(origins, return_inverse=True)[1]
    sums = np.stack([np.bincount(of_row, column) for column in table.T], 1)
    sizes = np.bincount(of_row)
    draws = np.random.default_rng(seed).integers(0, len(sums), (rounds, len(sums)))
    return sums[draws].sum(1) / sizes[draws].sum(1)[:, None]


def _percentiles(values: np.ndarray, share: float) -> tuple[float, float]:
    if len(values) == 0:
        return float('nan'), float('nan')
    low, high = np.percentile(values, [50 * (1 - share), 50 * (1 + share)])
    return float(low), float(high)
