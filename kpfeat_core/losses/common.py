"""Terms that several losses share."""

import torch
from torch import Tensor

from ..axes import Bool, Float

CHUNK_FLOATS = 2**24  # similarities held at a time: 64 MB, whatever the image size
HIDDEN_LOGIT = -1e4  # its exponential is 0, yet a row of nothing else has no NaN gradient
MIN_SQUARED_DISTANCE = 1e-6  # the root is steeper than 500 below, without end at 0
TWIN_DISTANCE = 0.008  # other rows nearer than this show the same point once more
NO_NEGATIVE = 10.0  # farther than unit vectors can be, so that no margin reaches it


def masked_mean(values: Float[Tensor, 'b n'], mask: Bool[Tensor, 'b n']) -> Float[Tensor, ' b']:
    """Average each row over its true entries; 0 for rows without any."""
    return torch.where(mask, values, 0).sum(1) / mask.sum(1).clamp(min=1)


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
    Return which entries are no pair of different points.

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


def infonce_terms(
    descriptors0: Float[Tensor, 'b n d'],
    descriptors1: Float[Tensor, 'b n d'],
    warped0: Float[Tensor, 'b n 2'],
    counted: Bool[Tensor, 'b n'],
    temperature: float = 0.1,
    radius_px: float = 4.0,
) -> Float[Tensor, 'b n']:
    """
    Compute -log softmax_k(a_i . p_k / temperature) at k = i, and so for p_i; the mean of both.

    Arguments and negatives are those of `triplet_terms`, but all negatives have a part in it, and
    equal descriptors cost the log of the number of candidates. What is not counted has loss 0.
    Source: van den Oord et al., "Representation Learning with Contrastive Predictive Coding",
    2018, equation 4 (InfoNCE).
    """
    if counted.shape[1] == 0:
        return descriptors0.new_zeros(counted.shape)
    cosine = only_real(descriptors0, counted) @ only_real(descriptors1, counted).mT
    own = torch.eye(counted.shape[1], dtype=torch.bool, device=counted.device)
    known = counted[:, :, None] & counted[:, None, :]
    rivals = (known & ~near_points(warped0, counted, radius_px)) | own
    logits = torch.where(rivals, cosine / temperature, -torch.inf)
    right = logits.diagonal(dim1=1, dim2=2)
    return torch.where(counted, (logits.logsumexp(1) + logits.logsumexp(2)) / 2 - right, 0)


def near_points(
    warped0: Float[Tensor, 'b n 2'], counted: Bool[Tensor, 'b n'], radius_px: float
) -> Bool[Tensor, 'b n n']:
    """Return which points lie within the radius of each other, in x and in y."""
    places = torch.where(counted[..., None], warped0, 0).detach()
    return (places[:, :, None] - places[:, None]).abs().amax(-1) <= radius_px
