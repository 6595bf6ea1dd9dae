"""
What became of the files of many recordings: inputs, outputs and counts, in one JSON file.

Outputs that belong together get the metadata.yaml that makes them a recording.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
import hashlib
import json
import os
from pathlib import Path
import time
from typing import Any

from rosbags.rosbag2.metadata import dump_qos_v8
from ruamel.yaml import YAML

from .reader import BagReader, embedded_definition
from .recording import METADATA, Recording
from .writers import lock, METADATA_VERSION
from ..errors import DataError
from ..io import replacing

MANIFEST = 'manifest.json'
LOG = 'manifest.log'
VERSION = 1
SAVING = 0.05  # share of the time that goes into writing the whole manifest, at most
BLOCK = 2**20  # bytes that are hashed at a time


@dataclass(frozen=True)
class ManifestEntry:
    """
    What became of one part of a recording.

    input: path, size, mtime_ns, and sha256 once it was used; output: path, size and sha256, empty
    where there is none. Paths count from the folder of the manifest; sizes are bytes. settings:
    key of what was asked for in `Manifest.settings`; context: what the results depend on that the
    whole recording tells. counts: images, features, keypoints, copied messages; skipped: images
    by the kind of their problem; reasons: the first sentence of each kind. damage: what could not
    be read. incomplete: what the recording lacks as a whole, said by its last part. error: why the
    part failed, else ''.
    """

    input: Mapping[str, Any]
    settings: str
    output: Mapping[str, Any] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    damage: Sequence[str] = ()
    incomplete: Sequence[str] = ()
    error: str = ''

    @property
    def done(self) -> bool:
        """Return whether there is an output."""
        return not self.error

    @property
    def complete(self) -> bool:
        """Return whether everything was read and every image used."""
        return self.done and not (self.skipped or self.all_damage)

    @property
    def all_damage(self) -> list[str]:
        """Return what could not be read of the part, and what the recording lacks."""
        return [*self.damage, *self.incomplete]

    def described(self) -> dict[str, Any]:
        """Return what there is to say, for JSON."""
        said = {name: value for name, value in vars(self).items() if value}
        return said | {'state': 'done' if self.done else 'failed'}

    @classmethod
    def read(cls, described: Mapping[str, Any]) -> 'ManifestEntry':
        """Return the entry that is described; raises TypeError for what is none."""
        return cls(**{name: value for name, value in described.items() if name != 'state'})


class Manifest:
    """
    The entries of all parts by their names, kept in FOLDER/manifest.json.

    The file is sorted, has a line for each part, and holds nothing but what inputs and settings
    decide. An entry is on the disk when `add` returns: as a line of a log beside the file, which
    takes the log in as often as its size allows, and at the end. settings: what was asked for, by
    key. Use as a context manager; raises InUseError where another run is at work in the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: dict[str, Any] = {}
        self.entries: dict[str, ManifestEntry] = {}
        self._next_save = 0.0

    def __enter__(self) -> 'Manifest':
        self._log = lock(self.folder / LOG)
        try:
            self._read()
        except BaseException:
            self._log.close()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        with self._log:
            if self.entries:
                self.save()
            (self.folder / LOG).unlink(missing_ok=True)
        with suppress(OSError):  # unless nothing came of it, there is something in it
            self.folder.rmdir()

    def add(self, name: str, entry: ManifestEntry) -> None:
        """Keep what became of a part."""
        self.entries[name] = entry
        self._log.write(json.dumps([name, entry.described()]) + '\n')
        self._log.flush()
        os.fsync(self._log.fileno())
        if time.monotonic() >= self._next_save:
            self.save()

    def save(self) -> None:
        """Write the whole manifest, whose place is taken in one step."""
        began = time.monotonic()
        used = {entry.settings for entry in self.entries.values()}
        settings = {key: self.settings[key] for key in used if key in self.settings}
        parts = {name: entry.described() for name, entry in self.entries.items()}
        with replacing(self.folder / MANIFEST) as path, path.open('w', encoding='utf-8') as file:
            head = f'"version": {VERSION},\n"settings": {_lines(settings)}'
            file.write(f'{{{head},\n"parts": {_lines(parts)}}}\n')
            file.flush()
            os.fsync(file.fileno())
        self._log.truncate(0)
        ended = time.monotonic()
        self._next_save = ended + (ended - began) / SAVING

    def _read(self) -> None:
        path = self.folder / MANIFEST
        try:
            values = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}
            if values.get('version', VERSION) != VERSION:
                raise ValueError(f'version is {values["version"]}, expected {VERSION}')
            self.settings = dict(values.get('settings', {}))
            self.entries = {k: ManifestEntry.read(v) for k, v in values.get('parts', {}).items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(
                f"'{path}' cannot be read: {error}; move it away to do everything again"
            ) from error
        self._log.seek(0)
        for line in self._log:  # of a run that was killed; its last line may be cut off
            try:
                name, values = json.loads(line)
                self.entries[name] = ManifestEntry.read(values)
            except (ValueError, TypeError, AttributeError):
                break
        if self.entries and (self.folder / LOG).stat().st_size:
            self.save()


def _lines(values: Mapping[str, Any]) -> str:
    """Return JSON, sorted, with a line for each value."""
    lines = (
        f'{json.dumps(name)}: {json.dumps(values[name], sort_keys=True)}'
        for name in sorted(values)
    )
    return '{\n' + ',\n'.join(lines) + '\n}'


def fingerprint(path: Path) -> tuple[int, str]:
    """Return the bytes and the SHA-256 of a file, or of all files of a folder together."""
    total = hashlib.sha256()
    if path.is_dir():
        size = 0
        for file in _files(path):
            part, digest = fingerprint(file)
            size += part
            total.update(f'{digest}  {file.relative_to(path).as_posix()}\n'.encode())
        return size, total.hexdigest()
    with path.open('rb') as opened:
        while block := opened.read(BLOCK):
            total.update(block)
        return opened.tell(), total.hexdigest()


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder; -1 where there is none."""
    if path.is_dir():
        return sum(file.stat().st_size for file in _files(path))
    return path.stat().st_size if path.is_file() else -1


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob('*') if path.is_file())


def join_parts(files: Sequence[Path]) -> None:
    """Write the metadata.yaml of files in one folder, which are the parts of a recording."""
    folder = files[0].parent
    with replacing(folder / METADATA) as path, path.open('w', encoding='utf-8') as opened:
        yaml = YAML(typ='safe')
        yaml.default_flow_style = False
        yaml.dump({'rosbag2_bagfile_information': _information(files)}, opened)


def leave_apart(folder: Path) -> None:
    """Remove the metadata.yaml of a folder, as long as not all parts are what they will be."""
    (folder / METADATA).unlink(missing_ok=True)


def _information(files: Sequence[Path]) -> dict[str, Any]:
    whole = BagReader(Recording(files[0].parent, tuple(files)))
    start = whole.start if whole.count else 0
    parts = [BagReader(file) for file in files]
    return {
        'version': METADATA_VERSION,
        'storage_identifier': whole.recording.storage,
        'relative_file_paths': [file.name for file in files],
        **_times(whole, start),
        'topics_with_message_count': [
            {
                'topic_metadata': {
                    'name': topic.name,
                    'type': topic.msgtype,
                    'serialization_format': 'cdr',
                    'offered_qos_profiles': dump_qos_v8(list(topic.channel.qos)),
                    'type_description_hash': embedded_definition(topic.channel)[1],
                },
                'message_count': topic.count,
            }
            for topic in whole.topics
        ],
        'compression_format': '',
        'compression_mode': '',
        'files': [
            {'path': file.name, **_times(part, start)}
            for file, part in zip(files, parts, strict=True)
        ],
        'custom_data': None,
        'ros_distro': 'rosbags',
    }


def _times(reader: BagReader, otherwise: int) -> dict[str, Any]:
    """Return start, duration and count; without a message the start is that of the whole."""
    return {
        'starting_time': {'nanoseconds_since_epoch': reader.start if reader.count else otherwise},
        'duration': {'nanoseconds': max(0, reader.end - reader.start) if reader.count else 0},
        'message_count': reader.count,
    }
