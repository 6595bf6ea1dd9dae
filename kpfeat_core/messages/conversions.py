"""
Messages to and from arrays: pure functions, used by nodes and bags alike.

A message is anything with the fields of its .msg file: an object of rclpy, of rosbags, or a
namespace in a test. Nothing here imports ROS. Messages to be filled are passed in.
"""

import array
from enum import IntEnum
from typing import Any, TypeVar

import cv2
import numpy as np

from .encodings import decode_file, decode_pixels, is_compressed_depth, stored_depth, stored_pixels
from ..axes import Float
from ..camera import Calibration, part_of
from ..config import DESCRIPTOR_TYPES, GEOMETRIES, ViewConfig
from ..errors import BadImageError, ImageError, ShapeError
from ..features import Features
from ..matching import PairMatches
from ..visualize import score_colors

Message = TypeVar('Message')
TYPECODES = {'u1': 'B', 'u4': 'I', 'f4': 'f', 'f8': 'd'}  # NumPy's names to those of array.array
METRES = {'16UC1': 0.001, 'mono16': 0.001, '32FC1': 1.0}  # in one unit of each encoding
POINT_PX = 5.0  # size of a keypoint among Foxglove's annotations
POINTS = 1  # the constant of PointsAnnotation: each point by itself
# How descriptors are stored; the values are those of the constants in Features.msg.
DescriptorType = IntEnum('DescriptorType', [name.upper() for name in DESCRIPTOR_TYPES], start=0)


def pack_descriptors(descriptors: np.ndarray, kind: DescriptorType) -> tuple[np.ndarray, float]:
    """
    Turn descriptors (N, D) float32 into bytes (N * row,), little endian, and their scale.

    The scale is 1 except for INT8, where the largest number of the message becomes 127.
    """
    if kind == DescriptorType.FLOAT32:
        return _bytes(descriptors.astype('<f4', copy=False)), 1.0
    if kind == DescriptorType.FLOAT16:
        return _bytes(descriptors.astype('<f2')), 1.0
    if kind == DescriptorType.INT8:
        scale = float(np.float32(np.abs(descriptors).max(initial=0.0) / 127)) or 1.0
        return _bytes(np.rint(descriptors / scale).clip(-127, 127).astype(np.int8)), scale
    return np.packbits(descriptors > 0, axis=1, bitorder='little').reshape(-1), 1.0


def unpack_descriptors(
    data: np.ndarray, count: int, size: int, kind: int, scale: float
) -> np.ndarray:
    """
    Turn the bytes of a message into descriptors (count, size) float32; raises ShapeError.

    Binary ones become +-1/sqrt(D), of unit length: their cosine is 1 - 2 * hamming distance / D.
    """
    names = ', '.join(f'{t.value} {t.name}' for t in DescriptorType)
    if kind not in list(DescriptorType):
        raise ShapeError(f'descriptor_type is {kind}, expected one of {names}')
    row = {0: 4 * size, 1: 2 * size, 2: size, 3: -(-size // 8)}[int(kind)]
    if len(data) != count * row:
        raise ShapeError(
            f'descriptors hold {len(data)} bytes, expected {count * row}: {count} rows of {row} '
            f'for {size} numbers of type {DescriptorType(kind).name}'
        )
    if kind == DescriptorType.BINARY:
        bits = np.unpackbits(data.reshape(count, row), axis=1, count=size, bitorder='little')
        return (2 * bits.astype(np.float32) - 1) / np.float32(np.sqrt(max(size, 1)))
    stored = data.view({0: '<f4', 1: '<f2', 2: 'i1'}[int(kind)]).reshape(count, size)
    exact = stored.astype(np.float32)
    return exact * np.float32(scale) if kind == DescriptorType.INT8 else exact


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def image_to_array(message: Any, pixel_bits: int = ViewConfig.pixel_bits) -> np.ndarray:
    """
    Return gray (H, W) or RGB (H, W, 3) pixels of an Image or CompressedImage message.

    uint8, or float32 in 0..1 for 16-bit and float images. pixel_bits: see ViewConfig.

    Raises BadImageError, an ImageError.
    """
    if hasattr(message, 'format'):
        return decode_file(message.data, message.format or 'compressed', pixel_bits)
    return decode_pixels(message, pixel_bits)


def depth_to_metres(message: Any) -> Float[np.ndarray, 'h w']:
    """
    Return the depths of an Image message, or of a CompressedImage of compressedDepth.

    Raises BadImageError for what is no depth image.
    """
    if hasattr(message, 'format'):
        if not is_compressed_depth(message.format, message.data):
            raise BadImageError(
                'depth',
                f"depth image has format '{message.format}', expected compressedDepth: JPEG "
                'changes depths, and the topic of compressedDepth keeps them',
            )
        depths, encoding = stored_depth(message.data, message.format)
        return depths.astype(np.float32) * np.float32(METRES[encoding])
    if message.encoding not in METRES:
        raise BadImageError(
            'depth',
            f"depth image has encoding '{message.encoding}', expected 16UC1 in millimetres or "
            '32FC1 in metres',
        )
    depths = stored_pixels(message).astype(np.float32)
    return depths * np.float32(METRES[message.encoding])


def camera_info_to_calibration(message: Any, rectified: bool = False) -> Calibration:
    """
    Return the calibration of the images that a CameraInfo message comes with; raises ConfigError.

    Its region of interest and binning are taken into account: pixels are those of the image.
    rectified: of rectified images, which P describes; of all others K and D do.
    """
    matrix = np.reshape(message.p, (3, 4))[:, :3] if rectified else np.reshape(message.k, (3, 3))
    calibration = Calibration(
        matrix=np.array(matrix, np.float64),
        size=(message.width, message.height),
        model='' if rectified else message.distortion_model,
        coefficients=() if rectified else tuple(message.d),
    )
    roi = message.roi
    size = (roi.width or message.width, roi.height or message.height)  # 0 means all of it
    binning = (max(1, message.binning_x), max(1, message.binning_y))
    return part_of(calibration, (roi.x_offset, roi.y_offset), size, binning)


def fill_camera_info(message: Message, calibration: Calibration, header: Any) -> Message:
    """Fill a CameraInfo message of images that are not rectified."""
    message.header = header
    message.width, message.height = calibration.size
    message.distortion_model = calibration.model or 'plumb_bob'
    message.d = list(calibration.coefficients) or [0.0] * 5
    message.k, message.r = calibration.matrix.reshape(9), np.eye(3).reshape(9)
    message.p = np.column_stack([calibration.matrix, np.zeros(3)]).reshape(12)
    return message


def to_sequence(values: np.ndarray) -> array.array:
    """
    Copy an array into the type that a message's sequence field takes fastest.

    Bytes and lists are checked element by element on assignment, array.array is not.
    """
    little = values.dtype.newbyteorder('<').str[1:]
    out = array.array(TYPECODES[little])
    out.frombytes(np.ascontiguousarray(values).data.cast('B') if values.size else b'')
    return out


def fill_image(message: Message, pixels: np.ndarray, header: Any) -> Message:
    """Fill an Image message from (H, W) gray or (H, W, 3) RGB uint8 pixels."""
    gray = pixels.ndim == 2
    if pixels.dtype != np.uint8 or not (gray or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise ShapeError(
            f'picture is {pixels.dtype} of shape {pixels.shape}, expected uint8 (H, W) or '
            '(H, W, 3)'
        )
    message.header = header
    message.height, message.width = pixels.shape[:2]
    message.encoding = 'mono8' if gray else 'rgb8'
    message.is_bigendian = 0
    message.step = pixels.shape[1] * (1 if gray else 3)
    message.data = to_sequence(pixels)
    return message


def fill_jpeg(message: Message, picture: np.ndarray, header: Any, quality: int) -> Message:
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
            'pixels at most: subscribe to the raw picture'
        )
    message.header = header
    message.format = 'rgb8; jpeg compressed bgr8'  # as image_transport has it
    message.data = to_sequence(data)
    return message


def fill_features(
    message: Message,
    features: Features,
    header: Any,
    model: str = '',
    descriptor_type: DescriptorType = DescriptorType.FLOAT32,
    b: int = 0,
) -> Message:
    """
    Fill a Features message from image b; lossless with float32 descriptors.

    Padding is left out. header: of the source image, passed on untouched.
    """
    arrays = features.numpy(b)
    descriptors, scale = pack_descriptors(arrays['descriptors'], descriptor_type)
    message.header = header
    message.model = model
    message.width, message.height = (int(side) for side in arrays['image_size'])
    message.keypoints = to_sequence(arrays['keypoints'])
    message.scores = to_sequence(arrays['keypoint_scores'])
    empty = np.empty(0, np.float32)
    message.scales = to_sequence(arrays.get('scales', empty))
    message.orientations = to_sequence(arrays.get('orientations', empty))
    message.descriptor_size = features.descriptor_dim
    message.descriptor_type = int(descriptor_type)
    message.descriptor_scale = scale
    message.descriptors = to_sequence(descriptors)
    return message


def message_to_features(message: Any) -> Features:
    """Return the Features, a batch of one on the CPU, of a message; raises ShapeError."""
    optional = [name for name in ('scales', 'orientations') if len(getattr(message, name))]
    count = _count(message, keypoints=2, **dict.fromkeys(optional, 1))
    arrays = {
        'keypoints': np.asarray(message.keypoints, np.float32).reshape(count, 2),
        'keypoint_scores': np.asarray(message.scores, np.float32),
        'descriptors': unpack_descriptors(
            np.asarray(message.descriptors, np.uint8),
            count,
            message.descriptor_size,
            message.descriptor_type,
            message.descriptor_scale,
        ),
        'image_size': np.array([message.width, message.height], np.float32),
    }
    arrays |= {name: np.asarray(getattr(message, name), np.float32) for name in optional}
    return Features.from_numpy(arrays)


def _count(message: Any, **each: int) -> int:
    """Return the number of scores; raises ShapeError where a field has not so many for each."""
    count = len(message.scores)
    for name, numbers in each.items():
        found, expected = len(getattr(message, name)), numbers * count
        if found != expected:
            raise ShapeError(
                f'{name} holds {found} numbers, expected {expected} for {count} scores'
            )
    return count


def fill_matches(message: Message, pair: PairMatches, header0: Any, header: Any) -> Message:
    """Fill a Matches message; lossless. header0, header: of the two features messages."""
    message.header0, message.header = header0, header
    message.indices0 = to_sequence(pair.indices0.astype(np.uint32))
    message.indices1 = to_sequence(pair.indices1.astype(np.uint32))
    message.scores = to_sequence(pair.scores)
    message.keypoints0 = to_sequence(pair.keypoints0)
    message.keypoints1 = to_sequence(pair.keypoints1)
    message.inliers = to_sequence(pair.inliers.astype(np.uint8))
    message.geometry = GEOMETRIES.index(pair.geometry)
    message.matrix = np.zeros(9) if pair.matrix is None else pair.matrix.reshape(9)
    return message


def message_to_matches(message: Any) -> PairMatches:
    """Return the matched pair of a message; raises ShapeError."""
    count = _count(message, indices0=1, indices1=1, keypoints0=2, keypoints1=2, inliers=1)
    if message.geometry >= len(GEOMETRIES):
        raise ShapeError(f'geometry is {message.geometry}, expected 0 to {len(GEOMETRIES) - 1}')
    matrix = np.asarray(message.matrix, np.float64).reshape(3, 3)
    return PairMatches(
        indices0=np.asarray(message.indices0, np.int64),
        indices1=np.asarray(message.indices1, np.int64),
        scores=np.asarray(message.scores, np.float32),
        keypoints0=np.asarray(message.keypoints0, np.float32).reshape(count, 2),
        keypoints1=np.asarray(message.keypoints1, np.float32).reshape(count, 2),
        inliers=np.asarray(message.inliers, np.uint8).astype(bool),
        geometry=GEOMETRIES[message.geometry],
        matrix=matrix if matrix.any() else None,
    )


def image_annotations(
    messages: Any, keypoints: Float[np.ndarray, 'n 2'], scores: Float[np.ndarray, ' n'], stamp: Any
) -> Any:
    """
    Return ImageAnnotations of keypoints: a coloured point for each, red the best, blue the worst.

    messages: foxglove_msgs.msg, or an object with the same classes. Its pixels begin at the
    image's corner: (0.5, 0.5) is the centre of the first one.
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
