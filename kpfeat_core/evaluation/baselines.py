"""OpenCV's hand-made features behind the extractor contract, for comparison."""

from collections.abc import Callable
from dataclasses import dataclass, replace
import math

import cv2
import numpy as np
import torch

from ..errors import ConfigError
from ..features import Features

BASELINES = ('sift', 'orb', 'akaze')
BITS = {'orb': 256, 'akaze': 488}  # of 61 bytes, the last two are always 0


@dataclass(frozen=True)
class OpencvExtractor:
    """
    SIFT, ORB or AKAZE with OpenCV's own settings and at most max_num_keypoints keypoints.

    SIFT's descriptors are scaled to unit length and otherwise as they are (no RootSIFT). The n
    bits of the others become +-1/sqrt(n), so that the cosine similarity is 1 - 2 Hamming distance
    / n and nearest neighbours are the same.
    """

    name: str = 'sift'
    max_num_keypoints: int = 1024

    def __post_init__(self) -> None:
        if self.name not in BASELINES:
            raise ConfigError(
                f"there is no baseline '{self.name}'; expected one of {', '.join(BASELINES)}"
            )
        if self.name not in available_baselines():
            raise ConfigError(
                f'OpenCV {cv2.__version__} has no AKAZE: install opencv-contrib-python, or an '
                'OpenCV before 5'
            )

    def with_options(self, max_num_keypoints: int) -> 'OpencvExtractor':
        """Return the same method with another number of keypoints; -1 keeps all."""
        return replace(self, max_num_keypoints=max_num_keypoints)

    def detect_and_compute(self, image: np.ndarray) -> tuple[tuple, np.ndarray | None]:
        """Run OpenCV alone on a (H, W, 3) uint8 RGB or (H, W) image; for timing."""
        gray = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        return _create(self.name, self.max_num_keypoints).detectAndCompute(gray, None)

    def extract(self, image: np.ndarray) -> Features:
        """Return the features of one image, best first; `scales` is OpenCV's diameter."""
        found, descriptors = self.detect_and_compute(image)
        count = len(found) if self.max_num_keypoints < 0 else self.max_num_keypoints
        order = np.argsort([-point.response for point in found], kind='stable')[:count]
        found = [found[i] for i in order]
        size = (image.shape[1], image.shape[0])
        rows = _unit_rows(self.name, descriptors, order)
        return Features.from_numpy(
            {
                'keypoints': np.array([p.pt for p in found], np.float32).reshape(-1, 2),
                'keypoint_scores': np.array([p.response for p in found], np.float32),
                'descriptors': rows,
                'image_size': np.array(size, np.float32),
                'scales': np.array([p.size for p in found], np.float32),
                'orientations': np.array([math.radians(p.angle) for p in found], np.float32),
            }
        )


def _create(name: str, count: int) -> cv2.Feature2D:
    if name == 'sift':
        return cv2.SIFT_create(nfeatures=max(count, 0))
    if name == 'akaze':
        return _akaze()()  # which keeps all; the best are chosen afterwards
    return cv2.ORB_create(nfeatures=count if count >= 0 else 1_000_000)


def _akaze() -> Callable[[], cv2.Feature2D] | None:
    """Find AKAZE, which moved to the contributed modules with OpenCV 5."""
    contributed = getattr(cv2, 'xfeatures2d', None)
    return getattr(cv2, 'AKAZE_create', None) or getattr(contributed, 'AKAZE_create', None)


def available_baselines() -> list[str]:
    """Return the baselines that the installed OpenCV has."""
    return [name for name in BASELINES if name != 'akaze' or _akaze() is not None]


def _unit_rows(name: str, descriptors: np.ndarray | None, order: np.ndarray) -> np.ndarray:
    if descriptors is None:
        return np.zeros((0, BITS.get(name, 128)), np.float32)
    rows = descriptors[order]
    if name in BITS:
        bits = np.unpackbits(rows, axis=1).astype(np.float32)
        return (bits * 2 - 1) / np.float32(math.sqrt(BITS[name]))
    return torch.nn.functional.normalize(torch.from_numpy(rows).float(), dim=1).numpy()
