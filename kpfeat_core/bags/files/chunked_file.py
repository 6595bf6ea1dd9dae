"""What MCAP files and ROS 1 bags share: messages in chunks, read when their time has come."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..records import Channel, Contents, merge_by_time, Note, Record, Stretch


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
