"""The pictures that systems are measured on."""

from pathlib import Path

import cv2
import numpy as np

from ..image import read_image

RECTANGLES_PER_PIXEL = 500 / (640 * 480)


def load_pictures(path: Path | str, size: tuple[int, int], count: int = 1) -> list[np.ndarray]:
    """
    Return `count` different pictures (H, W, 3) uint8 of (width, height).

    path: a file, resized; the further pictures are it, moved sideways around the border. '' draws
    pictures that are rich in corners, always the same ones. Raises ImageError.
    """
    if not str(path):
        return [_draw(size, seed) for seed in range(count)]
    picture = cv2.resize(read_image(path), size, interpolation=cv2.INTER_AREA)
    return [np.roll(picture, i * size[0] // count, axis=1) for i in range(count)]


def _draw(size: tuple[int, int], seed: int) -> np.ndarray:
    """Return overlapping rectangles of all sizes and colours, a little blurred and noisy."""
    rng = np.random.default_rng(seed)
    picture = np.full((size[1], size[0], 3), 110, np.uint8)
    for _ in range(round(RECTANGLES_PER_PIXEL * size[0] * size[1])):
        x, y = (int(v) for v in rng.integers(0, size))
        w, h = (int(v) for v in rng.integers(4, 80, 2))
        color = tuple(int(v) for v in rng.integers(0, 256, 3))
        cv2.rectangle(picture, (x, y), (x + w, y + h), color, -1)
    noise = rng.normal(0, 4, picture.shape)
    return (cv2.GaussianBlur(picture, (0, 0), 0.8) + noise).round().clip(0, 255).astype(np.uint8)
