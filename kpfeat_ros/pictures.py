"""What the overlay shows, from messages: pictures, clouds, markers and annotations."""

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from types import ModuleType
from typing import Any

from kpfeat_core.axes import Float
from kpfeat_core.camera import at_distance, Calibration, distort, width_at, with_depth
from kpfeat_core.errors import BadImageError
from kpfeat_core.features import Features
from kpfeat_core.messages.conversions import (
    camera_info_to_calibration,
    depth_to_metres,
    image_annotations,
    message_to_matches,
    POINT_PX,
    to_sequence,
)
from kpfeat_core.messages.definitions import stamp_ns
from kpfeat_core.tracks import Tracks, Trail
from kpfeat_core.visualize import draw_features, draw_matches, draw_tracks, score_colors
import numpy as np
from sensor_msgs.msg import PointCloud2, PointField

from .frames import StampedFeatures
from .images import image_to_array

try:
    from sensor_msgs_py.point_cloud2 import create_cloud
except ImportError:
    create_cloud = None

FIELDS = [
    PointField(name=name, offset=4 * position, datatype=PointField.FLOAT32, count=1)
    for position, name in enumerate(('x', 'y', 'z', 'score'))
]
NAMESPACE = 'kpfeat'  # of markers


def distortion_for(camera_info: Any, pixels: str) -> Calibration | None:
    """
    Return the distortion that keypoints were freed of; None unless pixels are 'undistorted'.

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
    points: Float[np.ndarray, 'n 2'], distortion: Calibration | None, size: tuple[int, int]
) -> Float[np.ndarray, 'n 2']:
    """Return the pixels of an image of this width and height; raises ShapeError."""
    if distortion is None:
        return points
    distortion.check_size(size, 'the image')
    return distort(distortion, points)


def frame_in_image(frame: StampedFeatures, distortion: Calibration | None) -> StampedFeatures:
    """Return a frame with its keypoints in pixels of the image; raises ShapeError."""
    if distortion is None:
        return frame
    arrays = frame.features.numpy()
    arrays['keypoints'] = points_in_image(arrays['keypoints'], distortion, frame.size)
    return replace(frame, features=Features.from_numpy(arrays))


def picture_of_keypoints(
    image: Any, frame: StampedFeatures, distortion: Calibration | None = None
) -> np.ndarray:
    """Draw features over their image message; gives (H, W, 3) uint8 RGB."""
    shown = frame_in_image(frame, distortion)
    return draw_features(_pixels(image), shown.features.to('cpu'))


def picture_of_tracks(
    image: Any, trails: Sequence[Trail], distortion: Calibration | None = None
) -> np.ndarray:
    """Draw trails over the image message of their newest frame; gives (H, W, 3) uint8 RGB."""
    array = _pixels(image)
    size = _size(array)
    shown = [replace(t, points=points_in_image(t.points, distortion, size)) for t in trails]
    return draw_tracks(array, shown)


def picture_of_matches(
    image0: Any,
    image1: Any,
    matches: Any,
    limit: int,
    distortion0: Calibration | None = None,
    distortion1: Calibration | None = None,
) -> np.ndarray:
    """Draw a Matches message between two image messages, inliers green; (H, W, 3) uint8 RGB."""
    pair = message_to_matches(matches)
    array0, array1 = _pixels(image0), _pixels(image1)
    return draw_matches(
        array0,
        array1,
        points_in_image(pair.keypoints0, distortion0, _size(array0)),
        points_in_image(pair.keypoints1, distortion1, _size(array1)),
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


def find_messages(package: str) -> ModuleType | None:
    """Return the messages of a ROS package, such as foxglove_msgs; None if not installed."""
    try:
        return import_module(f'{package}.msg')
    except ImportError:
        return None


def fill_annotations(messages: Any, frame: StampedFeatures) -> Any:
    """Return ImageAnnotations of features; messages: foxglove_msgs.msg."""
    found = frame.features.numpy()
    return image_annotations(
        messages, found['keypoints'], found['keypoint_scores'], frame.header.stamp
    )


def fill_markers(
    messages: Any, frame: StampedFeatures, camera_info: Any, pixels: str, distance: float
) -> Any:
    """
    Return a MarkerArray of features: points on a plane `distance` before the camera.

    messages: visualization_msgs.msg. Seen from the camera, as in rviz's Camera display, each
    lies exactly on its keypoint. pixels: as in `cloud_of_keypoints`; raises as that does.
    """
    from geometry_msgs.msg import Point  # visualization_msgs brings both
    from std_msgs.msg import ColorRGBA

    calibration, found = _calibrated(frame, camera_info, pixels)
    places = at_distance(calibration, found['keypoints'], distance)
    colors = score_colors(found['keypoint_scores']) / 255
    seen = np.isfinite(places).all(1)
    marker = messages.Marker(header=frame.header, ns=NAMESPACE, type=messages.Marker.POINTS)
    if not seen.any():  # rviz takes a marker without points for an error
        marker.action = messages.Marker.DELETE
        return messages.MarkerArray(markers=[marker])
    marker.pose.orientation.w = 1.0
    marker.scale.x = marker.scale.y = width_at(calibration, POINT_PX, distance)
    marker.points = [Point(x=x, y=y, z=z) for x, y, z in places[seen].tolist()]
    marker.colors = [ColorRGBA(r=r, g=g, b=b, a=1.0) for r, g, b in colors[seen].tolist()]
    return messages.MarkerArray(markers=[marker])


def cloud_of_keypoints(
    frame: StampedFeatures, depth: Any, camera_info: Any, pixels: str
) -> PointCloud2:
    """
    Return the keypoints that have a depth: x, y, z in metres, and score.

    depth: Image message registered to the features' image, pixel by pixel. The cloud is in the
    frame of the features. pixels: what the features' keypoints are in, one of KEYPOINT_PIXELS.

    Raises BadImageError, ConfigError and ShapeError.
    """
    calibration, found = _calibrated(frame, camera_info, pixels)
    points, rows = with_depth(calibration, found['keypoints'], depth_to_metres(depth))
    scores = found['keypoint_scores'][rows, None]
    return make_cloud(frame.header, np.concatenate([points, scores], 1).astype(np.float32))


def make_cloud(header: Any, rows: Float[np.ndarray, 'n 4']) -> PointCloud2:
    """Return a cloud of x, y, z, score; by sensor_msgs_py, where it is installed."""
    if create_cloud is not None:
        return create_cloud(header, FIELDS, rows)
    return PointCloud2(
        header=header,
        height=1,
        width=len(rows),
        fields=FIELDS,
        is_bigendian=False,
        point_step=16,
        row_step=16 * len(rows),
        data=to_sequence(np.ascontiguousarray(rows, '<f4').view(np.uint8)),
        is_dense=True,
    )


def _calibrated(
    frame: StampedFeatures, camera_info: Any, pixels: str
) -> tuple[Calibration, dict[str, np.ndarray]]:
    """Return how the camera sees, and the features' arrays in pixels of its images."""
    calibration = camera_info_to_calibration(camera_info, rectified=pixels == 'rectified')
    calibration.check_size(frame.size, 'the image of the features')
    shown = frame_in_image(frame, distortion_for(camera_info, pixels))
    return calibration, shown.features.numpy()
