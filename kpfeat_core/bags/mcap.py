"""MCAP files, whole or damaged: the index where there is one, else everything is gone through."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
import struct
from typing import Any
import zlib

from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.reader import make_reader
from mcap.records import Channel as McapChannel
from mcap.records import Chunk, Message, Schema
from mcap.summary import Summary
from rosbags.rosbag2.errors import ReaderError
from rosbags.rosbag2.metadata import parse_qos
from rosbags.typesys import TypesysError
from rosbags.typesys.msg import normalize_msgtype

from .chunks import ChunkedFile, ChunkInfo, ERRORS, inflate, OnDamage, unpacked_message
from .recording import Channel, Record
from .ros1 import as_ros2, Convert, NOT_AS_DEFINED

MAGIC = b'\x89MCAP0\r\n'
BROKEN = (McapError, struct.error, ValueError, *ERRORS)
ROS1 = ('ros1', 'ros1msg')  # encodings of messages as `mcap convert` and others write them
AT_END = (Opcode.DATA_END, Opcode.FOOTER)


class McapFile(ChunkedFile):
    """An MCAP file as a `Storage`."""

    def __init__(self, path: Path, on_damage: OnDamage) -> None:
        self._schemas: dict[int, Schema] = {}
        self._convert: dict[int, Convert] = {}  # of channels with messages of ROS 1
        self._size = path.stat().st_size
        super().__init__(path, on_damage)

    def _messages_in(
        self, chunk: ChunkInfo, keys: set[int], start: int, stop: int
    ) -> Iterator[Record]:
        found = []
        for record in self._records_at(chunk.offset):
            wanted = isinstance(record, Message) and record.channel_id in keys
            if wanted and start <= record.log_time < stop:
                found.append(record)
        for record in sorted(found, key=lambda record: record.log_time):
            channel = self.contents.channels[record.channel_id]
            try:
                data = unpacked_message(record.data)
            except ERRORS as error:
                lost = (record.channel_id, record.log_time)
                self._on_damage(f'messages cannot be decompressed ({error})', lost)
                continue
            if record.channel_id in self._convert:
                try:
                    data = self._convert[record.channel_id](data)
                except NOT_AS_DEFINED as error:
                    lost = (record.channel_id, record.log_time)
                    self._on_damage(f'messages are not as their definition says ({error})', lost)
                    continue
            yield Record(channel, record.log_time, data)

    def _read_index(self) -> bool:
        try:
            summary = make_reader(self._file).get_summary()
        except (*BROKEN, OSError):  # cut off, most likely: `_scan` says what is missing
            return False
        if not summary or not summary.statistics or not summary.channels:
            return False
        if summary.statistics.message_count and not summary.chunk_indexes:
            return False
        self._take(summary)
        return True

    def _take(self, summary: Summary) -> None:
        self._schemas = summary.schemas
        for channel in summary.channels.values():
            self._add_channel(channel)
        statistics = summary.statistics
        self.contents.counts = dict(statistics.channel_message_counts)
        if statistics.message_count:
            self.contents.cover(statistics.message_start_time, statistics.message_end_time)
        for index in summary.chunk_indexes:
            self._chunks.append(
                ChunkInfo(
                    index.message_start_time,
                    index.message_end_time,
                    index.chunk_start_offset,
                    frozenset(index.message_index_offsets) or None,
                )
            )

    def _scan(self) -> None:
        self._file.seek(0)
        magic = self._file.read(len(MAGIC))
        if magic != MAGIC:
            self._on_damage('the file is empty' if not magic else 'it does not begin as MCAP does')
            return
        offset = len(MAGIC)
        while True:
            head = self._file.read(9)
            opcode, length = struct.unpack('<BQ', head) if len(head) == 9 else (None, 0)
            if opcode in AT_END:
                return
            if opcode is None or not 0 < opcode <= Opcode.DATA_END:
                cut = not head or len(head) < 9
                self._on_damage('the file is cut off' if cut else f'no record at byte {offset}')
                return
            if opcode in (Opcode.SCHEMA, Opcode.CHANNEL, Opcode.CHUNK, Opcode.MESSAGE):
                self._scan_chunk(offset)
            offset += 9 + length
            if offset > self._size:
                if opcode not in (Opcode.CHUNK, Opcode.MESSAGE):  # those have said it
                    self._on_damage('the file is cut off')
                return
            self._file.seek(offset)

    def _scan_chunk(self, offset: int) -> None:
        times, channels = [], set()
        for record in self._records_at(offset):
            if isinstance(record, Schema):
                self._schemas[record.id] = record
            elif isinstance(record, McapChannel):
                self._add_channel(record)
            elif isinstance(record, Message) and record.channel_id in self.contents.channels:
                times.append(record.log_time)
                channels.add(record.channel_id)
                self.contents.add(record.channel_id, record.log_time, record.log_time)
        if times:
            self._chunks.append(ChunkInfo(min(times), max(times), offset, frozenset(channels)))

    def _add_channel(self, channel: McapChannel) -> None:
        schema = self._schemas.get(channel.schema_id)
        form = schema.encoding if schema else ''
        name = schema.name if schema else ''
        text = schema.data.decode(errors='replace') if schema else ''
        if channel.message_encoding in ROS1:
            name, form = normalize_msgtype(name), 'ros2msg'
            try:
                text, self._convert[channel.id] = as_ros2(text, name)
            except (TypesysError, KeyError) as error:
                reason = f"the definition of '{channel.topic}' cannot be read ({error})"
                self._on_damage(reason)
                return
        elif channel.message_encoding not in ('cdr', ''):
            form = channel.message_encoding
        try:
            qos = tuple(parse_qos(channel.metadata.get('offered_qos_profiles', '')))
        except (ReaderError, KeyError, TypeError):  # of another tool: not needed to read it
            qos = ()
        self.contents.channels[channel.id] = Channel(
            channel.topic,
            name,
            text,
            'ros2idl' if form in ('ros2idl', 'omgidl') else form,
            qos,
        )

    def _records_at(self, offset: int) -> Iterator[Any]:
        """Yield what is in the chunk at a place of the file, or the one record there."""
        self._file.seek(offset)
        head = self._file.read(9)
        try:
            opcode, length = struct.unpack('<BQ', head)
            body = self._file.read(min(length, self._size))
            if opcode != Opcode.CHUNK:
                yield from _records(head + body)
                return
            if len(body) < length:
                self._on_damage('the file is cut off')
            yield from self._records_in_chunk(body, offset)
        except BROKEN as error:
            self._on_damage(f'the record at byte {offset} is damaged{_because(error)}')

    def _records_in_chunk(self, body: bytes, offset: int) -> Iterator[Any]:
        chunk = Chunk.read(ReadDataStream(BytesIO(body)))
        data = inflate(chunk.compression, chunk.data)
        whole = len(data) == chunk.uncompressed_size
        if whole and chunk.uncompressed_crc and zlib.crc32(data) != chunk.uncompressed_crc:
            self._on_damage(f'the checksum of the chunk at byte {offset} is wrong')
            return
        yield from _records(data)


def _records(data: bytes) -> Iterator[Any]:
    """Yield schemas, channels and messages; raises one of BROKEN where the bytes end early."""
    stream = ReadDataStream(BytesIO(data))
    while stream.count < len(data):
        opcode, length = stream.read1(), stream.read8()
        end = stream.count + length
        if end > len(data):
            raise ValueError('it is cut off')
        if opcode == Opcode.MESSAGE:
            yield Message.read(stream, length)
        elif opcode == Opcode.SCHEMA:
            yield Schema.read(stream)
        elif opcode == Opcode.CHANNEL:
            yield McapChannel.read(stream)
        stream.read(end - stream.count)


def _because(error: Exception) -> str:
    return f' ({error})' if str(error) else ''
