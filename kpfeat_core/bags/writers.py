"""Where results of a recording go: a rosbag2 recording, .npz files, or an HDF5 file."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
import errno
import os
from pathlib import Path
import shutil
import sqlite3
from typing import Any, Protocol, runtime_checkable

from rosbags.rosbag2 import Writer
from rosbags.rosbag2.enums import StoragePlugin

from .reader import BagReader, embedded_definition
from .recording import Channel, METADATA, nanoseconds, Record, Recording
from ..errors import DataError
from ..io import HlocWriter, write_npz
from ..messages.conversions import message_to_features
from ..messages.definitions import FEATURES, from_cdr, RGBD_IMAGE

MADE = (FEATURES, RGBD_IMAGE)  # types of messages that every recording of ours has
METADATA_VERSION = 8  # of Iron: that of Jazzy is one which Humble cannot read
STORAGES = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}
FILES = {'.mcap': 'mcap', '.db3': 'sqlite3'}  # endings that make a file rather than a folder
NO_FOLDERS = (*FILES, '.bag', '.h5', '.db', '.npz')  # nobody would call a folder that


@runtime_checkable
class Sink(Protocol):
    """What takes the results, in order; they are where they belong once it ends well."""

    def __enter__(self) -> 'Sink':
        """Begin."""

    def __exit__(self, *error: Any) -> bool | None:
        """Finish, or throw away after an error."""

    def write(self, record: Record) -> None:
        """Take a message."""


class BagSink:
    """
    Writes a rosbag2 recording: to a folder, or to one file for a name that ends in .mcap or .db3.

    The same records give the same bytes. Written in the folder `work`, which is on the same disk,
    and put to `out` at the end. storage: mcap or sqlite3, '' by the name of `out`. channels: all
    that will be written, so that a topic without messages is there as well. Raises DataError.
    """

    def __init__(self, out: Path, storage: str, work: Path, channels: list[Channel]) -> None:
        self._out = out
        self._folder = work / 'bag' / (out.stem if out.suffix in FILES else out.name)
        self._storage = storage_for(out, storage)
        self._definitions = {channel: embedded_definition(channel) for channel in channels}
        self._connections: dict[tuple[str, str], Any] = {}

    def __enter__(self) -> 'BagSink':
        shutil.rmtree(self._folder.parent, ignore_errors=True)
        self._folder.parent.mkdir(parents=True)
        self._writer = Writer(
            self._folder, version=METADATA_VERSION, storage_plugin=STORAGES[self._storage]
        )
        self._writer.open()
        for channel, (text, digest) in self._definitions.items():
            self._connections[channel.topic, channel.msgtype] = self._writer.add_connection(
                channel.topic,
                channel.msgtype,
                msgdef=text,
                rihs01=digest,
                offered_qos_profiles=channel.qos,
            )
        return self

    def write(self, record: Record) -> None:
        channel = record.channel
        connection = self._connections[channel.topic, channel.msgtype]
        with disk_errors(self._folder):
            self._writer.write(connection, record.time, record.data)

    def __exit__(self, kind: Any, *rest: Any) -> None:
        try:
            if kind is None:
                with disk_errors(self._folder):
                    self._writer.close()
                name = f'{self._folder.name}{self._out.suffix}'
                put(self._folder / name if self._out.suffix in FILES else self._folder, self._out)
        finally:
            with suppress(Exception):  # after close there is nothing to abort
                self._writer.abort()
            shutil.rmtree(self._folder.parent, ignore_errors=True)


class NpzSink:
    """
    Writes an .npz file for each image: FOLDER/CAMERA/STAMP.npz, the stamp in nanoseconds.

    Written in the folder `work`, which is on the same disk, and moved to `out` at the end; other
    files that are there stay.
    """

    def __init__(self, out: Path, work: Path) -> None:
        if out.is_file():
            raise DataError(f"--out is '{out}', a file; expected the name of a folder for npz")
        self._out, self._folder, self._names = out, work / 'npz', ImageNames()

    def __enter__(self) -> 'NpzSink':
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        return self

    def __exit__(self, kind: Any, *rest: Any) -> None:
        if kind is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        elif not self._out.exists():
            os.replace(self._folder, self._out)
        else:
            for made in sorted(self._folder.rglob('*.npz')):
                target = self._out / made.relative_to(self._folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(made, target)

    def write(self, record: Record) -> None:
        name, arrays = self._names.unpack(record)
        write_npz(self._folder / f'{name}.npz', arrays)


class HlocSink:
    """
    Writes an HDF5 file in the layout of hloc with the groups CAMERA/STAMP.

    Written in the folder `work`, which is on the same disk, so that a run that is killed leaves
    nothing elsewhere; put to `out` at the end.
    """

    def __init__(self, out: Path, work: Path) -> None:
        if out.is_dir():
            raise DataError(f"--out is '{out}', a folder; expected the name of a file for h5")
        self._out, self._folder, self._names = out, work / 'h5', ImageNames()

    def __enter__(self) -> 'HlocSink':
        shutil.rmtree(self._folder, ignore_errors=True)
        self._file = HlocWriter(self._folder / self._out.name)
        return self

    def __exit__(self, kind: Any, *rest: Any) -> None:
        self._file.__exit__(kind, *rest)
        if kind is None:
            put(self._folder / self._out.name, self._out)

    def write(self, record: Record) -> None:
        self._file.add(*self._names.unpack(record))


class ImageNames:
    """
    Names of images by camera and stamp: cam0/1403715273262142976; later twins get -1, -2.

    digits: of stamps at least, with zeros before them, for those who sort names.
    """

    def __init__(self, digits: int = 1) -> None:
        self._digits = digits
        self._taken: dict[str, int] = {}

    def unpack(self, record: Record) -> tuple[str, Any]:
        """Return the name and the arrays of a Features message."""
        message = from_cdr(record.data, FEATURES)
        camera = record.channel.topic.strip('/').removesuffix('features').strip('/')
        number = str(nanoseconds(message.header.stamp)).zfill(self._digits)
        name = '/'.join(filter(None, [camera, number]))
        before = self._taken.get(name, 0)
        self._taken[name] = before + 1
        arrays = message_to_features(message).numpy()
        return (f'{name}-{before}' if before else name), arrays


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
    """Say whether a recording may be an earlier output; what cannot be read may be one."""
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


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Say what SQLite says of a full disk, by itself or through COLMAP, as the system would."""
    try:
        yield
    except (sqlite3.OperationalError, RuntimeError) as error:
        if 'is full' not in str(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
