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

from ..shapes import Bool, Float

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
