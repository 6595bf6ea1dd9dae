"""Keypoints as Foxglove's annotations and rviz's markers, where these messages are installed."""

from importlib import import_module
from types import ModuleType
from typing import Any

from kpfeat_core.camera import at_distance
from kpfeat_core.messages.annotations import image_annotations, POINT_PX
from kpfeat_core.visualize import score_colours
import numpy as np

from .frames import Frame
from .lens import frame_in_image, lens_for
from .points import calibration_for

NAMESPACE = 'kpfeat'


def find_messages(package: str) -> ModuleType | None:
    """Return the messages of a ROS package, such as foxglove_msgs; None if not installed."""
    try:
        return import_module(f'{package}.msg')
    except ImportError:
        return None


def fill_annotations(messages: Any, frame: Frame) -> Any:
    """Return ImageAnnotations of features; messages: foxglove_msgs.msg."""
    found = frame.features.numpy()
    return image_annotations(
        messages, found['keypoints'], found['keypoint_scores'], frame.header.stamp
    )


def fill_markers(
    messages: Any, frame: Frame, camera_info: Any, pixels: str, distance: float
) -> Any:
    """
    Return a MarkerArray of features: points on a plane `distance` before the camera.

    messages: visualization_msgs.msg. Seen from the camera, as in rviz's Camera display, each
    lies exactly on its keypoint. pixels: as in `cloud_of_keypoints`; raises as that does.
    """
    from geometry_msgs.msg import Point  # visualization_msgs brings both
    from std_msgs.msg import ColorRGBA

    calibration = calibration_for(camera_info, pixels)
    calibration.check_size(frame.size, 'the image of the features')
    found = frame_in_image(frame, lens_for(camera_info, pixels)).features.numpy()
    places = at_distance(calibration, found['keypoints'], distance)
    colours = score_colours(found['keypoint_scores']) / 255
    seen = np.isfinite(places).all(1)
    marker = messages.Marker(header=frame.header, ns=NAMESPACE, type=messages.Marker.POINTS)
    if not seen.any():  # rviz takes a marker without points for an error
        marker.action = messages.Marker.DELETE
        return messages.MarkerArray(markers=[marker])
    marker.pose.orientation.w = 1.0
    marker.scale.x = marker.scale.y = POINT_PX * distance / float(calibration.matrix[0, 0])
    marker.points = [Point(x=x, y=y, z=z) for x, y, z in places[seen].tolist()]
    marker.colors = [ColorRGBA(r=r, g=g, b=b, a=1.0) for r, g, b in colours[seen].tolist()]
    return messages.MarkerArray(markers=[marker])
