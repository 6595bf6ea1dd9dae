"""
Checkerboard, stripes and cube: shapes made of faces that touch each other.

As in `figures`, each function draws on a canvas and gives its labels (N, 2).
"""

from collections.abc import Sequence

import cv2
import numpy as np

from .shape_figures import Canvas

FARTHEST_PX = 1e4  # OpenCV's fixed-point coordinates overflow some way beyond
FAINTEST = 0.1  # warps that squeeze areas more, here or there, are drawn again


def draw_checkerboard(canvas: Canvas) -> np.ndarray:
    """Draw 3 to 6 rows and columns under a homography; labels: all corners of its cells."""
    rng = canvas.rng
    rows, columns = (int(n) for n in rng.integers(3, 7, 2))
    side = max(canvas.height / rows, canvas.width / columns)
    x, y = np.arange(columns + 1) * side, np.arange(rows + 1) * side
    corners = _warped_grid(canvas, x, y, 0.05, 0.15)
    greys = np.zeros((rows, columns), int)
    for row in range(rows):
        for column in range(columns):
            near = [int(greys[row - 1, column])] if row else []
            near += [int(greys[row, column - 1])] if column else []
            greys[row, column] = canvas.grey_unlike(near)
    _fill_cells(canvas, corners, greys)
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
    greys = [canvas.grey()]
    for _ in x[1:]:
        greys.append(int(greys[-1] + 128 + rng.integers(-30, 31)) % 256)
    _fill_cells(canvas, corners, np.array([greys]))
    return corners.reshape(-1, 2)


def draw_cube(canvas: Canvas) -> np.ndarray:
    """Draw a turned, squeezed box in parallel projection; labels: its 7 visible corners."""
    rng, short = canvas.rng, canvas.short
    sides = short * (0.2 + rng.uniform(0, 2 / 3, 3))
    turn = _rotation(rng.uniform(np.radians(18), np.radians(72), 3))
    axes = rng.uniform(0.4, 1.0, 3)[:, None] * turn * sides  # columns: the edges, in (x, y, z)
    size = np.array([canvas.width, canvas.height])
    centre = size * (0.5 + rng.uniform(-0.2, 0.2, 2)) - 0.5
    # of each pair of faces, the viewer at +z sees the one whose normal points to him
    normals = np.stack([np.cross(axes[:, (k + 1) % 3], axes[:, (k + 2) % 3]) for k in range(3)])
    towards = np.sign(normals[:, 2])

    def corner(signs: np.ndarray) -> np.ndarray:
        return centre + (axes[:2] * (signs / 2)).sum(1)

    greys: list[int] = []
    thickness = canvas.thickness(0.003, 0.015)
    for axis in range(3):
        around = np.empty((4, 3))
        around[:, axis] = towards[axis]
        around[:, (axis + 1) % 3] = (-1, 1, 1, -1)
        around[:, (axis + 2) % 3] = (-1, -1, 1, 1)
        face = np.stack([corner(signs) for signs in around])
        greys.append(canvas.grey_unlike(greys))
        canvas.polygon(face, greys[-1])
        edge = int(greys[-1] + 128 + rng.integers(-64, 65)) % 256
        for start, end in zip(face, np.roll(face, -1, axis=0), strict=True):
            canvas.line(start, end, edge, thickness)
    signs = np.stack(np.meshgrid((-1, 1), (-1, 1), (-1, 1)), -1).reshape(-1, 3)
    return np.stack([corner(s) for s in signs if (s != -towards).any()])


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


def _fill_cells(canvas: Canvas, corners: np.ndarray, greys: np.ndarray) -> None:
    """Fill the cells between corners (rows + 1, columns + 1, 2), row after row."""
    rows, columns = greys.shape
    for row in range(rows):
        for column in range(columns):
            cell = corners[[row, row, row + 1, row + 1], [column, column + 1, column + 1, column]]
            right, below = column < columns - 1, row < rows - 1  # drawn later, over this one
            spread: Sequence[int] = [k for k, later in ((1, right), (2, below)) if later]
            canvas.polygon(cell, int(greys[row, column]), spread)


def _draw_some_lines(canvas: Canvas, corners: np.ndarray) -> None:
    """Draw a random number of pieces of the lines through the corners (lines, places, 2)."""
    rng = canvas.rng
    lines, places = corners.shape[:2]
    thickness = canvas.thickness(0.01, 0.015)
    for _ in range(rng.integers(2, lines, endpoint=True)):
        line = int(rng.integers(lines))
        first, last = rng.integers(0, places, 2)
        if first != last:
            canvas.line(corners[line, first], corners[line, last], canvas.grey(), thickness)
