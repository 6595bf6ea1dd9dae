"""
Relative pose of two calibrated cameras from matches, and how wrong it is, as pure functions.

Points are (x, y) pixels as tensors (N, 2), row k of points0 matched to row k of points1. K0 and K1
(3, 3) take camera coordinates (x right, y down, z forward) to pixels; T_0to1 (4, 4) takes points
of camera 0 to camera 1. Matrices are arrays or tensors.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from ..axes import Bool, Float
from ..data.view_pairs import DepthRules, read_inverse_depth
from ..geometry import inside

Matrix = np.ndarray | Tensor
Points = Float[Tensor, 'k 2']

METHOD = cv2.USAC_ACCURATE  # OpenCV's locally optimized RANSAC, a good start for refining
CONFIDENCE = 0.99999
MAX_ITERATIONS = 10_000
PLAIN_ITERATIONS = 1000  # as OpenCV sets it
REFINEMENTS = 20  # at most; about five are made
SHORTEST = 1e-9  # normal of a line: a point that is the other camera has no line to be far from
FEWEST_POINTS = 6  # five fix an essential matrix, and one must agree
DEPTH_RULES = DepthRules(tolerance=0.05, relative=True, edge=0.02)
FARTHEST = 1e9  # in baselines: also points that look infinitely far have a side of the camera


class RelativePose(NamedTuple):
    """
    Where camera 1 is, seen from camera 0: x1 = R x0 + s t for an unknown s > 0.

    R (3, 3); t (3,) of length 1, arbitrary if the camera only turned; inliers (K,): matches that
    agree and lie before both cameras.
    """

    R: Float[np.ndarray, '3 3']
    t: Float[np.ndarray, ' 3']
    inliers: Bool[np.ndarray, ' k']


def camera_coordinates(points: Points, K: Matrix) -> Points:
    """Return (x, y) at depth 1 in front of the camera, float64: pixels in units of the focal."""
    rays = _lift(points.double()) @ torch.linalg.inv(_matrix(K)).mT.to(points.device)
    return rays[:, :2] / rays[:, 2:]


def estimate_relative_pose(
    points0: Points,
    points1: Points,
    K0: Matrix,
    K1: Matrix,
    threshold_px: float = 1.0,
    plain: bool = False,
) -> RelativePose | None:
    """
    Fit an essential matrix to matches with OpenCV's USAC, take its pose and refine that.

    plain: with OpenCV's RANSAC from a fixed seed, and without refining, as most published numbers
    are made. Its errors grow with those of single keypoints; refining averages over hundreds.

    threshold_px: largest Sampson distance of an inlier, turned into camera coordinates by the mean
    of the four focal lengths (Sarlin et al. 2020). Of several matrices and the four poses of each,
    the one with most matches before both cameras (Nister 2004) is refined. None for fewer than six
    finite matches or where OpenCV finds no matrix, as from points that coincide. The same points
    give the same answer.
    """
    rays0, rays1 = camera_coordinates(points0, K0), camera_coordinates(points1, K1)
    finite = (rays0.isfinite().all(1) & rays1.isfinite().all(1)).cpu().numpy()
    rays0, rays1 = (np.ascontiguousarray(r.cpu().numpy()[finite]) for r in (rays0, rays1))
    if len(rays0) < FEWEST_POINTS:
        return None
    threshold = threshold_px / float(
        torch.stack([_matrix(K).diagonal()[:2] for K in (K0, K1)]).mean()
    )
    method, iterations = (cv2.RANSAC, PLAIN_ITERATIONS) if plain else (METHOD, MAX_ITERATIONS)
    cv2.setRNGSeed(0)  # plain RANSAC draws from OpenCV's own generator
    try:
        essential, mask = cv2.findEssentialMat(
            rays0, rays1, np.eye(3), method, CONFIDENCE, threshold, iterations
        )
    except cv2.error:  # how some OpenCV releases report a degenerate sample
        return None
    if essential is None or mask is None or not np.isfinite(essential).all():
        return None
    matrices = [essential[row : row + 3] for row in range(0, len(essential) - 2, 3)]
    poses = [_recover_pose(matrix, rays0, rays1, mask) for matrix in matrices]
    R, t, before = max(poses, key=lambda pose: pose[2].sum())
    if not before.any():
        return None
    if not plain:
        matrix, mask = _refine(R, t, rays0, rays1, threshold)
        R, t, before = _recover_pose(matrix, rays0, rays1, mask)
    inliers = np.zeros(len(finite), dtype=bool)
    inliers[finite] = before
    return RelativePose(R, t, inliers)


def _recover_pose(
    essential: np.ndarray, rays0: np.ndarray, rays1: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return R, t and which of the points in a mask lie before both cameras."""
    # distanceThresh by name: by place OpenCV 5 takes it for R, and drops far points
    _, R, t, before, _ = cv2.recoverPose(
        essential, rays0, rays1, np.eye(3), distanceThresh=FARTHEST, mask=mask.copy()
    )
    return R, t[:, 0], before.ravel() > 0


def _refine(
    R: np.ndarray, t: np.ndarray, rays0: np.ndarray, rays1: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """
    Return the essential matrix near a pose that fits best, and the mask (K, 1) of its inliers.

    Gauss-Newton steps, while they lower the sum of squared Sampson distances, none of which counts
    for more than the threshold (MSAC, Torr and Zisserman 2000). OpenCV's releases refine
    differently, and older ones halve the threshold: with 30 % of 300 matches wrong OpenCV 4.6 was
    0.28 degrees off, the median of 30 pairs, and OpenCV 5 was 0.11; from here both are 0.10.
    """
    lifted0, lifted1 = (_lift(torch.from_numpy(rays)) for rays in (rays0, rays1))
    turn, move = _matrix(R), _matrix(t)
    lowest = math.inf
    for _ in range(REFINEMENTS):
        essential = _cross(move) @ turn
        algebraic, squared0, squared1 = _epipolar(lifted0, lifted1, essential)
        lengths = (squared0 + squared1).sqrt().clamp(min=SHORTEST)
        errors = algebraic / lengths
        agree = errors.abs() < threshold
        cost = float(torch.where(agree, errors.square(), threshold**2).sum())
        if not cost < lowest:
            break
        lowest, matrix, inliers = cost, essential, agree
        across = torch.linalg.svd(move[None])[2][1:]  # its length does not matter
        changes = [_cross(move) @ _cross(axis) @ turn for axis in torch.eye(3).to(turn)]
        changes += [_cross(axis) @ turn for axis in across]
        slopes = (lifted0 @ torch.stack(changes).mT * lifted1).sum(2) / lengths
        # of least length where the camera only turned, for then its direction is free
        step = torch.linalg.lstsq(slopes.mT[agree], -errors[agree, None], driver='gelsd')
        angles, sideways = step.solution[:, 0].split([3, 2])
        turn = torch.linalg.matrix_exp(_cross(angles)) @ turn
        move = torch.nn.functional.normalize(move + sideways @ across, dim=0)
    return matrix.numpy(), inliers.numpy().astype(np.uint8)[:, None]


def pose_error_deg(T_0to1: Matrix, R: Matrix, t: Matrix) -> tuple[float, float]:
    """
    Return the angles in degrees between true and estimated rotation, and translation.

    The angle of translation is that between lines, 0 to 90: an essential matrix does not know the
    sign (Sarlin et al. 2020). It is 0 where the camera truly did not move, since any direction is
    then as good.
    """
    truth, R, t = _matrix(T_0to1), _matrix(R), _matrix(t).reshape(3)
    # the chord between rotations keeps its digits at small angles, the trace does not
    chord = float((truth[:3, :3] - R).norm()) / math.sqrt(8)
    moved = truth[:3, 3]
    sine, cosine = torch.linalg.cross(moved, t).norm(), (moved @ t).abs()
    # atan2(0, 0) is 0: a camera that did not move
    return math.degrees(2 * math.asin(min(chord, 1.0))), math.degrees(math.atan2(sine, cosine))


def pose_error(T_0to1: Matrix, pose: RelativePose | None, rotation_only: bool = False) -> float:
    """
    Return the larger of both angles in degrees, or that of rotation; infinity without an estimate.

    metrics.recall_area of it at 5, 10 and 20 degrees, averaged over pairs, is the pose AUC (Yi et
    al. 2018; Sarlin et al. 2020).
    """
    if pose is None:
        return math.inf
    rotation, translation = pose_error_deg(T_0to1, pose.R, pose.t)
    return rotation if rotation_only else max(rotation, translation)


def epipolar_errors(
    points0: Points, points1: Points, K0: Matrix, K1: Matrix, T_0to1: Matrix
) -> Float[Tensor, ' k']:
    """
    Return the symmetric epipolar distance of each match under the true pose.

    The sum of the squared distances in both images of a point to the line that the other fixes, in
    camera coordinates: e pixels in both images are 2 (e / focal)^2. A match is right below 5e-4 in
    SuperGlue's precision (Sarlin et al. 2020). NaN, never right,
    where there is no line: the camera did not move, or a point is the other camera's image.
    """
    lifted = (_lift(camera_coordinates(*view)) for view in ((points0, K0), (points1, K1)))
    essential = _essential(T_0to1).to(points0.device)
    algebraic, squared0, squared1 = _epipolar(*lifted, essential)
    return algebraic.square() / squared0 + algebraic.square() / squared1


def line_distances(
    points0: Points, points1: Points, K0: Matrix, K1: Matrix, T_0to1: Matrix
) -> Float[Tensor, ' k']:
    """
    Return how many pixels each match lies beside the true epipolar line, in its worse image.

    NaN, never close, where there is no line, as in `epipolar_errors`.
    """
    inverse0, inverse1 = (torch.linalg.inv(_matrix(K)) for K in (K0, K1))
    fundamental = (inverse1.mT @ _essential(T_0to1) @ inverse0).to(points0.device)
    lifted = (_lift(points.double()) for points in (points0, points1))
    algebraic, squared0, squared1 = _epipolar(*lifted, fundamental)
    return algebraic.abs() / torch.minimum(squared0, squared1).sqrt()


def warp_through_depth(
    points: Float[Tensor, 'n 2'],
    depth: Float[Tensor, 'h w'],
    depth_other: Float[Tensor, 'h1 w1'],
    K: Matrix,
    K_other: Matrix,
    T_to_other: Matrix,
) -> Float[Tensor, 'n 2']:
    """
    Return where the other camera sees the surface at points of one, by its depth; float64.

    NaN where the depth is not known, or beside an edge of it; infinity where the other camera
    certainly does not see the point: behind it, beside its image, or behind a surface nearer by
    more than 5 %. Depths are 0 where unknown; all of depth_other may be.
    """
    inverse, known = _inverse_depth(depth, points)
    moved = _lift(points.double()) @ torch.linalg.inv(_matrix(K)).mT
    truth = _matrix(T_to_other)
    moved = moved @ truth[:3, :3].mT + inverse[:, None] * truth[:3, 3]
    front = moved[:, 2] > 1e-9
    there = (moved @ _matrix(K_other).mT)[:, :2] / torch.where(front, moved[:, 2], 1)[:, None]
    surface, measured = _inverse_depth(depth_other, there)
    hidden = measured & (moved[:, 2] / inverse * surface > 1 + DEPTH_RULES.tolerance)
    seen = front & inside(there, *depth_other.shape) & ~hidden
    there = torch.where(seen[:, None], there, math.inf)
    return torch.where(known[:, None], there, math.nan)


def _inverse_depth(depth: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return 1/z at points, and where it is known."""
    inverse = torch.where(depth > 0, 1 / depth.double(), 0)
    value, known = read_inverse_depth(inverse[None], points.double()[None], DEPTH_RULES.edge)
    return value[0], known[0]


def _epipolar(
    lifted0: Float[Tensor, 'k 3'], lifted1: Float[Tensor, 'k 3'], essential: Float[Tensor, '3 3']
) -> tuple[Float[Tensor, ' k'], Float[Tensor, ' k'], Float[Tensor, ' k']]:
    """Return x1 E x0, and the squared lengths of the lines' normals in image 0 and image 1."""
    lines1, lines0 = lifted0 @ essential.mT, lifted1 @ essential
    squared0, squared1 = (lines[:, :2].square().sum(1) for lines in (lines0, lines1))
    return (lifted1 * lines1).sum(1), squared0, squared1


def _essential(T_0to1: Matrix) -> Float[Tensor, '3 3']:
    truth = _matrix(T_0to1)
    return _cross(truth[:3, 3]) @ truth[:3, :3]


def _lift(points: Float[Tensor, 'k 2']) -> Float[Tensor, 'k 3']:
    return torch.nn.functional.pad(points, (0, 1), value=1.0)


def _cross(vector: Float[Tensor, ' 3']) -> Float[Tensor, '3 3']:
    """Return the matrix whose product with another vector is the cross product."""
    return torch.linalg.cross(vector.expand(3, 3), torch.eye(3).to(vector)).mT


def _matrix(values: Matrix) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)
