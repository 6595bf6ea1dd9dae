"""
A camera that glides over a photograph, so that the true homography between frames is known.

Its image depends on the time stamp alone: from the stamps of two frames follows the exact
homography between them, whatever happened to the frames on their way.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.linalg import inv
import torch

from .axes import Float
from .camera import Calibration
from .errors import ConfigError, ImageError
from .geometry import match_errors
from .image import read_image
from .matching import PairMatches

PHOTOGRAPH = Path(__file__).with_name('assets') / 'circuit.jpg'
FOCAL_SHARE = 0.9  # focal length by the frame's long side, which then spans 58 degrees
FOOTPRINT_SHARE = 0.8  # of a side of the photograph, used by turning and zooming
CHECKED_TIMES = 720  # points of the loop at which footprints are measured
MARGIN_PX = 1.0  # from the photograph's outer pixel centres, for the times between
TRUE_WITHIN_PX = 3.0  # largest error of a match that counts as true


class Motion(NamedTuple):
    """How the camera moves in one loop; every part of it repeats without a jump."""

    loop_s: float = 10.0  # seconds until the camera is where it was
    roll_deg: float = 22.0  # largest turn about the optical axis
    tilt_deg: float = 12.0  # largest tilt of the optical axis, at most 30
    zoom: float = 1.2  # distance changes between 1/zoom and zoom times


USUAL_MOTION = Motion()


class VirtualCamera:
    """
    A pinhole camera before a photograph on a wall: it pans, zooms, rolls and tilts.

    photograph (H, W, 3) uint8 RGB, the bundled one by default; of any size, and always filling
    the frame: the camera keeps the distance that this takes. size: width and height of frames.
    Points are (x, y) pixels, the centre of the top-left pixel is (0, 0). Stamps are integer
    nanoseconds. Raises ConfigError and ImageError.
    """

    def __init__(
        self,
        photograph: np.ndarray | None = None,
        size: tuple[int, int] = (640, 480),
        motion: Motion = USUAL_MOTION,
    ) -> None:
        if min(size) < 32:
            raise ConfigError(f'size is {size[0]}x{size[1]}, expected at least 32x32')
        self.photograph = read_image(PHOTOGRAPH) if photograph is None else photograph
        if min(self.photograph.shape[:2]) < 32:
            height, width = self.photograph.shape[:2]
            raise ImageError(f'photograph is {width}x{height}, expected at least 32x32 pixels')
        self.size, self.motion = size, motion
        focal, right, bottom = FOCAL_SHARE * max(size), size[0] - 0.5, size[1] - 0.5
        center = (size[0] - 1) / 2, (size[1] - 1) / 2
        matrix = np.array([[focal, 0, center[0]], [0, focal, center[1]], [0, 0, 1]])
        self.calibration = Calibration(matrix, size)
        self._outline = np.array([[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]])
        self._loop_ns = round(motion.loop_s * 1e9)
        self._place()

    def frame(self, stamp_ns: int) -> np.ndarray:
        """Render the image of a time, (height, width, 3) uint8 RGB."""
        # at twice the size and averaged: edges stay free of aliasing
        twice = np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1.0]])
        large = cv2.warpPerspective(
            self.photograph,
            twice @ inv(self.to_photograph(stamp_ns)),
            (2 * self.size[0], 2 * self.size[1]),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,  # for the outermost half pixel
        )
        return cv2.resize(large, self.size, interpolation=cv2.INTER_AREA)

    def to_photograph(self, stamp_ns: int) -> Float[np.ndarray, '3 3']:
        """Return the homography from pixels of the frame to pixels of the photograph."""
        phase = self._phase(stamp_ns)
        distance = self._distance * self._zoom(phase)
        x, y = self._center + self._room * [np.sin(phase), np.sin(2 * phase)]
        plane = np.array([[distance, 0, x], [0, distance, y], [0, 0, 1]])
        return plane @ self._view(phase)

    def homography(self, stamp0_ns: int, stamp1_ns: int) -> Float[np.ndarray, '3 3']:
        """Return the true homography, H_0to1, between the frames of two times."""
        H_0to1 = inv(self.to_photograph(stamp1_ns)) @ self.to_photograph(stamp0_ns)
        return H_0to1 / H_0to1[2, 2]

    def errors(
        self,
        points0: Float[np.ndarray, 'k 2'],
        points1: Float[np.ndarray, 'k 2'],
        stamp0_ns: int,
        stamp1_ns: int,
    ) -> Float[np.ndarray, ' k']:
        """Return how far each match is from the truth, in pixels of frame 1."""
        truth = torch.from_numpy(self.homography(stamp0_ns, stamp1_ns))
        return match_errors(torch.as_tensor(points0), torch.as_tensor(points1), truth).numpy()

    def corners(self, stamp_ns: int) -> Float[np.ndarray, '4 2']:
        """Return where the outer corners of the frame lie in the photograph, in its pixels."""
        return _project(self.to_photograph(stamp_ns), self._outline)

    def _phase(self, stamp_ns: int) -> float:
        # whole nanoseconds first: a float cannot tell today's milliseconds apart
        return 2 * np.pi * (stamp_ns % self._loop_ns) / self._loop_ns

    def _zoom(self, phase: float) -> float:
        return self.motion.zoom ** np.sin(phase + 1.0)

    def _view(self, phase: float) -> Float[np.ndarray, '3 3']:
        """Take pixels to a wall at distance 1, where the middle of the frame is at (0, 0)."""
        roll = np.radians(self.motion.roll_deg) * np.sin(phase + 2.0)
        tilt = np.radians(self.motion.tilt_deg) * np.array([np.cos(phase), np.sin(3 * phase)])
        turns = np.array([*tilt, 0.0]), np.array([0, 0, roll])
        turned = cv2.Rodrigues(turns[0])[0] @ cv2.Rodrigues(turns[1])[0]
        x, y, depth = turned[:, 2]  # where the optical axis points
        to_middle = np.array([[1, 0, -x / depth], [0, 1, -y / depth], [0, 0, 1]])
        return to_middle @ turned @ inv(self.calibration.matrix)

    def _place(self) -> None:
        """
        Choose the distance and the room to pan, so that no frame leaves the photograph.

        The frame's corners, seen from any place at distance 1, span a box; at distance d the box
        is d times as large, and the camera may be where the box lies in the photograph.
        """
        phases = np.linspace(0, 2 * np.pi, CHECKED_TIMES, endpoint=False)
        boxes = [self._zoom(p) * _project(self._view(p), self._outline) for p in phases]
        boxes = np.concatenate(boxes)
        low, high = boxes.min(0), boxes.max(0)
        last = np.array(self.photograph.shape[1::-1]) - 1 - MARGIN_PX
        self._distance = float((FOOTPRINT_SHARE * (last - MARGIN_PX) / (high - low)).min())
        first, last = MARGIN_PX - self._distance * low, last - self._distance * high
        self._center, self._room = (first + last) / 2, (last - first) / 2


def _project(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    moved = np.column_stack([points, np.ones(len(points))]) @ matrix.T
    return moved[:, :2] / moved[:, 2:]


@dataclass
class StreamReport:
    """
    Collects frames and pairs as they arrive.

    camera: where the images are from a virtual camera, to compare matches with the truth.
    """

    camera: VirtualCamera | None = None
    keypoints: list[int] = field(default_factory=list)
    matches: list[int] = field(default_factory=list)
    inliers: list[int] = field(default_factory=list)
    true_matches: list[int] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    arrivals_ns: list[int] = field(default_factory=list)

    def add_frame(self, keypoints: int) -> None:
        """Note the keypoints of one image."""
        self.keypoints.append(keypoints)

    def add_pair(self, pair: PairMatches, stamp0_ns: int, stamp1_ns: int, now_ns: int) -> None:
        """Note the matches of two images, received at a time of the clock of the stamps."""
        self.matches.append(len(pair))
        self.inliers.append(int(pair.inliers.sum()))
        self.latencies_ms.append(1e-6 * (now_ns - stamp1_ns))
        self.arrivals_ns.append(now_ns)
        if self.camera is not None:
            errors = self.camera.errors(pair.keypoints0, pair.keypoints1, stamp0_ns, stamp1_ns)
            self.true_matches.append(int((errors <= TRUE_WITHIN_PX).sum()))

    def rate_hz(self) -> float:
        """Return pairs a second from the first to the last; 0 for fewer than two."""
        if len(self.arrivals_ns) < 2:
            return 0.0
        return 1e9 * (len(self.arrivals_ns) - 1) / (self.arrivals_ns[-1] - self.arrivals_ns[0])

    def latency_ms(self) -> tuple[float, float]:
        """Return the median and the 95th percentile from image stamp to matches received."""
        median, high = np.percentile(self.latencies_ms, [50, 95])
        return float(median), float(high)

    def true_share(self) -> float:
        """Return the share of all matches within 3 pixels of the truth; 0 without matches."""
        return sum(self.true_matches) / max(1, sum(self.matches))

    def rows(self, sent: int, received: int, dropped: int) -> list[tuple[str, str]]:
        """
        Return names and values to be shown.

        sent: images of the camera. received: those that reached the extractor. dropped: those
        that a newer one replaced, there or at the matcher.
        """
        median, high = self.latency_ms()
        inlier_share = sum(self.inliers) / max(1, sum(self.matches))
        rows = [
            ('pairs matched', f'{len(self.matches)}'),
            ('rate', f'{self.rate_hz():.1f} Hz'),
            (
                'latency, image stamp to matches',
                f'median {median:.0f} ms, 95 % below {high:.0f} ms',
            ),
            ('keypoints of an image', f'{np.mean(self.keypoints or [0]):.0f}'),
            ('matches of a pair', f'{np.mean(self.matches):.0f}'),
            ('inliers of a pair', f'{np.mean(self.inliers):.0f} ({inlier_share:.1%})'),
            ('images dropped for newer ones', f'{dropped} of {sent}'),
            ('images that never reached the extractor', f'{max(0, sent - received)} of {sent}'),
        ]
        if self.camera is not None:
            what = f'matches within {TRUE_WITHIN_PX:g} px of the truth'
            rows.append((what, f'{self.true_share():.1%}'))
        return rows
