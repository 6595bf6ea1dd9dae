"""
The messages of this package without a ROS installation: their definitions, and CDR bytes of them.

The .msg files beside this are copies of those in msg/, for they must be where pip installs to.
"""

from dataclasses import fields
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys import get_types_from_msg, get_typestore, Stores
from rosbags.typesys.store import Typestore

FEATURES = 'kpfeat/msg/Features'
MATCHES = 'kpfeat/msg/Matches'
_FOLDER = Path(__file__).parent


@cache
def typestore() -> Typestore:
    """Return the types of ROS 2 and those of this package."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for name in (FEATURES, MATCHES):
        text = (_FOLDER / f'{name.rpartition("/")[2]}.msg').read_text(encoding='utf-8')
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


def to_cdr(message: Any, name: str) -> bytes:
    """
    Serialise a filled message of ours as ROS 2 does, little endian.

    Its sequences may be of array.array or NumPy, its headers of any typestore.
    """
    store = typestore()
    values = {}
    for field, (kind, inner) in store.fielddefs[name][1]:
        value = getattr(message, field)
        if kind in (Nodetype.SEQUENCE, Nodetype.ARRAY):
            value = np.asarray(value, inner[0][1][0])
        values[field] = value
    return bytes(store.serialize_cdr(store.types[name](**values), name, little_endian=True))


def from_cdr(data: bytes, name: str) -> Any:
    """Return the message object of CDR bytes, for `conversions.message_to_...`."""
    return typestore().deserialize_cdr(bytearray(data), name)  # arrays that may be written to
