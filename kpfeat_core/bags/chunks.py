"""Bytes that recordings compress, as far as they can be had."""

import bz2
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
import tempfile
from typing import BinaryIO, NamedTuple

import lz4.frame
import zstandard

from .recording import Channel, Contents, merge_by_time, Note, Record, Stretch

ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'
# what the decompressors raise for bytes that are not theirs; lz4 raises plain RuntimeError
ERRORS = (zstandard.ZstdError, RuntimeError, OSError, EOFError, ValueError)
STEP = 1 << 20


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
def unpacked_file(path: Path, note: Note) -> Iterator[Path]:
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
            _unpack(source, target, note)
        yield unpacked


def _unpack(source: BinaryIO, target: BinaryIO, note: Note) -> None:
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    while block := source.read(STEP):
        try:
            target.write(decompressor.decompress(block))
        except zstandard.ZstdError as error:
            note(f'the compressed file is damaged ({error})')
            return
    if not decompressor.eof:
        note('the compressed file is cut off')


class Piece(NamedTuple):
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
    """A `Storage`; subclasses find the pieces, by the index or by going through, and read one."""

    def __init__(self, path: Path, note: Note) -> None:
        self.contents = Contents()
        self._path, self._note = path, note
        self._pieces: list[Piece] = []
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
        stretches = [
            Stretch(piece.start, lambda piece=piece: self._messages_in(piece, keys, start, stop))
            for piece in self._pieces
            if piece.end >= start and piece.start < stop
            if piece.channels is None or piece.channels & keys
        ]
        return merge_by_time(stretches)

    def _messages_in(
        self, piece: Piece, keys: set[int], start: int, stop: int
    ) -> Iterator[Record]:
        """Yield the messages of channels by key of one piece, in the order of time."""
        raise NotImplementedError

    def _read_index(self) -> bool:
        """Take the index at the end of the file; false where there is none that is whole."""
        raise NotImplementedError

    def _scan(self) -> None:
        """Go through the file from its beginning as far as it can be read."""
        raise NotImplementedError
