"""Keypoints with depth as a PointCloud2 message."""

from types import SimpleNamespace
from typing import Any

from kpfeat_core.axes import Float
from kpfeat_core.camera import Calibration, with_depth
from kpfeat_core.errors import BadImageError
from kpfeat_core.messages.conversions import camera_info_to_calibration, to_sequence
from kpfeat_core.messages.encodings import stored_pixels
import numpy as np
from sensor_msgs.msg import PointCloud2, PointField

from .frames import Frame
from .lens import frame_in_image, lens_for

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
