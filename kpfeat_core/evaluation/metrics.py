"""
Accuracy of keypoints and of matches between two views of a plane, as pure functions.

Points are (x, y) pixels as tensors (N, 2), row k of points0 matched to row k of points1;
H_0to1 (3, 3) takes pixels of image 0 to image 1. Sizes are (width, height). All distances are in
pixels of the images given. Points that go to or behind infinity count as infinitely wrong.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..axes import Bool, Float, Int
from ..geometry import inside, match_errors, warp

Size = Sequence[float]
DETECTED_PX = 2.0  # a detection this close to a true keypoint is right


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


def within(points: Float[Tensor, 'n 2'], size: Size, margin: float = 0.0) -> Bool[Tensor, ' n']:
    """Return which points lie on an image of (width, height), this far from its border."""
    return inside(points, int(size[1]), int(size[0]), margin)


def in_shared_region(
    points: Float[Tensor, 'n 2'], H_to_other: Float[Tensor, '3 3'], size_other: Size
) -> Bool[Tensor, ' n']:
    """
    Return which points of an image the other one shows too, by where the homography moves them.

    On the other's outermost pixel centers still counts (DeTone et al. 2018, appendix A).
    """
    return within(warp(points, H_to_other), size_other)


def suppress_points(
    points: Float[Tensor, 'n 2'], scores: Float[Tensor, ' n'], radius_px: float
) -> Bool[Tensor, ' n']:
    """
    Return which keypoints remain if each drops all worse ones around it; the best goes first.

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
    points = points[within(points, size)].double()
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
    shared0, shared1 = within(moved0, size1), within(moved1, size0)
    if not (shared0.any() and shared1.any()):
        return Repeatability(0.0, float('nan'), int(shared0.sum() + shared1.sum()))
    points = points0[shared0], points1[shared1]
    return mutual_repeatability(points, (moved0[shared0], moved1[shared1]), threshold)


def mutual_repeatability(
    points: Sequence[Float[Tensor, 'n 2']], moved: Sequence[Float[Tensor, 'n 2']], threshold: float
) -> Repeatability:
    """
    Return the share of the keypoints of two images that are found in the other image too.

    moved: where the keypoints of each fall in the other image; those where that is not finite do
    not count. NaN where none counts.
    """
    nearest = []
    for there, others in zip(moved, reversed(points), strict=True):
        there = there[there.isfinite().all(1)]
        missing = there.new_full((len(there),), torch.inf)
        nearest.append(torch.cdist(there, others.double()).amin(1) if len(others) else missing)
    distances = torch.cat(nearest)
    repeated = distances[distances <= threshold]
    share = len(repeated) / len(distances) if len(distances) else float('nan')
    return Repeatability(share, float(repeated.mean()), len(distances))


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


def overlap_repeatability(
    points0: Float[Tensor, 'n0 2'],
    radii0: Float[Tensor, ' n0'],
    points1: Float[Tensor, 'n1 2'],
    radii1: Float[Tensor, ' n1'],
    H_0to1: Float[Tensor, '3 3'],
    size0: Size,
    size1: Size,
    max_error: float = 0.4,
    normalized_radius: float = 30.0,
    ignore_scale: bool = False,
) -> Repeatability:
    """
    Return the share of regions that overlap one of the other image, in image 0 and one to one.

    A region of image 1 goes to image 0 as the circle of the same area as the ellipse that the
    homography makes of it there, as Key.Net counts (Barroso-Laguna et al. 2019). Both radii are
    scaled so that the larger becomes normalized_radius, else large regions would overlap more at
    the same distance; centers stay where they are. Overlap error is 1 - intersection / union.
    Pairs with at most max_error are taken from the lowest error on, every region once, and counted
    over min(n0, n1), the regions in the shared region of the image that has fewer.

    With scale, Key.Net's tables say SL (scale and location); with ignore_scale they say L:
    scales are taken as estimated without error, all regions become equally large, and up to 0.4 of
    error means centers at most 11.8 px apart. `localization_px` is the mean distance of centers in
    image 0. Key.Net leaves out 15 px along the borders of both images; here they count.
    """
    H_1to0 = torch.linalg.inv(H_0to1.double())
    shared0 = in_shared_region(points0, H_0to1, size1)
    shared1 = in_shared_region(points1, H_1to0, size0)
    count = min(int(shared0.sum()), int(shared1.sum()))
    if count == 0:
        return Repeatability(0.0, float('nan'), 0)
    distance = torch.cdist(points0[shared0].double(), warp(points1[shared1], H_1to0))
    growth = _area_growth(points1[shared1].double(), H_1to0).clamp(min=1e-12)
    radius0 = radii0[shared0].double().clamp(min=1e-9)[:, None].expand_as(distance)
    radius1 = (radii1[shared1].double().clamp(min=1e-9) * growth.sqrt()).expand_as(distance)
    if ignore_scale:
        radius0, radius1 = torch.ones_like(radius0), torch.ones_like(radius1)
    near = (distance < 2 * normalized_radius).nonzero(as_tuple=True)
    r0, r1, apart = radius0[near], radius1[near], distance[near]
    scale = normalized_radius / torch.maximum(r0, r1)
    overlaps = circle_overlap(r0 * scale, r1 * scale, apart)
    enough = overlaps >= 1 - max_error - 1e-9
    pairs, overlaps = torch.stack(near, 1)[enough], overlaps[enough]
    found = pairs[_one_to_one(pairs, overlaps)]
    apart = distance[found[:, 0], found[:, 1]]
    return Repeatability(len(found) / count, float(apart.mean()), count)


def circle_overlap(
    radius0: Float[Tensor, ' p'], radius1: Float[Tensor, ' p'], distance: Float[Tensor, ' p']
) -> Float[Tensor, ' p']:
    """Return intersection over union of circles whose centers are a distance apart."""
    apart = distance.clamp(min=1e-9)
    # angles of the lens seen from both centers; clamped where one circle holds the other, or none
    half0 = ((apart**2 + radius0**2 - radius1**2) / (2 * apart * radius0)).clamp(-1, 1).acos()
    half1 = ((apart**2 + radius1**2 - radius0**2) / (2 * apart * radius1)).clamp(-1, 1).acos()
    lens = radius0**2 * (half0 - (2 * half0).sin() / 2)
    lens = lens + radius1**2 * (half1 - (2 * half1).sin() / 2)
    return lens / (torch.pi * (radius0**2 + radius1**2) - lens)


def _area_growth(points: Float[Tensor, 'n 2'], H: Float[Tensor, '3 3']) -> Float[Tensor, ' n']:
    """Return by how much a homography scales small areas at points."""
    depth = points @ H[2, :2] + H[2, 2]
    return (torch.linalg.det(H) / depth**3).abs()


def _one_to_one(pairs: Int[Tensor, 'p 2'], overlaps: Float[Tensor, ' p']) -> Bool[Tensor, ' p']:
    """Return which pairs remain if the best goes first and each region is taken once."""
    taken: set[tuple[int, int]] = set()  # image and region
    chosen = torch.zeros(len(pairs), dtype=torch.bool, device=pairs.device)
    rows = pairs.tolist()
    for k in overlaps.argsort(descending=True, stable=True).tolist():
        regions = set(enumerate(rows[k]))
        if taken.isdisjoint(regions):
            taken |= regions
            chosen[k] = True
    return chosen


class DetectionQuality(NamedTuple):
    """
    How well keypoints are found over a set of images, as by MagicPoint (DeTone et al. 2018).

    average_precision: area under precision over recall, NaN where there is no true keypoint;
    localization_px: mean distance of confident detections near a true keypoint, NaN without any.
    """

    average_precision: float
    localization_px: float


def true_detections(
    keypoints: Float[Tensor, 'n 2'],
    scores: Float[Tensor, ' n'],
    truth: Float[Tensor, 'm 2'],
    radius_px: float = DETECTED_PX,
) -> Bool[Tensor, ' n']:
    """
    Return which detections are right, those of the highest score first.

    A detection takes the nearest true keypoint that is still free, and is right if that lies
    within the radius; a second detection of the same keypoint is wrong.
    """
    distance = (keypoints.double()[:, None] - truth.double()).norm(dim=-1)
    right = torch.zeros(len(keypoints), dtype=torch.bool, device=keypoints.device)
    near = (distance <= radius_px).any(1)  # the others are wrong in whatever order
    for index in scores.argsort(descending=True, stable=True).tolist():
        if near[index]:
            best, partner = distance[index].min(0)
            if best <= radius_px:
                right[index] = True
                distance[:, partner] = torch.inf
    return right


def average_precision(
    right: Bool[Tensor, ' n'], scores: Float[Tensor, ' n'], truth_count: int
) -> float:
    """
    Return the area under the curve of precision over recall, NaN without true keypoints.

    right: from `true_detections`, of all images together; truth_count: true keypoints in all of
    them. Precision is first made monotone: at each recall, the best at this or any higher one.
    """
    if truth_count == 0:
        return float('nan')
    hits = right[scores.argsort(descending=True, stable=True)].double()
    found = hits.cumsum(0)
    precision = found / torch.arange(1, len(hits) + 1, device=hits.device)
    monotone = precision.flip(0).cummax(0).values.flip(0) if len(hits) else precision
    return float((monotone * hits).sum() / truth_count)  # recall grows by 1 / count with each hit


def localization_distances(
    keypoints: Float[Tensor, 'n 2'],
    scores: Float[Tensor, ' n'],
    truth: Float[Tensor, 'm 2'],
    radius_px: float = DETECTED_PX,
    min_score: float = 0.5,
) -> Float[Tensor, ' k']:
    """
    Return the distances to the nearest true keypoint of all confident detections near one.

    Confident: a score above min_score; near: within the radius.
    """
    confident = keypoints[scores > min_score].double()
    if len(truth) == 0 or len(confident) == 0:
        return confident.new_zeros(0)
    nearest = (confident[:, None] - truth.double()).norm(dim=-1).amin(1)
    return nearest[nearest <= radius_px]


def detection_quality(
    images: Iterable[tuple[Tensor, Tensor, Tensor]],
    radius_px: float = DETECTED_PX,
    min_score: float = 0.5,
) -> DetectionQuality:
    """
    Return both metrics over images, each (keypoints (N, 2), scores (N,), truth (M, 2)).

    Detections of all images are ranked together by their scores, and distances are averaged over
    all of them, not image by image.
    """
    right, ranks, distances, truth_count = [], [], [], 0
    for keypoints, scores, truth in images:
        right.append(true_detections(keypoints, scores, truth, radius_px))
        ranks.append(scores)
        distances.append(localization_distances(keypoints, scores, truth, radius_px, min_score))
        truth_count += len(truth)
    if not right:
        return DetectionQuality(float('nan'), float('nan'))
    precision = average_precision(torch.cat(right), torch.cat(ranks), truth_count)
    return DetectionQuality(precision, float(torch.cat(distances).mean()))
