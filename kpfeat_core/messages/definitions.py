"""
Messages of other packages that recordings are given: their fields, for who has not installed them.

Fields, their order and types are those of rtabmap_msgs (rtabmap_ros, branch ros2, BSD-3-Clause)
and foxglove_msgs 3.4 (foxglove-sdk, MIT); a receiver decodes by them alone.
"""

from dataclasses import fields
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys import get_types_from_msg, get_typestore, Stores
from rosbags.typesys.store import Typestore

RGBD_IMAGE = 'rtabmap_msgs/msg/RGBDImage'
IMAGE_ANNOTATIONS = 'foxglove_msgs/msg/ImageAnnotations'
DEFINITIONS = {
    'rtabmap_msgs/msg/Point2f': 'float32 x\nfloat32 y\n',
    'rtabmap_msgs/msg/Point3f': 'float32 x\nfloat32 y\nfloat32 z\n',
    'rtabmap_msgs/msg/KeyPoint': """\
rtabmap_msgs/Point2f pt
float32 size
float32 angle
float32 response
int32 octave
int32 class_id
""",
    'rtabmap_msgs/msg/GlobalDescriptor': """\
std_msgs/Header header
int32 type
uint8[] info
uint8[] data
""",
    RGBD_IMAGE: """\
std_msgs/Header header
sensor_msgs/CameraInfo rgb_camera_info
sensor_msgs/CameraInfo depth_camera_info
sensor_msgs/Image rgb
sensor_msgs/Image depth
sensor_msgs/CompressedImage rgb_compressed
sensor_msgs/CompressedImage depth_compressed
rtabmap_msgs/KeyPoint[] key_points
rtabmap_msgs/Point3f[] points
uint8[] descriptors
rtabmap_msgs/GlobalDescriptor global_descriptor
""",
    'foxglove_msgs/msg/Point2': 'float64 x\nfloat64 y\n',
    'foxglove_msgs/msg/Color': 'float64 r\nfloat64 g\nfloat64 b\nfloat64 a\n',
    'foxglove_msgs/msg/KeyValuePair': 'string key\nstring value\n',
    'foxglove_msgs/msg/CircleAnnotation': """\
builtin_interfaces/Time timestamp
foxglove_msgs/Point2 position
float64 diameter
float64 thickness
foxglove_msgs/Color fill_color
foxglove_msgs/Color outline_color
foxglove_msgs/KeyValuePair[] metadata
""",
    'foxglove_msgs/msg/PointsAnnotation': """\
builtin_interfaces/Time timestamp
uint8 UNKNOWN=0
uint8 POINTS=1
uint8 LINE_LOOP=2
uint8 LINE_STRIP=3
uint8 LINE_LIST=4
uint8 type
foxglove_msgs/Point2[] points
foxglove_msgs/Color outline_color
foxglove_msgs/Color[] outline_colors
foxglove_msgs/Color fill_color
float64 thickness
foxglove_msgs/KeyValuePair[] metadata
""",
    'foxglove_msgs/msg/TextAnnotation': """\
builtin_interfaces/Time timestamp
foxglove_msgs/Point2 position
string text
float64 font_size
foxglove_msgs/Color text_color
foxglove_msgs/Color background_color
foxglove_msgs/KeyValuePair[] metadata
""",
    IMAGE_ANNOTATIONS: """\
builtin_interfaces/Time timestamp
foxglove_msgs/CircleAnnotation[] circles
foxglove_msgs/PointsAnnotation[] points
foxglove_msgs/TextAnnotation[] texts
foxglove_msgs/KeyValuePair[] metadata
""",
}
FEATURES = 'kpfeat/msg/Features'
MATCHES = 'kpfeat/msg/Matches'
_FOLDER = Path(__file__).parent


@cache
def typestore() -> Typestore:
    """Return the types of ROS 2, those of this package and those of `others`."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for name in (FEATURES, MATCHES):
        text = (_FOLDER / f'{name.rpartition("/")[2]}.msg').read_text(encoding='utf-8')
        store.register(get_types_from_msg(text, name))
    for name, text in DEFINITIONS.items():
        store.register(get_types_from_msg(text, name))
    return store


def definition_of(name: str) -> str:
    """
    Return the definition of a type as recordings embed it: its text, and those of its fields.

    For our own types with their comments, as `ros2 bag record` embeds it.
    """
    generated = typestore().generate_msgdef(name, ros_version=2)[0]
    path = _FOLDER / f'{name.rpartition("/")[2]}.msg'
    if not name.startswith('kpfeat/') or not path.is_file():
        return generated
    own = generated.partition('=' * 80)[0]
    return path.read_text(encoding='utf-8') + generated[len(own) :]


def empty_message(name: str) -> SimpleNamespace:
    """Return an object for the fields of a message, to be filled by `conversions.fill_...`."""
    return SimpleNamespace(**{f.name: None for f in fields(typestore().types[name])})


def new_message(name: str, **values: Any) -> Any:
    """Return a message object with these values; the others are zero or empty, as in rclpy."""
    store = typestore()
    for field, (kind, inner) in store.fielddefs[name][1]:
        if field not in values:
            values[field] = _empty(kind, inner)
    return store.types[name](**values)


def constructors(package: str) -> SimpleNamespace:
    """Return the constructors of the messages of a package, named as in its Python module."""
    names = [name for name in typestore().types if name.startswith(f'{package}/msg/')]
    return SimpleNamespace(**{n.rpartition('/')[2]: partial(new_message, n) for n in names})


def _empty(kind: Nodetype, inner: Any) -> Any:
    if kind == Nodetype.BASE:
        return {'string': '', 'bool': False}.get(inner[0], 0)
    if kind == Nodetype.NAME:
        return new_message(inner)
    (each, what), length = inner
    return np.zeros(length, what[0]) if each == Nodetype.BASE else []


def to_cdr(message: Any, name: str) -> bytes:
    """
    Serialise a filled message as ROS 2 does, little endian.

    Its sequences of numbers may be of array.array or NumPy, its headers of any typestore.
    """
    store = typestore()
    values = {}
    for field, (kind, inner) in store.fielddefs[name][1]:
        value = getattr(message, field)
        if kind in (Nodetype.SEQUENCE, Nodetype.ARRAY) and inner[0][0] == Nodetype.BASE:
            value = np.asarray(value, inner[0][1][0])
        values[field] = value
    return bytes(store.serialize_cdr(store.types[name](**values), name, little_endian=True))


def from_cdr(data: bytes, name: str) -> Any:
    """Return the message object of CDR bytes, for `conversions.message_to_...`."""
    return typestore().deserialize_cdr(bytearray(data), name)  # arrays that may be written to


def stamp_ns(header: Any) -> int:
    """Return the stamp of a header as whole nanoseconds: exact, and usable as a key."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
