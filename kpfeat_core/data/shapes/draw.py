"""One image of Synthetic Shapes, from its number alone."""

from collections.abc import Callable

import cv2
import numpy as np

from .boards import draw_checkerboard, draw_cube, draw_stripes
from .canvas import Canvas
from .config import check_split, PRIMITIVES, ShapesConfig, SPLITS
from .figures import (
    draw_ellipses,
    draw_lines,
    draw_noise,
    draw_polygon,
    draw_polygons,
    draw_star,
)
from ...errors import DataError
from ...shapes import Float

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


def draw_shape(
    primitive: str, split: str, index: int, config: ShapesConfig
) -> tuple[np.ndarray, Float[np.ndarray, 'n 2']]:
    """
    Draw image `index` of a primitive in a split: (H, W) uint8, and its labels.

    Labels (N, 2) float32 are corners and end points as (x, y), sub-pixel, inside the image. The
    same arguments always give the same image. Raises DataError for an unknown name.
    """
    return finish(*draw_large(primitive, split, index, config), config)


def draw_large(
    primitive: str, split: str, index: int, config: ShapesConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Draw an image at full size, before blur and resizing, with labels (N, 2) at that size."""
    check_split(split)
    if primitive not in DRAW:
        raise DataError(
            f"there is no primitive '{primitive}'; expected one of {', '.join(PRIMITIVES)}"
        )
    key = (config.seed, SPLITS.index(split), PRIMITIVES.index(primitive), index)
    rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(key)))
    canvas = Canvas(config, rng)
    if primitive != 'noise':
        canvas.paint_background()
    points = DRAW[primitive](canvas)
    return canvas.image, points


def finish(
    large: np.ndarray, points: np.ndarray, config: ShapesConfig
) -> tuple[np.ndarray, Float[np.ndarray, 'n 2']]:
    """Blur and shrink a drawing; labels (N, 2) move along, those outside are dropped."""
    if config.blur_px > 1:
        large = cv2.GaussianBlur(large, (config.blur_px, config.blur_px), 0)
    size = np.array([config.width, config.height])
    image = cv2.resize(large, size.tolist(), interpolation=cv2.INTER_LINEAR)
    scale = size / [config.draw_width, config.draw_height]
    points = (points + 0.5) * scale - 0.5  # OpenCV's resize aligns the areas of pixels
    inside = ((points >= 0) & (points <= size - 1)).all(1)
    return image, points[inside].astype(np.float32)
