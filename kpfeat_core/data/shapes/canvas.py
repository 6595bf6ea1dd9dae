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
