"""A picture for detectors."""

import cv2
import numpy as np


def made_scene() -> np.ndarray:
    """Return (360, 480, 3) uint8 with rectangles, rich in corners at all sizes."""
    rng = np.random.default_rng(3)
    image = np.full((360, 480, 3), 90, np.uint8)
    for _ in range(160):
        x, y = (int(v) for v in rng.integers(0, (480, 360)))
        w, h = (int(v) for v in rng.integers(6, 60, 2))
        color = tuple(int(v) for v in rng.integers(0, 256, 3))
        cv2.rectangle(image, (x, y), (x + w, y + h), color, -1)
    return cv2.GaussianBlur(image, (0, 0), 0.7)
