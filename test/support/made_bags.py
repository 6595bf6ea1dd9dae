"""Small recordings of every storage and compression, and ways to damage them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
import shutil
from typing import Any

import cv2
from kpfeat_core.messages.definitions import typestore
import numpy as np
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import Writer
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.typesys import get_typestore, Stores
import yaml

START = 1_700_000_000_000_000_000
PERIOD = 100_000_000
LOG_DELAY = 7_000_000  # from the stamp of an image to its log time
SIZE = (96, 64)
IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED = 'sensor_msgs/msg/CompressedImage'
STRING = 'std_msgs/msg/String'


@dataclass(frozen=True)
class Made:
    """One message to be written: topic, type, log time and the message itself."""

    topic: str
    msgtype: str
    time: int
    message: Any


def pictures(count: int, size: tuple[int, int] = SIZE, seed: int = 0) -> list[np.ndarray]:
    """Return gray pictures of (width, height): a window that moves over blotches."""
    width, height = size
    noise = np.random.default_rng(seed).integers(0, 255, (40, 60), np.uint8)
    scene = cv2.resize(noise, (width + 4 * count, height + 40), interpolation=cv2.INTER_CUBIC)
    return [np.ascontiguousarray(scene[5:, 3 * k :][:height, :width]) for k in range(count)]


def make(msgtype: str, store: Any = None, /, **values: Any) -> Any:
    """Return a message of a typestore, by default that of ROS 2."""
    return (store or typestore()).types[msgtype](**values)


def header(stamp: int, frame: str = 'camera', store: Any = None) -> Any:
    time = make('builtin_interfaces/msg/Time', store, sec=stamp // 10**9, nanosec=stamp % 10**9)
    seq = {'seq': 5} if store else {}  # of ROS 1
    return make('std_msgs/msg/Header', store, stamp=time, frame_id=frame, **seq)


def image(pixels: np.ndarray, stamp: int, encoding: str = 'mono8', store: Any = None) -> Any:
    step = pixels.nbytes // len(pixels)
    return make(
        IMAGE,
        store,
        header=header(stamp, store=store),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=step,
        data=pixels.reshape(-1).view(np.uint8),
    )


def compressed(pixels: np.ndarray, stamp: int, store: Any = None) -> Any:
    data = cv2.imencode('.png', pixels)[1]
    return make(COMPRESSED, store, header=header(stamp, store=store), format='png', data=data)


def images(
    count: int = 6,
    topic: str = '/left/image_raw',
    size: tuple[int, int] = SIZE,
    start: int = START,
    store: Any = None,
) -> list[Made]:
    """Return images that come every PERIOD."""
    stamps = [start + k * PERIOD for k in range(count)]
    return [
        Made(topic, IMAGE, stamp + LOG_DELAY, image(pixels, stamp, store=store))
        for pixels, stamp in zip(pictures(count, size), stamps, strict=True)
    ]


def texts(count: int = 9, start: int = START, store: Any = None) -> list[Made]:
    """Return messages of another kind, that come between the images."""
    return [
        Made('/text', STRING, start + 60_000_000 * k, make(STRING, store, data=f'number {k}'))
        for k in range(count)
    ]


def write_bag(
    folder: Path, messages: Sequence[Made], storage: str = 'mcap', compression: str = ''
) -> Path:
    """
    Write a rosbag2 recording in the order of the messages.

    compression: '', file or message; and storage, which is that of the chunks of MCAP.
    """
    writer = Writer(folder, version=9, storage_plugin=StoragePlugin[storage.upper()])
    if compression:
        writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for made in messages:
            key = (made.topic, made.msgtype)
            if key not in connections:
                connections[key] = writer.add_connection(*key, typestore=typestore())
            data = typestore().serialize_cdr(made.message, made.msgtype)
            writer.write(connections[key], made.time, data)
    return folder


def write_split_bag(folder: Path, parts: Sequence[Sequence[Made]], storage: str = 'mcap') -> Path:
    """Write a rosbag2 recording of several files."""
    folder.mkdir(parents=True)
    described = []
    for k, messages in enumerate(parts):
        one = write_bag(folder.parent / f'{folder.name}_{k}', messages, storage)
        about = yaml.safe_load((one / 'metadata.yaml').read_text())
        described.append(about['rosbag2_bagfile_information'])
        shutil.move(one / described[-1]['relative_file_paths'][0], folder)
        shutil.rmtree(one)
    whole = described[0]
    whole['relative_file_paths'] = [d['relative_file_paths'][0] for d in described]
    whole['message_count'] = sum(d['message_count'] for d in described)
    text = yaml.safe_dump({'rosbag2_bagfile_information': whole})
    (folder / 'metadata.yaml').write_text(text)
    return folder


def write_ros1_bag(path: Path, count: int = 6, compression: str = '') -> Path:
    """Write a ROS 1 bag with the images and texts that `images` and `texts` give."""
    store = get_typestore(Stores.ROS1_NOETIC)
    made = sorted(images(count, store=store) + texts(store=store), key=lambda m: m.time)
    writer = Writer1(path)
    if compression:
        writer.set_compression(Writer1.CompressionFormat[compression.upper()])
    with writer:
        connections = {}
        for one in made:
            if one.topic not in connections:
                connections[one.topic] = writer.add_connection(
                    one.topic, one.msgtype, typestore=store
                )
            data = store.serialize_ros1(one.message, one.msgtype)
            writer.write(connections[one.topic], one.time, data)
    return path


def camera_info(time: int, focal: float = 50, store: Any = None) -> Made:
    """Return the calibration of a lens with distortion for images of SIZE."""
    roi = make(
        'sensor_msgs/msg/RegionOfInterest', store, x_offset=0, y_offset=0, height=0, width=0,
        do_rectify=False,
    )  # fmt: skip
    center = SIZE[0] / 2, SIZE[1] / 2
    values = {
        'd': np.array([-0.2, 0.05, 0, 0, 0.0]),
        'k': np.array([focal, 0, center[0], 0, focal, center[1], 0, 0, 1.0]),
        'r': np.eye(3).reshape(9),
        'p': np.array([focal, 0, center[0], 0, 0, focal, center[1], 0, 0, 0, 1.0, 0]),
    }
    if store:  # ROS 1 has capital letters
        values = {name.upper(): value for name, value in values.items()}
    message = make(
        'sensor_msgs/msg/CameraInfo', store, header=header(time, store=store), height=SIZE[1],
        width=SIZE[0], distortion_model='plumb_bob', binning_x=0, binning_y=0, roi=roi, **values,
    )  # fmt: skip
    return Made('/left/camera_info', 'sensor_msgs/msg/CameraInfo', time, message)


def write_ros1_camera_info(path: Path) -> Path:
    """Write a ROS 1 bag with a calibration, and a message that ROS 2 has in another layout."""
    store = get_typestore(Stores.ROS1_NOETIC)
    log = make(
        'rosgraph_msgs/msg/Log', store, header=header(START, store=store), level=2, name='n',
        msg='hello', file='f', function='g', line=1, topics=['/a'],
    )  # fmt: skip
    made = [camera_info(START, store=store), Made('/log', 'rosgraph_msgs/msg/Log', START, log)]
    with Writer1(path) as writer:
        for one in made:
            connection = writer.add_connection(one.topic, one.msgtype, typestore=store)
            writer.write(connection, one.time, store.serialize_ros1(one.message, one.msgtype))
    return path


def storage_file(bag: Path) -> Path:
    """Return the first file with messages of a recording."""
    if bag.is_file():
        return bag
    return next(path for path in sorted(bag.iterdir()) if path.name != 'metadata.yaml')


def truncate(path: Path, share: float) -> None:
    """Keep the first part of a file."""
    with path.open('r+b') as file:
        file.truncate(int(path.stat().st_size * share))


def blot(path: Path, place: float, share: float) -> None:
    """Overwrite a part of a file with zeros."""
    data = bytearray(path.read_bytes())
    begin, size = int(place * len(data)), int(share * len(data))
    data[begin : begin + size] = bytes(size)
    path.write_bytes(data)


def flip(path: Path, place: float, bit: int = 3) -> None:
    """Turn one bit of a file over."""
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1 << bit
    path.write_bytes(data)
