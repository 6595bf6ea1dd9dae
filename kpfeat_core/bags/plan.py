"""What is taken of a recording: topics, their new names, the range of time, what is copied."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
import hashlib
from typing import Any

from .reader import BagReader, decode, embedded_definition, Topic
from .recording import (
    base_topic,
    CAMERA_INFO,
    Damage,
    features_topics,
    IMAGE,
    IMAGES,
    is_packed,
    Record,
    sibling,
)
from .request import FramesRequest
from ..errors import BadImageError, DataError
from ..messages.definitions import stamp_ns
from ..runtime import in_background

ALL = '*'
READ_AHEAD = 16  # messages that are read before they are asked for


@dataclass(frozen=True)
class Plan:
    """
    The images that are taken of a recording, or of one file of it.

    topics: of images; names: the topic of the features for each. whole: the recording that
    `reader` reads a part of, or the reader itself. infos: topics of calibrations beside the
    images. start, stop: log times start <= t < stop. total: images that there are to be, about.
    left_out: names of depth topics that are not taken; doubled: of compressed ones whose images
    are taken raw.
    """

    request: FramesRequest
    reader: BagReader
    whole: BagReader
    topics: Sequence[Topic]
    names: Mapping[str, str]
    infos: Sequence[Topic]
    start: int
    stop: int
    total: int
    left_out: Sequence[str]
    doubled: Sequence[str] = ()

    @property
    def is_part(self) -> bool:
        """Return whether there is more of the recording in other files."""
        return self.whole is not self.reader

    @property
    def needed_infos(self) -> Sequence[Topic]:
        """Return the topics of calibrations that the features depend on."""
        view = self.request.view
        return self.infos if view.undistort and not view.calibration_file else []

    def first_infos(self, infos: Collection[Topic]) -> dict[str, Record]:
        """
        Return the message of each camera_info that serves the images before its first one.

        It is that first one; for a part without any the last of the parts before, or else the
        first of those after it.
        """
        found = {}
        for info in infos:
            record = (
                next(self.reader.records([info]), None)
                or self.whole.last(info, self.reader.start)
                or next(self.whole.records([info]), None)
            )
            if record:
                found[info.name] = record
        return found

    def describe(self) -> dict[str, Any]:
        """Return what results depend on that only the recording itself tells."""
        found = self.first_infos(self.needed_infos)
        return {
            'topics': dict(self.names),
            'range': [self.start, self.stop],
            'calibrations': {n: hashlib.sha256(one.data).hexdigest() for n, one in found.items()},
        }


def make_plan(
    request: FramesRequest,
    reader: BagReader,
    whole: BagReader | None = None,
    names: Mapping[str, str] | None = None,
) -> Plan:
    """
    Find out which images are to be taken.

    whole: the recording that `reader` reads a part of. Topics have the names that they get in the
    whole, and ranges count from its start. names: the topic of features for each topic of images,
    where they are known. Raises DataError where the whole has nothing that is asked for.
    """
    whole = whole or reader
    if names is None:
        topics = image_topics(whole, request.topics)
        names = features_topics([topic.name for topic in topics])
    else:
        topics = [topic for topic in whole.image_topics() if topic.name in names]
    start, stop = whole.span(request.start, request.end)
    beside = {sibling(topic.name, 'camera_info') for topic in topics}
    infos = [t for t in whole.topics if t.name in beside and t.msgtype == CAMERA_INFO]
    here = [topic for topic in reader.topics if topic.name in names]
    total = reader.expected(here, start, stop, request.stride)
    depth = [] if request.topics else [topic.name for topic in whole.depth_topics]
    asked = getattr(request, 'depth', '')
    left_out = [name for name in depth if name != asked and name not in names]
    doubled = [] if request.topics else _doubled(whole.image_topics())
    doubled = [name for name in doubled if name not in (*names, *left_out, asked)]
    taken = topics, names, infos, start, stop, total
    return Plan(request, reader, whole, *taken, left_out, doubled)


def image_topics(reader: BagReader, names: Collection[str] = ()) -> list[Topic]:
    """
    Return the topics of images that are named, else all but those of depth; raises DataError.

    Where there is nothing else those of depth are taken; of images that are there raw and
    compressed the raw ones.
    """
    topics = reader.choose(names, IMAGES) if names else reader.image_topics()
    topics = [topic for topic in topics if names or topic not in reader.depth_topics]
    topics = [topic for topic in topics if topic.count] or topics
    doubled = () if names else _doubled(topics)
    topics = [topic for topic in topics if topic.name not in doubled]
    if not topics:
        there = ', '.join(f'{t.name} ({t.described_type})' for t in reader.topics) or 'none'
        foreign = any(topic.channel.foreign_form for topic in reader.topics)
        advice = '; convert it to messages of ROS, which alone are read' if foreign else ''
        raise DataError(
            f"'{reader.recording.path}' has no topic of images, expected one of "
            f'{" or ".join(IMAGES)}; its topics: {there}{advice}'
        )
    return topics


def _doubled(topics: Collection[Topic]) -> list[str]:
    """Return the names of compressed topics whose images are there raw as well."""
    raw = {topic.name for topic in topics if topic.msgtype == IMAGE and topic.count}
    packed = [topic.name for topic in topics if is_packed(topic.name)]
    return [name for name in packed if base_topic(name) in raw and name not in raw]


class Copies:
    """
    The topics of a recording that are to be copied, read in step with images.

    names: of topics; ALL for all but those in `made`, which are written anyway. whole: the
    recording that `reader` reads a part of, whose topics are meant. start, stop: log times.
    left_out: topics of ALL whose type nobody knows. count: messages so far.

    Raises DataError for a topic that is not there or cannot be copied.
    """

    def __init__(
        self,
        reader: BagReader,
        names: Collection[str],
        made: Collection[str],
        start: int,
        stop: int,
        whole: BagReader | None = None,
    ) -> None:
        self._reader, self._span = reader, (start, stop)
        self.topics: list[Topic] = []
        self.left_out: list[Damage] = []
        self.count = 0
        every = ALL in names
        whole = whole or reader
        for topic in whole.topics if every else whole.choose(names):
            if topic.name not in made:
                self._take(topic, every)
            elif not every:
                raise DataError(f"topic '{topic.name}' is written anew; it cannot be copied too")

    def __enter__(self) -> 'Copies':
        self.count = 0
        self._cursor = TopicCursor(self._reader, self.topics, *self._span)
        return self

    def __exit__(self, *error: Any) -> None:
        self._cursor.close()

    def until(self, time: int) -> Iterator[Record]:
        """Yield the messages with log time <= time that have not come yet, in order."""
        for record in self._cursor.until(time):
            self.count += 1
            yield record

    def _take(self, topic: Topic, every: bool) -> None:
        try:
            embedded_definition(topic.channel)
        except DataError as error:
            if not every:
                raise
            counts = {one.name: one.count for one in self._reader.topics}
            if topic.name in counts:
                path, reason = self._reader.recording.path, f'not copied: {error}'
                self.left_out.append(Damage(path, reason, counts[topic.name]))
        else:
            self.topics.append(topic)


class TopicCursor:
    """The messages of topics, read in the background, up to a log time that only grows."""

    def __init__(
        self, reader: BagReader, topics: Collection[Topic], start: int, stop: int
    ) -> None:
        found = reader.records(topics, start, stop) if topics else iter(())
        self._records = in_background(found, READ_AHEAD)
        self._next: Record | None = None
        self._newest: dict[str, Record] = {}
        self._began = False

    def close(self) -> None:
        """Stop reading."""
        self._records.close()

    def until(self, time: int) -> Iterator[Record]:
        """Yield the messages with log time <= time that have not come yet, in order."""
        if not self._began:
            self._began, self._next = True, next(self._records, None)
        while self._next is not None and self._next.time <= time:
            yield self._next
            self._next = next(self._records, None)

    def newest(self, topic: str, time: int) -> Any:
        """Return the newest message of a topic with log time <= time; None without, or damaged."""
        self._newest |= {record.channel.topic: record for record in self.until(time)}
        record = self._newest.get(topic)
        return decoded(record) if record else None


class NearestByStamp:
    """The message of a topic whose stamp is nearest to one that only grows."""

    def __init__(self, records: Iterator[Record]) -> None:
        self._records = in_background(records, READ_AHEAD)
        self._before = self._after = self._take()

    def close(self) -> None:
        """Stop reading."""
        self._records.close()

    def to(self, stamp: int, slack: int) -> Any:
        """Return the message that is at most `slack` nanoseconds away, or None."""
        while self._after is not None and _stamp(self._after) < stamp:
            self._before, self._after = self._after, self._take()
        found = [message for message in (self._before, self._after) if message is not None]
        nearest = min(found, key=lambda message: abs(_stamp(message) - stamp), default=None)
        return nearest if nearest and abs(_stamp(nearest) - stamp) <= slack else None

    def _take(self) -> Any:
        messages = (decoded(record) for record in self._records)
        return next((message for message in messages if message), None)


def decoded(record: Record) -> Any:
    """Return the message of a record, or None where it is damaged."""
    try:
        return decode(record)
    except BadImageError:
        return None


def _stamp(message: Any) -> int:
    return stamp_ns(message.header)
