"""Messages of the input that go with features, read in step with them."""

from collections.abc import Collection, Generator, Iterator
from types import TracebackType
from typing import Any

from .flow import in_background
from .reader import BagReader, decode, embedded_definition, Topic
from .recording import Damage, nanoseconds, Record
from ..errors import BadImageError, DataError

AHEAD = 8  # messages that are read before they are asked for


class Beside:
    """
    The newest messages of topics, as of a log time that only grows.

    Memory holds the newest of each topic. Use as a context manager.
    """

    def __init__(
        self, reader: BagReader, topics: Collection[Topic], start: int, stop: int
    ) -> None:
        self._records = in_background(reader.records(topics, start, stop), AHEAD)
        self._newest: dict[str, list[Record]] = {}  # several where log times are the same

    def __enter__(self) -> 'Beside':
        self._next = next(self._records, None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._records.close()

    def newest(self, topic: str, time: int) -> Any:
        """Return the newest message of a topic with log time <= time; None without, or damaged."""
        self._read_until(time)
        held = self._newest.get(topic)
        return decoded(held[-1]) if held else None

    def at(self, topic: str, time: int, stamp: Any) -> Any:
        """Return the message of a topic with this log time and stamp; raises DataError."""
        self._read_until(time)
        for record in self._newest.get(topic, []):
            message = decoded(record)
            if message and record.time == time and _stamp(message) == nanoseconds(stamp):
                return message
        raise DataError(
            f"the image of '{topic}' with the stamp {nanoseconds(stamp)} is not there any more; "
            'leave the recording as it is while features are made of it'
        )

    def _read_until(self, time: int) -> None:
        while self._next is not None and self._next.time <= time:
            held = self._newest.setdefault(self._next.channel.topic, [])
            if held and held[0].time != self._next.time:
                held.clear()
            held.append(self._next)
            self._next = next(self._records, None)


class Nearest:
    """The message of a topic whose stamp is nearest to one that only grows."""

    def __init__(self, records: Iterator[Record]) -> None:
        self._records = in_background(records, AHEAD)
        self._before = self._after = self._take()

    def close(self) -> None:
        """Stop reading."""
        self._records.close()

    def to(self, stamp: Any, slack: int) -> Any:
        """Return the message that is at most `slack` nanoseconds away, or None."""
        wanted = nanoseconds(stamp)
        while self._after is not None and _stamp(self._after) < wanted:
            self._before, self._after = self._after, self._take()
        found = [message for message in (self._before, self._after) if message is not None]
        nearest = min(found, key=lambda message: abs(_stamp(message) - wanted), default=None)
        return nearest if nearest and abs(_stamp(nearest) - wanted) <= slack else None

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
    return nanoseconds(message.header.stamp)


ALL = '*'
COPIED_AHEAD = 16  # messages that are read before they are written


class Copies:
    """
    The topics of a recording that are to be copied.

    names: of topics; ALL for all but those in `made`, which are written anyway. whole: the
    recording that `reader` reads a part of, whose topics are meant. left_out: those of ALL whose
    type nobody knows. count: messages so far.

    Raises DataError for a topic that is not there or cannot be copied.
    """

    def __init__(
        self,
        reader: BagReader,
        names: Collection[str],
        made: Collection[str],
        whole: BagReader | None = None,
    ) -> None:
        self._reader = reader
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

    def records(self, start: int, stop: int) -> Generator[Record, None, None]:
        """Yield the messages with start <= log time < stop, in order."""
        if self.topics:
            for record in in_background(
                self._reader.records(self.topics, start, stop), COPIED_AHEAD
            ):
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
