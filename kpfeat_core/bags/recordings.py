"""Which files make up a recording."""

from collections.abc import Sequence
from dataclasses import dataclass
import glob
from pathlib import Path
import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ..errors import DataError

METADATA = 'metadata.yaml'
ENDINGS = ('.mcap', '.db3', '.bag')
PACKED = ('.zst', '.zstd')
PART = re.compile(r'(.+)_\d+')  # how recorders name the parts of one recording


@dataclass(frozen=True)
class Recording:
    """
    The files of one recording, in the order of their parts.

    path: what it was found as: a folder or a file. missing: names of parts that its metadata.yaml
    tells of. promised: messages that it tells of, -1 where it tells of none.
    """

    path: Path
    files: tuple[Path, ...]
    missing: tuple[str, ...] = ()
    promised: int = -1

    @property
    def name(self) -> str:
        """Return the name of the recording without any ending."""
        return self.path.name if self.path.is_dir() else stem(self.path)

    @property
    def storage(self) -> str:
        """Return the kind of its files: mcap, sqlite3 or ros1."""
        return {'.mcap': 'mcap', '.db3': 'sqlite3', '.bag': 'ros1'}[_ending(self.files[0])]

    @property
    def size(self) -> int:
        """Return the bytes of all files."""
        return sum(file.stat().st_size for file in self.files)


def find_recordings(words: Sequence[str | Path]) -> list[Recording]:
    """
    Return the recordings that files, folders and patterns stand for, sorted by path.

    A folder with a metadata.yaml is one recording. In any other, files whose names differ only in
    a number at the end are the parts of one, and folders below are gone through. Raises
    DataError where there is none.
    """
    found: dict[Path, Recording] = {}
    for word in words:
        paths = [Path(word).expanduser()]
        if not paths[0].exists():
            paths = [Path(p) for p in sorted(glob.glob(str(paths[0]), recursive=True))]
        recordings = [recording for path in paths for recording in _below(path)]
        if not recordings:
            raise DataError(
                f"'{word}' is no recording, expected a folder of rosbag2, or a file that ends in "
                f'{", ".join(ENDINGS)}'
            )
        found |= {recording.path: recording for recording in recordings}
    return [found[path] for path in sorted(found)]


def find_recording(path: Path | str) -> Recording:
    """Return the one recording that a path stands for; raises DataError for none and several."""
    found = find_recordings([path])
    if len(found) > 1:
        names = ', '.join(recording.path.name for recording in found[:3])
        raise DataError(f"'{path}' holds {len(found)} recordings: {names}, ...; name one of them")
    return found[0]


def _below(path: Path) -> list[Recording]:
    if path.is_file():
        return [Recording(path, (path,))] if _ending(path) in ENDINGS else []
    if not path.is_dir() or path.name.startswith('.'):
        return []
    files = sorted((p for p in path.iterdir() if _is_part(p)), key=_natural)
    if (path / METADATA).is_file() and files:
        return [_described(path, files)]
    together: dict[str, list[Path]] = {}
    for file in files:
        match = PART.fullmatch(stem(file))
        together.setdefault((match[1] if match else stem(file)) + _ending(file), []).append(file)
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir())
    below = [recording for folder in folders for recording in _below(folder)]
    if len(together) == 1 and len(files) > 1 and not below:  # the folder is the recording
        return [Recording(path, tuple(files))]
    return [Recording(parts[0], tuple(parts)) for parts in together.values()] + below


def _described(path: Path, files: list[Path]) -> Recording:
    """Take what metadata.yaml says of the files; it may be damaged, which changes nothing."""
    try:
        text = (path / METADATA).read_text(encoding='utf-8')
        information: Any = YAML(typ='safe').load(text)['rosbag2_bagfile_information']
        listed = [Path(str(name)).name for name in information['relative_file_paths']]
        promised = int(information['message_count'])
    except (YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError, OSError):
        return Recording(path, tuple(files))
    present = {file.name: file for file in files}
    missing = tuple(name for name in listed if name not in present)
    ordered = [present[name] for name in listed if name in present]
    # a part that is not listed was written after the recorder last did: it belongs to it
    ordered += [file for file in files if file not in ordered]
    return Recording(path, tuple(ordered), missing, promised)


def _is_part(path: Path) -> bool:
    return path.is_file() and not path.name.startswith('.') and _ending(path) in ENDINGS


def _bare(path: Path) -> Path:
    return path.with_suffix('') if path.suffix in PACKED else path


def _ending(path: Path) -> str:
    return _bare(path).suffix


def stem(path: Path) -> str:
    """Return the name of a file of a recording without its endings."""
    return _bare(path).stem


def _natural(path: Path) -> list[Any]:
    return [int(word) if word.isdigit() else word for word in re.split(r'(\d+)', path.name)]
