"""Images of a recording with their features, which are made now or were recorded before."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TYPE_CHECKING

import numpy as np

from .extract import batch_size, Extraction, load, Report
from .flow import batches, in_background
from .plan import depth_left_out, image_topics
from .processing import extracted, Found, Shot, Shots
from .reader import BagReader, decode, Recorded, Topic, topics_of_features
from .recording import base_topic, Channel, Damage, features_topics, nanoseconds, Record, sibling
from .settings import settings_of_input, settings_of_model, settings_of_view
from .steps import Step
from ..config import DEFAULT_MODEL, ViewConfig
from ..errors import BadImageError, DataError, ShapeError
from ..matching import match_pair, MutualNearestNeighbor, PairMatches
from ..messages.conversions import DescriptorType, fill_features, message_to_features
from ..messages.definitions import empty_message, FEATURES, to_cdr

if TYPE_CHECKING:
    from ..features import Features
    from ..models.base import Extractor

MISSING = 'no_features'  # kind of the problem of an image that has no recorded features
NOT_RECORDED = (
    'no features of its stamp are recorded; where they were made with --stride, give the same here'
)
AHEAD = 4  # images whose features are read before they are taken


class Sight(NamedTuple):
    """
    One image of a recording and its features.

    index: its position among those that were chosen. time: log time. topic: that of the features.
    header: of the image; None where it cannot be read. image: (H, W) or (H, W, 3), None where
    images were not asked for. features: a batch of one on the CPU. record: their message, where
    they were recorded. problem: kind and sentence, where there are no features or no image.
    """

    index: int
    time: int
    topic: str
    header: Any = None
    image: np.ndarray | None = None
    features: 'Features | None' = None
    record: Record | None = None
    problem: tuple[str, str] | None = None


class Sights:
    """
    The images of a recording with their features, in the order of log time.

    Features are those of the recording `features`, else those that `wanted.source` itself holds,
    else made by the extractor of `wanted`. wanted.model '': as just said; with a model they are
    always made. images: whether pixels are asked for; without them a recording of features alone
    will do. extractor: the one that `wanted` describes, where it is loaded already.

    recorded: whether they were recorded. topics: of features. total: how many images there will
    be, about.

    Raises KpfeatError.
    """

    def __init__(
        self,
        wanted: Extraction,
        features: Path | None = None,
        images: bool = True,
        extractor: 'Extractor | None' = None,
    ) -> None:
        if features and wanted.model:
            raise DataError('features are either those of --features or made by --model, not both')
        self.wanted = replace(wanted, model=wanted.model or DEFAULT_MODEL)
        self.reader = BagReader(wanted.source)
        self.source = BagReader(features) if features else self.reader
        self._span = self.reader.span(wanted.start, wanted.end)
        self.recorded = not wanted.model and bool(topics_of_features(self.source))
        if features and not self.recorded:
            raise DataError(f"'{features}' has no topic of {FEATURES}")
        if self.recorded and _is_of_making(wanted):
            raise DataError(
                f"features are those recorded in '{self.source.recording.path}', which the given "
                'options do not change; give --model to make them anew'
            )
        self._images = images or not self.recorded
        self._names = self._choose()
        self.topics = sorted(set(self._names.values()))
        reader = self.reader if self._images else self.source
        counted = [topic for topic in reader.topics if topic.name in self._names]
        self.total = reader.expected(counted, *self._span, wanted.stride)
        self._extractor = extractor
        if not self.recorded:
            self._extractor = extractor or load(self.wanted)

    @property
    def left_out(self) -> list[str]:
        """Return the topics of depth images that are not taken."""
        depth = depth_left_out(self.wanted, self.reader) if self._images else []
        return [name for name in depth if name not in self._names]

    @property
    def damage(self) -> list[Damage]:
        """Return what could not be read so far."""
        beside = [] if self.source is self.reader else self.source.damage
        return self.reader.damage + beside

    def settings(self) -> dict[str, Any]:
        """Return all that these depend on, for a journal."""
        wanted = self.wanted
        values: dict[str, Any] = {
            **settings_of_input(self.reader),
            'range': [wanted.start, wanted.end, wanted.stride],
            'topics': self._names,
        }
        if self.recorded:
            return values | {'features': settings_of_input(self.source)['files']}
        return {
            **values,
            **settings_of_model(wanted.model, self._extractor),
            **settings_of_view(wanted.view),
            'descriptor_type': wanted.descriptor_type,
            'batch_size': batch_size(wanted, self._extractor),
        }

    def lists(self, first: int = 0) -> Iterator[list[Sight]]:
        """Yield the images from index `first` on; those of a list belong together, as a batch."""
        if not self.recorded:
            size = batch_size(self.wanted, self._extractor)
            for found in extracted(self._extractor, self._shots(first), size):
                yield [self._made(one) for one in found]
        elif self._images:
            yield from in_background(batches(self._joined(first), 1), AHEAD)
        else:
            yield from in_background(batches(self._alone(first), 1), AHEAD)

    def message(self, sight: Sight) -> Record:
        """Return the message of a sight's features: the recorded one, or one that is made now."""
        if sight.record:
            return sight.record
        kind = DescriptorType[self.wanted.descriptor_type.upper()]
        message = fill_features(
            empty_message(FEATURES), sight.features, sight.header, self.wanted.model, kind
        )
        return Record(Channel(sight.topic, FEATURES), sight.time, to_cdr(message, FEATURES))

    def _choose(self) -> dict[str, str]:
        """Return the topic of features by the topic that is gone through."""
        wanted = self.wanted.topics
        if not self.recorded:
            return features_topics([t.name for t in image_topics(self.reader, wanted)])
        there = topics_of_features(self.source)
        if not self._images:
            chosen = self.source.choose(wanted, [FEATURES]) if wanted else there
            return {topic.name: topic.name for topic in chosen}
        images = image_topics(self.reader, wanted)
        _check_clear(images, there)
        names = _partners([*images, *([] if wanted else self.reader.depth_topics)], there)
        missing = [name for name in wanted if name not in names]
        if missing or not names:
            raise DataError(
                f"no features of '{(missing or ['any topic of images'])[0]}' are recorded, only "
                f'{", ".join(topic.name for topic in there)}; give --model to make them'
            )
        return names

    def _shots(self, first: int) -> Iterator[Shot]:
        topics = [topic for topic in self.reader.image_topics() if topic.name in self._names]
        shots = Shots(self.reader, topics, self.wanted.view, self.wanted.stride)
        return shots.between(*self._span, first)

    def _made(self, found: Found) -> Sight:
        shot = found.shot
        topic = self._names[shot.record.channel.topic]
        values = (shot.index, shot.record.time, topic, shot.header, shot.image, found.features)
        return Sight(*values, problem=shot.problem)

    def _joined(self, first: int) -> Iterator[Sight]:
        """Give recorded features to the images of the same stamp."""
        followed = {name: Recorded(self.source, name) for name in self.topics}
        for shot in self._shots(first):
            topic = self._names[shot.record.channel.topic]
            sight = Sight(shot.index, shot.record.time, topic, shot.header, shot.image)
            if shot.problem:
                yield sight._replace(problem=shot.problem)
            else:
                record = followed[topic].at(nanoseconds(shot.header.stamp), sight.time)
                yield _with_features(sight, record)

    def _alone(self, first: int) -> Iterator[Sight]:
        topics = [topic for topic in self.source.topics if topic.name in self._names]
        counts = dict.fromkeys(self._names, 0)
        index = 0
        for record in self.source.records(topics, *self._span):
            topic = record.channel.topic
            counts[topic] += 1
            if (counts[topic] - 1) % self.wanted.stride:
                continue
            if index >= first:
                yield _with_features(Sight(index, record.time, topic), record)
            index += 1


def _is_of_making(wanted: Extraction) -> bool:
    """Say whether options are given that only features which are made now would follow."""
    given = wanted.weights or wanted.options or wanted.view != ViewConfig()
    return bool(given) or wanted.descriptor_type != Extraction.descriptor_type


def _check_clear(images: Sequence[Topic], features: Collection[Topic]) -> None:
    """Raise DataError where features beside several topics of images may be of any of them."""
    there = {topic.name for topic in features}
    beside: dict[str, set[str]] = {}
    for image in images:
        if f'{image.name}/features' not in there:
            name = sibling(image.name, 'features')
            beside.setdefault(name, set()).add(base_topic(image.name))
    for name in sorted(there):
        if len(beside.get(name, ())) > 1:
            raise DataError(
                f"'{name}' may hold the features of {' or of '.join(sorted(beside[name]))}; name "
                'that topic of images with --topics'
            )


def _partners(images: Sequence[Topic], features: Collection[Topic]) -> dict[str, str]:
    """Return the topic of features of each topic of images that has one; one image topic each."""
    there, names = {topic.name for topic in features}, {}
    for image in images:
        for name in (f'{image.name}/features', sibling(image.name, 'features')):
            if name in there and name not in names.values():
                names[image.name] = name
                break
    return names


def _with_features(sight: Sight, record: Record | None) -> Sight:
    if record is None:
        return sight._replace(problem=(MISSING, NOT_RECORDED))
    try:
        message = decode(record)
        features = message_to_features(message)
    except (BadImageError, ShapeError) as error:
        return sight._replace(problem=(getattr(error, 'kind', 'message'), str(error)))
    return sight._replace(header=sight.header or message.header, features=features, record=record)


class Followed(NamedTuple):
    """An image before another one of the same topic, and their matches."""

    before: Sight
    pair: PairMatches


class Following:
    """
    Matches each image with the one before it in its topic.

    Images without features are passed over: the next one is matched with the one before them.
    Holds one image of each topic.
    """

    def __init__(self, matcher: MutualNearestNeighbor) -> None:
        self._matcher = matcher
        self._before: dict[str, Sight] = {}

    def follow(self, sight: Sight) -> Followed | None:
        """
        Return what an image with features follows; None for a first one.

        Descriptors of another size are of another model, with which a topic begins anew. Raises
        DataError where there are no descriptors.
        """
        if sight.features.count() and not sight.features.descriptor_dim:
            raise DataError(f"features of '{sight.topic}' have no descriptors to be matched by")
        before = self._before.get(sight.topic)
        self._before[sight.topic] = sight
        if before is None or before.features.descriptor_dim != sight.features.descriptor_dim:
            return None
        return Followed(before, match_pair(self._matcher, before.features, sight.features))


def count_sight(report: Report, sight: Sight) -> None:
    """Count one image in a report."""
    if sight.features is None:
        report.add(Step(sight.index, sight.time, problem=sight.problem))
        return
    report.add(Step(sight.index, sight.time, counts={'keypoints': sight.features.count()}))
    report.features += 1
