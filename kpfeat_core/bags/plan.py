"""What an extraction takes of a recording: topics, their new names, and the range of time."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
import hashlib
from typing import Any, TYPE_CHECKING

from .copying import Copies
from .formats import check_options, made_topics
from .processing import Shots
from .reader import BagReader, Topic
from .recording import Channel, features_topics, IMAGE, IMAGES
from ..errors import DataError
from ..messages.definitions import FEATURES

if TYPE_CHECKING:
    from .extract import Extraction


@dataclass(frozen=True)
class Plan:
    """
    What is taken of a recording, or of one part of it.

    topics: of images. names: the topic of the features for each. copies: topics that are copied.
    depths: topic of depth images, where one is asked for.
    start, stop: log times start <= t < stop. total: images that there are to be, about. is_part:
    whether there is more of the recording in other files. left_out: names of depth topics that are
    not taken.
    """

    reader: BagReader
    shots: Shots
    topics: list[Topic]
    names: Mapping[str, str]
    copies: Copies
    depths: list[Topic]
    start: int
    stop: int
    total: int
    is_part: bool
    left_out: list[str]

    @property
    def channels(self) -> list[Channel]:
        """Return all that will be written."""
        made = [Channel(self.names[topic.name], FEATURES) for topic in self.topics]
        return made + [topic.channel for topic in self.copies.topics]

    def settings(self) -> dict[str, Any]:
        """Return what results depend on that only the recording itself tells."""
        found = self.shots.first_calibrations()
        digests = {name: hashlib.sha256(one.data).hexdigest() for name, one in found.items()}
        return {
            'topics': dict(self.names),
            'range': [self.start, self.stop],
            'calibrations': digests,
        }


def make_plan(wanted: 'Extraction', reader: BagReader, whole: BagReader | None = None) -> Plan:
    """
    Find out what is to be taken.

    whole: the recording that `reader` reads a part of. Topics have the names that they get in the
    whole, and ranges count from its start. Raises DataError where the whole has nothing that is
    asked for, and for options that do not go together.
    """
    check_options(wanted)
    is_part, whole = whole is not None, whole or reader
    topics = image_topics(whole, wanted.topics)
    names = features_topics([topic.name for topic in topics])
    made = made_topics(wanted, list(names.values()))
    copies = Copies(reader, wanted.copy, set(made), whole)
    start, stop = whole.span(wanted.start, wanted.end)
    if start > whole.end or stop <= whole.start:
        raise DataError(
            f"no image of '{whole.recording.path}' could be used: there is none in this range"
        )
    depths = _depth_topics(wanted, whole, topics)
    shots = Shots(reader, topics, wanted.view, wanted.stride, whole)
    here = [topic for topic in reader.topics if topic.name in names]
    total = reader.expected(here, start, stop, wanted.stride)
    left_out = depth_left_out(wanted, whole)
    return Plan(
        reader, shots, topics, names, copies, depths, start, stop, total, is_part, left_out
    )


def image_topics(reader: BagReader, names: Collection[str] = ()) -> list[Topic]:
    """
    Return the topics of images that are named, else all but those of depth; raises DataError.

    Where there is nothing else those of depth are taken.
    """
    topics = reader.choose(names, IMAGES) if names else reader.image_topics()
    topics = [topic for topic in topics if names or topic not in reader.depth_topics]
    topics = [topic for topic in topics if topic.count] or topics
    if not topics:
        there = ', '.join(f'{t.name} ({t.msgtype})' for t in reader.topics) or 'none'
        raise DataError(
            f"'{reader.recording.path}' has no topic of images, expected one of "
            f'{" or ".join(IMAGES)}; its topics: {there}'
        )
    return topics


def depth_left_out(wanted: 'Extraction', reader: BagReader) -> list[str]:
    """Return the topics of depth images that are not taken, as no topic is named."""
    depth = [] if wanted.topics else [topic.name for topic in reader.depth_topics]
    return [name for name in depth if name != wanted.depth]


def _depth_topics(wanted: 'Extraction', whole: BagReader, topics: list[Topic]) -> list[Topic]:
    if wanted.depth and len(topics) > 1:
        raise DataError(
            f'--depth is for one camera, and there are {len(topics)} topics of images; choose one '
            'with --topics'
        )
    return whole.choose([wanted.depth], [IMAGE]) if wanted.depth else []
