"""Messages to pictures, for the overlay node; free of ROS."""

from collections.abc import Sequence
from typing import Any

import cv2
from kpfeat_core.errors import ImageError
from kpfeat_core.messages.conversions import message_to_matches, to_sequence
from kpfeat_core.tracks import Tracks, Trail
from kpfeat_core.visualize import draw_features, draw_matches, draw_tracks
import numpy as np

from .frames import Frame
from .images import image_to_array
from .stamps import stamp_ns


def picture_of_keypoints(image: Any, frame: Frame) -> np.ndarray:
    """Draw features over their image message; gives (H, W, 3) uint8 RGB."""
    return draw_features(image_to_array(image), frame.features.to('cpu'))


def picture_of_tracks(image: Any, trails: Sequence[Trail]) -> np.ndarray:
    """Draw trails over the image message of their newest frame; gives (H, W, 3) uint8 RGB."""
    return draw_tracks(image_to_array(image), trails)


def picture_of_matches(image0: Any, image1: Any, matches: Any, limit: int) -> np.ndarray:
    """Draw a Matches message between two image messages, inliers green; (H, W, 3) uint8 RGB."""
    pair = message_to_matches(matches)
    return draw_matches(
        image_to_array(image0),
        image_to_array(image1),
        pair.keypoints0,
        pair.keypoints1,
        correct=pair.inliers if pair.geometry != 'none' else None,
        scores=pair.scores,
        limit=limit,
    )


def follow_matches(tracks: Tracks, matches: Any) -> list[Trail]:
    """Add a Matches message to tracks and return their trails; raises ShapeError."""
    frame0, frame1 = stamp_ns(matches.header0), stamp_ns(matches.header1)
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
