"""Parts of recordings, which are what a fleet's work consists of, and where their results go."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
import glob
import os
from pathlib import Path
from typing import Any

from rosbags.rosbag2.metadata import dump_qos_v8
from ruamel.yaml import YAML

from .reader import BagReader, embedded_definition
from .recording import find_recordings, METADATA, PART, Recording, stem
from .writers import METADATA_VERSION
from ..errors import DataError
from ..io import replacing

FILES = ('.mcap', '.db3', '.db', '.bag', '.h5')  # endings that name a file rather than a folder


@dataclass(frozen=True)
class Part:
    """
    One file of a recording.

    name: of its output without an ending, below the folder of all outputs; recordings have a
    folder each, so drive/drive_0.
    """

    recording: Recording
    index: int
    name: str

    @property
    def file(self) -> Path:
        """Return the file itself."""
        return self.recording.files[self.index]

    @property
    def group(self) -> str:
        """Return the name of its recording: the folder of the outputs."""
        return self.name.rpartition('/')[0]

    @property
    def is_last(self) -> bool:
        """Say whether no other part follows."""
        return self.index == len(self.recording.files) - 1


def single_recording(words: Sequence[Path], out: Path) -> bool:
    """
    Say whether words stand for one recording that is to be one output; raises DataError.

    That is so where the only word is a recording itself, or `out` is the name of a file and there
    is one recording.
    """
    if len(words) != 1:
        return False
    found = find_recordings(words)
    return len(found) == 1 and (out.suffix in FILES or found[0].path == words[0].expanduser())


def find_parts(words: Sequence[Path], out: Path) -> list[Part]:
    """
    Return the parts of all recordings that words stand for, sorted by name; raises DataError.

    A recording is named by its path below the folder that all words have in common, without an
    ending, so that names stay what they are when recordings are added. What lies in `out` is
    never taken.
    """
    if out.suffix in FILES or out.is_file():
        raise DataError(f"--out is '{out}', expected a folder for several recordings")
    target = _absolute(out)
    everything = (_rooted(one) for one in find_recordings(words))
    found = {one.path: one for one in everything}
    found = {path: one for path, one in found.items() if target not in (path, *path.parents)}
    if not found:
        raise DataError(f"there is no recording outside of --out, which is '{out}'")
    inside = [path for path in found if path in target.parents]
    if inside:
        raise DataError(f"--out is '{out}', in the recording '{inside[0]}'; choose another folder")
    root = os.path.commonpath([_root(word, found) for word in words])
    parts, groups = [], set()
    for path in sorted(found):
        below = path.relative_to(root)
        group = _unique(below.with_name(_name(path)).as_posix(), below.as_posix(), groups)
        names: set[str] = set()
        for index, file in enumerate(found[path].files):
            name = _unique(stem(file), file.name, names)
            parts.append(Part(found[path], index, f'{group}/{name}'))
    return parts


def _rooted(recording: Recording) -> Recording:
    """Return a recording with paths that mean the same on every machine."""
    files = tuple(_absolute(file) for file in recording.files)
    return replace(recording, path=_absolute(recording.path), files=files)


def _root(word: Path, found: dict[Path, Recording]) -> Path:
    """Return the folder that a word searches: of a pattern what comes before its first sign."""
    word = word.expanduser()
    if not word.exists():
        words = Path(*_before_pattern(word.parts))
        return _absolute(words)
    path = _absolute(word)
    return path if path.is_dir() and path not in found else path.parent


def _before_pattern(words: tuple[str, ...]) -> list[str]:
    plain = []
    for word in words[:-1]:
        if glob.has_magic(word):
            break
        plain.append(word)
    return plain


def _name(path: Path) -> str:
    """Return the name of a recording: of a folder, or of files that begin with this one."""
    if path.is_dir():
        return path.name
    match = PART.fullmatch(stem(path))
    return match[1] if match else stem(path)


def _unique(name: str, otherwise: str, taken: set[str]) -> str:
    """Return a name, or another one where it is taken, and take it."""
    chosen = otherwise if name in taken else name
    taken.add(chosen)
    return chosen


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path.expanduser()))


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
