"""What recordings consist of: channels, records, damage; and stretches of them merged by time."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
import heapq
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ..errors import DataError

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
IMAGES = (IMAGE, COMPRESSED_IMAGE)
LAST_TIME = 2**63 - 1  # nanoseconds


class Channel(NamedTuple):
    """
    A topic of one type, as a file describes it.

    definition: text of the message type, '' where the file has none; definition_format: ros2msg,
    ros2idl or ''. qos: as rosbags reads it.
    """

    topic: str
    msgtype: str
    definition: str = ''
    definition_format: str = ''
    qos: tuple[Any, ...] = ()


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


@dataclass
class Contents:
    """What a file holds: channels by its own ids, messages of each, first and last log time."""

    channels: dict[int, Channel] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    start: int = LAST_TIME
    end: int = -1

    def add(self, key: int, start: int, end: int, count: int = 1) -> None:
        """Note messages of a channel."""
        self.counts[key] = self.counts.get(key, 0) + count
        self.cover(start, end)

    def cover(self, start: int, end: int) -> None:
        """Note the times of messages."""
        self.start, self.end = min(self.start, start), max(self.end, end)

    @property
    def count(self) -> int:
        """Return the number of messages."""
        return sum(self.counts.values())


@runtime_checkable
class Storage(Protocol):
    """
    One open file of a recording.

    The file's contents are known once it is open. What cannot be read is told to the function
    that it was opened with, and passed over.
    """

    contents: Contents

    def messages(self, wanted: set[Channel], start: int, stop: int) -> Iterator[Record]:
        """Yield the messages of channels with start <= log time < stop in the order of time."""

    def close(self) -> None:
        """Close the file."""


# Takes the reason, and what names the one message that is lost, if it is known to be one.
Note = Callable[..., None]


class Stretch(NamedTuple):
    """A stretch of a recording: its earliest log time, and what opens its records, by time."""

    start: int
    open: Callable[[], Iterator[Record]]


def merge_by_time(stretches: Iterable[Stretch]) -> Iterator[Record]:
    """
    Yield the records of all stretches in the order of their log times.

    A stretch is opened when its time has come, so memory holds those that overlap. Records of the
    same time keep the order of their stretches.
    """
    waiting = sorted(enumerate(stretches), key=lambda item: (item[1].start, item[0]), reverse=True)
    running: list[tuple[int, int, Record, Iterator[Record]]] = []

    def advance(order: int, records: Iterator[Record]) -> None:
        record = next(records, None)
        if record is not None:
            heapq.heappush(running, (record.time, order, record, records))

    while running or waiting:
        while waiting and (not running or waiting[-1][1].start <= running[0][0]):
            order, stretch = waiting.pop()
            advance(order, stretch.open())
        if running:
            _, order, record, records = heapq.heappop(running)
            yield record
            advance(order, records)


def nanoseconds(stamp: Any) -> int:
    """Return the stamp of a header as one number."""
    return stamp.sec * 10**9 + stamp.nanosec


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
