"""ROS 1 bags, whole or damaged; their messages are given in the form of ROS 2."""

from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
import struct

from rosbags.convert.converter import is_same_wireformat, LATCH, migrate_bytes
from rosbags.interfaces import Connection, MessageDefinitionFormat
from rosbags.rosbag1 import Reader
from rosbags.rosbag1.reader import Header, read_bytes, read_uint32, ReaderError, RecordType
from rosbags.serde import SerdeError
from rosbags.typesys import get_types_from_msg, get_typestore, Stores, TypesysError
from rosbags.typesys.msg import normalize_msgtype

from .chunks import ChunkedFile, ChunkInfo, ERRORS, inflate, OnDamage
from .recording import Channel, LAST_TIME, Record
from ..messages.definitions import definition_of, typestore

MAGIC = b'#ROSBAG V2.0\n'
HEADER = 'std_msgs/msg/Header'
TIME = 'builtin_interfaces/msg/Time'
BROKEN = (ReaderError, struct.error, UnicodeDecodeError, *ERRORS)
NOT_AS_DEFINED = (SerdeError, AssertionError, KeyError, IndexError)  # what Convert raises
Convert = Callable[[bytes], bytes]  # from the form of ROS 1 to that of ROS 2


class Ros1File(ChunkedFile):
    """A ROS 1 bag as a `Storage`."""

    def __init__(self, path: Path, on_damage: OnDamage) -> None:
        self._convert: dict[int, Convert] = {}
        super().__init__(path, on_damage)

    def _messages_in(
        self, chunk: ChunkInfo, keys: set[int], start: int, stop: int
    ) -> Iterator[Record]:
        found = []
        for key, time, data in self._raw_messages(chunk):
            if key in keys and start <= time < stop:
                try:
                    data = self._convert[key](data)
                except NOT_AS_DEFINED as error:
                    self._on_damage(
                        f'messages are not as their definition says ({error})', (key, time)
                    )
                else:
                    found.append(Record(self.contents.channels[key], time, data))
        yield from sorted(found, key=lambda record: record.time)

    def _raw_messages(self, chunk: ChunkInfo) -> Iterator[tuple[int, int, bytes]]:
        """Yield connection, time and ROS 1 bytes of the messages of a chunk."""
        self._file.seek(chunk.offset)
        packed = self._file.read(chunk.size)
        if len(packed) < chunk.size:
            self._on_damage('the file is cut off')
        try:
            data = BytesIO(inflate(chunk.compression, packed))
            while data.tell() < len(data.getbuffer()):
                header = Header.read(data)
                body = read_bytes(data, read_uint32(data))
                if header.get_uint8('op') == RecordType.CONNECTION:
                    self._add_connection(header, body)
                elif header.get_uint8('op') == RecordType.MSGDATA:
                    yield header.get_uint32('conn'), header.get_time('time'), body
        except BROKEN as error:
            if len(packed) == chunk.size:
                self._on_damage(f'the chunk at byte {chunk.offset} is damaged ({error})')

    def _read_index(self) -> bool:
        reader = Reader(self._path)  # only for its records: its own index is one of all messages
        reader.bio = self._file
        if self._file.read(len(MAGIC)) != MAGIC:
            return False
        try:
            header = Header.read(self._file, RecordType.BAGHEADER)
            if not header.get_uint64('index_pos'):
                return False
            self._file.seek(header.get_uint64('index_pos'))
            count = header.get_uint32('conn_count')
            connections = [reader.read_connection() for _ in range(count)]
            chunks = [reader.read_chunk_info() for _ in range(header.get_uint32('chunk_count'))]
            headers = [self._chunk_header(chunk.pos) for chunk in chunks]
        except (*BROKEN, AssertionError):
            return False
        for connection in connections:
            self._add(connection)
        for chunk, header in zip(chunks, headers, strict=True):
            offset, size, compression = header
            keys = frozenset(chunk.connection_counts)
            times = chunk.start_time, chunk.end_time - 1
            self._chunks.append(ChunkInfo(*times, offset, keys, size, compression))
            for key, count in chunk.connection_counts.items():
                self.contents.add(key, *times, count)
        return True

    def _chunk_header(self, offset: int) -> tuple[int, int, str]:
        self._file.seek(offset)
        header = Header.read(self._file, RecordType.CHUNK)
        size = read_uint32(self._file)
        return self._file.tell(), size, header.get_string('compression')

    def _scan(self) -> None:
        self._file.seek(0)
        if self._file.read(len(MAGIC)) != MAGIC:
            self._on_damage('it does not begin as ROS 1 bags of version 2.0 do')
            return
        self._on_damage('it has no index that is whole')
        try:
            while self._file.read(1):
                self._file.seek(-1, 1)
                header = Header.read(self._file)
                size = read_uint32(self._file)
                after = self._file.tell() + size
                if header.get_uint8('op') == RecordType.CHUNK:
                    self._scan_chunk(size, header.get_string('compression'))
                self._file.seek(after)
        except BROKEN as error:
            self._on_damage(f'the file cannot be read to its end ({error})')

    def _scan_chunk(self, size: int, compression: str) -> None:
        chunk = ChunkInfo(0, LAST_TIME, self._file.tell(), None, size, compression)
        times = []
        for key, time, _ in self._raw_messages(chunk):
            if key in self.contents.channels:
                times.append(time)
                self.contents.add(key, time, time)
        if times:
            self._chunks.append(chunk._replace(start=min(times), end=max(times)))

    def _add_connection(self, header: Header, body: bytes) -> None:
        """Take a connection that stands between messages, where no index told of it."""
        key = header.get_uint32('conn')
        if key in self.contents.channels:
            return
        described = Header.read(BytesIO(struct.pack('<I', len(body)) + body))
        self._add_channel(
            key,
            header.get_string('topic'),
            normalize_msgtype(described.get_string('type')),
            described.get_string('message_definition'),
            described.get('latching') == b'1',
        )

    def _add(self, connection: Connection) -> None:
        text = connection.msgdef.data
        if connection.msgdef.format != MessageDefinitionFormat.MSG:
            text = ''
        latching = bool(connection.ext.latching)
        self._add_channel(connection.id, connection.topic, connection.msgtype, text, latching)

    def _add_channel(
        self, key: int, topic: str, msgtype: str, definition: str, latching: bool
    ) -> None:
        try:
            text, convert = as_ros2(definition, msgtype)
        except (TypesysError, KeyError) as error:
            self._on_damage(f"the definition of '{topic}' cannot be read ({error})")
            return
        self._convert[key] = convert
        qos = tuple(LATCH) if latching else ()
        self.contents.channels[key] = Channel(topic, msgtype, text, 'ros2msg', qos)


def as_ros2(definition: str, msgtype: str) -> tuple[str, Convert]:
    """
    Return the definition of ROS 2 for a type of ROS 1, and what converts its messages.

    It is ROS 2's own for types that it has; others keep theirs, but for the header. Raises
    TypesysError and KeyError.
    """
    types = get_types_from_msg(definition, msgtype)
    old = get_typestore(Stores.EMPTY)
    old.register(types)
    new = typestore()
    if msgtype not in new.fielddefs:
        new = get_typestore(Stores.EMPTY)
        new.register(types | {name: typestore().fielddefs[name] for name in (HEADER, TIME)})
        text = new.generate_msgdef(msgtype, ros_version=2)[0]
    elif is_same_wireformat(old, new, msgtype, msgtype):
        text = definition_of(msgtype)
    else:
        options = {'src_is2': False, 'dst_is2': True}
        move = partial(migrate_bytes, old, new, msgtype, msgtype, {}, **options)
        return definition_of(msgtype), lambda data: bytes(move(data))
    return text, lambda data: bytes(new.ros1_to_cdr(data, msgtype))
