"""Keypoints as Foxglove's annotations: what the overlay node publishes and recordings hold."""

from typing import Any

import numpy as np

from ..axes import Float
from ..visualize import score_colors

POINT_PX = 5.0  # size of a keypoint in the image
POINTS = 1  # the constant of PointsAnnotation: each point by itself


def image_annotations(
    messages: Any,
    keypoints: Float[np.ndarray, 'n 2'],
    scores: Float[np.ndarray, ' n'],
    stamp: Any,
) -> Any:
    """
    Return ImageAnnotations of keypoints: a coloured point for each, red the best, blue the worst.

    messages: foxglove_msgs.msg, or what has the same classes. Its pixels begin at the image's
    corner: (0.5, 0.5) is the centre of the first one.
    """
    points = messages.PointsAnnotation(timestamp=stamp, type=POINTS, thickness=POINT_PX)
    points.points = [
        messages.Point2(x=x, y=y) for x, y in (keypoints.astype(float) + 0.5).tolist()
    ]
    points.outline_colors = [
        messages.Color(r=r, g=g, b=b, a=1.0) for r, g, b in (score_colors(scores) / 255).tolist()
    ]
    annotations = messages.ImageAnnotations(points=[points])
    if hasattr(annotations, 'timestamp'):  # newer versions have one for all
        annotations.timestamp = stamp
    return annotations
