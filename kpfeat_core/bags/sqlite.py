"""SQLite files of rosbag2, whole or damaged."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
import shutil
import sqlite3
import tempfile
from typing import Any

import numpy as np
from rosbags.rosbag2.errors import ReaderError
from rosbags.rosbag2.metadata import parse_qos

from .chunks import Contents, ERRORS, OnDamage, unpacked_message
from .recording import Channel, Record

BESIDE = ('-wal', '-journal')  # what a recorder that was killed leaves beside its file


class SqliteFile:
    """
    A file of rosbag2's sqlite3 storage as a `Storage`.

    The file is opened as one that cannot change, so that nothing is written beside it.
    """

    def __init__(self, path: Path, on_damage: OnDamage) -> None:
        self.contents = Contents()
        self._on_damage = on_damage
        self._stack = ExitStack()
        self._rows = np.empty((0, 3), np.int64)  # log time, id, topic; in this order
        try:
            self._open(path)
            self._read_contents()
        except sqlite3.DatabaseError as error:
            self._on_damage(f'SQLite cannot read it ({error})')
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._stack.close()

    def messages(self, wanted: set[Channel], start: int, stop: int) -> Iterator[Record]:
        channels = self.contents.channels
        keys = [key for key, channel in channels.items() if channel in wanted]
        rows = self._rows
        rows = rows[(rows[:, 0] >= start) & (rows[:, 0] < stop) & np.isin(rows[:, 2], keys)]
        for time, row, key in rows.tolist():
            data = self._data(row)
            if data is not None:
                yield Record(channels[key], time, data)

    def _data(self, row: int) -> bytes | None:
        try:
            (data,) = self._ask('SELECT data FROM messages WHERE id = ?', row).fetchone()
            return unpacked_message(data)
        except (sqlite3.DatabaseError, *ERRORS) as error:
            self._on_damage(f'messages cannot be read ({error})', row)
        except TypeError:  # no such row, or no bytes in it
            self._on_damage('messages are missing', row)
        return None

    def _open(self, path: Path) -> None:
        beside = [path.with_name(path.name + end) for end in BESIDE]
        beside = [file for file in beside if file.is_file() and file.stat().st_size]
        uri = f'{path.resolve().as_uri()}?mode=ro&immutable=1'
        if beside:  # SQLite takes in what is beside, which changes files: on copies
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix='kpfeat-')))
            for file in (path, *beside):
                shutil.copy(file, folder)
            uri = (folder / path.name).as_uri()
        self._connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
        self._stack.callback(self._connection.close)
        # the one way to have SQLite open a file that is shorter than it says
        self._ask('PRAGMA writable_schema = ON')

    def _ask(self, query: str, *values: Any) -> sqlite3.Cursor:
        return self._connection.execute(query, values)

    def _read_contents(self) -> None:
        tables = {name for (name,) in self._ask('SELECT name FROM sqlite_master')}
        if not {'topics', 'messages'} <= tables:
            self._on_damage('it has no tables of rosbag2')
            return
        definitions: dict[str, tuple[str, str]] = {}
        if 'message_definitions' in tables:
            query = 'SELECT topic_type, encoding, encoded_message_definition '
            rows = self._ask(query + 'FROM message_definitions')
            definitions = {name: (str(text), form) for name, form, text in rows}
        columns = {row[1] for row in self._ask('PRAGMA table_info(topics)')}
        qos = 'offered_qos_profiles' if 'offered_qos_profiles' in columns else "''"
        for key, topic, msgtype, profiles in self._ask(
            f'SELECT id, name, type, {qos} FROM topics'
        ):
            if not all(isinstance(name, str) for name in (topic, msgtype)):
                self._on_damage('the name of a topic is damaged')
                continue
            text, form = definitions.get(msgtype, ('', ''))
            channel = Channel(topic, msgtype, text, form if text else '', _qos(profiles))
            self.contents.channels[key] = channel
        self._read_rows()

    def _read_rows(self) -> None:
        query = 'SELECT timestamp, id, topic_id FROM messages'
        rows, error = _as_far_as_it_goes(self._ask(query))
        if error:
            self._on_damage(f'SQLite cannot read it to its end ({error})')
            rows = self._salvage(rows)
        known = np.isin(rows[:, 2], list(self.contents.channels))
        rows = rows[known]
        self._rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
        for key, count in zip(*np.unique(rows[:, 2], return_counts=True), strict=True):
            self.contents.counts[int(key)] = int(count)
        if len(rows):
            self.contents.cover(int(self._rows[0, 0]), int(self._rows[-1, 0]))

    def _salvage(self, rows: np.ndarray) -> np.ndarray:
        """Add the rows that the index of times still leads to."""
        query = 'SELECT timestamp, id, 0 FROM messages INDEXED BY timestamp_idx'
        try:
            listed, _ = _as_far_as_it_goes(self._ask(query))
        except sqlite3.DatabaseError:  # there is no index
            return rows
        found = []
        for time, row, _ in listed[~np.isin(listed[:, 1], rows[:, 1])].tolist():
            try:
                (key,) = self._ask('SELECT topic_id FROM messages WHERE id = ?', row).fetchone()
            except (sqlite3.DatabaseError, TypeError):
                self._on_damage('messages cannot be read', row)
            else:
                found.append((time, row, key))
        return np.concatenate([rows, np.array(found, np.int64).reshape(-1, 3)])


def _as_far_as_it_goes(rows: sqlite3.Cursor) -> tuple[np.ndarray, Exception | None]:
    """Return rows of three numbers, and what kept the others from being read."""
    blocks = [np.empty((0, 3), np.int64)]
    try:
        while block := rows.fetchmany(100_000):
            blocks.append(_whole_numbers(block))
    except sqlite3.DatabaseError as error:
        return np.concatenate(blocks), error
    return np.concatenate(blocks), None


def _whole_numbers(rows: list[tuple]) -> np.ndarray:
    try:
        return np.array(rows, np.int64)
    except (TypeError, ValueError, OverflowError):  # rows that are damaged hold anything
        whole = [row for row in rows if all(isinstance(value, int) for value in row)]
        return np.array(whole, np.int64).reshape(-1, 3)


def _qos(text: str) -> tuple[Any, ...]:
    try:
        return tuple(parse_qos(text))
    except (ReaderError, KeyError, TypeError):  # of another tool: not needed to read it
        return ()
