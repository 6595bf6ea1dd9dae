"""
Bytes of a camera image to an array of gray or RGB pixels, for every encoding that cameras send.

Pure NumPy and OpenCV. Values keep their meaning: 8-bit stays uint8; 16-bit becomes float32, where
1 is the largest number of `pixel_bits` bits; float images must already lie between 0 and 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
import struct
from typing import Any

import cv2
import numpy as np

from ..config import ViewConfig
from ..errors import BadImageError
from ..image import decode_picture, decoding_problem

FLOAT_SLACK = 1e-3  # resampling and compression overshoot 0..1 by this much, no more
DARKEST, BRIGHTEST = 0.1, 99.9  # percentiles: a few pixels of every sensor are broken
PNG = b'\x89PNG\r\n\x1a\n'
DEPTH_HEADER = 12  # bytes before the file in compressedDepth: the kind, and two floats
LARGEST_DEPTH = 1 << 26  # pixels
LITTLE = 0.25  # of the range, of which 14 bits in 16 use a little less


@dataclass(frozen=True)
class Encoding:
    """Layout of one pixel format: a row is width * channels items of dtype, then padding."""

    dtype: str
    channels: int
    to_rgb: Callable[[np.ndarray], np.ndarray] | int | None = None  # None: leave as it is
    chroma: tuple[float, float] = (0, 1)  # rows for each row of pixels, and their length in steps
    even: str = ''  # sides of the image that must be even: w, h


def _nv24_to_rgb(planes: np.ndarray) -> np.ndarray:
    """Turn Y (H, W) over interleaved UV (2H, W) into RGB (H, W, 3), video range of BT.601."""
    height, width = planes.shape[0] // 3, planes.shape[1]
    uv = planes[height:].reshape(height, width, 2)
    yuv = np.dstack([planes[:height], uv])
    matrix = np.array([[1.164, 0, 1.596], [1.164, -0.392, -0.813], [1.164, 2.017, 0]])
    offset = -matrix @ (16, 128, 128)
    return cv2.transform(yuv, np.column_stack([matrix, offset]).astype(np.float32))


def _encodings() -> dict[str, Encoding]:
    table = {
        'mono8': Encoding('u1', 1),
        'mono16': Encoding('u2', 1),
        'rgb8': Encoding('u1', 3),
        'rgb16': Encoding('u2', 3),
        'bgr8': Encoding('u1', 3, cv2.COLOR_BGR2RGB),
        'bgr16': Encoding('u2', 3, cv2.COLOR_BGR2RGB),
        'rgba8': Encoding('u1', 4, cv2.COLOR_RGBA2RGB),
        'rgba16': Encoding('u2', 4, cv2.COLOR_RGBA2RGB),
        'bgra8': Encoding('u1', 4, cv2.COLOR_BGRA2RGB),
        'bgra16': Encoding('u2', 4, cv2.COLOR_BGRA2RGB),
        # encodings named after OpenCV types hold OpenCV's order of channels: blue first
        '8UC1': Encoding('u1', 1),
        '8UC3': Encoding('u1', 3, cv2.COLOR_BGR2RGB),
        '8UC4': Encoding('u1', 4, cv2.COLOR_BGRA2RGB),
        '16UC1': Encoding('u2', 1),
        '16UC3': Encoding('u2', 3, cv2.COLOR_BGR2RGB),
        '16UC4': Encoding('u2', 4, cv2.COLOR_BGRA2RGB),
        '32FC1': Encoding('f4', 1),
        '32FC3': Encoding('f4', 3, cv2.COLOR_BGR2RGB),
        'nv21': Encoding('u1', 1, cv2.COLOR_YUV2RGB_NV21, chroma=(0.5, 1), even='wh'),
        'nv12': Encoding('u1', 1, cv2.COLOR_YUV2RGB_NV12, chroma=(0.5, 1), even='wh'),
        'nv24': Encoding('u1', 1, _nv24_to_rgb, chroma=(1, 2)),
        'i420': Encoding('u1', 1, cv2.COLOR_YUV2RGB_I420, chroma=(1, 0.5), even='wh'),
        'yv12': Encoding('u1', 1, cv2.COLOR_YUV2RGB_YV12, chroma=(1, 0.5), even='wh'),
    }
    for name in ('yuv422', 'uyvy'):
        table[name] = Encoding('u1', 2, cv2.COLOR_YUV2RGB_UYVY, even='w')
    for name in ('yuv422_yuy2', 'yuyv'):
        table[name] = Encoding('u1', 2, cv2.COLOR_YUV2RGB_YUY2, even='w')
    # ROS names the first two pixels of the first two rows, OpenCV those one step down and right
    bayer = {
        'rggb': cv2.COLOR_BayerBG2RGB,
        'bggr': cv2.COLOR_BayerRG2RGB,
        'gbrg': cv2.COLOR_BayerGR2RGB,
        'grbg': cv2.COLOR_BayerGB2RGB,
    }
    for pattern, code in bayer.items():
        table[f'bayer_{pattern}8'] = Encoding('u1', 1, code, even='wh')
        table[f'bayer_{pattern}16'] = Encoding('u2', 1, code, even='wh')
    return table


ENCODINGS = _encodings()


def decode_pixels(message: Any, pixel_bits: int = ViewConfig.pixel_bits) -> np.ndarray:
    """
    Return gray (H, W) or RGB (H, W, 3) pixels of an Image message; raises BadImageError.

    Its data: `height` rows of `step` bytes; in nv12, nv21 and nv24 the rows of chroma follow them,
    and in i420 and yv12 two planes of half the step.
    """
    if message.encoding not in ENCODINGS:
        raise BadImageError(
            'encoding',
            f"encoding is '{message.encoding}', expected one of {', '.join(ENCODINGS)}: let the "
            'driver send one of these',
        )
    layout = ENCODINGS[message.encoding]
    pixels = stored_pixels(message)
    if layout.dtype == 'f4':
        _check_floats(pixels, message.encoding)
    if callable(layout.to_rgb):
        pixels = layout.to_rgb(pixels)
    elif layout.to_rgb is not None:
        pixels = cv2.cvtColor(pixels, layout.to_rgb)
    return to_unit_range(pixels, pixel_bits)


def stored_pixels(message: Any) -> np.ndarray:
    """Return the numbers of an image as they are, such as depths; as `decode_pixels` otherwise."""
    layout = ENCODINGS[message.encoding]
    dtype = np.dtype(layout.dtype).newbyteorder('>' if message.is_bigendian else '<')
    pixels = _rows(message, layout).view(dtype).astype(dtype.newbyteorder('='), copy=False)
    if layout.channels > 1:
        pixels = pixels.reshape(len(pixels), message.width, layout.channels)
    return pixels


def _rows(message: Any, layout: Encoding) -> np.ndarray:
    """Check the sizes that a message claims and return its rows (R, bytes) without padding."""
    encoding, width, height, step = (message.encoding, message.width, message.height, message.step)
    if width < 1 or height < 1:
        raise BadImageError('empty', f'image is {width}x{height}, expected at least one pixel')
    _check_even(layout, encoding, width, height)
    row_bytes = width * layout.channels * np.dtype(layout.dtype).itemsize
    if step < row_bytes:
        raise BadImageError(
            'step',
            f'step is {step} bytes, expected at least {row_bytes} for {width} pixels of '
            f'{encoding}; the driver fills in a wrong step, width or encoding',
        )
    chroma_rows, steps = int(height * layout.chroma[0]), layout.chroma[1]
    if steps < 1 and step % 2:
        raise BadImageError(
            'step', f'step is {step} bytes, expected an even number for {encoding}'
        )
    chroma_step, chroma_bytes = int(steps * step), int(steps * row_bytes)
    first, total = height * step, height * step + chroma_rows * chroma_step
    view = memoryview(message.data)
    if view.nbytes < total:
        raise BadImageError(
            'short_data',
            f'image holds {view.nbytes} bytes, expected {total} for {width}x{height} {encoding} '
            f'with a step of {step}; the driver sends incomplete images',
        )
    flat = np.frombuffer(view, np.uint8, total)
    planes = np.ascontiguousarray(flat[:first].reshape(height, step)[:, :row_bytes])
    if not chroma_rows:
        return planes
    chroma = flat[first:].reshape(chroma_rows, chroma_step)[:, :chroma_bytes]
    return np.concatenate([planes, chroma.reshape(-1, row_bytes)])


def _check_even(layout: Encoding, encoding: str, width: int, height: int) -> None:
    odd = [side for side, value in (('w', width), ('h', height)) if value % 2]
    if set(odd) & set(layout.even):
        raise BadImageError('size', f'{encoding} image is {width}x{height}, expected even sides')


def _check_floats(pixels: np.ndarray, name: str) -> None:
    low, high = float(pixels.min()), float(pixels.max())  # one NaN makes both NaN
    if not np.isfinite(low) or not np.isfinite(high):
        raise BadImageError(
            'not_finite',
            f'{name} image holds NaN or infinite values, expected finite ones from 0 to 1; '
            'depth images are no input for features',
        )
    if low < -FLOAT_SLACK or high > 1 + FLOAT_SLACK:
        raise BadImageError(
            'range',
            f'{name} image has values from {low:g} to {high:g}, expected 0 to 1; divide by the '
            'largest value that the camera can give',
        )


def to_unit_range(pixels: np.ndarray, pixel_bits: int) -> np.ndarray:
    """Return uint8 as it is; uint16 as parts of its range and float as it is, cut to 0..1."""
    if pixels.dtype == np.uint16:
        low, high = (0, 2**pixel_bits - 1) if pixel_bits else _extremes(pixels)
        pixels = (pixels.astype(np.float32) - np.float32(low)) / np.float32(max(high - low, 1))
    return pixels.clip(0, 1) if pixels.dtype == np.float32 else pixels


def spans_little(pixels: np.ndarray) -> bool:
    """Return whether a decoded image of 16 bits or floats uses a small part of 0..1 only."""
    if pixels.dtype != np.float32:
        return False
    low, high = _extremes(pixels)
    return high - low < LITTLE


def _extremes(pixels: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(pixels[::3, ::3], (DARKEST, BRIGHTEST))  # a ninth is enough
    return float(low), float(high)


def decode_file(
    data: bytes | np.ndarray, form: str = 'compressed', pixel_bits: int = ViewConfig.pixel_bits
) -> np.ndarray:
    """
    Return gray (H, W) or RGB (H, W, 3) pixels of JPEG, PNG or any file that OpenCV reads.

    form: what a CompressedImage says, such as 'bayer_rggb8; jpeg compressed ': a file of one
    channel holds the mosaic of the encoding before the semicolon. The images of compressedDepth
    become what its encoding would as an Image.

    Raises BadImageError. A rotation noted by the camera (EXIF) is ignored, as camera_info does.
    """
    if is_compressed_depth(form, data):
        pixels, encoding = stored_depth(data, form)
        if encoding == '32FC1':
            _check_floats(pixels, encoding)
        return to_unit_range(pixels, pixel_bits)
    pixels = _decoded(data, form)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    encoding = form.partition(';')[0].strip()
    if channels == 1 and encoding.startswith('bayer_') and encoding in ENCODINGS:
        height, width = pixels.shape[:2]
        _check_even(ENCODINGS[encoding], encoding, width, height)
        code = ENCODINGS[encoding].to_rgb
    else:
        code = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}.get(channels)
    return to_unit_range(pixels if code is None else cv2.cvtColor(pixels, code), pixel_bits)


def is_compressed_depth(form: str, data: bytes | np.ndarray) -> bool:
    """
    Return whether a CompressedImage is of compressed_depth_image_transport.

    Some recordings have an empty `format`: a PNG after a header tells as well.
    """
    return 'compressedDepth' in form or bytes(memoryview(data)[DEPTH_HEADER:][:8]) == PNG


def stored_depth(data: bytes | np.ndarray, form: str = '') -> tuple[np.ndarray, str]:
    """
    Return the depths (H, W) of compressedDepth as they were before, and their encoding.

    That is uint16 and 16UC1, or float32 and 32FC1 with NaN for unknown ones. Raises BadImageError.
    """
    view = memoryview(data)
    if view.nbytes <= DEPTH_HEADER:
        raise BadImageError(
            'compressed', f"'{form}' image of {view.nbytes} bytes is cut off, expected a header"
        )
    encoding = form.partition(';')[0].strip()
    _, scale, offset = struct.unpack('<iff', view[:DEPTH_HEADER])
    if 'rvl' in form.lower():
        pixels = _from_rvl(bytes(view[DEPTH_HEADER:]), form)
    else:
        pixels = _decoded(view[DEPTH_HEADER:], form)
    if pixels.ndim != 2 or pixels.dtype != np.uint16:
        raise BadImageError(
            'compressed',
            f"'{form}' image is {pixels.dtype} of shape {pixels.shape}, expected one channel of "
            '16 bits; such images are no depths',
        )
    inverse = scale > 1 > offset and np.isfinite([scale, offset]).all()
    if encoding != '32FC1' and (encoding or not inverse):  # without a name the header tells
        return pixels, '16UC1'
    with np.errstate(divide='ignore'):
        depths = np.float32(scale) / (pixels.astype(np.float32) - np.float32(offset))
    return np.where(pixels > 0, depths, np.float32(np.nan)), '32FC1'


def _from_rvl(data: bytes, form: str) -> np.ndarray:
    """
    Decode RVL (Wilson, Fast Lossless Depth Image Compression, 2017): uint16 (H, W).

    Numbers are of 3 bits to a nibble, whose highest bit says that more follow. Counts of zeros
    and of depths alternate; after the latter stand the differences of depths, zigzag.
    """
    try:
        width, height = struct.unpack('<2i', data[:8])
        if min(width, height) < 1 or width * height > LARGEST_DEPTH:
            raise ValueError(f'its size is {width}x{height}')
        words = np.frombuffer(data[8 : 8 + (len(data) - 8) // 4 * 4], '<u4')
        nibbles = (words[:, None] >> np.arange(28, -1, -4, dtype=np.uint32) & 15).ravel()
        ends = np.flatnonzero(nibbles < 8)
        begins = np.concatenate([[0], ends[:-1] + 1])
        place = np.arange(ends[-1] + 1) - np.repeat(begins, ends - begins + 1)
        parts = (nibbles[: ends[-1] + 1] & 7).astype(np.int64) << np.minimum(3 * place, 60)
        numbers = np.add.reduceat(parts, begins)
        changes = (numbers >> 1) ^ -(numbers & 1)
        flat = np.zeros(width * height, np.int64)
        at, filled, before = 0, 0, 0
        while filled < len(flat):
            filled += int(numbers[at])
            count = int(numbers[at + 1])
            if filled + count > len(flat):
                raise ValueError('it holds more depths than pixels')
            if count:
                run = before + np.cumsum(changes[at + 2 : at + 2 + count])
                flat[filled : filled + count] = run
                before = int(run[-1])
            at, filled = at + 2 + count, filled + count
    except (struct.error, ValueError, IndexError) as error:
        raise BadImageError(
            'compressed', f"'{form}' image cannot be decoded: it is cut off or damaged ({error})"
        ) from error
    return flat.astype(np.uint16).reshape(height, width)


def _decoded(data: bytes | np.ndarray, form: str) -> np.ndarray:
    """Decode a file of 8 or 16 bits as OpenCV does; raises BadImageError."""
    flat = np.frombuffer(memoryview(data), np.uint8) if memoryview(data).nbytes else None
    try:
        pixels = None if flat is None else decode_picture(flat, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:  # such as a claimed size beyond OpenCV's limit
        raise BadImageError(
            'compressed', f"'{form}' image cannot be decoded: {decoding_problem(error)}"
        ) from error
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        raise BadImageError(
            'compressed',
            f"'{form}' image of {memoryview(data).nbytes} bytes cannot be decoded or is cut off, "
            'expected JPEG or PNG of 8 or 16 bits; other transports must be republished as raw',
        )
    return pixels
