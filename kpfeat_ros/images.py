"""Image messages to arrays, by cv_bridge where the encoding is none of our own."""

from collections.abc import Callable
from dataclasses import dataclass, field
import time
from typing import Any

from kpfeat_core.camera import Calibration
from kpfeat_core.config import ViewConfig
from kpfeat_core.errors import BadImageError, KpfeatError
from kpfeat_core.messages import conversions
from kpfeat_core.messages.encodings import ENCODINGS
import numpy as np

from .exchange import Outlet


def image_to_array(message: Any, pixel_bits: int = ViewConfig.pixel_bits) -> np.ndarray:
    """
    Return gray (H, W) or RGB (H, W, 3) pixels of an Image or CompressedImage message.

    uint8, or float32 in 0..1 for 16-bit and float images. pixel_bits: see ViewConfig.

    Raises BadImageError, an ImageError.
    """
    if hasattr(message, 'format') or message.encoding in ENCODINGS:
        return conversions.image_to_array(message, pixel_bits)
    try:
        from cv_bridge import CvBridge, CvBridgeError
    except ImportError as error:
        raise BadImageError(
            'encoding',
            f"encoding '{message.encoding}' is not one that kpfeat decodes itself "
            f'({", ".join(ENCODINGS)}), and the ROS package cv_bridge is not installed: '
            'install ros-$ROS_DISTRO-cv-bridge, or let the driver send one of these',
        ) from error
    try:
        return CvBridge().imgmsg_to_cv2(message, desired_encoding='rgb8')
    except CvBridgeError as error:
        raise BadImageError(
            'encoding', f"cv_bridge cannot decode encoding '{message.encoding}': {error}"
        ) from error


class Throttle:
    """
    Admits items at a rate, on average, whatever the rate at which they arrive.

    An item is admitted when it comes, or not at all: the newest is always worked on.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due = -float('inf')

    def admits(self, rate_hz: float) -> bool:
        """Return whether the item that comes now is to be worked on; rate_hz <= 0 admits all."""
        if rate_hz <= 0:
            return True
        now, period = self._clock(), 1 / rate_hz
        self._due = min(self._due, now + period)  # the rate may have been lower before
        if now < self._due:
            return False
        # from when it was due, so that 30 images a second become 20 and not 15; from now after a
        # pause, so that no burst follows it
        self._due = (self._due if now - self._due < period else now) + period
        return True


@dataclass
class Stream:
    """
    What an extractor keeps for one camera.

    source: name of the camera, empty where there is one alone. publisher: of its features, and
    outlet: of the same in this process. frame_id: of what it sees.
    """

    source: str
    publisher: Any
    outlet: Outlet
    throttle: Throttle = field(default_factory=Throttle)
    calibration: Calibration | None = None
    refused: KpfeatError | None = None  # of the last camera_info that is of no use
    frame_id: str = ''
    told_contrast: bool = False  # that its images use little of their range

    def wanted(self) -> int:
        """Return how many listen to its features."""
        return self.publisher.get_subscription_count()


def topic_of(source: str, name: str) -> str:
    """Return the name of a camera's topic: 'left/image', or 'image' for one alone."""
    return f'{source}/{name}' if source else name
