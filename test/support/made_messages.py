"""Image messages as no camera should send them, but some do: random, and the same in every run."""

import array
from collections.abc import Iterator
from typing import Any

import numpy as np

ENCODINGS = (
    'mono8', 'mono16', 'rgb8', 'bgr8', 'rgba8', 'bgra8', 'rgb16', 'bayer_rggb8', 'bayer_gbrg16',
    'yuv422', 'yuv422_yuy2', 'uyvy', 'nv21', 'nv24', '8UC1', '8UC3', '16UC1', '32FC1', '64FC4',
    '', 'RGB8', 'rgb', 'jpeg', 'hologram', '8UC0', '8UC99999999999', '\U0001f600', 'x' * 300,
)  # fmt: skip
SIDES = (0, 1, 2, 3, 7, 31, 32, 33, 40, 64, 2**16, 2**31, 2**32 - 1)
FORMATS = ('jpeg', 'png', 'rgb8; png compressed', '16UC1; compressedDepth', '', 'tiff', 'x' * 99)
HEADS = (b'', b'\xff\xd8\xff\xe0', b'\x89PNG\r\n\x1a\n', b'BM', b'RIFF', b'GIF89a')


def malformed_images(count: int, seed: int) -> Iterator[Any]:
    """Yield sensor_msgs/Image: sizes, steps, encodings and data that need not fit together."""
    from sensor_msgs.msg import Image

    random = np.random.default_rng(seed)
    for _ in range(count):
        height, width = (int(random.choice(SIDES)) for _ in range(2))
        likely = width * int(random.choice((1, 2, 3, 4, 6, 8)))
        step = int(random.choice((0, 1, width, likely, likely + 5, 2**32 - 1)))
        size = int(random.choice((0, 1, min(height * step, 20_000), int(random.integers(20_000)))))
        image = Image(
            height=height,
            width=width,
            step=min(step, 2**32 - 1),
            encoding=str(random.choice(ENCODINGS)),
            is_bigendian=int(random.choice((0, 1, 255))),
            data=array.array('B', random.bytes(size)),
        )
        _disturb(image.header, random)
        yield image


def malformed_compressed(count: int, seed: int, good: bytes) -> Iterator[Any]:
    """Yield sensor_msgs/CompressedImage: noise, and good files cut short or with wrong bytes."""
    from sensor_msgs.msg import CompressedImage

    random = np.random.default_rng(seed)
    for _ in range(count):
        if random.random() < 0.5:
            data = HEADS[random.integers(len(HEADS))] + random.bytes(random.integers(500))
        else:
            damaged = np.frombuffer(good, np.uint8).copy()
            where = random.integers(0, len(damaged), random.integers(1, 9))
            damaged[where] = random.integers(0, 256, len(where))
            data = damaged.tobytes()[: random.integers(len(good) + 1)]
        image = CompressedImage(format=str(random.choice(FORMATS)), data=array.array('B', data))
        _disturb(image.header, random)
        yield image


def _disturb(header: Any, random: np.random.Generator) -> None:
    header.stamp.sec = int(random.choice((-(2**31), -1, 0, 1, 2**31 - 1)))
    header.stamp.nanosec = int(random.choice((0, 999_999_999, 2**32 - 1)))
    header.frame_id = str(random.choice(('', 'camera', '/', '\U0001f600' * 50)))
