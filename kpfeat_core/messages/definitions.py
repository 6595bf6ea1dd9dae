"""
The messages of this package without a ROS installation: their definitions, and CDR bytes of them.

The .msg files beside this are copies of those in msg/, for they must be where pip installs to.
Messages of packages that a recording is made for, but that need not be installed, are in `others`.
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

from .others import DEFINITIONS

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
    Return what a recording embeds for a type: its text, and those of all types within.

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
    """Return what makes the messages of a package, named as in the package's Python module."""
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
