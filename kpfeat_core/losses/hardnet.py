"""
The loss of HardNet (Mishchuk et al., NeurIPS 2017, section 3).

Descriptors have unit length and come in sets: row k of one view and row k of the other show the
same point, all other rows of the set serve as negatives. Give them in single precision.
"""

import torch
from torch import Tensor

from .alike import masked_mean
from ..shapes import Bool, Float

MIN_SQUARED_DISTANCE = 1e-6  # the root is steeper than 500 below, without end at 0
TWIN_DISTANCE = 0.008  # other rows nearer than this show the same point once more
NO_NEGATIVE = 10.0  # farther than unit vectors can be, so that no margin reaches it


def descriptor_distances(
    descriptors0: Float[Tensor, 'b n d'], descriptors1: Float[Tensor, 'b m d']
) -> Float[Tensor, 'b n m']:
    """
    Return the Euclidean distances between unit vectors, sqrt(2 - 2 cos), at least 0.001.

    Equal vectors have the distance 0.001 and no gradient, which is infinite there in truth.
    """
    cosine = descriptors0 @ descriptors1.mT
    return (2 - 2 * cosine).clamp(min=MIN_SQUARED_DISTANCE).sqrt()


def no_negatives(
    distance: Float[Tensor, 'b n n'], mask: Bool[Tensor, 'b n']
) -> Bool[Tensor, 'b n n']:
    """
    Tell which entries are no pair of different points.

    These are partners (the diagonal), twins (nearer than 0.008) and whatever the mask leaves out.
    """
    partners = torch.eye(distance.shape[1], dtype=torch.bool, device=distance.device)
    known = mask[:, :, None] & mask[:, None, :]
    return partners | (distance < TWIN_DISTANCE) | ~known


def hardest_negatives(
    distance: Float[Tensor, 'b n n'], excluded: Bool[Tensor, 'b n n'], axis: int
) -> Float[Tensor, 'b n']:
    """
    Return the least distance along an axis over what is not excluded, else 10.

    Axis 2 looks through view 1 for each row of view 0, axis 1 the other way round.
    """
    if distance.shape[1] == 0:
        return distance.new_zeros(distance.shape[:2])
    return torch.where(excluded, NO_NEGATIVE, distance).amin(axis)


def only_real(
    descriptors: Float[Tensor, 'b n d'], mask: Bool[Tensor, 'b n']
) -> Float[Tensor, 'b n d']:
    """Zero the padding, so that nothing in it, NaN included, has a part in values or gradients."""
    return torch.where(mask[..., None], descriptors, 0)


def hardest_in_batch_loss(
    descriptors0: Float[Tensor, 'b n d'],
    descriptors1: Float[Tensor, 'b n d'],
    mask: Bool[Tensor, 'b n'],
    same_point: Bool[Tensor, 'b n n'] | None = None,
    margin: float = 1.0,
    anchor_swap: bool = True,
) -> Float[Tensor, ' b']:
    """
    Triplet loss of each set, mean over its pairs of max(0, margin + d(a, p) - d_min).

    d_min is the distance of the hardest negative in the set: the nearest wrong partner of a and,
    with anchor_swap, also that of p. same_point (B, N, N) marks further pairs (row of view 0, row
    of view 1) that show one point and so are no negatives. Sets without any negative cost 0.
    """
    distance = descriptor_distances(only_real(descriptors0, mask), only_real(descriptors1, mask))
    excluded = no_negatives(distance, mask)
    if same_point is not None:
        excluded = excluded | same_point
    negative = hardest_negatives(distance, excluded, 2)
    if anchor_swap:
        negative = torch.minimum(negative, hardest_negatives(distance, excluded, 1))
    positive = distance.diagonal(dim1=1, dim2=2)
    return masked_mean((margin + positive - negative).clamp(min=0), mask)
