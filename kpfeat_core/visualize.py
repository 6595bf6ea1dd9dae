"""Pictures of keypoints, tracks and matches: arrays in, uint8 RGB arrays out."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from .axes import Float
from .errors import ImageError, ShapeError
from .features import Features
from .geometry import point_array, to_array
from .tracks import Trail

CORRECT = (60, 220, 90)
WRONG = (240, 60, 60)
OUTLINE = (0, 0, 0)
OLD = 64  # frames after which a track is drawn as one of the oldest
RECENT = 4  # places of a trail that are joined by strong lines
PALE = 0.35  # opacity of the lines before
MANY = 512  # lines from here on hide each other, and are plain: a tenth of the work
GAP = 8  # pixels between two images side by side
SHIFT = 4  # fractional bits of OpenCV's drawing coordinates
FARTHEST = 1 << 15  # OpenCV's fixed-point coordinates overflow somewhere beyond


def draw_features(image: np.ndarray, features: Features, b: int = 0) -> np.ndarray:
    """
    Draw the keypoints of image b over its picture, red the strongest, blue the weakest.

    image: (H, W), (H, W, 1) or (H, W, 3) RGB; uint8, uint16, or float in 0..1. Circles grow
    with the scale where features have scales; a tick shows the direction where they have
    orientations. Gives (H, W, 3) uint8; raises ImageError.
    """
    canvas = to_rgb8(image)
    arrays = features.numpy(b)
    order = np.argsort(arrays['keypoint_scores'], kind='stable')  # the best on top
    order = order[_drawable(arrays['keypoints'][order])]
    points = arrays['keypoints'][order]
    colors = score_colors(arrays['keypoint_scores'])[order]
    scales = arrays.get('scales', np.ones(len(arrays['keypoints'])))
    radii = (_radius(canvas) * scales / max(scales.min(initial=np.inf), 1e-6))[order]
    for change in (-1.5, 1.5):  # thin lines on both sides cost a third of a thick one below
        _draw_circles(canvas, points, radii + change, OUTLINE, 1)
    _draw_circles(canvas, points, radii, colors, 1)
    if arrays.get('orientations') is not None:
        angles = arrays['orientations'][order]
        ways = np.stack([np.cos(angles), np.sin(angles)], 1)
        _draw_lines(canvas, points, points + 2.5 * radii[:, None] * ways, colors)
    return canvas


def score_colors(scores: Float[np.ndarray, ' k']) -> np.ndarray:
    """Return a color (K, 3) uint8 RGB for each score: red the best, blue the worst."""
    return _colors(_rank(scores))


def draw_tracks(image: np.ndarray, trails: Sequence[Trail]) -> np.ndarray:
    """
    Draw where keypoints came from: a line along each trail, a dot where the keypoint is now.

    Blue tracks are new, green ones some 8 frames old, red ones 64 frames or more. The way of the
    last frames is strong, the one before pale. Older tracks lie above newer ones. Images as in
    `draw_features`; raises ImageError.
    """
    canvas = to_rgb8(image)
    trails = sorted(trails, key=lambda trail: trail.age)
    ways = _drawable_ways([trail.points for trail in trails])
    ages = np.array([trail.age for trail, way in zip(trails, ways, strict=True) if len(way)])
    ways = [way for way in ways if len(way)]
    colors = _colors(np.log(ages.clip(1, OLD)) / np.log(OLD))
    pale = canvas.copy()
    _draw_ways(pale, ways, colors)
    canvas = cv2.addWeighted(canvas, 1 - PALE, pale, PALE, 0)
    _draw_ways(canvas, [way[-RECENT:] for way in ways], colors)
    newest = np.array([way[-1] for way in ways]).reshape(-1, 2)
    _draw_dots(canvas, newest, 0.6 * _radius(canvas), colors)
    return canvas


def draw_matches(
    image0: np.ndarray,
    image1: np.ndarray,
    points0: Any,
    points1: Any,
    correct: Any = None,
    scores: Any = None,
    limit: int = -1,
) -> np.ndarray:
    """
    Draw two images side by side with a line for each match.

    points0, points1 (K, 2): matched pixels. correct: (K,) bool, or one bool for all; green where
    true, red where false. Without it, red the best and blue the worst of scores (K,); with
    neither, coloured by height so that neighbours look alike. limit: draw the best this many by
    score (the first without scores); -1 draws all.

    Images as in `draw_features`, of any sizes. Gives (H, W, 3) uint8; raises ImageError and
    ShapeError.
    """
    canvas, offset = side_by_side(image0, image1)
    points0, points1 = point_array(points0, 'points0'), point_array(points1, 'points1')
    count = len(points0)
    if len(points1) != count:
        raise ShapeError(f'{count} points0 beside {len(points1)} points1; expected pairs')
    strength = np.arange(count, 0, -1.0) if scores is None else _values(scores, count, 'scores')
    right = None if correct is None else _values(correct, count, 'correct').astype(bool)
    if right is not None:
        colors = np.where(right[:, None], CORRECT, WRONG)
    else:
        colors = _colors(_rank(points0[:, 1] if scores is None else strength))
    order = np.argsort(-strength, kind='stable')[: limit if limit >= 0 else count][::-1]
    if right is not None:  # wrong lines cross the picture: keep the correct ones above them
        order = order[np.argsort(right[order], kind='stable')]
    _draw_pairs(canvas, points0[order], points1[order] + [offset, 0], colors[order])
    return canvas


def side_by_side(image0: np.ndarray, image1: np.ndarray) -> tuple[np.ndarray, int]:
    """Put two images beside each other; gives the picture and the x where image 1 starts."""
    left, right = to_rgb8(image0), to_rgb8(image1)
    offset = left.shape[1] + GAP
    canvas = np.zeros((max(len(left), len(right)), offset + right.shape[1], 3), np.uint8)
    canvas[: len(left), : left.shape[1]] = left
    canvas[: len(right), offset:] = right
    return canvas, offset


def to_rgb8(image: np.ndarray) -> np.ndarray:
    """Return a new (H, W, 3) uint8 picture of an image; NaN becomes black; raises ImageError."""
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3) or image.size == 0:
        raise ImageError(f'image has shape {image.shape}, expected (H, W) or (H, W, 3) RGB')
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    elif np.issubdtype(image.dtype, np.floating):
        image = (np.nan_to_num(image).clip(0, 1) * 255).round().astype(np.uint8)
    elif image.dtype != np.uint8:
        raise ImageError(f'image has type {image.dtype}, expected uint8, uint16 or float in 0..1')
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3))).copy()


def _draw_pairs(
    canvas: np.ndarray, points0: np.ndarray, points1: np.ndarray, colors: np.ndarray
) -> None:
    seen = _drawable(points0) & _drawable(points1)
    points0, points1, colors = points0[seen], points1[seen], colors[seen]
    _draw_lines(canvas, points0, points1, colors)
    ends = np.stack([points0, points1], 1).reshape(-1, 2)
    _draw_dots(canvas, ends, 0.6 * _radius(canvas), np.repeat(colors, 2, axis=0))


def _draw_lines(
    canvas: np.ndarray, starts: np.ndarray, ends: np.ndarray, colors: np.ndarray
) -> None:
    smooth = len(starts) <= MANY
    _draw_ways(canvas, list(np.stack([starts, ends], 1)), colors, smooth)


def _draw_ways(
    canvas: np.ndarray, ways: Sequence[np.ndarray], colors: np.ndarray, smooth: bool = True
) -> None:
    """Draw lines along drawable points, in their order; neighbors of one color at once."""
    if not ways:
        return
    lengths = np.cumsum([len(way) for way in ways])[:-1]
    paths = np.split(_fixed(np.concatenate(ways)), lengths)
    kind = cv2.LINE_AA if smooth else cv2.LINE_8
    changes = np.flatnonzero((colors[1:] != colors[:-1]).any(1)) + 1
    for first, last in zip([0, *changes], [*changes, len(ways)], strict=True):
        color = _tuple(colors[first])
        cv2.polylines(canvas, paths[first:last], False, color, 1, kind, SHIFT)


def _draw_dots(canvas: np.ndarray, points: np.ndarray, radius: float, colors: np.ndarray) -> None:
    """Draw filled circles, with an outline that lies below all of them; later ones on top."""
    smooth = len(points) <= MANY
    _draw_circles(canvas, points, np.full(len(points), radius + 1), OUTLINE, -1, smooth)
    _draw_circles(canvas, points, np.full(len(points), radius), colors, -1, smooth)


def _draw_circles(
    canvas: np.ndarray,
    points: np.ndarray,
    radii: np.ndarray,
    colors: Any,
    thickness: int,
    smooth: bool = True,
) -> None:
    """Draw circles; colors: one for each, or a tuple for all."""
    kind = cv2.LINE_AA if smooth else cv2.LINE_8
    sizes = np.rint(radii * 2**SHIFT).clip(1, FARTHEST).astype(int).tolist()
    given = [colors] * len(points) if isinstance(colors, tuple) else colors.tolist()
    for point, size, color in zip(_fixed(points).tolist(), sizes, given, strict=True):
        cv2.circle(canvas, point, size, color, thickness, kind, SHIFT)


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.rint(points * 2**SHIFT).astype(np.int32)


def _tuple(color: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in color)


def _drawable(points: np.ndarray) -> np.ndarray:
    """Return for each of points (..., 2) whether OpenCV can draw there."""
    with np.errstate(invalid='ignore'):
        return (np.abs(points) < FARTHEST).all(-1)  # false for NaN


def _drawable_ways(ways: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Leave out places that cannot be drawn."""
    if not ways:
        return []
    points = np.concatenate(ways)
    seen = _drawable(points)
    if seen.all():
        return list(ways)
    splits = np.cumsum([len(way) for way in ways])[:-1]
    pairs = zip(np.split(points, splits), np.split(seen, splits), strict=True)
    return [way[mask] for way, mask in pairs]


def _radius(canvas: np.ndarray) -> float:
    return max(3.5, max(canvas.shape[:2]) / 250)


def _rank(values: np.ndarray) -> Float[np.ndarray, ' k']:
    """Spread values evenly over 0..1 by their order, whatever their scale is."""
    order = np.argsort(np.argsort(values, kind='stable'), kind='stable')
    return order / max(1, len(values) - 1)


def _colors(values: np.ndarray) -> np.ndarray:
    """Return (K, 3) RGB of values in 0..1, from blue over green to red."""
    levels = (28 + np.asarray(values) * 200).round().astype(np.uint8)[:, None]  # without dark ends
    if not len(levels):
        return np.zeros((0, 3), np.uint8)
    return cv2.applyColorMap(levels, cv2.COLORMAP_TURBO)[:, 0, ::-1]


def _values(values: Any, count: int, name: str) -> np.ndarray:
    array = to_array(values)
    if array.shape not in ((), (count,)):
        raise ShapeError(f'{name} has shape {array.shape}, expected ({count},)')
    return np.broadcast_to(array, (count,))
