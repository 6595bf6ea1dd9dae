"""Features as rtabmap takes them: in one message with the images that they are of."""

import struct
from typing import Any
import zlib

import numpy as np

from .conversions import message_to_features
from .definitions import new_message, RGBD_IMAGE
from ..axes import Float

CV_32F = 5  # OpenCV's number for a matrix of float32
KEYPOINT_PX = 8.0  # diameter of a keypoint of scale 1, as rtabmap gives to SuperPoint's
NO_ANGLE, NO_CLASS = -1.0, -1  # OpenCV's values for none


def rgbd_image(features: Any, image: Any, camera_info: Any = None, depth: Any = None) -> Any:
    """
    Return an RGBDImage of a Features message and the image that they are of.

    image: Image or CompressedImage, taken as it is. camera_info: of the image; zero where there
    is none, and rtabmap refuses that. depth: Image in the pixels of `image`; without it rtabmap
    has bearings alone. Points in space are left to rtabmap, which makes them of the depth.
    """
    arrays = message_to_features(features).numpy()
    values = {'header': features.header}
    values['rgb_compressed' if hasattr(image, 'format') else 'rgb'] = image
    if camera_info is not None:
        values |= {'rgb_camera_info': camera_info, 'depth_camera_info': camera_info}
    if depth is not None:
        values['depth'] = depth
    return new_message(
        RGBD_IMAGE,
        key_points=_key_points(arrays),
        descriptors=compress_matrix(arrays['descriptors']),
        **values,
    )


def compress_matrix(matrix: Float[np.ndarray, 'n d']) -> np.ndarray:
    """
    Return the bytes (K,) uint8 that rtabmap unpacks to a matrix of float32; none for an empty one.

    The rows one after another, compressed by zlib, then the counts of rows and columns and
    OpenCV's number of the type as int32, all little endian.
    """
    if not matrix.size:
        return np.zeros(0, np.uint8)
    data = zlib.compress(np.ascontiguousarray(matrix, '<f4').tobytes())
    return np.frombuffer(data + struct.pack('<3i', *matrix.shape, CV_32F), np.uint8)


def _key_points(arrays: dict[str, np.ndarray]) -> list[Any]:
    """Return the fields of OpenCV's KeyPoint: (0, 0) is the centre of a pixel there as well."""
    count = len(arrays['keypoints'])
    sizes = KEYPOINT_PX * arrays.get('scales', np.ones(count, np.float32))
    angles = np.full(count, NO_ANGLE, np.float32)
    if 'orientations' in arrays:
        angles = np.rad2deg(arrays['orientations']) % 360
    columns = (arrays['keypoints'], sizes, angles, arrays['keypoint_scores'])
    return [
        new_message(
            'rtabmap_msgs/msg/KeyPoint',
            pt=new_message('rtabmap_msgs/msg/Point2f', x=x, y=y),
            size=size,
            angle=angle,
            response=response,
            class_id=NO_CLASS,
        )
        for (x, y), size, angle, response in zip(*(c.tolist() for c in columns), strict=True)
    ]
