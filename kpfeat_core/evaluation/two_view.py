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

from ..shapes import Bool, Float

Matrix = np.ndarray | Tensor

# For essential matrices OpenCV's locally optimised RANSAC was more precise than its MAGSAC: 0.03
# against 0.22 degrees of rotation, the median of 30 pairs with 30 % of 300 matches wrong.
METHOD = cv2.USAC_ACCURATE
CONFIDENCE = 0.99999
MAX_ITERATIONS = 10_000
FEWEST_POINTS = 6  # five fix an essential matrix, and one must agree
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


def camera_coordinates(points: Float[Tensor, 'n 2'], K: Matrix) -> Float[Tensor, 'n 2']:
    """Return (x, y) at depth 1 in front of the camera, float64: pixels in units of the focal."""
    lifted = torch.nn.functional.pad(points.double(), (0, 1), value=1.0)
    rays = lifted @ torch.linalg.inv(_matrix(K)).mT.to(points.device)
    return rays[:, :2] / rays[:, 2:]


def estimate_relative_pose(
    points0: Float[Tensor, 'k 2'],
    points1: Float[Tensor, 'k 2'],
    K0: Matrix,
    K1: Matrix,
    threshold_px: float = 1.0,
) -> RelativePose | None:
    """
    Fit an essential matrix to matches with OpenCV's USAC and take the pose that it holds.

    threshold_px: largest distance of an inlier to its epipolar line, turned into camera
    coordinates by the mean of the four focal lengths (Sarlin et al. 2020). Of several matrices and
    the four poses of each, the one with most matches before both cameras (Nister 2004). None for
    fewer than six finite matches or where OpenCV finds no matrix, as from points that coincide.
    The same points give the same answer.
    """
    rays0, rays1 = camera_coordinates(points0, K0), camera_coordinates(points1, K1)
    finite = (rays0.isfinite().all(1) & rays1.isfinite().all(1)).cpu().numpy()
    rays0, rays1 = (np.ascontiguousarray(r.cpu().numpy()[finite]) for r in (rays0, rays1))
    if len(rays0) < FEWEST_POINTS:
        return None
    focal = float(torch.stack([_matrix(K).diagonal()[:2] for K in (K0, K1)]).mean())
    try:
        essential, mask = cv2.findEssentialMat(
            rays0, rays1, np.eye(3), METHOD, CONFIDENCE, threshold_px / focal, MAX_ITERATIONS
        )
    except cv2.error:  # how some OpenCV releases report a degenerate sample
        return None
    if essential is None or mask is None or not np.isfinite(essential).all():
        return None
    best, most = None, 0
    for row in range(0, len(essential) - 2, 3):
        matrix = essential[row : row + 3]
        # distanceThresh by name: by place OpenCV 5 takes it for R, and drops far points
        count, R, t, before, _ = cv2.recoverPose(
            matrix, rays0, rays1, np.eye(3), distanceThresh=FARTHEST, mask=mask.copy()
        )
        if count > most:
            inliers = np.zeros(len(finite), dtype=bool)
            inliers[finite] = before.ravel() > 0
            best, most = RelativePose(R, t[:, 0], inliers), count
    return best


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


def pose_error(T_0to1: Matrix, pose: RelativePose | None) -> float:
    """
    Return the larger of both angles in degrees, infinity without an estimate.

    metrics.recall_area of it at 5, 10 and 20 degrees, averaged over pairs, is the pose AUC (Yi et
    al. 2018; Sarlin et al. 2020).
    """
    return math.inf if pose is None else max(pose_error_deg(T_0to1, pose.R, pose.t))


def epipolar_errors(
    points0: Float[Tensor, 'k 2'],
    points1: Float[Tensor, 'k 2'],
    K0: Matrix,
    K1: Matrix,
    T_0to1: Matrix,
) -> Float[Tensor, ' k']:
    """
    Return the symmetric epipolar distance of each match under the true pose.

    The sum of the squared distances in both images of a point to the line that the other fixes, in
    camera coordinates: e pixels in both images are 2 (e / focal)^2. A match is right below 5e-4 in
    SuperGlue's precision (Sarlin et al. 2020). NaN, never right,
    where there is no line: the camera did not move, or a point is the other camera's image.
    """
    lifted = [
        torch.nn.functional.pad(camera_coordinates(points, K), (0, 1), value=1.0)
        for points, K in ((points0, K0), (points1, K1))
    ]
    truth = _matrix(T_0to1).to(points0.device)
    x, y, z = truth[:3, 3].tolist()
    cross = truth.new_tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    essential = cross @ truth[:3, :3]
    lines1, lines0 = lifted[0] @ essential.mT, lifted[1] @ essential
    algebraic = (lifted[1] * lines1).sum(1).square()
    squared = [lines[:, :2].square().sum(1) for lines in (lines0, lines1)]
    return algebraic / squared[0] + algebraic / squared[1]


def _matrix(values: Matrix) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)
