"""How long keypoints are followed from image to image."""

from collections import deque
import math

import numpy as np

from ..following import Followed
from ...axes import Int
from ...tracks import Tracks

AFTER = (1, 2, 5, 10, 30)  # images


class Survival:
    """
    Tracks of one topic: which share of an image's keypoints is still followed, and their lengths.

    A keypoint that is never found again is a track of one image.
    """

    def __init__(self) -> None:
        self._tracks = Tracks(2)
        self._keypoints: deque[int] = deque(maxlen=max(AFTER))  # of the images before
        self._alive = np.zeros(2, np.int64)  # keypoints of the newest image, by age of their track
        self._ended = np.zeros(2, np.int64)  # tracks, by their length

    def add(self, index: int, keypoints: int, followed: Followed | None) -> list[float]:
        """
        Take in the next image, and return the shares of the keypoints after so many images.

        followed: None where nothing goes on. NaN where there was no image so long before, or none
        with keypoints.
        """
        if followed is None:
            self._tracks.clear()
            self._keypoints.clear()
            ages = []
        else:
            self._tracks.add(followed.before.index, index, followed.pair)
            ages = [trail.age for trail in self._tracks.trails()]
        alive = np.bincount(ages, minlength=2) if ages else np.zeros(2, np.int64)
        alive[1] = keypoints - alive.sum()
        self._end_others(alive)
        self._alive = alive
        shares = [self._share(images) for images in AFTER]
        self._keypoints.append(keypoints)
        return shares

    def lengths(self) -> Int[np.ndarray, ' n']:
        """Return how many tracks are of each length; those that still go on are so long so far."""
        size = max(len(self._ended), len(self._alive))
        return sum(np.pad(part, (0, size - len(part))) for part in (self._ended, self._alive))

    def _share(self, images: int) -> float:
        if len(self._keypoints) < images or not self._keypoints[-images]:
            return math.nan
        return float(self._alive[images + 1 :].sum()) / self._keypoints[-images]

    def _end_others(self, alive: Int[np.ndarray, ' n']) -> None:
        """Count the tracks that were there and have not grown by one image."""
        before = self._alive
        size = max(len(self._ended), len(before), len(alive))
        self._ended = np.pad(self._ended, (0, size - len(self._ended)))
        self._ended[: len(before)] += before
        self._ended[1 : len(alive) - 1] -= alive[2:]
