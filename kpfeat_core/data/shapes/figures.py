"""
Lines, polygons, ellipses, star and noise.

Each function draws on a canvas and gives its labels: corners and end points (N, 2) as (x, y) at
the size of the drawing. Parameters are those of the published training set.
"""

import cv2
import numpy as np

from .canvas import Canvas, contrasting_greys, draw_discs

NONE = np.zeros((0, 2))
WIDEST_CORNER = np.radians(120)  # a wider angle is hardly a corner
ATTEMPTS = 30
TEXTURE_DISCS = 3000 / (960 * 1280)  # for each pixel of the drawing
TEXTURE_RADIUS = 20
TEXTURE_BLUR = (50, 100)


def draw_lines(canvas: Canvas) -> np.ndarray:
    """Draw up to 9 segments that do not cross; labels: their ends."""
    rng = canvas.rng
    starts, ends = NONE, NONE
    for _ in range(rng.integers(1, 10)):
        start, end = rng.uniform(0, (canvas.width - 1, canvas.height - 1), (2, 2))
        if crossing(start, end, starts, ends).any():
            continue
        canvas.line(start, end, canvas.grey(), canvas.thickness(0.01, 0.02))
        starts, ends = np.vstack([starts, start]), np.vstack([ends, end])
    return np.vstack([starts, ends])


def draw_polygon(canvas: Canvas) -> np.ndarray:
    """Fill one polygon; labels: its corners."""
    corners, _, _ = _random_polygon(canvas)
    canvas.polygon(corners, canvas.grey())
    return corners


def draw_polygons(canvas: Canvas) -> np.ndarray:
    """Fill polygons that neither meet nor nest, each with a texture; labels: all corners."""
    kept: list[tuple[np.ndarray, np.ndarray, float]] = []
    for _ in range(ATTEMPTS):
        polygon = _random_polygon(canvas)
        if not any(_collide(polygon, other) for other in kept):
            _fill_with_texture(canvas, polygon[0])
            kept.append(polygon)
    return np.concatenate([corners for corners, _, _ in kept])


def draw_ellipses(canvas: Canvas) -> np.ndarray:
    """Fill up to 20 ellipses whose discs do not overlap; no labels."""
    rng, short = canvas.rng, canvas.short
    centres, radii = NONE, np.zeros(0)
    for _ in range(20):
        axes = np.maximum(rng.uniform(0, short / 4, 2), short / 20)
        radius = axes.max()
        centre = _centre_of_disc(canvas, radius)
        if (np.linalg.norm(centres - centre, axis=1) < radii + radius).any():
            continue
        canvas.ellipse(centre, axes, rng.uniform(0, 90), canvas.grey())
        centres, radii = np.vstack([centres, centre]), np.append(radii, radius)
    return NONE


def draw_star(canvas: Canvas) -> np.ndarray:
    """Draw 3 to 5 rays; labels: the centre and the tips."""
    rng, short = canvas.rng, canvas.short
    radius = max(rng.uniform(0, short / 2), short / 5)
    centre = _centre_of_disc(canvas, radius)
    tips = _around(centre, radius, int(rng.integers(3, 6)), 0.3, rng)
    thickness = canvas.thickness(0.01, 0.02)
    for tip in tips:
        canvas.line(centre, tip, canvas.grey(), thickness)
    return np.vstack([centre, tips])


def draw_noise(canvas: Canvas) -> np.ndarray:
    """Fill with uniform noise; no labels."""
    canvas.image = canvas.noise()
    return NONE


def crossing(
    start: np.ndarray, end: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> np.ndarray:
    """Tell which segments (K, 2) to (K, 2) a segment meets."""

    def side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        """Return the sign of the turn from a over b to c."""
        u, v = b - a, c - a
        return np.sign(u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0])

    apart = side(start, end, starts) * side(start, end, ends) > 0
    apart |= side(starts, ends, start) * side(starts, ends, end) > 0
    return ~apart


def _centre_of_disc(canvas: Canvas, radius: float) -> np.ndarray:
    """Draw a centre whose disc lies in the image."""
    room = np.array([canvas.width, canvas.height]) - 1 - radius
    return canvas.rng.uniform(radius, np.maximum(room, radius))


def _around(
    centre: np.ndarray, radius: float, count: int, nearest: float, rng: np.random.Generator
) -> np.ndarray:
    """Draw one point in each of `count` equal sectors, at least a share of the radius away."""
    angles = (np.arange(count) + rng.uniform(0, 1, count)) * (2 * np.pi / count)
    distances = radius * np.maximum(rng.uniform(0, 1, count), nearest)
    return centre + distances[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)


def _random_polygon(canvas: Canvas) -> tuple[np.ndarray, np.ndarray, float]:
    """Draw corners (N, 2) in the order of their angle, and the disc that holds them."""
    rng, short = canvas.rng, canvas.short
    while True:
        radius = max(rng.uniform(0, short / 2), short / 10)
        centre = _centre_of_disc(canvas, radius)
        corners = _sharp_corners(_around(centre, radius, int(rng.integers(3, 8)), 0.4, rng))
        if len(corners) >= 3:
            return corners, centre, radius


def _sharp_corners(corners: np.ndarray) -> np.ndarray:
    """Drop corners that coincide or are too wide, until none is left; may leave fewer than 3."""
    while len(corners) >= 3:
        back, ahead = np.roll(corners, 1, 0) - corners, np.roll(corners, -1, 0) - corners
        lengths = np.linalg.norm(back, axis=1), np.linalg.norm(ahead, axis=1)
        cos = (back * ahead).sum(1) / np.maximum(lengths[0] * lengths[1], 1e-9)
        keep = (lengths[0] > 0.01) & (np.arccos(cos.clip(-1, 1)) < WIDEST_CORNER)
        if keep.all():
            break
        corners = corners[keep]
    return corners


def _collide(
    one: tuple[np.ndarray, np.ndarray, float], other: tuple[np.ndarray, np.ndarray, float]
) -> bool:
    """Tell whether two polygons meet, or their discs or they themselves are nested."""
    (corners0, centre0, radius0), (corners1, centre1, radius1) = one, other
    distance = np.linalg.norm(centre0 - centre1)
    if distance > radius0 + radius1:
        return False
    if distance + min(radius0, radius1) < max(radius0, radius1):
        return True
    ends0, ends1 = np.roll(corners0, -1, axis=0), np.roll(corners1, -1, axis=0)
    if crossing(corners0[:, None], ends0[:, None], corners1[None], ends1[None]).any():
        return True
    return _inside(corners0[0], corners1) or _inside(corners1[0], corners0)


def _inside(point: np.ndarray, corners: np.ndarray) -> bool:
    x, y = point.tolist()
    return cv2.pointPolygonTest(corners.astype(np.float32), (x, y), False) >= 0


def _fill_with_texture(canvas: Canvas, corners: np.ndarray) -> None:
    """Fill a polygon with small discs on a contrasting grey, blurred by a box."""
    rng = canvas.rng
    blur = int(rng.integers(*TEXTURE_BLUR, endpoint=True))
    count = round(TEXTURE_DISCS * canvas.image.size)
    centres = rng.integers(0, (canvas.width, canvas.height), (count, 2))
    radii = rng.integers(1, TEXTURE_RADIUS, count)
    greys = contrasting_greys(canvas.mean, rng, count)
    # only the part that shows through the polygon is painted
    low = np.maximum(np.floor(corners.min(0)) - blur, 0).astype(int)
    high = np.ceil(corners.max(0)).astype(int) + blur + 1
    high = np.minimum(high, (canvas.width, canvas.height))
    patch = np.full((high - low)[::-1], canvas.grey(), np.uint8)
    reach = radii[:, None]
    seen = ((centres + reach >= low) & (centres - reach < high)).all(1)
    draw_discs(patch, centres[seen] - low, radii[seen], greys[seen])
    canvas.paste(cv2.blur(patch, (blur, blur)), low, corners)
