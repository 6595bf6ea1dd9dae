"""Images of a recording to features: decoding beside inference, every image once and in order."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple, TYPE_CHECKING

import numpy as np

from .flow import ahead, batches, in_background
from .reader import BagReader, decode, Topic
from .recording import CAMERA_INFO, Channel, IMAGES, LAST_TIME, Record, sibling
from .steps import Step
from ..config import ViewConfig
from ..errors import BadImageError, ImageError, KpfeatError
from ..messages.conversions import (
    camera_info_to_calibration,
    DescriptorType,
    fill_features,
    image_to_array,
)
from ..messages.definitions import empty_message, FEATURES, to_cdr
from ..preprocess import Preprocessed, Preprocessor

if TYPE_CHECKING:
    from ..features import Features
    from ..models.base import Extractor

DECODERS = 2  # threads that decode images
UNUSABLE = 'image'  # kind of the problem of an image that the extractor refuses


class Shot(NamedTuple):
    """
    One image on its way: its pixels and how an extractor is to see them, or why it cannot.

    header: as in the message; None where that cannot be read.
    """

    index: int
    record: Record
    header: Any = None
    image: np.ndarray | None = None
    look: Preprocessed | None = None
    problem: tuple[str, str] | None = None


class Shots:
    """
    The chosen images of a recording, decoded.

    stride: every k-th image of each topic. whole: the recording that `reader` reads a part of;
    calibrations are looked for in it where the part has none. infos: topics of calibrations
    beside the images, whether needed or not. Read anew by each call of `between`.
    """

    def __init__(
        self,
        reader: BagReader,
        topics: Sequence[Topic],
        config: ViewConfig,
        stride: int = 1,
        whole: BagReader | None = None,
    ) -> None:
        self._reader, self._topics, self._stride = reader, topics, stride
        self._whole = whole or reader
        self._view = Preprocessor(config)
        names = {sibling(topic.name, 'camera_info') for topic in topics}
        known = [t for t in self._whole.topics if t.name in names and t.msgtype == CAMERA_INFO]
        self.infos = known
        self._infos = known if config.undistort and not config.calibration_file else []

    def between(self, start: int = 0, stop: int = LAST_TIME, first: int = 0) -> Iterator[Shot]:
        """Yield the images with start <= log time < stop, from the one with index `first` on."""
        chosen = islice(self._chosen(start, stop), first, None)
        with ThreadPoolExecutor(DECODERS, 'kpfeat decoder') as pool:
            yield from ahead(_decode, chosen, pool, 2 * DECODERS)

    def _chosen(self, start: int, stop: int) -> Iterator[tuple[int, Record, Preprocessor]]:
        """Yield index, image and view; the view knows the newest camera_info, or the first."""
        first = self.first_calibrations()
        views = {topic: self._view_by(record) for topic, record in first.items()}
        counts: dict[str, int] = {}
        index = 0
        for record in self._reader.records([*self._topics, *self._infos], start, stop):
            topic = record.channel.topic
            if record.channel.msgtype not in IMAGES:
                views[topic] = self._view_by(record)
                continue
            count = counts.get(topic, 0)
            counts[topic] = count + 1
            if count % self._stride == 0:
                yield index, record, views.get(sibling(topic, 'camera_info'), self._view)
                index += 1

    def first_calibrations(self, infos: Sequence[Topic] | None = None) -> dict[str, Record]:
        """
        Return the message of each camera_info that serves the images before its first one.

        It is that first one; for a part without any the last of the parts before, or else the
        first of those after it. infos: by default those that the features depend on.
        """
        found = {}
        for info in self._infos if infos is None else infos:
            record = (
                next(self._reader.records([info]), None)
                or self._whole.last(info, self._reader.start)
                or next(self._whole.records([info]), None)
            )
            if record:
                found[info.name] = record
        return found

    def _view_by(self, record: Record) -> Preprocessor:
        try:
            return self._view.with_calibration(camera_info_to_calibration(decode(record)))
        except KpfeatError:  # images then say that there is no calibration
            return self._view


def _decode(chosen: tuple[int, Record, Preprocessor]) -> Shot:
    index, record, view = chosen
    header = None
    try:
        message = decode(record)
        header = message.header
        image = image_to_array(message, view.config.pixel_bits)
        return Shot(index, record, header, image, view.apply(image))
    except BadImageError as error:
        return Shot(index, record, header, problem=(error.kind, str(error)))


class Found(NamedTuple):
    """One image that went through an extractor; features is None where `shot` has a problem."""

    shot: Shot
    features: 'Features | None'


def extracted(
    extractor: 'Extractor', shots: Iterator[Shot], batch_size: int = 1
) -> Iterator[list[Found]]:
    """
    Extract features of images, in the background.

    batch_size: images that go through the network together; a list is what went together.
    """
    ready = in_background(shots, 2 * batch_size + 2)
    return in_background((_extract(extractor, batch) for batch in batches(ready, batch_size)), 2)


def _extract(extractor: 'Extractor', shots: list[Shot]) -> list[Found]:
    usable = [shot for shot in shots if shot.look]
    try:
        found = iter(_features_of(extractor, [shot.look for shot in usable]))
    except ImageError as error:
        if len(usable) == 1:
            problem = (getattr(error, 'kind', UNUSABLE), str(error))
            return [Found(s._replace(problem=problem) if s.look else s, None) for s in shots]
        return [one for shot in shots for one in _extract(extractor, [shot])]
    return [Found(shot, next(found) if shot.look else None) for shot in shots]


def _features_of(extractor: 'Extractor', looks: list[Preprocessed]) -> list['Features']:
    if not looks:
        return []
    found = extractor.extract([look.image for look in looks], [look.mask for look in looks])
    return [look.finish(found.select(b)) for b, look in enumerate(looks)]


class FeatureSteps:
    """
    Makes the steps of a feature extraction.

    names: the topic of the features for each topic of images. batch_size: images that go through
    the network together; steps of a batch are kept together, so that a resumed run has the same
    batches as one that was not interrupted.
    """

    def __init__(
        self,
        extractor: 'Extractor',
        shots: Shots,
        names: Mapping[str, str],
        model: str,
        descriptor_type: DescriptorType = DescriptorType.FLOAT32,
        batch_size: int = 1,
    ) -> None:
        self._extractor, self._shots, self._names = extractor, shots, names
        self._model, self._descriptor_type = model, descriptor_type
        self._batch_size = batch_size

    def steps(self, start: int, stop: int, first: int) -> Iterator[list[Step]]:
        """Yield the steps from index `first` on, which begins a batch; a list is a batch."""
        shots = self._shots.between(start, stop, first)
        for found in extracted(self._extractor, shots, self._batch_size):
            yield [self._step(shot, features) for shot, features in found]

    def _step(self, shot: Shot, features: 'Features | None') -> Step:
        time = shot.record.time
        if features is None:
            return Step(shot.index, time, problem=shot.problem)
        message = fill_features(
            empty_message(FEATURES), features, shot.header, self._model, self._descriptor_type
        )
        channel = Channel(self._names[shot.record.channel.topic], FEATURES)
        record = Record(channel, time, to_cdr(message, FEATURES))
        return Step(shot.index, time, (record,), counts={'keypoints': features.count()})
