"""Pictures with time stamps to a video file that plays at the speed of the stamps."""

from pathlib import Path

import cv2
import numpy as np

from .errors import DataError
from .image import fit

CODEC = 'mp4v'  # MPEG-4 Part 2: in every OpenCV, without patents to license
LONGEST_PAUSE_S = 1.0  # a longer one between two pictures is cut short


class Film:
    """
    A video file (.mp4), written while pictures come; use as a context manager.

    All frames have the size of the first picture; others are reduced to fit, on black. Nothing is
    written before the first picture. Raises DataError where the file cannot be written.
    """

    def __init__(self, path: Path | str, rate_hz: float) -> None:
        # a lower rate would show a picture for longer than the longest pause
        self.path, self.rate_hz = Path(path), max(rate_hz, 1 / LONGEST_PAUSE_S)
        self.frames = 0
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._last: tuple[int, np.ndarray] | None = None

    def __enter__(self) -> 'Film':
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def add(self, stamp_ns: int, picture: np.ndarray) -> None:
        """Show the picture before until this stamp, then this one. (H, W, 3) uint8 RGB."""
        if self._last is not None:
            seconds = min(1e-9 * (stamp_ns - self._last[0]), LONGEST_PAUSE_S)
            self._write(self._last[1], max(1, round(seconds * self.rate_hz)))
        self._last = (stamp_ns, picture)

    def close(self) -> None:
        """Write the last picture and finish the file; safe to call twice."""
        if self._last is not None:
            self._write(self._last[1], 1)
            self._last = None
        if self._writer is not None:
            self._writer.release()
            self._writer = None

    def _write(self, picture: np.ndarray, times: int) -> None:
        if self._writer is None:
            self._open(picture.shape[1], picture.shape[0])
        bgr = cv2.cvtColor(_placed(picture, self._size), cv2.COLOR_RGB2BGR)
        for _ in range(times):
            self._writer.write(bgr)
        self.frames += times

    def _open(self, width: int, height: int) -> None:
        self._size = (width + width % 2, height + height % 2)  # codecs want even sides
        self.path.parent.mkdir(parents=True, exist_ok=True)
        code = cv2.VideoWriter_fourcc(*CODEC)
        self._writer = cv2.VideoWriter(str(self.path), code, self.rate_hz, self._size)
        if not self._writer.isOpened():
            raise DataError(
                f"cannot write the video '{self.path}'; expected a name ending in .mp4 in a "
                'folder that may be written to'
            )


def _placed(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if picture.shape[1::-1] == size:
        return picture
    picture = fit(picture, size)
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    canvas[: len(picture), : picture.shape[1]] = picture
    return canvas
