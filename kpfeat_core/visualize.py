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
    points = arrays['keypoints']
    colors = score_colors(arrays['keypoint_scores'])
    radius = _radius(canvas)
    scales = arrays.get('scales', np.ones(len(points)))
    radii = radius * scales / max(scales.min(initial=np.inf), 1e-6)
    radii = radii.tolist()
    angles = arrays.get('orientations')
    for k in np.argsort(arrays['keypoint_scores'], kind='stable'):  # the best on top
        if not _drawable(points[k]):
            continue
        _circle(canvas, points[k], radii[k], OUTLINE, 3)
        _circle(canvas, points[k], radii[k], colors[k], 1)
        if angles is not None:
            tip = points[k] + 2.5 * radii[k] * np.array([np.cos(angles[k]), np.sin(angles[k])])
            _line(canvas, points[k], tip, colors[k])
    return canvas


def score_colors(scores: Float[np.ndarray, ' k']) -> np.ndarray:
    """Return a color (K, 3) uint8 RGB for each score: red the best, blue the worst."""
    return _colors(_rank(scores))


def draw_tracks(image: np.ndarray, trails: Sequence[Trail]) -> np.ndarray:
    """
    Draw where keypoints came from: a line along each trail, a dot where the keypoint is now.

    Blue tracks are new, green ones some 8 frames old, red ones 64 frames or more. The way of the
    last frames is strong, the one before pale. Later trails lie above earlier ones. Images as in
    `draw_features`; raises ImageError.
    """
    canvas = to_rgb8(image)
    ages = np.array([trail.age for trail in trails], np.float64)
    colors = _colors(np.log(ages.clip(1, OLD)) / np.log(OLD))
    drawable = [np.array([_drawable(point) for point in trail.points]) for trail in trails]
    ways = [trail.points[seen] for trail, seen in zip(trails, drawable, strict=True)]
    pale = canvas.copy()
    _draw_ways(pale, ways, colors)
    canvas = cv2.addWeighted(canvas, 1 - PALE, pale, PALE, 0)
    _draw_ways(canvas, [way[-RECENT:] for way in ways], colors)
    radius = 0.6 * _radius(canvas)
    for way, color in zip(ways, colors, strict=True):
        for point in way[-1:]:
            _circle(canvas, point, radius + 1, OUTLINE, -1)
            _circle(canvas, point, radius, color, -1)
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
    radius = 0.6 * _radius(canvas)
    seen = [k for k in range(len(points0)) if _drawable(points0[k]) and _drawable(points1[k])]
    for k in seen:
        _line(canvas, points0[k], points1[k], colors[k])
    for k in seen:
        for point in (points0[k], points1[k]):
            _circle(canvas, point, radius + 1, OUTLINE, -1)
            _circle(canvas, point, radius, colors[k], -1)


def _draw_ways(canvas: np.ndarray, ways: Sequence[np.ndarray], colors: np.ndarray) -> None:
    for way, color in zip(ways, colors, strict=True):
        path = (way * 2**SHIFT).round().astype(np.int32)
        if len(path):
            cv2.polylines(canvas, [path], False, _tuple(color), 1, cv2.LINE_AA, SHIFT)


def _circle(canvas: np.ndarray, point: Any, radius: float, color: Any, thickness: int) -> None:
    size = min(max(1, round(float(radius) * 2**SHIFT)), FARTHEST)
    cv2.circle(canvas, _fixed(point), size, _tuple(color), thickness, cv2.LINE_AA, SHIFT)


def _line(canvas: np.ndarray, start: Any, end: Any, color: Any) -> None:
    cv2.line(canvas, _fixed(start), _fixed(end), _tuple(color), 1, cv2.LINE_AA, SHIFT)


def _fixed(point: Any) -> tuple[int, int]:
    return round(float(point[0]) * 2**SHIFT), round(float(point[1]) * 2**SHIFT)


def _tuple(color: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in color)


def _drawable(point: np.ndarray) -> bool:
    return bool(np.isfinite(point).all() and np.abs(point).max() < FARTHEST)


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
