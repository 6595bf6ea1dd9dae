"""One image of a recording as a picture: keypoints, tracks or matches over it, a line below."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch

from ..following import Followed
from ..sights import Sight
from ...axes import Float
from ...image import fit, rescale_points
from ...tracks import Trail
from ...visualize import draw_features, draw_matches, draw_tracks, GAP, side_by_side, to_rgb8

FONT = cv2.FONT_HERSHEY_SIMPLEX
TEXT_SIZE = 0.45  # of capital letters about 10 pixels high
LINE_HEIGHT = 22  # pixels
MARGIN = 6  # pixels left and right of a line
LIGHT = (225, 225, 225)


def draw_keypoints(sight: Sight, width: int) -> np.ndarray:
    """Draw an image, reduced to at most `width` pixels, with its keypoints: (H, W, 3) RGB."""
    picture = _reduced(sight.image, width)
    sizes = sight.image.shape[:2], picture.shape[:2]
    keypoints = rescale_points(sight.features.keypoints, *sizes)
    return draw_features(picture, replace(sight.features, keypoints=keypoints))


def draw_trails(sight: Sight, trails: Sequence[Trail], width: int) -> np.ndarray:
    """Draw an image, reduced to at most `width` pixels, with its tracks: (H, W, 3) RGB."""
    picture = _reduced(sight.image, width)
    sizes = sight.image.shape[:2], picture.shape[:2]
    moved = [replace(trail, points=_rescaled(trail.points, *sizes)) for trail in trails]
    return draw_tracks(picture, moved)


def draw_pair(sight: Sight, followed: Followed | None, width: int, limit: int = -1) -> np.ndarray:
    """Draw the image before beside this one and their best matches, at most `width` pixels."""
    half = (width - GAP) // 2
    picture = _reduced(sight.image, half)
    if followed is None:
        return side_by_side(np.zeros_like(picture), picture)[0]
    pair, before = followed.pair, followed.before.image
    picture0 = _reduced(before, half)
    return draw_matches(
        picture0,
        picture,
        _rescaled(pair.keypoints0, before.shape[:2], picture0.shape[:2]),
        _rescaled(pair.keypoints1, sight.image.shape[:2], picture.shape[:2]),
        correct=None if pair.geometry == 'none' else pair.inliers,
        scores=pair.scores,
        limit=limit,
    )


def with_line(picture: np.ndarray, text: str) -> np.ndarray:
    """Add a line of text below a picture, where it hides nothing; ASCII only."""
    line = np.zeros((LINE_HEIGHT, picture.shape[1], 3), np.uint8)
    wide = cv2.getTextSize(text, FONT, TEXT_SIZE, 1)[0][0]
    size = TEXT_SIZE * min(1.0, (line.shape[1] - 2 * MARGIN) / wide)
    cv2.putText(line, text, (MARGIN, LINE_HEIGHT - 7), FONT, size, LIGHT, 1, cv2.LINE_AA)
    return np.concatenate([picture, line])


def _reduced(image: np.ndarray, width: int) -> np.ndarray:
    return fit(to_rgb8(image), (width, image.shape[0]))


def _rescaled(
    points: Float[np.ndarray, 'n 2'], from_size: Sequence[int], to_size: Sequence[int]
) -> Float[np.ndarray, 'n 2']:
    if tuple(from_size) == tuple(to_size):  # mostly, and there are many tracks
        return points
    return rescale_points(torch.from_numpy(points), from_size, to_size).numpy()
