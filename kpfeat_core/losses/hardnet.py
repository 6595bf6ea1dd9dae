"""
The loss of HardNet (Mishchuk et al., NeurIPS 2017, section 3).

Descriptors have unit length and come in sets: row k of one view and row k of the other show the
same point, all other rows of the set serve as negatives. Give them in single precision.
"""

import torch
from torch import Tensor

from .common import descriptor_distances, hardest_negatives, masked_mean, no_negatives, only_real
from ..axes import Bool, Float


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
