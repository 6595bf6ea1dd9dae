"""Bytes of messages to objects, by the definition that a recording has of them."""

from collections.abc import Callable
from functools import cache
from typing import Any

from rosbags.serde import SerdeError
from rosbags.typesys import (
    get_types_from_idl,
    get_types_from_msg,
    get_typestore,
    Stores,
    TypesysError,
)
from rosbags.typesys.store import Typestore

from .records import Channel, IMAGES, Record
from ..errors import BadImageError, DataError
from ..messages.definitions import definition_of, typestore

IDL_SEPARATOR = '=' * 80 + '\n'


def decode(record: Record) -> Any:
    """Return the message object of a record; raises BadImageError of the kind `message`."""
    channel = record.channel
    try:
        # arrays of messages may be written to; those of images are only looked at
        data = record.data if channel.msgtype in IMAGES else bytearray(record.data)
        return _store_of(channel).deserialize_cdr(data, channel.msgtype)
    except (SerdeError, AssertionError, IndexError, KeyError) as error:
        raise BadImageError(
            'message', f"a message of '{channel.topic}' is not as its definition says: {error}"
        ) from error


def embedded_definition(channel: Channel) -> tuple[str, str]:
    """
    Return the definition and the hash that a recording holds of a channel's type.

    Raises DataError where neither the recording nor ROS 2 has a definition.
    """
    store = _store_of(channel)
    text = channel.definition or definition_of(channel.msgtype)
    try:
        return text, store.hash_rihs01(channel.msgtype)
    except KeyError as error:
        raise DataError(
            f"the definition of {channel.msgtype}, the type of '{channel.topic}', lacks {error}"
        ) from error


@cache
def _store_of(channel: Channel) -> Typestore:
    if not channel.definition:
        if channel.msgtype in typestore().fielddefs:
            return typestore()
        raise DataError(
            f"the recording has no definition of {channel.msgtype}, the type of '{channel.topic}'"
        )
    store = get_typestore(Stores.EMPTY)
    try:
        store.register(_parser(channel.definition_format)(channel))
    except (TypesysError, KeyError) as error:
        raise DataError(
            f"the definition of {channel.msgtype}, the type of '{channel.topic}', cannot be read: "
            f'{error}'
        ) from error
    return store


def _parser(form: str) -> Callable[[Channel], Any]:
    if form == 'ros2idl':
        return _types_from_idl
    return lambda channel: get_types_from_msg(channel.definition, channel.msgtype)


def _types_from_idl(channel: Channel) -> dict[str, Any]:
    types: dict[str, Any] = {}
    if not channel.definition.startswith(f'{IDL_SEPARATOR}IDL: '):
        return get_types_from_idl(channel.definition)
    for part in channel.definition.split(IDL_SEPARATOR)[1:]:
        types |= get_types_from_idl(part.partition('\n')[2])
    return types
