"""How sharp an image is, and how well it is exposed."""

from typing import NamedTuple

import cv2
import numpy as np

from ...image import fit

LONG_SIDE = 640  # pixels to which larger images are reduced, so that cameras can be compared
BOX = 9  # pixels of the mean filter that blurs once more
LEVEL = 1  # of 0..255: differences that do not count
DARK, BRIGHT = 5, 250  # of 0..255: pixels that are at one of the ends of the range


class Exposure(NamedTuple):
    """Mean of an image, 0 black and 1 white, and the shares of its dark and bright pixels."""

    brightness: float
    dark: float
    bright: float


def blur(gray: np.ndarray) -> float:
    """
    Return how blurred an image (H, W) uint8 is: 0 sharp, 1 blurred; NaN where it is flat.

    It is the share of the differences between neighbours that are left when the image is blurred
    once more, which a blurred one hardly notices; of x and y the larger, as a camera mostly moves
    in one of them. Contrast and brightness cancel out. Noise counts as sharpness, but for single
    levels of 255, which may be rounding and would make a wholly blurred image look sharp.

    Source: Crete, Dolmiere, Ladret and Nicolas, The blur effect: perception and estimation with a
    new no-reference perceptual blur metric, Human Vision and Electronic Imaging 2007.
    """
    image = fit(gray, (LONG_SIDE, LONG_SIDE)).astype(np.float32)
    found = []
    for axis, size in ((0, (1, BOX)), (1, (BOX, 1))):
        blurred = cv2.blur(image, size, borderType=cv2.BORDER_REPLICATE)
        before = (np.abs(np.diff(image, axis=axis)) - LEVEL).clip(0)
        after = np.abs(np.diff(blurred, axis=axis))
        total = float(before.sum(dtype=np.float64))
        lost = float((before - after).clip(0).sum(dtype=np.float64))
        found.append((total - lost) / total if total else np.nan)
    return float(np.fmax(*found))


def exposure(gray: np.ndarray) -> Exposure:
    """Return how an image (H, W) uint8 is exposed."""
    return Exposure(
        float(gray.mean()) / 255, float((gray <= DARK).mean()), float((gray >= BRIGHT).mean())
    )
