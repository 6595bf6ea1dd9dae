"""Messages to pictures, for the overlay node; free of ROS."""

from typing import Any

from kpfeat_core.visualize import draw_features, draw_matches
import numpy as np

from .conversions import image_to_array, message_to_features, message_to_matches


def picture_of_keypoints(image: Any, features: Any) -> np.ndarray:
    """Draw a Features message over its image message; gives (H, W, 3) uint8 RGB."""
    return draw_features(image_to_array(image), message_to_features(features))


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
