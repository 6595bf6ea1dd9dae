"""
The losses of SuperPoint (DeTone, Malisiewicz, Rabinovich, CVPR workshops 2018, section 3.4).

Cells are blocks of 8x8 pixels, h = H / 8 rows of w = W / 8. Detector logits (B, 65, h, w) have
one class for each pixel of a cell, row after row, and last the dustbin, "no keypoint here".
Descriptors (B, D, h, w) have unit length. H_0to1 takes (x, y) pixels of image 0 to image 1; the
transforms of the published TensorFlow code are the inverse, they take pixels of the warped image
back. Give logits and descriptors in single precision.
"""

from typing import NamedTuple

import torch
from torch import Tensor
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from .common import CHUNK_FLOATS, infonce_terms, masked_mean
from ..axes import Bool, Float, Int
from ..errors import ShapeError
from ..geometry import flat_index, inside, pixel_grid, sample, warp_points

CELL = 8
DUSTBIN = CELL**2
CELL_CENTER = (CELL - 1) / 2  # pixel centers are integers, so a cell goes from 0 to 7


class HingeScaling(NamedTuple):
    """
    Constants of the descriptor loss, which only work together.

    positive_weight: lambda_d, how much a pair that should match counts; radius_px: cells match
    when their centers come this near; normalize: whether the similarities of a cell are divided
    by their norm, over image 1 and then over image 0, which makes cells compete; weight: lambda,
    that of the descriptor loss beside both detector losses.
    """

    positive_weight: float
    radius_px: float
    normalize: bool
    weight: float


PAPER = HingeScaling(positive_weight=250.0, radius_px=8.0, normalize=False, weight=1e-4)
NORMALIZED = HingeScaling(positive_weight=0.05, radius_px=7.5, normalize=True, weight=1e4)


def _blocks(maps: Tensor) -> Tensor:
    """Fold (B, H, W) to (B, 64, H / 8, W / 8)."""
    height, width = maps.shape[1:]
    if height % CELL or width % CELL:
        raise ShapeError(
            f'a map of {height}x{width} pixels has no whole number of {CELL}x{CELL} cells; '
            f'pad or crop it to multiples of {CELL}'
        )
    return F.pixel_unshuffle(maps[:, None], CELL)


def cell_classes(
    keypoint_map: Bool[Tensor, 'b h w'], generator: torch.Generator | None = None
) -> Int[Tensor, 'b r c']:
    """
    Return the class of each cell: the pixel of its keypoint, 64 where it has none.

    Of several keypoints in a cell the generator (on the map's device) picks one, each as likely;
    without a generator it is the first. Raises ShapeError unless 8 divides height and width.
    """
    block = 2 * _blocks(keypoint_map.float())
    scores = torch.cat([block, torch.ones_like(block[:, :1])], 1)
    if generator is not None:
        scores = scores + 0.1 * torch.rand(scores.shape, generator=generator, device=scores.device)
    return scores.argmax(1)


def gaussian_label_map(
    keypoints: Float[Tensor, 'b n 2'],
    mask: Bool[Tensor, 'b n'],
    height: int,
    width: int,
    sigma_px: float = 0.2,
) -> Float[Tensor, 'b h w']:
    """
    Draw each keypoint, at (x, y) in fractions of a pixel, as a Gaussian that sums to 1.

    With the published 0.2 pixels a keypoint on a pixel labels that pixel alone, and one halfway
    between two labels both. What falls outside the image is lost.
    """
    radius = int(3 * sigma_px) + 1
    keypoints = torch.where(mask[..., None], keypoints, 0)
    offsets = pixel_grid(2 * radius + 1, 2 * radius + 1, keypoints.device, keypoints.dtype)
    pixels = keypoints.round()[:, :, None] + offsets - radius
    distance = (pixels - keypoints[:, :, None]).square().sum(-1)
    share = (-distance / (2 * sigma_px**2)).softmax(-1) * mask[..., None]
    share = torch.where(inside(pixels, height, width), share, 0)
    index = pixels.clamp(min=0).long()
    flat = (index[..., 1] * width + index[..., 0]).clamp(max=height * width - 1)
    labels = keypoints.new_zeros(len(keypoints), height * width)
    labels.scatter_add_(1, flat.flatten(1), share.flatten(1))
    return labels.view(-1, height, width)


def soft_cell_classes(label_map: Float[Tensor, 'b h w']) -> Float[Tensor, 'b k r c']:
    """
    Return the distribution over the 65 classes of each cell; the dustbin gets what is left to 1.

    label_map: as `gaussian_label_map` makes it, not negative. Raises ShapeError as cell_classes.
    """
    block = _blocks(label_map)
    total = block.sum(1, keepdim=True)
    return torch.cat([block / total.clamp(min=1), (1 - total).clamp(min=0)], 1)


def valid_cells(valid: Bool[Tensor, 'b h w']) -> Bool[Tensor, 'b r c']:
    """Return which cells have only valid pixels; raises ShapeError as cell_classes."""
    return _blocks(valid.float()).amin(1) > 0


def cell_cross_entropy(
    logits: Float[Tensor, 'b k r c'],
    classes: Int[Tensor, 'b r c'] | Float[Tensor, 'b k r c'],
    valid: Bool[Tensor, 'b r c'],
) -> Float[Tensor, ' b']:
    """
    Detector loss of each image, mean over its valid cells.

    classes: from `cell_classes` or, soft, from `soft_cell_classes`. For the mean over the cells
    of all images, as published, weigh the images by their number of valid cells.
    """
    logits = torch.where(valid[:, None], logits, 0)
    terms = F.cross_entropy(logits, classes, reduction='none')
    return masked_mean(terms.flatten(1), valid.flatten(1))


def cell_centers(
    rows: int, columns: int, device: torch.device | str = 'cpu', center: float = CELL_CENTER
) -> Float[Tensor, 'n 2']:
    """
    Return the (x, y) pixels of all cell centers, row after row.

    center: that of the first cell; 3.5 is its true one, the published code has 4.
    """
    return pixel_grid(rows, columns, device) * CELL + center


def descriptor_hinge(
    descriptors0: Float[Tensor, 'b d r c'],
    descriptors1: Float[Tensor, 'b d r c'],
    H_0to1: Float[Tensor, 'b 3 3'],
    valid1: Bool[Tensor, 'b r c'],
    scaling: HingeScaling = NORMALIZED,
    positive_margin: float = 1.0,
    negative_margin: float = 0.2,
    center: float = CELL_CENTER,
) -> Float[Tensor, ' b']:
    """
    Descriptor loss of each pair, over all pairs of a cell of image 0 and one of image 1.

    lambda_d s max(0, 1 - dot) + (1 - s) max(0, dot - 0.2), with s = 1 where the center of the
    cell, moved by H_0to1, comes within the radius of the other. Cells of image 1 that are not
    valid do not count. The mean over cells of image 0 and valid cells of image 1; not yet times
    scaling.weight. For the mean over the batch, as published, weigh pairs by their valid cells.

    The (h w)^2 similarities are made for a few pairs at a time and again in the backward pass,
    so that memory stays bounded.
    """
    rows, columns = descriptors0.shape[2:]
    centers = cell_centers(rows, columns, H_0to1.device, center).to(H_0to1.dtype)
    warped = warp_points(centers.expand(len(H_0to1), -1, -1), H_0to1)

    def total(first: Tensor, second: Tensor, warped: Tensor, valid: Tensor) -> Tensor:
        dot = first.mT @ second
        if scaling.normalize:  # 1e-6: the published code bounds the square by 1e-12
            dot = F.normalize(F.normalize(dot.relu(), dim=2, eps=1e-6), dim=1, eps=1e-6)
        # cdist's matrix product is too rough for a threshold
        apart = torch.cdist(
            warped, centers.expand_as(warped), compute_mode='donot_use_mm_for_euclid_dist'
        )
        pull = scaling.positive_weight * (positive_margin - dot).clamp(min=0)
        push = (dot - negative_margin).clamp(min=0)
        terms = torch.where(apart <= scaling.radius_px, pull, push)
        return torch.where(valid[:, None], terms, 0).sum((1, 2))

    valid = valid1.flatten(1)
    inputs = (descriptors0.flatten(2), descriptors1.flatten(2), warped, valid)
    step = max(1, CHUNK_FLOATS // max(1, (rows * columns) ** 2))
    if len(valid) <= step:
        loss = total(*inputs)
    else:
        pieces = zip(*(value.split(step) for value in inputs), strict=True)
        loss = torch.cat([checkpoint(total, *piece, use_reentrant=False) for piece in pieces])
    return loss / (max(1, rows * columns) * valid.sum(1).clamp(min=1))


class SparsePairs(NamedTuple):
    """
    Which descriptors `sparse_descriptor_hinge` compares; cells are counted row after row.

    cells0 (B, N): cells of image 0; places1 (B, N, 2): (x, y) where they fall, in cells of image
    1, in fractions; mask (B, N): which are real; others1 (B, N, M): cells of image 1 that do not
    match, where counted (B, N, M) is true.
    """

    cells0: Int[Tensor, 'b n']
    places1: Float[Tensor, 'b n 2']
    mask: Bool[Tensor, 'b n']
    others1: Int[Tensor, 'b n m']
    counted: Bool[Tensor, 'b n m']


def sample_sparse_pairs(
    H_0to1: Float[Tensor, 'b 3 3'],
    valid1: Bool[Tensor, 'b r c'],
    generator: torch.Generator | None = None,
    positives: int = 1000,
    negatives: int = 100,
    radius_px: float = 8.0,
) -> SparsePairs:
    """
    Draw cells of image 0 that fall on valid ones of image 1, and for each some that do not match.

    At most `positives` different cells; `negatives` of image 1 for each, of which those count
    that are valid and farther than the radius. The generator lies on the device of valid1.
    """
    (batch, rows, columns), device = valid1.shape, valid1.device
    centers = cell_centers(rows, columns, device).to(H_0to1.dtype)
    warped = warp_points(centers.expand(batch, -1, -1), H_0to1)
    places, known = _in_cells(warped, valid1)
    valid = valid1.flatten(1)

    chance = torch.rand(known.shape, generator=generator, device=device)
    chosen = torch.where(known, chance, -1).topk(min(positives, rows * columns), 1).indices
    known = known.gather(1, chosen)
    pair = chosen[..., None].expand(-1, -1, 2)
    shape = (*chosen.shape, negatives)
    others = torch.randint(rows * columns, shape, generator=generator, device=device)
    apart = (warped.gather(1, pair)[:, :, None] - centers[others]).norm(dim=-1) > radius_px
    counted = apart & known[..., None] & valid.gather(1, others.flatten(1)).view(shape)
    return SparsePairs(chosen, places.gather(1, pair), known, others, counted)


def _in_cells(points: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return points (B, N, 2) in cells, 0 for unknown ones, and which lie on valid cells."""
    rows, columns = valid.shape[1:]
    places = (points - CELL_CENTER) / CELL
    # half a cell beyond the outer centers still lies on the outer cells
    known = inside(places, rows, columns, margin=-0.49)
    places = torch.where(known[..., None], places, 0)
    return places, known & valid.flatten(1).gather(1, flat_index(places.round().abs(), columns))


def sparse_descriptor_hinge(
    descriptors0: Float[Tensor, 'b d r c'],
    descriptors1: Float[Tensor, 'b d r c'],
    pairs: SparsePairs,
    positive_weight: float = 1.0,
    positive_margin: float = 1.0,
    negative_margin: float = 0.2,
) -> Float[Tensor, ' b']:
    """
    Descriptor loss of each pair of images on `sample_sparse_pairs`.

    positive_weight times the mean of max(0, 1 - cosine) with the descriptor read bilinearly where
    a cell falls, plus the mean of max(0, cosine - 0.2) with those that do not match. After the
    PyTorch training code of Jau et al. (2020), whose weight beside the detector losses is 1.
    """
    dim = descriptors0.shape[1]
    first = descriptors0.flatten(2).mT.gather(1, pairs.cells0[..., None].expand(-1, -1, dim))
    second = sample(descriptors1, pairs.places1.to(descriptors1.dtype), 'border')
    second = F.normalize(second, dim=-1, eps=1e-6)
    pull = (positive_margin - (first * second).sum(-1)).clamp(min=0)
    # all cells of image 1: far less memory than the descriptors of all that do not match
    cosine = (first @ descriptors1.flatten(2)).gather(2, pairs.others1)
    push = masked_mean(
        (cosine - negative_margin).clamp(min=0).flatten(1), pairs.counted.flatten(1)
    )
    return positive_weight * masked_mean(pull, pairs.mask) + push


class PointPairs(NamedTuple):
    """
    Points of image 0 and where they fall in image 1, one for each cell of image 0.

    points0 (B, N, 2), points1 (B, N, 2): (x, y) pixels; mask (B, N): which are seen in both.
    """

    points0: Float[Tensor, 'b n 2']
    points1: Float[Tensor, 'b n 2']
    mask: Bool[Tensor, 'b n']


def sample_point_pairs(
    H_0to1: Float[Tensor, 'b 3 3'],
    valid0: Bool[Tensor, 'b r c'],
    valid1: Bool[Tensor, 'b r c'],
    generator: torch.Generator | None = None,
) -> PointPairs:
    """
    Draw a point of each cell of image 0, anywhere in it, and find it in image 1.

    Those count that lie on valid cells of both. The generator lies on the device of valid1.
    """
    (batch, rows, columns), device = valid1.shape, valid1.device
    points = sample_cell_points(batch, rows, columns, device, generator)
    return place_points(points, warp_points(points.to(H_0to1.dtype), H_0to1), valid0, valid1)


def sample_cell_points(
    batch: int,
    rows: int,
    columns: int,
    device: torch.device | str,
    generator: torch.Generator | None = None,
) -> Float[Tensor, 'b n 2']:
    """Sample a point of each cell, anywhere in it, for each of a batch of images."""
    shift = torch.rand((batch, rows * columns, 2), generator=generator, device=device)
    return cell_centers(rows, columns, device) + (shift - 0.5) * CELL


def place_points(
    points: Float[Tensor, 'b n 2'],
    places: Float[Tensor, 'b n 2'],
    valid0: Bool[Tensor, 'b r c'],
    valid1: Bool[Tensor, 'b r c'],
) -> PointPairs:
    """Pair the points of all cells of image 0 with their places in image 1, NaN where nowhere."""
    known = _in_cells(places, valid1)[1] & valid0.flatten(1)
    return PointPairs(points, torch.where(known[..., None], places, 0), known)


def point_softmax(
    descriptors0: Float[Tensor, 'b d r c'],
    descriptors1: Float[Tensor, 'b d r c'],
    pairs: PointPairs,
    temperature: float,
    radius_px: float = CELL,
) -> Float[Tensor, ' b']:
    """
    Descriptor loss of each pair of images, none of the published ones.

    Descriptors are read bilinearly at points, as extraction reads them; each is to differ from
    all others farther than the radius, in both directions (`common.infonce_terms`).
    """
    first, second = (
        F.normalize(sample(maps, (points - CELL_CENTER) / CELL, 'border'), dim=-1, eps=1e-6)
        for maps, points in (
            (descriptors0, pairs.points0.to(descriptors0.dtype)),
            (descriptors1, pairs.points1.to(descriptors1.dtype)),
        )
    )
    terms = infonce_terms(first, second, pairs.points1, pairs.mask, temperature, radius_px)
    return masked_mean(terms, pairs.mask)
