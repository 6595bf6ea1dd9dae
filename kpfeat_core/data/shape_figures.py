"""
The nine primitives of Synthetic Shapes, drawn on a gray canvas with sub-pixel coordinates.

Each function of DRAW draws on a canvas and returns its labels (N, 2): (x, y), pixel centers are
integers.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from .config import ShapesConfig

SHIFT = 8  # fractional bits of coordinates that are handed to OpenCV
SPREAD_PX = 0.48  # OpenCV also paints the pixels that an outline touches: measured, on average
LONGEST_INSET_PX = 8.0  # of needle-sharp corners
BACKGROUND_MARGIN = 30  # gray levels
NEIGHBOR_MARGIN = 50  # gray levels
TRIES = 20
NONE = np.zeros((0, 2))
WIDEST_CORNER = np.radians(120)  # a wider angle is hardly a corner
ATTEMPTS = 30
TEXTURE_DISCS = 3000 / (960 * 1280)  # for each pixel of the drawing
TEXTURE_RADIUS = 20
TEXTURE_BLUR = (50, 100)
FARTHEST_PX = 1e4  # OpenCV's fixed-point coordinates overflow some way beyond
FAINTEST = 0.1  # warps that squeeze areas more, here or there, are drawn again


class Canvas:
    """
    An (H, W) uint8 image with the published rules for backgrounds and colors.

    short, long: its sides; mean: mean gray of the background, which colors keep away from.
    """

    def __init__(self, config: ShapesConfig, rng: np.random.Generator) -> None:
        self.config, self.rng = config, rng
        self.height, self.width = config.draw_height, config.draw_width
        self.short, self.long = sorted((self.height, self.width))
        self.image = np.zeros((self.height, self.width), np.uint8)
        self.mean = 0

    def paint_background(self) -> None:
        """Fill with binarized noise and discs of contrasting gray, blurred by a large box."""
        config, rng = self.config, self.rng
        threshold = int(rng.integers(256))
        self.image = cv2.threshold(self.noise(), threshold, 255, cv2.THRESH_BINARY)[1]
        grays = contrasting_grays(self._mean_gray(), rng, config.blobs)
        radii = rng.uniform(*config.blob_radius, config.blobs)
        centers = rng.integers(0, (self.width, self.height), (config.blobs, 2))
        draw_discs(self.image, centers, np.rint(radii * self.long).astype(int), grays)
        side = int(rng.integers(*config.smooth_px, endpoint=True))
        self.image = cv2.blur(self.image, (side, side))
        self.mean = self._mean_gray()

    def noise(self) -> np.ndarray:
        """Return a picture of uniform noise, to be read only."""
        noise = np.frombuffer(self.rng.bytes(self.height * self.width), np.uint8)
        return noise.reshape(self.height, self.width)

    def _mean_gray(self) -> int:
        return round(cv2.mean(self.image)[0])

    def gray(self) -> int:
        """Draw a gray that contrasts with the background."""
        return int(contrasting_grays(self.mean, self.rng, 1)[0])

    def gray_unlike(self, neighbors: Sequence[int]) -> int:
        """Draw a gray that contrasts with the background and, if 20 tries allow, neighbors."""
        for _ in range(TRIES):
            gray = self.gray()
            if all(abs(gray - other) >= NEIGHBOR_MARGIN for other in neighbors):
                break
        return gray

    def thickness(self, low: float, high: float) -> int:
        """Draw a thickness between shares of the short side."""
        return max(1, round(self.rng.uniform(low, high) * self.short))

    def line(self, start: np.ndarray, end: np.ndarray, gray: int, thickness: int) -> None:
        """Draw a line with round ends whose centers are the end points."""
        points = fixed_point(np.stack([start, end])).tolist()
        cv2.line(self.image, *points, gray, thickness, cv2.LINE_AA, SHIFT)

    def polygon(self, corners: np.ndarray, gray: int, spread_edges: Sequence[int] = ()) -> None:
        """
        Fill a polygon, given as (N, 2), exactly up to its edges.

        spread_edges: edges (k joins corners k and k + 1) along which it may reach a pixel too
        far, since what is drawn next covers that; else a gap between neighbors could stay.
        """
        if (corners.max(0) < -1).any() or (corners.min(0) > (self.width, self.height)).any():
            return
        distances = np.full(len(corners), SPREAD_PX)
        distances[list(spread_edges)] = 0.0
        cv2.fillPoly(self.image, [fixed_point(inset(corners, distances))], gray, cv2.LINE_8, SHIFT)

    def paste(self, patch: np.ndarray, low: np.ndarray, corners: np.ndarray) -> None:
        """Show a patch, whose first pixel belongs at low (x, y), where a polygon (N, 2) is."""
        mask = np.zeros_like(patch)
        outline = inset(corners, np.full(len(corners), SPREAD_PX)) - low
        cv2.fillPoly(mask, [fixed_point(outline)], 255, cv2.LINE_8, SHIFT)
        x, y = low.tolist()
        part = self.image[y : y + patch.shape[0], x : x + patch.shape[1]]
        cv2.copyTo(patch, mask, part)

    def ellipse(self, center: np.ndarray, axes: np.ndarray, degrees: float, gray: int) -> None:
        """Fill an ellipse with these semi-axes."""
        center, axes = fixed_point(center).tolist(), fixed_point(axes).tolist()
        cv2.ellipse(self.image, center, axes, degrees, 0, 360, gray, cv2.FILLED, cv2.LINE_8, SHIFT)


def contrasting_grays(mean: int, rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw grays; those too close to the mean are moved by half the range."""
    grays = rng.integers(0, 256, count)
    return np.where(np.abs(grays - mean) < BACKGROUND_MARGIN, (grays + 128) % 256, grays)


def draw_discs(
    image: np.ndarray, centers: np.ndarray, radii: np.ndarray, grays: np.ndarray
) -> None:
    """Fill discs around whole pixels (K, 2), one after another."""
    discs = zip(centers.tolist(), radii.tolist(), grays.tolist(), strict=True)
    for center, radius, gray in discs:
        cv2.circle(image, center, radius, gray, cv2.FILLED)


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


def draw_lines(canvas: Canvas) -> np.ndarray:
    """Draw up to 9 segments that do not cross; labels: their ends."""
    rng = canvas.rng
    starts, ends = NONE, NONE
    for _ in range(rng.integers(1, 10)):
        start, end = rng.uniform(0, (canvas.width - 1, canvas.height - 1), (2, 2))
        if crossing(start, end, starts, ends).any():
            continue
        canvas.line(start, end, canvas.gray(), canvas.thickness(0.01, 0.02))
        starts, ends = np.vstack([starts, start]), np.vstack([ends, end])
    return np.vstack([starts, ends])


def draw_polygon(canvas: Canvas) -> np.ndarray:
    """Fill one polygon; labels: its corners."""
    corners, _, _ = _random_polygon(canvas)
    canvas.polygon(corners, canvas.gray())
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
    centers, radii = NONE, np.zeros(0)
    for _ in range(20):
        axes = np.maximum(rng.uniform(0, short / 4, 2), short / 20)
        radius = axes.max()
        center = _center_of_disc(canvas, radius)
        if (np.linalg.norm(centers - center, axis=1) < radii + radius).any():
            continue
        canvas.ellipse(center, axes, rng.uniform(0, 90), canvas.gray())
        centers, radii = np.vstack([centers, center]), np.append(radii, radius)
    return NONE


def draw_star(canvas: Canvas) -> np.ndarray:
    """Draw 3 to 5 rays; labels: the center and the tips."""
    rng, short = canvas.rng, canvas.short
    radius = max(rng.uniform(0, short / 2), short / 5)
    center = _center_of_disc(canvas, radius)
    tips = _around(center, radius, int(rng.integers(3, 6)), 0.3, rng)
    thickness = canvas.thickness(0.01, 0.02)
    for tip in tips:
        canvas.line(center, tip, canvas.gray(), thickness)
    return np.vstack([center, tips])


def draw_checkerboard(canvas: Canvas) -> np.ndarray:
    """Draw 3 to 6 rows and columns under a homography; labels: all corners of its cells."""
    rng = canvas.rng
    rows, columns = (int(n) for n in rng.integers(3, 7, 2))
    side = max(canvas.height / rows, canvas.width / columns)
    x, y = np.arange(columns + 1) * side, np.arange(rows + 1) * side
    corners = _warped_grid(canvas, x, y, 0.05, 0.15)
    grays = np.zeros((rows, columns), int)
    for row in range(rows):
        for column in range(columns):
            near = [int(grays[row - 1, column])] if row else []
            near += [int(grays[row, column - 1])] if column else []
            grays[row, column] = canvas.gray_unlike(near)
    _fill_cells(canvas, corners, grays)
    _draw_some_lines(canvas, corners)
    _draw_some_lines(canvas, corners.swapaxes(0, 1))
    return corners.reshape(-1, 2)


def draw_stripes(canvas: Canvas) -> np.ndarray:
    """Draw 5 to 12 bands of random width under a homography; labels: the ends of their edges."""
    rng = canvas.rng
    width, height = canvas.width * rng.uniform(1, 2), canvas.height * rng.uniform(1, 2)
    cuts = np.sort(rng.uniform(0, width, int(rng.integers(5, 13)) - 1))
    narrowest = 0.04 * canvas.short
    x = [0.0]
    for cut in cuts:
        if x[-1] + narrowest <= cut <= width - narrowest:
            x.append(cut)
    corners = _warped_grid(canvas, np.array([*x, width]), np.array([0.0, height]), 0.1, 0.1)
    grays = [canvas.gray()]
    for _ in x[1:]:
        grays.append(int(grays[-1] + 128 + rng.integers(-30, 31)) % 256)
    _fill_cells(canvas, corners, np.array([grays]))
    return corners.reshape(-1, 2)


def draw_cube(canvas: Canvas) -> np.ndarray:
    """Draw a turned, squeezed box in parallel projection; labels: its 7 visible corners."""
    rng, short = canvas.rng, canvas.short
    sides = short * (0.2 + rng.uniform(0, 2 / 3, 3))
    turn = _rotation(rng.uniform(np.radians(18), np.radians(72), 3))
    axes = rng.uniform(0.4, 1.0, 3)[:, None] * turn * sides  # columns: the edges, in (x, y, z)
    size = np.array([canvas.width, canvas.height])
    center = size * (0.5 + rng.uniform(-0.2, 0.2, 2)) - 0.5
    # of each pair of faces, the viewer at +z sees the one whose normal points to him
    normals = np.stack([np.cross(axes[:, (k + 1) % 3], axes[:, (k + 2) % 3]) for k in range(3)])
    towards = np.sign(normals[:, 2])

    def corner(signs: np.ndarray) -> np.ndarray:
        return center + (axes[:2] * (signs / 2)).sum(1)

    grays: list[int] = []
    thickness = canvas.thickness(0.003, 0.015)
    for axis in range(3):
        around = np.empty((4, 3))
        around[:, axis] = towards[axis]
        around[:, (axis + 1) % 3] = (-1, 1, 1, -1)
        around[:, (axis + 2) % 3] = (-1, -1, 1, 1)
        face = np.stack([corner(signs) for signs in around])
        grays.append(canvas.gray_unlike(grays))
        canvas.polygon(face, grays[-1])
        edge = int(grays[-1] + 128 + rng.integers(-64, 65)) % 256
        for start, end in zip(face, np.roll(face, -1, axis=0), strict=True):
            canvas.line(start, end, edge, thickness)
    signs = np.stack(np.meshgrid((-1, 1), (-1, 1), (-1, 1)), -1).reshape(-1, 3)
    return np.stack([corner(s) for s in signs if (s != -towards).any()])


def draw_noise(canvas: Canvas) -> np.ndarray:
    """Fill with uniform noise; no labels."""
    canvas.image = canvas.noise()
    return NONE


def crossing(
    start: np.ndarray, end: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> np.ndarray:
    """Return which segments (K, 2) to (K, 2) a segment meets."""

    def side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        """Return the sign of the turn from a over b to c."""
        u, v = b - a, c - a
        return np.sign(u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0])

    apart = side(start, end, starts) * side(start, end, ends) > 0
    apart |= side(starts, ends, start) * side(starts, ends, end) > 0
    return ~apart


def _center_of_disc(canvas: Canvas, radius: float) -> np.ndarray:
    """Draw a center whose disc lies in the image."""
    room = np.array([canvas.width, canvas.height]) - 1 - radius
    return canvas.rng.uniform(radius, np.maximum(room, radius))


def _around(
    center: np.ndarray, radius: float, count: int, nearest: float, rng: np.random.Generator
) -> np.ndarray:
    """Draw one point in each of `count` equal sectors, at least a share of the radius away."""
    angles = (np.arange(count) + rng.uniform(0, 1, count)) * (2 * np.pi / count)
    distances = radius * np.maximum(rng.uniform(0, 1, count), nearest)
    return center + distances[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)


def _random_polygon(canvas: Canvas) -> tuple[np.ndarray, np.ndarray, float]:
    """Draw corners (N, 2) in the order of their angle, and the disc that holds them."""
    rng, short = canvas.rng, canvas.short
    while True:
        radius = max(rng.uniform(0, short / 2), short / 10)
        center = _center_of_disc(canvas, radius)
        corners = _sharp_corners(_around(center, radius, int(rng.integers(3, 8)), 0.4, rng))
        if len(corners) >= 3:
            return corners, center, radius


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
    """Return whether two polygons meet, or their discs or they themselves are nested."""
    (corners0, center0, radius0), (corners1, center1, radius1) = one, other
    distance = np.linalg.norm(center0 - center1)
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
    """Fill a polygon with small discs on a contrasting gray, blurred by a box."""
    rng = canvas.rng
    blur = int(rng.integers(*TEXTURE_BLUR, endpoint=True))
    count = round(TEXTURE_DISCS * canvas.image.size)
    centers = rng.integers(0, (canvas.width, canvas.height), (count, 2))
    radii = rng.integers(1, TEXTURE_RADIUS, count)
    grays = contrasting_grays(canvas.mean, rng, count)
    # only the part that shows through the polygon is painted
    low = np.maximum(np.floor(corners.min(0)) - blur, 0).astype(int)
    high = np.ceil(corners.max(0)).astype(int) + blur + 1
    high = np.minimum(high, (canvas.width, canvas.height))
    patch = np.full((high - low)[::-1], canvas.gray(), np.uint8)
    reach = radii[:, None]
    seen = ((centers + reach >= low) & (centers - reach < high)).all(1)
    draw_discs(patch, centers[seen] - low, radii[seen], grays[seen])
    canvas.paste(cv2.blur(patch, (blur, blur)), low, corners)


def _rotation(angles: np.ndarray) -> np.ndarray:
    """Return the (3, 3) rotation about x, then y, then z."""
    matrix = np.eye(3)
    for axis, (cos, sin) in enumerate(zip(np.cos(angles), np.sin(angles), strict=True)):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        one = np.eye(3)
        one[i, i], one[i, j], one[j, i], one[j, j] = cos, -sin, sin, cos
        matrix = one @ matrix
    return matrix


def _warped_grid(
    canvas: Canvas, x: np.ndarray, y: np.ndarray, least: float, more: float
) -> np.ndarray:
    """
    Place a grid of lines over the image and warp it; gives its corners (rows, columns, 2).

    The warp moves corners by up to `least` to `least + more` of the long side (affine), then by
    half of that (perspective). The grid, at least as large as the image, covers it before.
    """
    rng = canvas.rng
    size = np.array([canvas.width, canvas.height])
    hidden = np.maximum(np.array([x[-1], y[-1]]) - size, 0)
    grid = np.stack(np.meshgrid(x, y), -1) - rng.uniform(0, 1, 2) * hidden - 0.5
    lifted = np.concatenate([grid, np.ones_like(grid[..., :1])], -1)
    middle = np.append((size - 1) / 2, 1)
    while True:
        matrix = _random_homography(canvas, canvas.long * (least + more * rng.uniform()))
        warped = lifted @ matrix.T
        depth = warped[..., 2:] / (matrix[2] @ middle)
        if depth.min() <= 0:  # a part lies behind the horizon
            continue
        area = np.linalg.det(matrix / (matrix[2] @ middle)) / depth**3
        corners = warped[..., :2] / warped[..., 2:]
        if area.min() > FAINTEST and np.abs(corners).max() < FARTHEST_PX:
            return corners


def _random_homography(canvas: Canvas, amplitude: float) -> np.ndarray:
    """Move the corners of a square in the middle at random: affine, then in perspective."""
    rng = canvas.rng
    middle, half = np.array([canvas.width - 1, canvas.height - 1]) / 2, canvas.short / 3
    square = middle + half * np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]])
    moved = square[:3] + rng.uniform(-amplitude, amplitude, (3, 2))
    affine = np.eye(3)
    affine[:2] = cv2.getAffineTransform(square[:3].astype(np.float32), moved.astype(np.float32))
    moved = square + rng.uniform(-amplitude / 2, amplitude / 2, (4, 2))
    perspective = cv2.getPerspectiveTransform(square.astype(np.float32), moved.astype(np.float32))
    return perspective @ affine


def _fill_cells(canvas: Canvas, corners: np.ndarray, grays: np.ndarray) -> None:
    """Fill the cells between corners (rows + 1, columns + 1, 2), row after row."""
    rows, columns = grays.shape
    for row in range(rows):
        for column in range(columns):
            cell = corners[[row, row, row + 1, row + 1], [column, column + 1, column + 1, column]]
            right, below = column < columns - 1, row < rows - 1  # drawn later, over this one
            spread: Sequence[int] = [k for k, later in ((1, right), (2, below)) if later]
            canvas.polygon(cell, int(grays[row, column]), spread)


def _draw_some_lines(canvas: Canvas, corners: np.ndarray) -> None:
    """Draw a random number of pieces of the lines through the corners (lines, places, 2)."""
    rng = canvas.rng
    lines, places = corners.shape[:2]
    thickness = canvas.thickness(0.01, 0.015)
    for _ in range(rng.integers(2, lines, endpoint=True)):
        line = int(rng.integers(lines))
        first, last = rng.integers(0, places, 2)
        if first != last:
            canvas.line(corners[line, first], corners[line, last], canvas.gray(), thickness)


DRAW: dict[str, Callable[[Canvas], np.ndarray]] = {
    'lines': draw_lines,
    'polygon': draw_polygon,
    'polygons': draw_polygons,
    'ellipses': draw_ellipses,
    'star': draw_star,
    'checkerboard': draw_checkerboard,
    'stripes': draw_stripes,
    'cube': draw_cube,
    'noise': draw_noise,
}
