"""Matching two sets of features, and verifying the matches by geometry."""

from dataclasses import asdict, dataclass
from math import lgamma, log
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from .axes import Bool, Float, Int
from .config import make_config, MatcherConfig
from .errors import ConfigError, ShapeError
from .features import Features, Matches
from .geometry import point_array

# Similarities held at once: 4 MB of float32, so that the full table never exists and a part of
# it is still in the cache when its rows and then its columns are searched.
CHUNK_ELEMENTS = 1 << 20
# MAGSAC's score needs no exact noise level; it was the most precise of OpenCV's USAC methods in
# the tests here and is no slower than its plain ones.
METHOD = cv2.USAC_MAGSAC
CONFIDENCE = 0.9999
MAX_ITERATIONS = 10_000
FEWEST_POINTS = {'homography': 4, 'fundamental': 8}
SAMPLE = {'homography': 4, 'fundamental': 7}  # matches that fix a matrix
CHANCE = 1e-3  # how many geometries as good may be expected among matches that mean nothing
RANDOM_PAIRS = 1 << 14  # of which the chance of a match is counted
FLATTEST = 1e-3  # of the spread of points across their longest direction, below it they are a line


class MutualNearestNeighbor:
    """
    Match each keypoint to the one with the most similar descriptor in the other image.

    The score of a match is (1 + cosine similarity) / 2: 1 for equal descriptors, 0.5 for
    unrelated ones, 0 where there is no match. With `mutual` every filter works in both
    directions, so that swapping the images swaps the matches and changes nothing else.
    """

    def __init__(self, config: MatcherConfig | None = None) -> None:
        self.config = config or MatcherConfig()

    def with_options(self, **options: Any) -> 'MutualNearestNeighbor':
        """Return a matcher with some options changed; raises ConfigError."""
        merged = asdict(self.config) | options
        return MutualNearestNeighbor(make_config(type(self.config), merged))

    @torch.no_grad()
    def match(self, features0: Features, features1: Features) -> Matches:
        """
        Match two batches pair by pair, on the device of `features0`.

        Padding is never matched, nor is a descriptor that is not finite. Raises ShapeError.
        """
        _check(features0, features1)
        features1 = features1.to(features0.device)
        descriptors0, valid0 = _usable(features0)
        descriptors1, valid1 = _usable(features1)
        if 0 in (*valid0.shape, valid1.shape[1]):
            nothing = torch.zeros_like(valid0, dtype=torch.float32)
            return Matches(nothing.long() - 1, nothing)
        with_second = self.config.ratio_threshold < 1
        rows, columns = _search(descriptors0, descriptors1, valid0, valid1, with_second)
        matched = valid0 & self._accepts(rows)
        if self.config.mutual:
            back = columns.index.gather(1, rows.index)  # the choice of my choice
            own = torch.arange(valid0.shape[1], device=valid0.device)
            matched &= (back == own) & self._accepts(columns).gather(1, rows.index)
        scores = ((1 + rows.best) / 2).clamp(0, 1)
        return Matches(rows.index.where(matched, -1), scores.where(matched, 0.0))

    def _accepts(self, found: '_NearestNeighbors') -> Bool[Tensor, 'b n']:
        """Apply the similarity and the ratio threshold to each nearest neighbour."""
        accepted = found.best.isfinite() & (found.best >= self.config.min_similarity)
        if self.config.ratio_threshold < 1:
            nearest, second = _distance(found.best), _distance(found.second)
            accepted &= nearest < self.config.ratio_threshold * second
        return accepted


class _NearestNeighbors:
    """Best and second best similarity of each keypoint, filled in piece by piece."""

    def __init__(self, like: Bool[Tensor, 'b n']) -> None:
        self.best = torch.full(like.shape, -torch.inf, device=like.device)
        self.second = self.best.clone()
        self.index = torch.zeros_like(like, dtype=torch.int64)

    def add(
        self, similarity: Float[Tensor, 'b n m'], start: int, first: int, with_second: bool
    ) -> None:
        """Take in candidates first … first + M - 1 of keypoints start … start + N - 1."""
        span = slice(start, start + similarity.shape[1])
        best, index = similarity.max(2)
        runner_up = torch.minimum(best, self.best[:, span])
        if with_second:
            rest = similarity.scatter(2, index[..., None], -torch.inf).amax(2)
            runner_up = torch.maximum(runner_up, rest)
        self.second[:, span] = torch.maximum(self.second[:, span], runner_up)
        better = best > self.best[:, span]
        self.index[:, span] = torch.where(better, index + first, self.index[:, span])
        self.best[:, span] = torch.maximum(best, self.best[:, span])


def _search(
    descriptors0: Float[Tensor, 'b n0 d'],
    descriptors1: Float[Tensor, 'b n1 d'],
    valid0: Bool[Tensor, 'b n0'],
    valid1: Bool[Tensor, 'b n1'],
    with_second: bool,
) -> tuple[_NearestNeighbors, _NearestNeighbors]:
    """Find the nearest neighbours of both sides in bounded memory."""
    rows, columns = _NearestNeighbors(valid0), _NearestNeighbors(valid1)
    batch, n1 = valid1.shape
    step = max(1, CHUNK_ELEMENTS // (batch * n1))
    padded = not bool(valid0.all() and valid1.all())
    for start in range(0, valid0.shape[1], step):
        chunk = slice(start, start + step)
        similarity = descriptors0[:, chunk] @ descriptors1.mT  # (B, step, N1)
        if padded:
            pair = valid0[:, chunk, None] & valid1[:, None]
            similarity.masked_fill_(~pair, -torch.inf)
        rows.add(similarity, start, 0, with_second)
        columns.add(similarity.mT, 0, start, with_second)
    return rows, columns


def _usable(features: Features) -> tuple[Float[Tensor, 'b n d'], Bool[Tensor, 'b n']]:
    """Return float32 descriptors, and which of them are real and finite; the rest become 0."""
    descriptors = features.descriptors.float()
    valid = features.mask & descriptors.isfinite().all(2)
    return descriptors.where(valid[..., None], 0.0), valid


def _distance(similarity: Float[Tensor, 'b n']) -> Float[Tensor, 'b n']:
    """Turn the cosine similarity of unit vectors into their Euclidean distance."""
    return (2 - 2 * similarity).clamp(min=0).sqrt()


def _check(features0: Features, features1: Features) -> None:
    if features0.batch_size != features1.batch_size:
        raise ShapeError(
            f'{features0.batch_size} images cannot be matched to {features1.batch_size}; '
            'expected batches of the same size, matched pair by pair'
        )
    if 0 in (features0.descriptor_dim, features1.descriptor_dim):
        raise ShapeError(
            'features have no descriptors, as those of a detector alone such as magicpoint; '
            'extract both images with a model that describes its keypoints'
        )
    if features0.descriptor_dim != features1.descriptor_dim:
        raise ShapeError(
            f'descriptors of {features0.descriptor_dim} numbers cannot be matched to descriptors '
            f'of {features1.descriptor_dim}; extract both images with the same model'
        )


def find_geometry(
    points0: Any,
    points1: Any,
    kind: str = 'homography',
    threshold_px: float = 3.0,
    beyond_chance: bool = True,
) -> tuple[Float[np.ndarray, '3 3'] | None, Bool[np.ndarray, ' k']]:
    """
    Fit a homography or fundamental matrix to matched points with OpenCV's USAC.

    points0, points1 (K, 2): arrays or tensors; row k of one matches row k of the other.
    kind: 'homography' (x1 ~ M x0), 'fundamental' (x1ᵀ M x0 = 0), or 'none', which fits nothing
    and rejects nothing. threshold_px: the largest error of an inlier. beyond_chance: False takes
    any fit, for protocols that compare it with the truth.

    Gives the matrix (None where none fits; a homography has M[2, 2] = 1, a fundamental matrix
    unit norm) and the inlier mask (K,). None fits where the inliers lie on one line, or, with
    beyond_chance, are not more than random matches of the same points reach. Points that are not
    finite are never inliers. The same points always give the same answer. Raises ShapeError and
    ConfigError.
    """
    points0, points1 = point_array(points0, 'points0'), point_array(points1, 'points1')
    if len(points0) != len(points1):
        raise ShapeError(f'{len(points0)} points0 beside {len(points1)} points1; expected pairs')
    if kind == 'none':
        return None, np.ones(len(points0), dtype=bool)
    if kind not in FEWEST_POINTS:
        raise ConfigError(f"geometry is '{kind}', expected none, {', '.join(FEWEST_POINTS)}")
    if not threshold_px > 0:
        raise ConfigError(f'threshold_px is {threshold_px}, expected more than 0')
    inliers = np.zeros(len(points0), dtype=bool)
    finite = np.flatnonzero(np.isfinite(points0).all(1) & np.isfinite(points1).all(1))
    if len(finite) < FEWEST_POINTS[kind]:
        return None, inliers
    points0, points1 = points0[finite], points1[finite]
    matrix, mask = _fit(points0, points1, kind, threshold_px)
    if matrix is None or _on_a_line(points0[mask]) or _on_a_line(points1[mask]):
        return None, inliers
    if beyond_chance and not _beats_chance(points0, points1, matrix, mask, kind, threshold_px):
        return None, inliers
    inliers[finite] = mask
    return matrix, inliers


def _fit(points0: np.ndarray, points1: np.ndarray, kind: str, threshold_px: float) -> tuple:
    """Run USAC; (None, None) where the points fix no matrix, such as points on one line."""
    try:
        if kind == 'homography':
            matrix, mask = cv2.findHomography(
                points0, points1, METHOD, threshold_px, None, MAX_ITERATIONS, CONFIDENCE
            )
        else:
            matrix, mask = cv2.findFundamentalMat(
                points0, points1, METHOD, threshold_px, CONFIDENCE, MAX_ITERATIONS
            )
    except cv2.error:  # how some OpenCV releases report a degenerate sample
        return None, None
    if matrix is None or matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        return None, None
    scale = matrix[2, 2] if kind == 'homography' else np.linalg.norm(matrix)
    if scale == 0:
        return None, None
    return matrix / scale, mask.ravel().astype(bool)


def _on_a_line(points: np.ndarray) -> bool:
    """Return whether points lie on one line or in one place: they fix no geometry then."""
    if not len(points):
        return True
    spread = np.linalg.svd(points - points.mean(0), compute_uv=False)
    return bool(spread[-1] <= FLATTEST * spread[0])


def _beats_chance(
    points0: np.ndarray,
    points1: np.ndarray,
    matrix: np.ndarray,
    inliers: np.ndarray,
    kind: str,
    threshold_px: float,
) -> bool:
    """
    Return whether inliers are more than the best of all samples would find among random matches.

    A match that means nothing agrees with a probability p, the share of points 0 paired with
    points 1 of other matches that do. Of n matches, each of the C(n, k) C(k, m) ways to choose k
    inliers and m of them that fix the matrix lets the other k - m agree with p^(k - m): so many
    geometries are expected by chance (Moisan and Stival, A Probabilistic Criterion to Detect Rigid
    Point Matches, 2004).
    """
    count, agreeing, fixing = len(points0), int(inliers.sum()), SAMPLE[kind]
    if agreeing <= fixing:
        return False
    # spread over all distances, so that neighbours in the order of the matches do not decide
    shifts = np.unique(np.linspace(1, count - 1, max(1, RANDOM_PAIRS // count)).astype(int))
    own = np.arange(count)
    other = np.concatenate([(own + shift) % count for shift in shifts])
    errors = _errors(np.tile(points0, (len(shifts), 1)), points1[other], matrix, kind)
    agree = int((errors <= threshold_px).sum())
    chance = (agree + 1) / (len(errors) + 1)
    ways = log(count - fixing) + _log_choices(count, agreeing) + _log_choices(agreeing, fixing)
    return ways + (agreeing - fixing) * log(chance) < log(CHANCE)


def _errors(
    points0: np.ndarray, points1: np.ndarray, matrix: np.ndarray, kind: str
) -> Float[np.ndarray, ' k']:
    """Return how many pixels matches are off: from where they are sent, or Sampson's distance."""
    ones = np.ones((len(points0), 1))
    first, second = np.hstack([points0, ones]), np.hstack([points1, ones])
    with np.errstate(divide='ignore', invalid='ignore'):
        if kind == 'homography':
            sent = first @ matrix.T
            return np.nan_to_num(
                np.linalg.norm(sent[:, :2] / sent[:, 2:] - points1, axis=1), nan=np.inf
            )
        lines1, lines0 = first @ matrix.T, second @ matrix
        squares = (lines1[:, :2] ** 2).sum(1) + (lines0[:, :2] ** 2).sum(1)
        return np.nan_to_num(np.abs((second * lines1).sum(1)) / np.sqrt(squares), nan=np.inf)


def _log_choices(count: int, chosen: int) -> float:
    return lgamma(count + 1) - lgamma(chosen + 1) - lgamma(count - chosen + 1)


@dataclass(frozen=True)
class PairMatches:
    """
    The K matches of one pair of images, with coordinates, on the CPU and without padding.

    indices0, indices1 (K,): position of each keypoint in its image. scores (K,): confidence.
    keypoints0, keypoints1 (K, 2): x, y in pixels. inliers (K,): agrees with the geometry.
    geometry: the kind that was asked for. matrix (3, 3): the one that was fitted, or None.
    """

    indices0: Int[np.ndarray, ' k']
    indices1: Int[np.ndarray, ' k']
    scores: Float[np.ndarray, ' k']
    keypoints0: Float[np.ndarray, 'k 2']
    keypoints1: Float[np.ndarray, 'k 2']
    inliers: Bool[np.ndarray, ' k']
    geometry: str = 'none'
    matrix: Float[np.ndarray, '3 3'] | None = None

    def __len__(self) -> int:
        return len(self.scores)


def match_pair(
    matcher: MutualNearestNeighbor, features0: Features, features1: Features, b: int = 0
) -> PairMatches:
    """Match image b of two batches and verify by the geometry in the options of the matcher."""
    features0, features1 = features0.select(b), features1.select(b)
    matches = matcher.match(features0, features1)
    index0, index1 = matches.pairs().cpu().numpy().T
    keypoints0 = features0.keypoints[0].cpu().numpy()[index0]
    keypoints1 = features1.keypoints[0].cpu().numpy()[index1]
    kind = matcher.config.geometry
    threshold_px = matcher.config.ransac_threshold_px
    matrix, inliers = find_geometry(keypoints0, keypoints1, kind, threshold_px)
    scores = matches.scores().cpu().numpy()
    return PairMatches(index0, index1, scores, keypoints0, keypoints1, inliers, kind, matrix)
