"""Where an image shows keypoints that the extractor's option `undistort` freed of its lens."""

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
from kpfeat_core.axes import Float
from kpfeat_core.camera import at_distance, Calibration, distort, with_depth
from kpfeat_core.errors import BadImageError, ImageError
from kpfeat_core.features import Features
from kpfeat_core.messages.annotations import image_annotations, POINT_PX
from kpfeat_core.messages.conversions import (
    camera_info_to_calibration,
    message_to_matches,
    to_sequence,
)
from kpfeat_core.messages.encodings import stored_pixels
from kpfeat_core.tracks import Tracks, Trail
from kpfeat_core.visualize import draw_features, draw_matches, draw_tracks, score_colors
import numpy as np
from sensor_msgs.msg import PointCloud2, PointField

from .frames import Frame, stamp_ns
from .images import image_to_array


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


try:
    from sensor_msgs_py.point_cloud2 import create_cloud
except ImportError:
    create_cloud = None
METRES = {'16UC1': 0.001, 'mono16': 0.001, '32FC1': 1.0}  # in one unit of each encoding
FIELDS = [
    PointField(name=name, offset=4 * position, datatype=PointField.FLOAT32, count=1)
    for position, name in enumerate(('x', 'y', 'z', 'score'))
]


def depth_to_metres(message: Any) -> Float[np.ndarray, 'h w']:
    """Return the depths of an Image message; raises BadImageError for what is no depth image."""
    if message.encoding not in METRES:
        raise BadImageError(
            'depth',
            f"depth image has encoding '{message.encoding}', expected 16UC1 in millimetres or "
            '32FC1 in metres',
        )
    stored = stored_pixels(
        message.data,
        message.encoding,
        message.width,
        message.height,
        message.step,
        bool(message.is_bigendian),
    )
    return stored.astype(np.float32) * np.float32(METRES[message.encoding])


def calibration_for(camera_info: Any, pixels: str) -> Calibration:
    """
    Return how the pixels of images are seen, from a CameraInfo message; raises ConfigError.

    pixels: of 'rectified' images, which P describes; of all others K and D do.
    """
    if pixels != 'rectified':
        return camera_info_to_calibration(camera_info)
    matrix = np.reshape(camera_info.p, (3, 4))[:, :3]
    names = ('width', 'height', 'roi', 'binning_x', 'binning_y')
    ideal = {name: getattr(camera_info, name) for name in names}
    return camera_info_to_calibration(
        SimpleNamespace(k=matrix, d=(), distortion_model='', **ideal)
    )


def cloud_of_keypoints(frame: Frame, depth: Any, camera_info: Any, pixels: str) -> PointCloud2:
    """
    Return the keypoints that have a depth: x, y, z in metres, and score.

    depth: Image message registered to the features' image, pixel by pixel. The cloud is in the
    frame of the features. pixels: what the features' keypoints are in, one of KEYPOINT_PIXELS.

    Raises BadImageError, ConfigError and ShapeError.
    """
    calibration = calibration_for(camera_info, pixels)
    calibration.check_size(frame.size, 'the image of the features')
    found = frame_in_image(frame, lens_for(camera_info, pixels)).features.numpy()
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
    colours = score_colors(found['keypoint_scores']) / 255
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
