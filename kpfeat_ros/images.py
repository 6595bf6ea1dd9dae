"""Image messages to arrays, by cv_bridge where the encoding is none of our own."""

from typing import Any

from kpfeat_core.config import ViewConfig
from kpfeat_core.errors import BadImageError
from kpfeat_core.messages import conversions
from kpfeat_core.messages.encodings import ENCODINGS
import numpy as np


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
