"""Two images' features to matched, verified coordinates: what a picture or a message shows."""

from dataclasses import dataclass

import numpy as np

from .mutual_nn import MutualNearestNeighbour
from .verify import find_geometry
from ..features import Features
from ..shapes import Bool, Float, Int


@dataclass(frozen=True)
class PairMatches:
    """
    The K matches of one pair of images, with coordinates, on the CPU and without padding.

    indices0, indices1 (K,): position of each keypoint in its image. scores (K,): confidence.
    keypoints0, keypoints1 (K, 2): x, y in pixels. inliers (K,): agrees with the geometry.
    geometry: what was asked for. matrix (3, 3): what was fitted; None where nothing fits.
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
    matcher: MutualNearestNeighbour, features0: Features, features1: Features, b: int = 0
) -> PairMatches:
    """Match image b of two batches and verify with the geometry that the matcher asks for."""
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
