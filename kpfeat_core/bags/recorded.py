"""Recorded features, found again by the stamps of their images."""

from collections import deque
from typing import NamedTuple

from .decoding import decode
from .reading import BagReader, Topic
from .records import nanoseconds, Record
from ..errors import BadImageError
from ..messages.definitions import FEATURES

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
                self._held.append(_Stamped(nanoseconds(decode(record).header.stamp), record))
            except BadImageError:  # it is damaged: its image has no features
                continue
            return True
        return False


def topics_of_features(reader: BagReader) -> list[Topic]:
    """Return the topics that hold features."""
    return [topic for topic in reader.topics if topic.msgtype == FEATURES and topic.count]
