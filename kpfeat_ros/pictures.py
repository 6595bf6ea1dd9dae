"""
Messages to pictures, for the overlay node; free of ROS.

lens: what undistorted keypoints are seen through again; None where they are pixels of the image.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
from kpfeat_core.camera import Calibration
from kpfeat_core.errors import ImageError
from kpfeat_core.messages.conversions import message_to_matches, to_sequence
from kpfeat_core.tracks import Tracks, Trail
from kpfeat_core.visualize import draw_features, draw_matches, draw_tracks
import numpy as np

from .frames import Frame
from .images import image_to_array
from .lens import frame_in_image, points_in_image
from .stamps import stamp_ns


def picture_of_keypoints(image: Any, frame: Frame, lens: Calibration | None = None) -> np.ndarray:
    """Draw features over their image message; gives (H, W, 3) uint8 RGB."""
    shown = frame_in_image(frame, lens)
    return draw_features(_pixels(image), shown.features.to('cpu'))


def picture_of_tracks(
    image: Any, trails: Sequence[Trail], lens: Calibration | None = None
) -> np.ndarray:
    """Draw trails over the image message of their newest frame; gives (H, W, 3) uint8 RGB."""
    array = _pixels(image)
    shown = [replace(t, points=points_in_image(t.points, lens, _size(array))) for t in trails]
    return draw_tracks(array, shown)


def picture_of_matches(
    image0: Any,
    image1: Any,
    matches: Any,
    limit: int,
    lens0: Calibration | None = None,
    lens1: Calibration | None = None,
) -> np.ndarray:
    """Draw a Matches message between two image messages, inliers green; (H, W, 3) uint8 RGB."""
    pair = message_to_matches(matches)
    array0, array1 = _pixels(image0), _pixels(image1)
    return draw_matches(
        array0,
        array1,
        points_in_image(pair.keypoints0, lens0, _size(array0)),
        points_in_image(pair.keypoints1, lens1, _size(array1)),
        correct=pair.inliers if pair.geometry != 'none' else None,
        scores=pair.scores,
        limit=limit,
    )


def _pixels(image: Any) -> np.ndarray:
    return image_to_array(image, pixel_bits=0)  # stretched, for eyes


def _size(image: np.ndarray) -> tuple[int, int]:
    return image.shape[1], image.shape[0]


def follow_matches(tracks: Tracks, matches: Any) -> list[Trail]:
    """Add a Matches message to tracks and return their trails; raises ShapeError."""
    frame0, frame1 = stamp_ns(matches.header0), stamp_ns(matches.header)
    tracks.add(frame0, frame1, message_to_matches(matches))
    return tracks.trails()


def fill_compressed(message: Any, picture: np.ndarray, header: Any, quality: int) -> Any:
    """
    Fill a CompressedImage message with a picture (H, W, 3) uint8 RGB as JPEG.

    quality: 1 to 100. Raises ImageError for what JPEG cannot hold.
    """
    height, width = picture.shape[:2]
    try:
        done, data = cv2.imencode(
            '.jpg', picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)]
        )
    except cv2.error:
        done = False
    if not done:
        raise ImageError(
            f'a picture of {width}x{height} pixels cannot become a JPEG, whose sides are 65500 '
            'pixels at most: listen to the raw picture'
        )
    message.header = header
    message.format = 'rgb8; jpeg compressed bgr8'  # as image_transport says it
    message.data = to_sequence(data)
    return message
