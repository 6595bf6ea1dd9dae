"""Files of recordings that consist of chunks, and what is common to all kinds of files."""

import bz2
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
import heapq
from pathlib import Path
import tempfile
from typing import BinaryIO, NamedTuple, Protocol, runtime_checkable

import lz4.frame
import zstandard

from .recording import Channel, LAST_TIME, Record

ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'
# what the decompressors raise for bytes that are not theirs; lz4 raises plain RuntimeError
ERRORS = (zstandard.ZstdError, RuntimeError, OSError, EOFError, ValueError)
STEP = 1 << 20


@dataclass
class Contents:
    """What a file holds: channels by its own ids, messages of each, first and last log time."""

    channels: dict[int, Channel] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    start: int = LAST_TIME
    end: int = -1

    def add(self, key: int, start: int, end: int, count: int = 1) -> None:
        """Note messages of a channel."""
        self.counts[key] = self.counts.get(key, 0) + count
        self.cover(start, end)

    def cover(self, start: int, end: int) -> None:
        """Note the times of messages."""
        self.start, self.end = min(self.start, start), max(self.end, end)

    @property
    def count(self) -> int:
        """Return the number of messages."""
        return sum(self.counts.values())


@runtime_checkable
class Storage(Protocol):
    """
    One open file of a recording.

    The file's contents are known once it is open. What cannot be read is passed over, and given
    to the `on_damage` that it was opened with.
    """

    contents: Contents

    def messages(self, wanted: set[Channel], start: int, stop: int) -> Iterator[Record]:
        """Yield the messages of channels with start <= log time < stop in the order of time."""

    def close(self) -> None:
        """Close the file."""


# Takes the reason, and what names the one message that is lost, if it is known to be one.
OnDamage = Callable[..., None]


class Segment(NamedTuple):
    """A stretch of a recording: its earliest log time, and a function that opens its records."""

    start: int
    open: Callable[[], Iterator[Record]]


def merge_by_time(segments: Iterable[Segment]) -> Iterator[Record]:
    """
    Yield the records of all segments in the order of their log times.

    A segment is opened when its time has come, so memory holds those that overlap. Records of the
    same time keep the order of their segments.
    """
    waiting = sorted(enumerate(segments), key=lambda item: (item[1].start, item[0]), reverse=True)
    running: list[tuple[int, int, Record, Iterator[Record]]] = []

    def advance(order: int, records: Iterator[Record]) -> None:
        record = next(records, None)
        if record is not None:
            heapq.heappush(running, (record.time, order, record, records))

    while running or waiting:
        while waiting and (not running or waiting[-1][1].start <= running[0][0]):
            order, segment = waiting.pop()
            advance(order, segment.open())
        if running:
            _, order, record, records = heapq.heappop(running)
            yield record
            advance(order, records)


def inflate(compression: str, data: bytes) -> bytes:
    """
    Return what is compressed, or its beginning where the end is missing.

    Raises one of ERRORS where it is damaged, ValueError for an unknown compression.
    """
    if compression in ('', 'none'):
        return data
    if compression == 'zstd':
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    if compression == 'lz4':
        return lz4.frame.LZ4FrameDecompressor().decompress(data)
    if compression == 'bz2':
        return bz2.BZ2Decompressor().decompress(data)
    raise ValueError(f"compression is '{compression}', expected zstd, lz4, bz2 or none")


def unpacked_message(data: bytes) -> bytes:
    """
    Return the bytes of a message, which rosbag2 may have compressed; raises one of ERRORS.

    No message of ROS 2 begins as zstd does.
    """
    return inflate('zstd', data) if data[:4] == ZSTD_MAGIC else bytes(data)


@contextmanager
def unpacked_file(path: Path, on_damage: OnDamage) -> Iterator[Path]:
    """
    Give a file as it is, and a file of zstd unpacked into a temporary folder that then goes.

    Where it is cut off or damaged, the beginning is given.
    """
    if path.suffix != '.zst' and path.suffix != '.zstd':
        yield path
        return
    with tempfile.TemporaryDirectory(prefix='kpfeat-') as folder:
        unpacked = Path(folder) / path.stem
        with path.open('rb') as source, unpacked.open('wb') as target:
            _unpack(source, target, on_damage)
        yield unpacked


def _unpack(source: BinaryIO, target: BinaryIO, on_damage: OnDamage) -> None:
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    while block := source.read(STEP):
        try:
            target.write(decompressor.decompress(block))
        except zstandard.ZstdError as error:
            on_damage(f'the compressed file is damaged ({error})')
            return
    if not decompressor.eof:
        on_damage('the compressed file is cut off')


class ChunkInfo(NamedTuple):
    """
    A chunk, or a message outside of chunks: its times, and where it begins.

    channels: those in it, None where nobody knows. size, compression: of its data, where they do
    not stand there.
    """

    start: int
    end: int
    offset: int
    channels: frozenset[int] | None = None
    size: int = 0
    compression: str = ''


class ChunkedFile:
    """A `Storage`; subclasses find the chunks, by the index or by going through, and read one."""

    def __init__(self, path: Path, on_damage: OnDamage) -> None:
        self.contents = Contents()
        self._path, self._on_damage = path, on_damage
        self._chunks: list[ChunkInfo] = []
        self._file = path.open('rb')
        try:
            if not self._read_index():
                self._scan()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def messages(self, wanted: set[Channel], start: int, stop: int) -> Iterator[Record]:
        """Yield the messages of channels with start <= log time < stop in the order of time."""
        keys = {key for key, channel in self.contents.channels.items() if channel in wanted}
        segments = [
            Segment(chunk.start, lambda chunk=chunk: self._messages_in(chunk, keys, start, stop))
            for chunk in self._chunks
            if chunk.end >= start and chunk.start < stop
            if chunk.channels is None or chunk.channels & keys
        ]
        return merge_by_time(segments)

    def _messages_in(
        self, chunk: ChunkInfo, keys: set[int], start: int, stop: int
    ) -> Iterator[Record]:
        """Yield the messages of channels by key of one chunk, in the order of time."""
        raise NotImplementedError

    def _read_index(self) -> bool:
        """Take the index at the end of the file; false where there is none that is whole."""
        raise NotImplementedError

    def _scan(self) -> None:
        """Go through the file from its beginning as far as it can be read."""
        raise NotImplementedError
