"""What one image of a recording becomes: a step; and the journal that keeps steps from loss."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
import json
from pathlib import Path
import shutil
import struct
from typing import Any

from mcap.exceptions import McapError
from mcap.records import Channel as McapChannel
from mcap.records import Chunk, Message
from mcap.stream_reader import breakup_chunk, StreamReader
from mcap.writer import CompressionType, Writer

from .locking import lock
from .recording import Channel, Record
from ..messages.definitions import definition_of

STEPS_TOPIC = '/kpfeat/steps'
SETTINGS = 'settings.json'
NEVER = 2**62  # bytes of a chunk: it ends when it is flushed


@dataclass(frozen=True)
class Step:
    """
    One image of a recording, done.

    index: its position among the images that were chosen. time: its log time. records: the
    messages that were made of it. problem: kind and sentence where it was skipped. counts:
    numbers for the summary.
    """

    index: int
    time: int
    records: tuple[Record, ...] = ()
    problem: tuple[str, str] | None = None
    counts: Mapping[str, int] = field(default_factory=dict)


class Journal:
    """
    The steps that are done, in a folder beside an output, so that a later run goes on from them.

    It is written as MCAP files, a chunk with a checksum for each `add`, which ends with the system
    having it: a run that is killed loses nothing that was added. Viewers can open them. settings:
    all that the results depend on; steps of other settings are thrown away. Use as a context
    manager; raises InUseError where another process is at work in the folder.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.folder = out.with_name(f'.{out.name}.partial')
        self.settings = json.dumps(settings, sort_keys=True, indent=1)
        self.count = 0  # steps in the journal, once it was replayed
        self.discarded = False  # whether steps of other settings were thrown away
        self._writer: Writer | None = None

    def __enter__(self) -> 'Journal':
        self._lock = lock(self.folder / 'lock')
        try:
            self._keep_to_settings()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        with self._lock:
            self.close()
            if not self._parts():
                self.remove()

    def close(self) -> None:
        """Close the file that is written."""
        if self._writer is not None:
            self._writer = None
            with suppress(OSError):  # a full disk, which whoever wrote was told
                self._file.close()

    def remove(self) -> None:
        """Throw the journal away, when its steps are where they belong."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def replay(self) -> Iterator[Step]:
        """Yield the steps that earlier runs finished, in order."""
        for part in self._parts():
            for step in _steps_in(part):
                if step.index == self.count:
                    self.count += 1
                    yield step

    def add(self, steps: Sequence[Step]) -> None:
        """Keep steps that belong together: all of them, or none if it fails."""
        if self._writer is None:
            self._begin()
        for step in steps:
            for record in step.records:
                self._write(record.channel, step.index, record.time, record.data)
            about = {'index': step.index, 'problem': step.problem, 'counts': dict(step.counts)}
            self._write(
                Channel(STEPS_TOPIC, ''), step.index, step.time, json.dumps(about).encode()
            )
        self._writer.flush()
        self.count += len(steps)

    def _keep_to_settings(self) -> None:
        """Throw steps of other settings away, and note those of this run."""
        path = self.folder / SETTINGS
        if not path.is_file() or path.read_text(encoding='utf-8') != self.settings:
            for part in self._parts():
                part.unlink()
                self.discarded = True
            path.write_text(self.settings, encoding='utf-8')

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob('steps-*.mcap'))

    def _begin(self) -> None:
        path = self.folder / f'steps-{len(self._parts()):06d}.mcap'
        self._file = path.open('xb')
        self._writer = Writer(self._file, chunk_size=NEVER, compression=CompressionType.NONE)
        self._writer.start('ros2', 'kpfeat')
        self._channels: dict[Channel, int] = {}

    def _write(self, channel: Channel, index: int, time: int, data: bytes) -> None:
        if channel not in self._channels:
            made = channel.msgtype
            schema = 0
            if made:
                text = definition_of(made).encode()
                schema = self._writer.register_schema(made, 'ros2msg', text)
            form = 'cdr' if made else 'json'
            key = self._writer.register_channel(channel.topic, form, schema, {'type': made})
            self._channels[channel] = key
        key = self._channels[channel]
        self._writer.add_message(key, time, data, publish_time=time, sequence=index % 2**32)


def _steps_in(path: Path) -> Iterator[Step]:
    """Yield the steps of one file until its end, or until what a killed run left unfinished."""
    channels: dict[int, Channel] = {}
    records: list[Record] = []
    with path.open('rb') as file:
        stream = StreamReader(file, emit_chunks=True).records
        try:
            chunks = (r for r in stream if isinstance(r, Chunk))
            for record in (r for chunk in chunks for r in breakup_chunk(chunk, validate_crc=True)):
                if isinstance(record, McapChannel):
                    channels[record.id] = Channel(record.topic, record.metadata.get('type', ''))
                elif isinstance(record, Message) and channels[record.channel_id].msgtype:
                    channel = channels[record.channel_id]
                    records.append(Record(channel, record.log_time, record.data))
                elif isinstance(record, Message):
                    about = json.loads(record.data)
                    problem = about['problem'] and tuple(about['problem'])
                    yield Step(
                        about['index'], record.log_time, tuple(records), problem, about['counts']
                    )
                    records = []
        except (McapError, struct.error, ValueError, KeyError):
            return
