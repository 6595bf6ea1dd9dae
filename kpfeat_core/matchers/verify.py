"""Geometric verification: which matches agree with one homography or one fundamental matrix."""

from typing import Any

import cv2
import numpy as np

from ..arrays import point_array
from ..errors import ConfigError, ShapeError
from ..shapes import Bool, Float

# MAGSAC's score needs no exact noise level; it was the most precise of OpenCV's USAC methods in
# the tests here and is no slower than its plain ones.
METHOD = cv2.USAC_MAGSAC
CONFIDENCE = 0.9999
MAX_ITERATIONS = 10_000
FEWEST_POINTS = {'homography': 4, 'fundamental': 8}


def find_geometry(
    points0: Any, points1: Any, kind: str = 'homography', threshold_px: float = 3.0
) -> tuple[Float[np.ndarray, '3 3'] | None, Bool[np.ndarray, ' k']]:
    """
    Fit a homography or fundamental matrix to matched points with OpenCV's USAC.

    points0, points1 (K, 2): arrays or tensors; row k of one matches row k of the other.
    kind: 'homography' (x1 ~ M x0), 'fundamental' (x1ᵀ M x0 = 0), or 'none', which fits nothing
    and rejects nothing. threshold_px: the largest error of an inlier.

    Gives the matrix (None where none fits; a homography has M[2, 2] = 1, a fundamental matrix
    unit norm) and the inlier mask (K,). Points that are not finite are never inliers. The same
    points always give the same answer. Raises ShapeError and ConfigError.
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
    matrix, mask = _fit(points0[finite], points1[finite], kind, threshold_px)
    if matrix is None:
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
