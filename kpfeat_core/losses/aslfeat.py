"""
The losses of ASLFeat (Luo et al., CVPR 2020): descriptor terms, weighed by scores.

A term is one value per correspondence, 0 where the mask is false; `score_weighted_mean` makes
one loss per image pair of them. Through it the detector learns: where a term is high the score
falls. Negatives are the other correspondences outside a safe radius around the true place: in
view 1 for a row of view 0, in view 0 for a row of view 1.
"""

from typing import NamedTuple

import torch
from torch import Tensor
import torch.nn.functional as F

from .common import descriptor_distances, hardest_negatives, HIDDEN_LOGIT, no_negatives, only_real
from ..axes import Bool, Float

SAFE_RADIUS_PX = 12.0


class Correspondences(NamedTuple):
    """
    N true correspondences of each of B image pairs, padded: row k of both views is one point.

    Descriptors (B, N, D) have unit length and single precision at least, keypoints (B, N, 2) are
    (x, y) pixels, mask (B, N) is true for real rows.
    """

    descriptors0: Float[Tensor, 'b n d']
    descriptors1: Float[Tensor, 'b n d']
    keypoints0: Float[Tensor, 'b n 2']
    keypoints1: Float[Tensor, 'b n 2']
    mask: Bool[Tensor, 'b n']

    def real_descriptors(self) -> tuple[Float[Tensor, 'b n d'], Float[Tensor, 'b n d']]:
        """Return the descriptors of both views with the padding zeroed."""
        return only_real(self.descriptors0, self.mask), only_real(self.descriptors1, self.mask)


def score_weighted_mean(
    terms: Float[Tensor, 'b n'],
    scores0: Float[Tensor, 'b n'],
    scores1: Float[Tensor, 'b n'],
    mask: Bool[Tensor, 'b n'],
) -> Float[Tensor, ' b']:
    """
    Return sum(w term) / sum(w) with w = scores0 scores1 over the true entries; 0 without any.

    The joint loss of detection and description (Dusmanu et al., CVPR 2019). The weights
    are not detached.
    """
    weights = torch.where(mask, scores0, 0) * torch.where(mask, scores1, 0)
    return (weights * torch.where(mask, terms, 0)).sum(1) / (weights.sum(1) + 1e-6)


def hard_contrastive_terms(
    pairs: Correspondences,
    safe_radius_px: float = SAFE_RADIUS_PX,
    positive_margin: float = 0.2,
    negative_margin: float = 1.0,
) -> Float[Tensor, 'b n']:
    """
    Return max(0, d+ - 0.2) + max(0, 1 - d-), d- of the hardest negative, mean of both directions.

    The loss of the paper, with its margins; distances are Euclidean.
    """
    positive, negatives = _distances(pairs, safe_radius_px)
    pull = (positive - positive_margin).clamp(min=0)
    push = sum((negative_margin - negative).clamp(min=0) for negative in negatives) / 2
    return torch.where(pairs.mask, pull + push, 0)


def hard_triplet_terms(
    pairs: Correspondences,
    safe_radius_px: float = SAFE_RADIUS_PX,
    margin: float = 1.0,
) -> Float[Tensor, 'b n']:
    """
    Return max(0, margin + d+ - d-), d- of the hardest negative, mean of both directions.

    The alternative of the published training code, after HardNet (Mishchuk et al. 2017).
    """
    positive, negatives = _distances(pairs, safe_radius_px)
    terms = sum((margin + positive - negative).clamp(min=0) for negative in negatives) / 2
    return torch.where(pairs.mask, terms, 0)


def circle_terms(
    pairs: Correspondences,
    safe_radius_px: float = SAFE_RADIUS_PX,
    margin: float = 0.1,
    gamma: float = 512.0,
) -> Float[Tensor, 'b n']:
    """
    Circle loss of each correspondence on cosines s, mean of both directions.

    softplus(P + log sum exp N) / gamma with P = gamma [1 + m - s+]+ (1 - m - s+) and, for each
    negative, N = gamma [s- + m]+ (s- - m); the brackets, cut off at 0, are weights without
    gradient (Sun et al., CVPR 2020). The loss of the later published ASLFeat model.
    """
    descriptors0, descriptors1 = pairs.real_descriptors()
    cosine = descriptors0 @ descriptors1.mT
    distance = descriptor_distances(descriptors0, descriptors1)
    positive = cosine.diagonal(dim1=1, dim2=2)
    pull = (1 + margin - positive).detach().clamp(min=0) * (1 - margin - positive)
    push = (cosine + margin).detach().clamp(min=0) * (cosine - margin)
    terms = torch.zeros_like(positive)
    for keypoints, axis in ((pairs.keypoints1, 2), (pairs.keypoints0, 1)):
        excluded = _excluded(distance, keypoints, pairs.mask, safe_radius_px)
        hardest = (gamma * push).masked_fill(excluded, HIDDEN_LOGIT).logsumexp(axis)
        terms = terms + F.softplus(gamma * pull + hardest) / (2 * gamma)
    return torch.where(pairs.mask, terms, 0)


def _distances(
    pairs: Correspondences, safe_radius_px: float
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return (B, N) distances to the partner and to the hardest negative, seen from each view."""
    distance = descriptor_distances(*pairs.real_descriptors())
    negatives = tuple(
        hardest_negatives(
            distance, _excluded(distance, keypoints, pairs.mask, safe_radius_px), axis
        )
        for keypoints, axis in ((pairs.keypoints1, 2), (pairs.keypoints0, 1))
    )
    return distance.diagonal(dim1=1, dim2=2), negatives


def _excluded(distance: Tensor, keypoints: Tensor, mask: Tensor, safe_radius_px: float) -> Tensor:
    """Return which entries are no negatives: also those whose keypoints lie close together."""
    keypoints = keypoints.detach()
    apart = (keypoints[:, :, None] - keypoints[:, None]).norm(dim=-1)
    return no_negatives(distance, mask) | (apart < safe_radius_px)
