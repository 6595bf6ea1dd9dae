"""A gray picture to draw on with sub-pixel coordinates; (x, y), pixel centres are integers."""

from collections.abc import Sequence

import cv2
import numpy as np

from .config import ShapesConfig

SHIFT = 8  # fractional bits of coordinates that are handed to OpenCV
SPREAD_PX = 0.48  # OpenCV also paints the pixels that an outline touches: measured, on average
LONGEST_INSET_PX = 8.0  # of needle-sharp corners
BACKGROUND_MARGIN = 30  # grey levels
NEIGHBOUR_MARGIN = 50  # grey levels
TRIES = 20


class Canvas:
    """
    An (H, W) uint8 image with the published rules for backgrounds and colours.

    short, long: its sides; mean: mean grey of the background, which colours keep away from.
    """

    def __init__(self, config: ShapesConfig, rng: np.random.Generator) -> None:
        self.config, self.rng = config, rng
        self.height, self.width = config.draw_height, config.draw_width
        self.short, self.long = sorted((self.height, self.width))
        self.image = np.zeros((self.height, self.width), np.uint8)
        self.mean = 0

    def paint_background(self) -> None:
        """Fill with binarised noise and discs of contrasting grey, blurred by a large box."""
        config, rng = self.config, self.rng
        threshold = int(rng.integers(256))
        self.image = cv2.threshold(self.noise(), threshold, 255, cv2.THRESH_BINARY)[1]
        greys = contrasting_greys(self._mean_grey(), rng, config.blobs)
        radii = rng.uniform(config.blob_radius_min, config.blob_radius_max, config.blobs)
        centres = rng.integers(0, (self.width, self.height), (config.blobs, 2))
        draw_discs(self.image, centres, np.rint(radii * self.long).astype(int), greys)
        side = int(rng.integers(config.smooth_min_px, config.smooth_max_px, endpoint=True))
        self.image = cv2.blur(self.image, (side, side))
        self.mean = self._mean_grey()

    def noise(self) -> np.ndarray:
        """Return a picture of uniform noise, to be read only."""
        noise = np.frombuffer(self.rng.bytes(self.height * self.width), np.uint8)
        return noise.reshape(self.height, self.width)

    def _mean_grey(self) -> int:
        return round(cv2.mean(self.image)[0])

    def grey(self) -> int:
        """Draw a grey that contrasts with the background."""
        return int(contrasting_greys(self.mean, self.rng, 1)[0])

    def grey_unlike(self, neighbours: Sequence[int]) -> int:
        """Draw a grey that contrasts with the background and, if 20 tries allow, neighbours."""
        for _ in range(TRIES):
            grey = self.grey()
            if all(abs(grey - other) >= NEIGHBOUR_MARGIN for other in neighbours):
                break
        return grey

    def thickness(self, low: float, high: float) -> int:
        """Draw a thickness between shares of the short side."""
        return max(1, round(self.rng.uniform(low, high) * self.short))

    def line(self, start: np.ndarray, end: np.ndarray, grey: int, thickness: int) -> None:
        """Draw a line with round ends whose centres are the end points."""
        points = fixed_point(np.stack([start, end])).tolist()
        cv2.line(self.image, *points, grey, thickness, cv2.LINE_AA, SHIFT)

    def polygon(self, corners: np.ndarray, grey: int, spread_edges: Sequence[int] = ()) -> None:
        """
        Fill a polygon, given as (N, 2), exactly up to its edges.

        spread_edges: edges (k joins corners k and k + 1) along which it may reach a pixel too
        far, since what is drawn next covers that; else a gap between neighbours could stay.
        """
        if (corners.max(0) < -1).any() or (corners.min(0) > (self.width, self.height)).any():
            return
        distances = np.full(len(corners), SPREAD_PX)
        distances[list(spread_edges)] = 0.0
        cv2.fillPoly(self.image, [fixed_point(inset(corners, distances))], grey, cv2.LINE_8, SHIFT)

    def paste(self, patch: np.ndarray, low: np.ndarray, corners: np.ndarray) -> None:
        """Show a patch, whose first pixel belongs at low (x, y), where a polygon (N, 2) is."""
        mask = np.zeros_like(patch)
        outline = inset(corners, np.full(len(corners), SPREAD_PX)) - low
        cv2.fillPoly(mask, [fixed_point(outline)], 255, cv2.LINE_8, SHIFT)
        x, y = low.tolist()
        part = self.image[y : y + patch.shape[0], x : x + patch.shape[1]]
        cv2.copyTo(patch, mask, part)

    def ellipse(self, centre: np.ndarray, axes: np.ndarray, degrees: float, grey: int) -> None:
        """Fill an ellipse with these semi-axes."""
        centre, axes = fixed_point(centre).tolist(), fixed_point(axes).tolist()
        cv2.ellipse(self.image, centre, axes, degrees, 0, 360, grey, cv2.FILLED, cv2.LINE_8, SHIFT)


def contrasting_greys(mean: int, rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw greys; those too close to the mean are moved by half the range."""
    greys = rng.integers(0, 256, count)
    return np.where(np.abs(greys - mean) < BACKGROUND_MARGIN, (greys + 128) % 256, greys)


def draw_discs(
    image: np.ndarray, centres: np.ndarray, radii: np.ndarray, greys: np.ndarray
) -> None:
    """Fill discs around whole pixels (K, 2), one after another."""
    discs = zip(centres.tolist(), radii.tolist(), greys.tolist(), strict=True)
    for centre, radius, grey in discs:
        cv2.circle(image, centre, radius, grey, cv2.FILLED)


def fixed_point(points: np.ndarray) -> np.ndarray:
    """Return OpenCV's coordinates with SHIFT fractional bits."""
    return np.rint(np.asarray(points) * (1 << SHIFT)).astype(np.int32)


def inset(corners: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Move each edge of a simple polygon (N, 2) inwards by its distance."""
    following = np.roll(corners, -1, axis=0)
    edges = following - corners
    area = (corners[:, 0] * following[:, 1] - corners[:, 1] * following[:, 0]).sum()
    lengths = np.maximum(np.linalg.norm(edges, axis=1, keepdims=True), 1e-9)
    normals = np.sign(area) * np.stack([-edges[:, 1], edges[:, 0]], 1) / lengths
    before, distances_before = np.roll(normals, 1, axis=0), np.roll(distances, 1)
    # the new corner lies on both moved edges: two linear equations
    cross = before[:, 0] * normals[:, 1] - before[:, 1] * normals[:, 0]
    straight = np.abs(cross) < 1e-3
    cross = np.where(straight, 1.0, cross)
    x = distances_before * normals[:, 1] - distances * before[:, 1]
    y = before[:, 0] * distances - normals[:, 0] * distances_before
    moves = np.stack([x, y], 1) / cross[:, None]
    moves[straight] = (normals * distances[:, None])[straight]
    length = np.linalg.norm(moves, axis=1, keepdims=True)
    return corners + moves * np.minimum(1.0, LONGEST_INSET_PX / np.maximum(length, 1e-9))


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
