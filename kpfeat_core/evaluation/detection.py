"""
Accuracy of detected keypoints where the true ones are known, as on synthetic shapes.

The metrics of MagicPoint (DeTone et al. 2018). Points are (x, y) pixels as tensors
(N, 2) for what was found and (M, 2) for the truth, of one image each; scores (N,) are
probabilities. Distances are Euclidean, in pixels.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from .metrics import in_shared_region, Repeatability, Size
from ..axes import Bool, Float, Int
from ..geometry import warp

RADIUS_PX = 2.0


class DetectionQuality(NamedTuple):
    """
    How well keypoints are found over a set of images.

    average_precision: area under precision over recall, NaN where there is no true keypoint;
    localization_px: mean distance of confident detections near a true keypoint, NaN without any.
    """

    average_precision: float
    localization_px: float


def true_detections(
    keypoints: Float[Tensor, 'n 2'],
    scores: Float[Tensor, ' n'],
    truth: Float[Tensor, 'm 2'],
    radius_px: float = RADIUS_PX,
) -> Bool[Tensor, ' n']:
    """
    Tell which detections are right, those of the highest score first.

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
    radius_px: float = RADIUS_PX,
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
    radius_px: float = RADIUS_PX,
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


STRIPS = 128  # an overlap is integrated over so many strips
CHUNK = 1 << 15  # pairs of regions at once


def overlap_repeatability(
    points0: Float[Tensor, 'n0 2'],
    radii0: Float[Tensor, ' n0'],
    points1: Float[Tensor, 'n1 2'],
    radii1: Float[Tensor, ' n1'],
    H_0to1: Float[Tensor, '3 3'],
    size0: Size,
    size1: Size,
    max_error: float = 0.4,
    normalised_radius: float = 30.0,
    ignore_scale: bool = False,
    ellipses: bool = False,
) -> Repeatability:
    """
    Return the share of regions that overlap one of the other image, in image 0 and one to one.

    A region of image 1 goes to image 0 as the circle of the same area as the ellipse that the
    homography makes of it there, as Key.Net counts (Barroso-Laguna et al. 2019), or with
    `ellipses` as that ellipse (Mikolajczyk et al. 2005). Both radii are scaled so that the larger
    becomes normalised_radius, else large regions would overlap more at the same distance; centres
    stay where they are. Overlap error is 1 - intersection / union. Pairs with at most max_error
    are taken from the lowest error on, every region once, and counted over min(n0, n1), the
    regions in the shared region of the image that has fewer.

    With scale, Key.Net's tables say SL (scale and location); with ignore_scale they say L:
    scales are taken as estimated without error, all regions become equally large, and up to 0.4 of
    error means centres at most 11.8 px apart. `localization_px` is the mean distance of centres in
    image 0. Key.Net leaves out 15 px along the borders of both images; here they count.
    """
    H_1to0 = torch.linalg.inv(H_0to1.double())
    shared0 = in_shared_region(points0, H_0to1, size1)
    shared1 = in_shared_region(points1, H_1to0, size0)
    count = min(int(shared0.sum()), int(shared1.sum()))
    if count == 0:
        return Repeatability(0.0, float('nan'), 0)
    centres0, centres1 = points0[shared0].double(), warp(points1[shared1], H_1to0)
    affine = _local_affine(points1[shared1].double(), H_1to0)
    growth = torch.linalg.det(affine).abs().clamp(min=1e-12)
    radius0 = radii0[shared0].double().clamp(min=1e-9)
    radius1 = radii1[shared1].double().clamp(min=1e-9) * growth.sqrt()
    if ignore_scale:
        radius0, radius1 = torch.ones_like(radius0), torch.ones_like(radius1)
    shapes = affine @ affine.mT / growth[:, None, None]
    if not ellipses:
        shapes = torch.eye(2, dtype=torch.float64, device=affine.device).expand_as(shapes)
    distance = torch.cdist(centres0, centres1)
    pairs, overlaps = _overlapping_pairs(
        (centres0, centres1),
        (radius0, radius1),
        shapes,
        distance,
        1 - max_error,
        normalised_radius,
    )
    found = pairs[_one_to_one(pairs, overlaps)]
    share = len(found) / count
    return Repeatability(share, float(distance[found[:, 0], found[:, 1]].mean()), count)


def ellipse_overlap(
    offset: Float[Tensor, 'p 2'],
    radius0: Float[Tensor, ' p'],
    radius1: Float[Tensor, ' p'],
    shape: Float[Tensor, 'p 2 2'],
) -> Float[Tensor, ' p']:
    """
    Return intersection over union of circles at 0 with ellipses at an offset, exact to 1e-3.

    shape: symmetric with determinant 1; the ellipse is u with u^T shape^-1 u <= radius1^2 about
    its centre, so that its area is that of a circle of radius1.
    """
    steps = (torch.arange(STRIPS, dtype=offset.dtype, device=offset.device) + 0.5) / STRIPS
    angle = steps * torch.pi  # strips of constant x, narrow where the circle is steep
    r0, r1 = radius0[:, None], radius1[:, None]
    half0 = r0 * angle.sin()  # half a chord of the circle, also the strips' density
    across = r0 * angle.cos() - offset[:, :1]
    sxx, sxy = shape[:, :1, 0], shape[:, :1, 1]
    # the ellipse at `across` from its centre: y = (sxy across +- sqrt(sxx r1^2 - across^2)) / sxx
    half1 = (sxx * r1**2 - across**2).clamp(min=0).sqrt() / sxx
    middle = offset[:, 1:] + across * sxy / sxx
    upper = torch.minimum(half0, middle + half1)
    lower = torch.maximum(-half0, middle - half1)
    height = (upper - lower).clamp(min=0) * (half1 > 0)
    intersection = (height * half0).sum(1) * (torch.pi / STRIPS)
    return intersection / (torch.pi * (radius0**2 + radius1**2) - intersection)


def _local_affine(points: Float[Tensor, 'n 2'], H: Float[Tensor, '3 3']) -> Float[Tensor, 'n 2 2']:
    """Return the derivative of the homography at points: how it distorts small regions."""
    depth = (points @ H[2, :2] + H[2, 2])[:, None, None]
    return (H[:2, :2] - warp(points, H)[:, :, None] * H[2, :2]) / depth


def _overlapping_pairs(
    centres: tuple[Tensor, Tensor],
    radii: tuple[Tensor, Tensor],
    shapes: Float[Tensor, 'n1 2 2'],
    distance: Float[Tensor, 'n0 n1'],
    least: float,
    normalised_radius: float,
) -> tuple[Int[Tensor, 'p 2'], Float[Tensor, ' p']]:
    """Return the pairs of regions that overlap by at least `least`, and how much they do."""
    # an overlap is never more than the smaller area over the larger one
    ratio = radii[0][:, None] / radii[1]
    near = torch.minimum(ratio, 1 / ratio) ** 2 >= least - 1e-9
    stretch = torch.linalg.eigvalsh(shapes)[:, 1].sqrt()
    near &= distance < normalised_radius * (1 + stretch)
    found, overlaps = [], []
    for part in near.nonzero().split(CHUNK):
        r0, r1 = radii[0][part[:, 0]], radii[1][part[:, 1]]
        scale = normalised_radius / torch.maximum(r0, r1)
        apart = distance[part[:, 0], part[:, 1]] - r1 * scale * stretch[part[:, 1]]
        likely = _most_overlap(apart, r0 * scale, r1 * scale) >= least - 1e-9
        part, r0, r1 = part[likely], (r0 * scale)[likely], (r1 * scale)[likely]
        i, j = part.unbind(1)
        overlap = ellipse_overlap(centres[1][j] - centres[0][i], r0, r1, shapes[j])
        right = overlap >= least - 1e-9
        found.append(part[right])
        overlaps.append(overlap[right])
    return torch.cat(found), torch.cat(overlaps)


def _most_overlap(
    apart: Float[Tensor, ' p'], radius0: Float[Tensor, ' p'], radius1: Float[Tensor, ' p']
) -> Float[Tensor, ' p']:
    """Return a quick upper bound of an overlap: the ellipse stays beyond a line `apart` from 0."""
    x = (apart / radius0).clamp(-1, 1)
    intersection = radius0**2 * (x.acos() - x * (1 - x**2).sqrt())
    return intersection / (torch.pi * (radius0**2 + radius1**2) - intersection).clamp(min=1e-9)


def _one_to_one(pairs: Int[Tensor, 'p 2'], overlaps: Float[Tensor, ' p']) -> Bool[Tensor, ' p']:
    """Tell which pairs remain if the best goes first and each region is taken once."""
    taken0, taken1 = set(), set()
    chosen = torch.zeros(len(pairs), dtype=torch.bool, device=pairs.device)
    rows = pairs.tolist()
    for k in overlaps.argsort(descending=True, stable=True).tolist():
        i, j = rows[k]
        if i not in taken0 and j not in taken1:
            taken0.add(i)
            taken1.add(j)
            chosen[k] = True
    return chosen
