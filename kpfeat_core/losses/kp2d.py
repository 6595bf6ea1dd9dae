"""
The losses of KP2D: five, of which the last comes from a second network, IO-Net; and a sixth.

The sixth, `common.infonce_terms`, is none of the paper's. With random weights, the nearest of a
hundred wrong descriptors is nearer than the right one, and then the quickest way down for
`triplet_terms` is to make all descriptors equal, where it stays at the margin, with hardly a
gradient.

Tang et al., "Neural Outlier Rejection for Self-Supervised Keypoint Learning", ICLR 2020, section
3, and the code published with it, which has the constants.

View 0 is the paper's source, view 1 its target. Each cell of a view has one keypoint, (x, y) in
pixels; N = H/8 * W/8 of them come row after row. `warped0` (B, N, 2) is where those of view 0
truly lie in view 1, NaN where nowhere. Descriptors have unit length. Each row of a batch gets a
loss of its own; the published code takes the mean over the keypoints of all images, which is that
of `(1, B * N)` in one row. Give everything in single precision.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .common import (
    descriptor_distances,
    hardest_negatives,
    masked_mean,
    near_points,
    NO_NEGATIVE,
    only_real,
)
from ..axes import Bool, Float, Int


class Nearest(NamedTuple):
    """
    The keypoint of view 1 that comes nearest to each one of view 0, by the known geometry.

    distance (B, N): how far in pixels, differentiable in both positions; index (B, N): which one;
    close (B, N): whether it is nearer than the threshold, of a keypoint of view 0 that counts.
    """

    distance: Float[Tensor, 'b n']
    index: Int[Tensor, 'b n']
    close: Bool[Tensor, 'b n']


def nearest_keypoints(
    warped0: Float[Tensor, 'b n 2'],
    keypoints1: Float[Tensor, 'b m 2'],
    counted: Bool[Tensor, 'b n'],
    threshold_px: float = 4.0,
) -> Nearest:
    """
    Find d_i = min_j |warped0_i - keypoints1_j| and its j, for what is counted.

    What is not counted has distance 0 and index 0.
    """
    batch, count = counted.shape
    if count == 0 or keypoints1.shape[1] == 0:
        nothing = warped0.new_zeros(batch, count)
        return Nearest(nothing, nothing.long(), nothing.bool())
    warped0 = torch.where(counted[..., None], warped0, 0)
    with torch.no_grad():  # cdist's matrix product loses a tenth of a pixel in float32
        apart = torch.cdist(warped0, keypoints1, compute_mode='donot_use_mm_for_euclid_dist')
        index = torch.where(counted, apart.argmin(2), 0)
    partner = keypoints1.gather(1, index[..., None].expand(-1, -1, 2))
    distance = torch.where(counted, (warped0 - partner).norm(dim=-1), 0)
    return Nearest(distance, index, counted & (distance < threshold_px))


def localization_loss(nearest: Nearest) -> Float[Tensor, ' b']:
    """Mean distance in pixels where keypoints are close to one of view 1 (detector learning)."""
    return masked_mean(nearest.distance, nearest.close)


def score_loss(
    nearest: Nearest, scores0: Float[Tensor, 'b n'], scores1: Float[Tensor, 'b n']
) -> Float[Tensor, ' b']:
    """
    Mean of (s0_i + s1_i) (d_i - mean d) over the close keypoints (score learning, first part).

    scores1: those of the nearest keypoints. Scores fall where keypoints repeat worse than the
    average and rise where they repeat better. Through d, the scores also say which keypoints
    matter to the localization loss.
    """
    mean = localization_loss(nearest)[:, None]
    return masked_mean((scores0 + scores1) * (nearest.distance - mean), nearest.close)


def score_consistency_loss(
    scores0: Float[Tensor, 'b n'], scores1: Float[Tensor, 'b n'], counted: Bool[Tensor, 'b n']
) -> Float[Tensor, ' b']:
    """
    Twice the mean squared difference of scores in both views (score learning, second part).

    scores1: the score map of view 1, read bilinearly at warped0. The factor is the code's.
    """
    return 2 * masked_mean((scores0 - scores1).square(), counted)


class TripletTerms(NamedTuple):
    """
    Both (B, N): the loss of each keypoint, and whether it differs from all others.

    correct: among all descriptors of view 1 that count, the own one is the nearest.
    """

    loss: Float[Tensor, 'b n']
    correct: Bool[Tensor, 'b n']


def triplet_terms(
    descriptors0: Float[Tensor, 'b n d'],
    descriptors1: Float[Tensor, 'b n d'],
    warped0: Float[Tensor, 'b n 2'],
    counted: Bool[Tensor, 'b n'],
    margin: float = 0.2,
    radius_px: float = 4.0,
) -> TripletTerms:
    """
    Compute max(0, |a_i - p_i| - min_k |a_i - p_k| + margin) (descriptor learning).

    descriptors0: a, at the keypoints of view 0; descriptors1: p, of view 1 read at warped0, not
    at its keypoints. Negatives k count and lie more than the radius away from warped0_i, in x or
    in y. A keypoint without negatives costs nothing. What is not counted has loss 0, and is not
    correct.
    """
    if counted.shape[1] == 0:
        return TripletTerms(descriptors0.new_zeros(counted.shape), counted)
    distance = descriptor_distances(
        only_real(descriptors0, counted), only_real(descriptors1, counted)
    )
    unknown = ~(counted[:, :, None] & counted[:, None, :])
    near = near_points(warped0, counted, radius_px)
    negative = hardest_negatives(distance, near | unknown, 2)
    positive = distance.diagonal(dim1=1, dim2=2)
    loss = torch.where(counted, (margin + positive - negative).clamp(min=0), 0)
    own = torch.arange(counted.shape[1], device=counted.device)
    best = torch.where(unknown, NO_NEGATIVE, distance).argmin(2)
    return TripletTerms(loss, counted & (best == own))


def triplet_loss(
    terms: Float[Tensor, 'b n'], counted: Bool[Tensor, 'b n'], at_least: int = 20
) -> Float[Tensor, ' b']:
    """
    Mean of `triplet_terms` or `infonce_terms` over the keypoints that count.

    Images with too few of them have 0. The published weight of the triplets is 2 times that of
    the configuration, which is 1.
    """
    return masked_mean(terms, counted) * (counted.sum(1) >= at_least)


def choose_for_rejection(
    scores: Float[Tensor, 'b n'], count: int, which: str = 'highest'
) -> Int[Tensor, 'b k']:
    """
    Return the indices of the keypoints that IO-Net sees, at most `count` of each image.

    which: highest, the best ones, as the paper says; or lowest, as the published code does.
    """
    return scores.topk(min(count, scores.shape[1]), largest=which == 'highest').indices


class Putative(NamedTuple):
    """
    Matches by descriptor alone.

    matches (B, N, 5): what IO-Net sees; partner (B, N): the index of the keypoint of view 1.
    """

    matches: Float[Tensor, 'b n 5']
    partner: Int[Tensor, 'b n']


def putative_matches(
    places0: Float[Tensor, 'b n 2'],
    places1: Float[Tensor, 'b m 2'],
    descriptors0: Float[Tensor, 'b n d'],
    descriptors1: Float[Tensor, 'b m d'],
) -> Putative:
    """
    Match each keypoint of view 0 with the nearest descriptor of view 1 (IO-Net).

    places: in -1..1 from the first to the last pixel center. A match is both places and the
    distance of the descriptors; the gradient goes to all of them, which is how IO-Net trains
    the network. Raises nothing on no keypoints of view 0; view 1 must have one.
    """
    distance, partner = descriptor_distances(descriptors0, descriptors1).min(2)
    there = places1.gather(1, partner[..., None].expand(-1, -1, 2))
    return Putative(torch.cat([places0, there, distance[..., None]], -1), partner)


def outlier_rejection_loss(
    answers: Float[Tensor, 'b n'],
    inliers: Bool[Tensor, 'b n'],
    counted: Bool[Tensor, 'b n'],
    more_than: int | Tensor = 10,
) -> Float[Tensor, ' b']:
    """
    Mean squared difference of IO-Net's answers from 1 for inliers and -1 for outliers.

    inliers: matches whose end lies within the threshold of warped0. Without more inliers than
    more_than, in the whole batch, all losses are 0: at first, IO-Net would learn to say no.
    """
    target = 2 * inliers.to(answers.dtype) - 1
    enough = (inliers & counted).sum() > more_than
    return torch.where(enough, masked_mean((answers - target).square(), counted), 0)
