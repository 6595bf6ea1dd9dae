"""Where an image shows keypoints that the extractor's option `undistort` freed of its lens."""

from dataclasses import replace
from typing import Any

from kpfeat_core.axes import Float
from kpfeat_core.camera import Calibration, distort
from kpfeat_core.errors import BadImageError
from kpfeat_core.features import Features
from kpfeat_core.messages.conversions import camera_info_to_calibration
import numpy as np

from .frames import Frame


def lens_for(camera_info: Any, pixels: str) -> Calibration | None:
    """
    Return the lens that keypoints were freed of; None unless pixels are 'undistorted'.

    camera_info: None where none came. Raises BadImageError and ConfigError.
    """
    if pixels != 'undistorted':
        return None
    if camera_info is None:
        raise BadImageError(
            'camera_info',
            'keypoint_pixels is undistorted and no camera_info came so far; let the driver '
            "publish it, or remap 'camera_info'",
        )
    return camera_info_to_calibration(camera_info)


def points_in_image(
    points: Float[np.ndarray, 'n 2'], lens: Calibration | None, size: tuple[int, int]
) -> Float[np.ndarray, 'n 2']:
    """Return the pixels of an image of this width and height; raises ShapeError."""
    if lens is None:
        return points
    lens.check_size(size, 'the image')
    return distort(lens, points)


def frame_in_image(frame: Frame, lens: Calibration | None) -> Frame:
    """Return a frame with its keypoints in pixels of the image; raises ShapeError."""
    if lens is None:
        return frame
    arrays = frame.features.numpy()
    arrays['keypoints'] = points_in_image(arrays['keypoints'], lens, frame.size)
    return replace(frame, features=Features.from_numpy(arrays))
