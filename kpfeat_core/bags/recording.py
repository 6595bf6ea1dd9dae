"""Recordings: their files and where they are found, and their channels, records and damage."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
import glob
import os
from pathlib import Path
import re
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ..errors import DataError
from ..io import walk

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
IMAGES = (IMAGE, COMPRESSED_IMAGE)
COMPRESSED_DEPTH = '/compressedDepth'  # how topics of that transport end
LAST_TIME = 2**63 - 1  # nanoseconds


class Channel(NamedTuple):
    """
    A topic of one type, as a file describes it.

    definition: text of the message type, '' where the file has none; definition_format: ros2msg,
    ros2idl or '', or the form of messages that are not of ROS. qos: as rosbags reads it.
    """

    topic: str
    msgtype: str
    definition: str = ''
    definition_format: str = ''
    qos: tuple[Any, ...] = ()

    @property
    def foreign_form(self) -> str:
        """Return the form of messages that are not of ROS, such as protobuf; else ''."""
        return '' if self.definition_format in ROS_FORMS else self.definition_format


class Record(NamedTuple):
    """One message: its log time in nanoseconds, and its bytes in the form of ROS 2 (CDR)."""

    channel: Channel
    time: int
    data: bytes


@dataclass(frozen=True)
class Damage:
    """What of a file could not be read: the reason, and how many messages, where that is known."""

    path: Path
    reason: str
    lost: int = 0

    def __str__(self) -> str:
        lost = f' ({self.lost} messages lost)' if self.lost else ''
        return f'{self.path.name}: {self.reason}{lost}'


def in_time(text: str, start: int) -> int:
    """
    Return the nanoseconds that a text such as '12.5' means, counted from `start`.

    Numbers from 1e8 on are seconds since 1970 by themselves. Raises DataError.
    """
    from decimal import Decimal, InvalidOperation

    try:
        nanoseconds = int(Decimal(text) * 10**9)
    except (InvalidOperation, ValueError, OverflowError):
        raise DataError(
            f"time is '{text}', expected seconds from the start, such as 12.5, or since 1970"
        ) from None
    return nanoseconds if nanoseconds >= 10**17 else start + nanoseconds


METADATA = 'metadata.yaml'
ENDINGS = ('.mcap', '.db3', '.bag')
PACKED = ('.zst', '.zstd')
ACTIVE = '.active'  # ending of what a recorder writes at, or was killed at
ROS_FORMS = ('', 'ros2msg', 'ros2idl')  # of definitions
NAMED_FILES = ('.mcap', '.db3', '.db', '.bag', '.h5')  # endings that name a file, not a folder
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
        return {'.mcap': 'mcap', '.db3': 'sqlite3', '.bag': 'ros1'}[ending(self.files[0])]

    @property
    def size(self) -> int:
        """Return the bytes of all files."""
        return sum(file.stat().st_size for file in self.files)


def find_recordings(words: Sequence[str | Path]) -> list[Recording]:
    """
    Return the recordings that files, folders and patterns stand for, sorted by path.

    A folder with a metadata.yaml is one recording. In any other, files whose names differ only in
    a number at the end are the parts of one, and folders below are gone through, also behind
    links. Each is given once. Raises DataError where there is none.
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
    once: dict[Path, Recording] = {}  # what links lead to as well has its own name
    for path in sorted(
        found, key=lambda path: (path.resolve() != _absolute(path), len(path.parts), path)
    ):
        once.setdefault(path.resolve(), found[path])
    return sorted(once.values(), key=lambda recording: recording.path)


def find_recording(path: Path | str) -> Recording:
    """Return the one recording that a path stands for; raises DataError for none and several."""
    found = find_recordings([path])
    if len(found) > 1:
        names = ', '.join(recording.path.name for recording in found[:3])
        raise DataError(f"'{path}' holds {len(found)} recordings: {names}, ...; name one of them")
    return found[0]


def _below(path: Path) -> list[Recording]:
    if path.is_file():
        return [Recording(path, (path,))] if ending(path) in ENDINGS else []
    if not path.is_dir() or path.name.startswith('.'):
        return []
    found: dict[Path, list[Path]] = {}
    described = []
    for folder, below in walk(path):
        files = sorted((p for p in folder.iterdir() if _is_part(p)), key=_natural)
        if (folder / METADATA).is_file() and files:
            described.append(_described(folder, files))
            below.clear()
        elif files:
            found[folder] = files
    folders = [*found, *(recording.path for recording in described)]
    above = {parent for folder in folders for parent in folder.parents}
    return described + [
        recording
        for folder, files in found.items()
        for recording in _grouped(folder, files, folder in above)
    ]


def _grouped(path: Path, files: list[Path], is_above: bool) -> list[Recording]:
    """Return the recordings of the files of a folder; is_above: whether there are others below."""
    together: dict[str, list[Path]] = {}
    for file in files:
        match = PART.fullmatch(stem(file))
        group = together.setdefault((match[1] if match else stem(file)) + ending(file), [])
        if any(stem(other) == stem(file) for other in group):  # packed and not, or still active
            group = together.setdefault(file.name, [])
        group.append(file)
    if len(together) == 1 and len(files) > 1 and not is_above:  # the folder is the recording
        return [Recording(path, tuple(files))]
    return [Recording(parts[0], tuple(parts)) for parts in together.values()]


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
    return path.is_file() and not path.name.startswith('.') and ending(path) in ENDINGS


def _bare(path: Path) -> Path:
    while path.suffix in (*PACKED, ACTIVE):
        path = path.with_suffix('')
    return path


def ending(path: Path) -> str:
    """Return the ending that tells the kind of a file of a recording."""
    return _bare(path).suffix


def stem(path: Path) -> str:
    """Return the name of a file of a recording without its endings."""
    return _bare(path).stem


def _natural(path: Path) -> list[Any]:
    return [int(word) if word.isdigit() else word for word in re.split(r'(\d+)', path.name)]


@dataclass(frozen=True)
class BagFile:
    """
    One file of a recording, of which a batch makes one output.

    name: of its output without an ending, below the folder of all outputs; recordings have a
    folder each, so drive/drive_0.
    """

    recording: Recording
    index: int
    name: str

    @property
    def path(self) -> Path:
        """Return the file itself."""
        return self.recording.files[self.index]

    @property
    def group(self) -> str:
        """Return the name of its recording: the folder of the outputs."""
        return self.name.rpartition('/')[0]

    @property
    def is_last(self) -> bool:
        """Return whether no other file follows."""
        return self.index == len(self.recording.files) - 1


def single_recording(words: Sequence[Path], out: Path) -> bool:
    """
    Return whether words stand for one recording that is to be one output; raises DataError.

    That is so where the only word is a recording itself, or `out` is the name of a file and there
    is one recording.
    """
    if len(words) != 1:
        return False
    found = find_recordings(words)
    return len(found) == 1 and (
        out.suffix in NAMED_FILES or found[0].path == words[0].expanduser()
    )


def find_bag_files(words: Sequence[Path], out: Path) -> list[BagFile]:
    """
    Return the files of all recordings that words stand for, sorted by name; raises DataError.

    A recording is named by its path below the folder that all words have in common, without an
    ending, so that names stay what they are when recordings are added. What lies in `out` is
    never taken.
    """
    if out.suffix in NAMED_FILES or out.is_file():
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
    files, groups = [], set()
    for path in sorted(found):
        below = path.relative_to(root)
        group = _unique(below.with_name(_name(path)).as_posix(), below.as_posix(), groups)
        names: set[str] = set()
        for index, file in enumerate(found[path].files):
            name = _unique(stem(file), file.name, names)
            files.append(BagFile(found[path], index, f'{group}/{name}'))
    return files


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


def base_topic(image: str) -> str:
    """Return the topic of the images themselves: without what image_transport adds."""
    return image.removesuffix('Depth').removesuffix('/compressed') if is_packed(image) else image


def is_packed(image: str) -> bool:
    """Return whether a name is one that image_transport gives to CompressedImage."""
    return image.endswith(('/compressed', COMPRESSED_DEPTH))


def sibling(image: str, name: str) -> str:
    """Return the topic beside one of images: /left/image_raw and features give /left/features."""
    return f'{base_topic(image).rpartition("/")[0]}/{name}'


def features_topics(images: Sequence[str]) -> dict[str, str]:
    """
    Return the topic of features for each topic of images.

    It is the sibling `features`; where several of these images share a namespace it is
    `features` below each image topic instead.
    """
    shared = Counter(sibling(image, 'features') for image in images)
    return {
        image: sibling(image, 'features')
        if shared[sibling(image, 'features')] == 1
        else f'{image}/features'
        for image in images
    }
