"""Where frames go: what all outputs have in common, and recordings of rosbag2."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
import errno
import fcntl
import os
from pathlib import Path
import shutil
import sqlite3
from typing import Any, TextIO
import zlib

from rosbags.rosbag2 import Writer
from rosbags.rosbag2.enums import StoragePlugin

from .frames import FeatureFrame
from .reader import BagReader, embedded_definition
from .recording import Channel, METADATA, Record, Recording
from ..errors import DataError
from ..messages.definitions import FEATURES, RGBD_IMAGE

MADE = (FEATURES, RGBD_IMAGE)  # types of messages that every recording of ours has
METADATA_VERSION = 8  # of Iron: that of Jazzy is one which Humble cannot read
STORAGES = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}
FILES = {'.mcap': 'mcap', '.db3': 'sqlite3'}  # endings that make a file rather than a folder
NO_FOLDERS = (*FILES, '.bag', '.h5', '.db', '.npz')  # nobody would call a folder that
FULL = (errno.ENOSPC, errno.EDQUOT)  # h5py, SQLite and COLMAP say them in their own words
Encode = Callable[[FeatureFrame], Sequence[Record]]
LogEntry = dict[str, Any]  # what the log holds of a frame


class Sink:
    """
    An output that grows in a folder, frame by frame and in order, and is used once.

    `finish` puts it to its place; without that it stays in the folder, as far as it was flushed.
    """

    def open(self, folder: Path, resume: bool) -> None:
        """Begin in a folder; resume: to be given back what an earlier run left there."""
        raise NotImplementedError

    def recall(self, entries: Sequence[LogEntry]) -> list[FeatureFrame] | None:
        """Return the next frames of the earlier run; None where they are damaged or missing."""
        raise NotImplementedError

    def forget(self) -> None:
        """End recalling: the rest of the earlier run is thrown away."""

    def add(self, frame: FeatureFrame) -> LogEntry:
        """Take a frame, and return what `recall` needs to know of it."""
        raise NotImplementedError

    def copy(self, record: Record) -> None:
        """Take a message of the input."""
        raise DataError(f"'{record.channel.topic}' cannot be copied; use the format bag")

    def flush(self) -> None:
        """Give all that was taken to the system, which keeps it should this process be killed."""

    def finish(self) -> None:
        """Put the output to its place."""
        raise NotImplementedError

    def close(self) -> None:
        """Close what is open."""


class BagSink(Sink):
    """
    A rosbag2 recording: a folder, or one file for a name that ends in .mcap or .db3.

    The same frames in the same batches give the same bytes. storage: mcap or sqlite3, '' by the
    name of `out`. channels: all that will be written, so that a topic without messages is there as
    well; copied: those of them that are copied. encode: gives the messages of a frame. Raises
    DataError.
    """

    def __init__(
        self,
        out: Path,
        storage: str,
        channels: Sequence[Channel],
        copied: Collection[Channel] = (),
        encode: Encode = lambda frame: frame.messages,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._out, self._storage = out, storage_for(out, storage)
        self._encode, self._on_close = encode, on_close
        self._made = {channel.topic for channel in channels} - {one.topic for one in copied}
        self._name = out.stem if out.suffix in FILES else out.name
        self._definitions = {channel: embedded_definition(channel) for channel in channels}
        self._connections: dict[tuple[str, str], Any] = {}
        self._earlier: Iterator[Record] = iter(())

    def open(self, folder: Path, resume: bool) -> None:
        self._folder, self._before = folder / 'bag' / self._name, folder / 'before'
        self._gone = folder / 'gone'
        remove(self._gone)
        if not self._before.exists() and self._folder.exists() and resume:
            os.replace(self._folder, self._before)
        if not resume:
            shutil.rmtree(self._before, ignore_errors=True)
        shutil.rmtree(self._folder.parent, ignore_errors=True)
        self._folder.parent.mkdir()
        if resume:
            self._earlier = _records_in(self._before, self._made)
        plugin = STORAGES[self._storage]
        self._writer = Writer(self._folder, version=METADATA_VERSION, storage_plugin=plugin)
        self._writer.open()
        if self._storage == 'sqlite3':  # `put` sees to the disk, once for all
            self._writer.storage.conn.execute('PRAGMA synchronous = OFF')
        for channel, (text, digest) in self._definitions.items():
            self._connections[channel.topic, channel.msgtype] = self._writer.add_connection(
                channel.topic,
                channel.msgtype,
                msgdef=text,
                rihs01=digest,
                offered_qos_profiles=channel.qos,
            )

    def recall(self, entries: Sequence[LogEntry]) -> list[FeatureFrame] | None:
        frames = []
        for entry in entries:
            records = [next(self._earlier, None) for _ in range(entry.get('records', 0))]
            if None in records or _checksum(records) != entry.get('crc', 0):
                return None
            frames.append(frame_of(entry)._replace(messages=tuple(records)))
        return frames

    def forget(self) -> None:
        self._earlier = iter(())
        if self._before.exists():  # in one step: half of it must not be taken for all
            os.replace(self._before, self._gone)
            remove(self._gone)

    def add(self, frame: FeatureFrame) -> LogEntry:
        records = self._encode(frame)
        for record in records:
            self.copy(record)
        return {'records': len(records), 'crc': _checksum(records)}

    def copy(self, record: Record) -> None:
        connection = self._connections[record.channel.topic, record.channel.msgtype]
        self._writer.write(connection, record.time, record.data)

    def flush(self) -> None:
        storage = self._writer.storage
        if self._storage == 'sqlite3':
            storage.conn.commit()
        else:  # a chunk for each batch, which the reader salvages without an index
            if storage.chunk.bio.tell():
                storage.close_chunk()
            storage.bio.flush()

    def finish(self) -> None:
        self._writer.close()
        name = f'{self._folder.name}{self._out.suffix}'
        put(self._folder / name if self._out.suffix in FILES else self._folder, self._out)

    def close(self) -> None:
        with suppress(Exception):  # after `finish` there is nothing to abort
            self._writer.abort()
        self._on_close()


def frame_of(entry: LogEntry) -> FeatureFrame:
    """Return the frame that a log tells of, without its features."""
    problem = entry.get('problem')
    return FeatureFrame(
        entry['index'],
        entry['time'],
        entry['topic'],
        problem=problem and tuple(problem),
        counts=entry.get('counts', {}),
    )


def _checksum(records: Sequence[Record]) -> int:
    total = 0
    for record in records:
        total = zlib.crc32(record.data, total)
    return total


def _records_in(folder: Path, topics: Collection[str]) -> Iterator[Record]:
    """Yield the messages of topics in a recording that may have no end."""
    for file in folder.glob('*.db3'):  # SQLite rolls back what was not committed
        with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(file)) as connection:
            connection.execute('SELECT count(*) FROM topics')
    try:
        reader = BagReader(folder)
    except DataError:
        return
    yield from reader.records([topic for topic in reader.topics if topic.name in topics])


class InUseError(DataError):
    """Another process is at work on the same output."""


def lock(path: Path) -> TextIO:
    """
    Open a file to read and append, which is locked until it is closed or the process ends.

    The folder is made where it is missing. The owner of the lock may delete the file. Raises
    InUseError where another process holds it.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open('a+', encoding='utf-8')
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise InUseError(
                f"another run is writing to '{path.parent}'; wait for it, or choose another --out"
            ) from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # it was deleted after it was opened: the lock of it keeps nobody out


def storage_for(out: Path, storage: str) -> str:
    """Return the storage that is asked for or that the name tells; raises DataError."""
    named = FILES.get(out.suffix, '')
    if storage and named and named != storage:
        raise DataError(
            f"--out is '{out}', which is a name for {named}, and --storage is {storage}; "
            'leave out one of them'
        )
    return storage or named or 'mcap'


def check_target(out: Path, inputs: Collection[Recording], recording: bool = True) -> None:
    """
    Refuse to write where the input is, and a recording over what is none; raises DataError.

    recording: a recording is to be written, rather than files of other kinds.
    """
    sources = {path.resolve() for one in inputs for path in (one.path, *one.files)}
    for source in sources:
        if out.resolve() == source or out.resolve() in source.parents:
            raise DataError(f"--out is '{out}', which is the input; choose another name")
    if not recording:
        return
    if out.suffix not in FILES and out.suffix.lower() in NO_FOLDERS:
        raise DataError(
            f"--out is '{out}', expected a name that ends in {' or '.join(FILES)}, or that of a "
            'folder'
        )
    folder = out.resolve().parent
    if folder in sources or (folder / METADATA).is_file():
        raise DataError(
            f"--out is '{out}', in the folder of a recording, of which it would become a part; "
            'choose another folder'
        )
    if out.is_dir() and (out.suffix in FILES or not (out / METADATA).is_file()):
        raise DataError(f"--out is '{out}', a folder that holds no recording; choose another name")
    if out.is_file() and out.suffix not in FILES:
        raise DataError(f"--out is '{out}', which is a file; expected a new name for a folder")
    if out.exists() and not _is_made(out):
        raise DataError(
            f"--out is '{out}', a recording that holds no features and would be replaced; choose "
            'another name, or remove it first'
        )


def _is_made(recording: Path) -> bool:
    """Return whether a recording may be an earlier output; what cannot be read may be one."""
    try:
        topics = BagReader(recording).topics
    except DataError:
        return True
    return not topics or any(topic.msgtype in MADE for topic in topics)


def put(made: Path, out: Path) -> None:
    """Put a file or a folder where it belongs, with its content on the disk before its name is."""
    for file in [made] if made.is_file() else sorted(made.rglob('*')):
        if file.is_file():
            with file.open('rb') as opened:
                os.fsync(opened.fileno())
    if not out.is_dir():
        os.replace(made, out)
        return
    before = made.with_name(f'{made.name}.before')  # a folder cannot be replaced in one step
    try:
        os.replace(out, before)
        os.replace(made, out)
    except BaseException:
        if not out.exists():
            os.replace(before, out)
        raise


def remove(path: Path) -> None:
    """Remove a file or a folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


@contextmanager
def full_disk(kept: Any) -> Iterator[None]:
    """
    Raise DataError where the disk is full; str(kept): what is not lost.

    SQLite, also through COLMAP, and h5py have their own words for it.
    """
    try:
        yield
    except (OSError, sqlite3.OperationalError, RuntimeError) as error:
        words = [os.strerror(why) for why in FULL]
        if isinstance(error, OSError):
            full = error.errno in FULL or any(word in str(error) for word in words)
        else:
            full = 'is full' in str(error)
        if not full:
            raise
        raise DataError(
            f'the disk is full: {kept}; make room and give the same command again, which goes on '
            'from there'
        ) from error
