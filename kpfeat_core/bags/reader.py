"""Recordings of any kind as records by time, and their messages as objects."""

from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from rosbags.serde import SerdeError
from rosbags.typesys import (
    get_types_from_idl,
    get_types_from_msg,
    get_typestore,
    Stores,
    TypesysError,
)
from rosbags.typesys.store import Typestore

from .chunks import Contents, merge_by_time, OnDamage, Segment, Storage, unpacked_file
from .mcap import McapFile
from .recording import (
    Channel,
    COMPRESSED_DEPTH,
    Damage,
    ending,
    find_recording,
    IMAGES,
    in_time,
    LAST_TIME,
    Record,
    Recording,
)
from .ros1 import Ros1File
from .sqlite import SqliteFile
from ..errors import BadImageError, DataError
from ..messages.definitions import definition_of, FEATURES, stamp_ns, typestore
from ..messages.encodings import is_compressed_depth

IDL_SEPARATOR = '=' * 80 + '\n'


def decode(record: Record) -> Any:
    """Return the message object of a record; raises BadImageError of the kind `message`."""
    channel = record.channel
    try:
        # arrays of messages may be written to; those of images are only looked at
        data = record.data if channel.msgtype in IMAGES else bytearray(record.data)
        return _store_of(channel).deserialize_cdr(data, channel.msgtype)
    except (SerdeError, AssertionError, IndexError, KeyError) as error:
        raise BadImageError(
            'message', f"a message of '{channel.topic}' is not as its definition says: {error}"
        ) from error


def embedded_definition(channel: Channel) -> tuple[str, str]:
    """
    Return the definition and the hash that a recording holds of a channel's type.

    Raises DataError where neither the recording nor ROS 2 has a definition.
    """
    store = _store_of(channel)
    text = channel.definition or definition_of(channel.msgtype)
    try:
        return text, store.hash_rihs01(channel.msgtype)
    except KeyError as error:
        raise DataError(
            f"the definition of {channel.msgtype}, the type of '{channel.topic}', lacks {error}"
        ) from error


@cache
def _store_of(channel: Channel) -> Typestore:
    if channel.foreign_form:
        raise DataError(
            f"the messages of '{channel.topic}' are of {channel.foreign_form}, expected those of "
            'ROS 2 or ROS 1; convert the recording'
        )
    if not channel.definition:
        if channel.msgtype in typestore().fielddefs:
            return typestore()
        raise DataError(
            f"the recording has no definition of {channel.msgtype}, the type of '{channel.topic}'"
        )
    store = get_typestore(Stores.EMPTY)
    try:
        store.register(_parser(channel.definition_format)(channel))
    except (TypesysError, KeyError) as error:
        raise DataError(
            f"the definition of {channel.msgtype}, the type of '{channel.topic}', cannot be read: "
            f'{error}'
        ) from error
    return store


def _parser(form: str) -> Callable[[Channel], Any]:
    if form == 'ros2idl':
        return _types_from_idl
    return lambda channel: get_types_from_msg(channel.definition, channel.msgtype)


def _types_from_idl(channel: Channel) -> dict[str, Any]:
    types: dict[str, Any] = {}
    if not channel.definition.startswith(f'{IDL_SEPARATOR}IDL: '):
        return get_types_from_idl(channel.definition)
    for part in channel.definition.split(IDL_SEPARATOR)[1:]:
        types |= get_types_from_idl(part.partition('\n')[2])
    return types


DEPTH = ('16UC1', '32FC1')  # encodings of images that show distances
STORAGES: dict[str, type[Storage]] = {'.mcap': McapFile, '.db3': SqliteFile, '.bag': Ros1File}


@dataclass(frozen=True)
class Topic:
    """A topic of one type: how many messages there are."""

    channel: Channel
    count: int

    @property
    def name(self) -> str:
        return self.channel.topic

    @property
    def msgtype(self) -> str:
        return self.channel.msgtype

    @property
    def described_type(self) -> str:
        """Return the type, with the form of messages where that is not of ROS."""
        form = self.channel.foreign_form
        return f'{self.msgtype} in {form}' if form else self.msgtype

    def rate_hz(self, duration_s: float) -> float:
        """Return messages a second, where the first and the last are so far apart."""
        return max(0, self.count - 1) / duration_s if duration_s > 0 else 0.0


class BagReader:
    """
    One recording: rosbag2 of any storage and compression, in one or many files, or a ROS 1 bag.

    Files are never changed. What cannot be read is passed over and stands in `damage`, which
    grows while records are read. start, end: log times of the first and the last message in
    nanoseconds; `end` lies before `start` where there is none.

    Raises DataError where nothing can be read.
    """

    def __init__(self, source: Recording | Path | str) -> None:
        self.recording = source if isinstance(source, Recording) else find_recording(source)
        self._damage: dict[tuple[Path, str], set[Hashable]] = {}
        for name in self.recording.missing:
            self._damaged(self.recording.path / name, 'the file is missing')
        self._known: dict[Channel, Channel] = {}
        self._contents = [self._contents_of(file) for file in self.recording.files]
        self.start = min(contents.start for contents in self._contents)
        self.end = max(contents.end for contents in self._contents)
        if self.damage and not any(contents.channels for contents in self._contents):
            raise DataError(f"nothing of '{self.recording.path}' can be read: {self.damage[0]}")

    @property
    def damage(self) -> list[Damage]:
        """Return what could not be read so far."""
        found = [Damage(file, why, len(lost)) for (file, why), lost in self._damage.items()]
        lost = self.recording.promised - self.count
        if self.recording.promised >= 0 and lost > 0:
            reason = f'metadata.yaml tells of {self.recording.promised} messages'
            found.append(Damage(self.recording.path, reason, lost))
        return found

    @property
    def count(self) -> int:
        """Return the number of messages."""
        return sum(contents.count for contents in self._contents)

    @property
    def duration_s(self) -> float:
        """Return the seconds from the first message to the last."""
        return 1e-9 * max(0, self.end - self.start)

    @property
    def topics(self) -> list[Topic]:
        """Return the topics by name; one for each type that a name is used with."""
        counts: dict[tuple[str, str], Topic] = {}
        for contents in self._contents:
            for key, channel in contents.channels.items():
                name = (channel.topic, channel.msgtype)
                before = counts.get(name, Topic(channel, 0))
                counts[name] = Topic(before.channel, before.count + contents.counts.get(key, 0))
        return [counts[name] for name in sorted(counts)]

    def image_topics(self) -> list[Topic]:
        """Return the topics of images that can be read."""
        topics = [topic for topic in self.topics if topic.msgtype in IMAGES]
        return [topic for topic in topics if not topic.channel.foreign_form]

    @cached_property
    def depth_topics(self) -> list[Topic]:
        """Return the topics of images that show distances, where there are others beside them."""
        topics = [topic for topic in self.image_topics() if topic.count]
        if len(topics) < 2:
            return []
        depth = [topic for topic in topics if self._shows_depth(topic)]
        return depth if len(depth) < len(topics) else []

    def choose(self, names: Collection[str], types: Collection[str] = ()) -> list[Topic]:
        """Return topics by name; raises DataError for one that is not there or of other types."""
        chosen = [topic for topic in self.topics if topic.name in names]
        for name in names:
            found = [topic for topic in chosen if topic.name == name]
            if not found:
                there = ', '.join(topic.name for topic in self.topics) or 'none'
                raise DataError(f"there is no topic '{name}' in the recording; there are: {there}")
            fits = any(topic.described_type in types for topic in found)
            if types and not fits:
                kind, expected = found[0].described_type, ' or '.join(types)
                raise DataError(f"topic '{name}' is of {kind}, expected {expected}")
        return [topic for topic in chosen if not types or topic.msgtype in types]

    def span(self, start: str = '', end: str = '') -> tuple[int, int]:
        """Return log times start <= t < stop in nanoseconds of a range as `in_time` reads it."""
        first = in_time(start, self.start) if start else 0
        stop = in_time(end, self.start) if end else LAST_TIME
        if first >= stop:
            raise DataError(f'the range is from {start} to {end}, expected an end after its start')
        return first, stop

    def expected(
        self, topics: Collection[Topic], start: int = 0, stop: int = LAST_TIME, stride: int = 1
    ) -> int:
        """Return how many messages are in a range, about: as if they came at a steady rate."""
        total = sum(-(-topic.count // stride) for topic in topics)
        start, stop = max(start, self.start), min(stop, self.end + 1)
        return round(total * max(0, stop - start) / max(1, self.end + 1 - self.start))

    def records(
        self, topics: Collection[Topic], start: int = 0, stop: int = LAST_TIME
    ) -> Iterator[Record]:
        """
        Yield the messages of topics with start <= log time < stop, in the order of log time.

        Memory holds those of a few chunks. Each call opens the files anew, so that several
        threads may each read their own.
        """
        names = {(topic.name, topic.msgtype) for topic in topics}
        segments = []
        for file, contents in zip(self.recording.files, self._contents, strict=True):
            channels = contents.channels.values()
            wanted = {c for c in channels if (c.topic, c.msgtype) in names}
            if wanted and contents.end >= start and contents.start < stop:
                opened = partial(self._records_of, file, wanted, start, stop)
                segments.append(Segment(contents.start, opened))
        return merge_by_time(segments)

    def last(self, topic: Topic, stop: int) -> Record | None:
        """Return the last message with log time < stop of the newest file that holds one."""
        pairs = zip(self.recording.files, self._contents, strict=True)
        for file, contents in sorted(pairs, key=lambda pair: pair[1].start, reverse=True):
            wanted = {
                channel
                for key, channel in contents.channels.items()
                if (channel.topic, channel.msgtype) == (topic.name, topic.msgtype)
                and contents.counts.get(key)
            }
            if wanted and contents.start < stop:
                newest = deque(self._records_of(file, wanted, 0, stop), maxlen=1)
                if newest:
                    return newest[0]
        return None

    def _records_of(
        self, file: Path, wanted: set[Channel], start: int, stop: int
    ) -> Iterator[Record]:
        on_damage = partial(self._damaged, file)
        with unpacked_file(file, on_damage) as path, closing(_open(path, on_damage)) as storage:
            yield from storage.messages(wanted, start, stop)

    def _shows_depth(self, topic: Topic) -> bool:
        """Judge by the name, and by the first image."""
        if topic.name.endswith(COMPRESSED_DEPTH):
            return True
        first = next(self.records([topic]), None)
        try:
            image = decode(first) if first else None
        except BadImageError:
            return False
        form = getattr(image, 'format', '')
        if image and hasattr(image, 'format') and is_compressed_depth(form, image.data):
            return True
        words = getattr(image, 'encoding', None) or form
        return words.partition(';')[0].strip() in DEPTH

    def _contents_of(self, file: Path) -> Contents:
        on_damage = partial(self._damaged, file)
        with unpacked_file(file, on_damage) as path, closing(_open(path, on_damage)) as storage:
            contents = storage.contents
        # long recordings repeat their definitions in every part: once is enough
        once = self._known.setdefault
        contents.channels = {key: once(c, c) for key, c in contents.channels.items()}
        return contents

    def _damaged(self, file: Path, reason: str, lost: Hashable = None) -> None:
        which = self._damage.setdefault((file, reason), set())
        if lost is not None:
            which.add(lost)


def _open(path: Path, on_damage: OnDamage) -> Storage:
    return STORAGES[ending(path)](path, on_damage)


HELD = 32  # messages that are looked through for a stamp, should they not be in order


class _Stamped(NamedTuple):
    stamp: int
    record: Record


class Recorded:
    """
    Recorded features of one topic, asked for in the order of the images.

    Stamps need neither grow nor differ: each message is given once, and of those with the same
    stamp the one whose log time is that of the image, or the next after it. Those without a stamp
    are found by log time alone. Memory holds HELD.
    """

    def __init__(self, reader: BagReader, name: str) -> None:
        topics = [topic for topic in topics_of_features(reader) if topic.name == name]
        self._records = reader.records(topics)
        self._held: deque[_Stamped] = deque()

    def at(self, stamp: int, time: int) -> Record | None:
        """Return the features of an image with this stamp and log time; None where are none."""
        earlier = None
        while True:
            for place, (other, record) in enumerate(self._held):
                fits = record.time >= time if stamp else record.time == time
                if other == stamp and fits:
                    del self._held[place]
                    return record
            if len(self._held) == HELD:
                if (self._held[0].stamp, self._held[0].record.time) >= (stamp, time):
                    break  # all that are held may still be asked for
                first = self._held.popleft()
                earlier = first.record if first.stamp == stamp else earlier
            if not self._read():
                break
        return (earlier or self._earlier(stamp)) if stamp else None

    def _earlier(self, stamp: int) -> Record | None:
        """Return features that were logged before their image."""
        for place in reversed(range(len(self._held))):
            if self._held[place].stamp == stamp:
                record = self._held[place].record
                del self._held[place]
                return record
        return None

    def _read(self) -> bool:
        """Hold one more message; False where there is none."""
        for record in self._records:
            try:
                self._held.append(_Stamped(stamp_ns(decode(record).header), record))
            except BadImageError:  # it is damaged: its image has no features
                continue
            return True
        return False


def topics_of_features(reader: BagReader) -> list[Topic]:
    """Return the topics that hold features."""
    return [topic for topic in reader.topics if topic.msgtype == FEATURES and topic.count]
