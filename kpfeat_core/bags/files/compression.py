"""Bytes that recordings compress, as far as they can be had."""

import bz2
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
import tempfile
from typing import BinaryIO

import lz4.frame
import zstandard

from ..records import Note

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
