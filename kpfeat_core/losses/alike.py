"""
The losses of ALIKE (Zhao et al., IEEE Transactions on Multimedia 2022, section III-C).

All take batches of pairs with padded keypoints. Positions are (x, y) pixels. `0` and `1` are the
two views; "there" means: at the place in the other view where a keypoint's true position lies.
"""

import torch
from torch import Tensor
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from .common import CHUNK_FLOATS, HIDDEN_LOGIT, masked_mean
from ..axes import Bool, Float, Int


def true_correspondences(
    keypoints0: Float[Tensor, 'b n 2'],
    keypoints1: Float[Tensor, 'b m 2'],
    warped0: Float[Tensor, 'b n 2'],
    warped1: Float[Tensor, 'b m 2'],
    valid0: Bool[Tensor, 'b n'],
    valid1: Bool[Tensor, 'b m'],
    threshold_px: float = 5.0,
) -> Int[Tensor, 'b n']:
    """
    Pair keypoints that are each other's nearest by the known geometry.

    warped0 (B, N, 2) is where keypoints0 truly lie in view 1, warped1 the other way round; valid
    tells where that is known. The distance is the mean of both views' errors in pixels.
    Returns (B, N): the index of the partner in view 1, -1 for none within the threshold.
    """
    if keypoints0.shape[1] == 0 or keypoints1.shape[1] == 0:
        return keypoints0.new_full(keypoints0.shape[:2], -1, dtype=torch.long)
    with torch.no_grad():
        distance = (_distances(keypoints0, warped1) + _distances(warped0, keypoints1)) / 2
        known = valid0[:, :, None] & valid1[:, None, :]
        distance = torch.where(known, distance, torch.inf)
        best, partner = distance.min(2)
        back = distance.argmin(1).gather(1, partner)
        mutual = back == torch.arange(partner.shape[1], device=partner.device)
        return torch.where(mutual & (best < threshold_px), partner, -1)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # cdist's matrix product loses a tenth of a pixel in float32
    return torch.cdist(a, b, compute_mode='donot_use_mm_for_euclid_dist')


def reprojection_loss(
    keypoints0: Float[Tensor, 'b n 2'],
    keypoints1: Float[Tensor, 'b m 2'],
    warped0: Float[Tensor, 'b n 2'],
    warped1: Float[Tensor, 'b m 2'],
    matches0: Int[Tensor, 'b n'],
    scores0: Float[Tensor, 'b n'],
    scores1: Float[Tensor, 'b m'],
    min_score: float = 0.1,
) -> Float[Tensor, ' b']:
    """
    Mean L1 distance in pixels between true partners, averaged over both views (eq. 8 and 9).

    Only pairs in which both scores exceed min_score count: others are not yet keypoints. The
    gradient moves keypoints within their soft-argmax windows.
    """
    partner = matches0.clamp(min=0)

    def of_partner(values: Tensor) -> Tensor:
        return values.gather(1, partner[..., None].expand(-1, -1, 2))

    error = (keypoints0 - of_partner(warped1)).abs() + (warped0 - of_partner(keypoints1)).abs()
    counted = (matches0 >= 0) & (scores0 > min_score) & (scores1.gather(1, partner) > min_score)
    # nan where unmatched: replaced before the mean so that no gradient passes through it
    return masked_mean(torch.where(counted[..., None], error, 0).sum(-1) / 2, counted)


def dispersity_peak_loss(
    dispersity: Float[Tensor, 'b n'],
    scores: Float[Tensor, 'b n'],
    mask: Bool[Tensor, 'b n'],
    min_score: float = 0.1,
) -> Float[Tensor, ' b']:
    """Mean spread of the score around each keypoint (eq. 10): low when the peak is sharp."""
    return masked_mean(dispersity, mask & (scores > min_score))


def match_probability(
    similarity: Float[Tensor, 'b n 4'], weights: Float[Tensor, 'b n 4'], temperature: float
) -> Float[Tensor, 'b n']:
    """
    Read exp((similarity - 1) / T) bilinearly at the true position.

    similarity: cosine of a keypoint's descriptor with those of the four pixels around its true
    position in the other view; weights: the bilinear weights of these pixels.
    """
    return (((similarity - 1) / temperature).exp() * weights).sum(-1)


def reliability_terms(
    reliability: Float[Tensor, 'b n'],
    scores: Float[Tensor, 'b n'],
    scores_there: Float[Tensor, 'b n'],
    valid: Bool[Tensor, 'b n'],
) -> Float[Tensor, 'b n']:
    """
    Reliability loss of each keypoint (eq. 11 to 13): unreliable ones with a high score cost.

    reliability: `match_probability`, taken without gradient, so that only scores learn. Scores
    are weighed by their share of the sum over one view's valid keypoints; 0 where not valid.
    """
    joint = torch.where(valid, scores, 0) * torch.where(valid, scores_there, 0)
    share = joint * valid.sum(1, keepdim=True) / joint.sum(1, keepdim=True).clamp(min=1e-9)
    return torch.where(valid, 1 - reliability.detach(), 0) * share


def log_partition(
    descriptors: Float[Tensor, 'b n d'],
    others: Float[Tensor, 'b p d'],
    temperature: float,
    near: Bool[Tensor, 'b _ p'] | None = None,
) -> Float[Tensor, 'b n']:
    """
    Return log of the sum of exp((cosine - 1) / T) over all pixels of the other view.

    descriptors (B, N, D) and others (B, P, D), those of the pixels, have unit length. Pixels with
    `near` (B, N, P) or (B, 1, P) true are left out. The N x P similarities are made in chunks and
    again in the backward pass, so memory stays bounded.
    """

    def part(chunk: Tensor, hidden: Tensor | None) -> Tensor:
        logits = (chunk @ others.mT - 1) / temperature
        if hidden is not None:
            logits = logits.masked_fill(hidden, HIDDEN_LOGIT)
        return logits.logsumexp(-1)

    batch, pixels = others.shape[:2]
    step = max(1, CHUNK_FLOATS // max(1, batch * pixels))
    if descriptors.shape[1] <= step:
        return part(descriptors, near)
    parts = []
    for start in range(0, descriptors.shape[1], step):
        chunk = slice(start, start + step)
        hidden = None if near is None else near.expand(-1, descriptors.shape[1], -1)[:, chunk]
        parts.append(checkpoint(part, descriptors[:, chunk], hidden, use_reentrant=False))
    return torch.cat(parts, 1)


def neural_reprojection_terms(
    log_probability: Float[Tensor, 'b n'],
    log_sum: Float[Tensor, 'b n'],
    valid: Bool[Tensor, 'b n'],
    outside: Bool[Tensor, 'b n'],
) -> Float[Tensor, 'b n']:
    """
    Neural reprojection error (NRE) of each keypoint (eq. 14 to 17; Germain et al. 2021).

    log_probability: log of `match_probability`; log_sum: `log_partition`. For valid keypoints,
    the cross entropy of the true position among all pixels. Keypoints outside the other view
    should prefer an extra class "nowhere" with logit 0. Other keypoints give 0.
    """
    # replaced before the functions, so that no gradient passes through what does not count
    nowhere = F.softplus(torch.where(outside, log_sum, 0)) * outside
    return torch.where(valid, log_sum - log_probability, nowhere)
