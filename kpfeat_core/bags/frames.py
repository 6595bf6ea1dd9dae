"""Images of a recording with their features, made now or recorded before; and their count."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TYPE_CHECKING

import numpy as np

from .plan import image_topics, make_plan, Plan
from .reader import BagReader, decode, Recorded, Topic, topics_of_features
from .recording import base_topic, Damage, IMAGES, Record, sibling
from .request import FramesRequest, OutputRequest
from ..config import DEFAULT_MODEL, ViewConfig
from ..errors import BadImageError, DataError, ImageError, KpfeatError, ShapeError
from ..messages.conversions import (
    camera_info_to_calibration,
    image_to_array,
    message_to_features,
)
from ..messages.definitions import FEATURES, stamp_ns
from ..preprocess import Preprocessed, Preprocessor
from ..provenance import describe_run
from ..runtime import ahead, batches, in_background

if TYPE_CHECKING:
    from ..features import Features
    from ..models.base import Extractor

DECODERS = 2  # threads that decode images
GPU_BATCH = 8
UNUSABLE = 'image'  # kind of the problem of an image that the extractor refuses
MISSING = 'no_features'  # kind of the problem of an image that has no recorded features
NOT_RECORDED = (
    'no features of its stamp are recorded; where they were made with --stride, give the same here'
)
READ_AHEAD = 4  # images whose features are read before they are taken


class FeatureFrame(NamedTuple):
    """
    One image of a recording with its features, at any step of its way.

    index: its position among those that were chosen. time: log time. topic: that of the features.
    record: the message of the image; None where images were not asked for. header: of the image;
    None where it cannot be read. image: (H, W) or (H, W, 3). seen: what the extractor is to see of
    it. features: a batch of one on the CPU; model: that made them. messages: those that were made
    of the image, its features first, where they exist. problem: kind and sentence of what is
    wrong. counts: numbers for the report.
    """

    index: int
    time: int
    topic: str
    record: Record | None = None
    header: Any = None
    image: np.ndarray | None = None
    seen: Preprocessed | None = None
    features: 'Features | None' = None
    model: str = ''
    messages: tuple[Record, ...] = ()
    problem: tuple[str, str] | None = None
    counts: Mapping[str, int] = {}

    @property
    def stamp(self) -> int:
        """Return the stamp in nanoseconds; 0 where there is none."""
        return stamp_ns(self.header) if self.header else 0


class Frames:
    """
    The images of a recording with their features, in the order of log time.

    recorded: whether the features were recorded, in `source`; else `extractor` makes them.
    images: whether frames have images. topics: of features. total: how many images there will be,
    about.
    """

    def __init__(
        self,
        plan: Plan,
        extractor: 'Extractor | None',
        source: BagReader | None = None,
        images: bool = True,
    ) -> None:
        self.plan, self.request, self.reader = plan, plan.request, plan.reader
        self.extractor, self.images = extractor, images
        self.source = source or plan.reader
        self.recorded = extractor is None
        self.topics = sorted(set(plan.names.values()))
        self.total = plan.total
        self.batch_size = 1 if extractor is None else _batch_size(self.request, extractor)

    @property
    def damage(self) -> list[Damage]:
        """Return what could not be read so far."""
        beside = [] if self.source is self.reader else self.source.damage
        return self.reader.damage + beside

    def describe(self, **settings: Any) -> dict[str, Any]:
        """Return what the frames depend on; settings: what else results depend on."""
        request, files = self.request, self.reader.recording.files
        settings |= {'request': [request.start, request.end, request.stride]}
        if self.recorded:
            beside = describe_run(files=self.source.recording.files)
            names = dict(self.plan.names)
            return describe_run(files=files, features=beside, topics=names, **settings)
        if isinstance(request, OutputRequest):
            settings['descriptor_type'] = request.descriptor_type
        settings |= self.plan.describe() | {'batch_size': self.batch_size, 'name': request.model}
        return describe_run(self.extractor, files=files, view=request.view, **settings)

    def lists(self, first: int = 0) -> Iterator[list[FeatureFrame]]:
        """Yield the frames from index `first` on; those of a list went together as a batch."""
        if not self.recorded:
            frames = extracted(self.extractor, self._decoded(first), self.batch_size)
            return ([f._replace(model=self.request.model) for f in found] for found in frames)
        joined = self._joined(first) if self.images else self._alone(first)
        return in_background(batches(joined, 1), READ_AHEAD)

    def _decoded(self, first: int) -> Iterator[FeatureFrame]:
        chosen = islice(self._chosen(), first, None)
        with ThreadPoolExecutor(DECODERS, 'kpfeat decoder') as pool:
            yield from ahead(_decode, chosen, pool, 2 * DECODERS)

    def _chosen(self) -> Iterator[tuple[FeatureFrame, Preprocessor]]:
        """Yield each image and its view, which knows the newest camera_info, or the first."""
        plan = self.plan
        plain = Preprocessor(self.request.view)
        first = plan.first_infos(plan.needed_infos)
        views = {topic: _calibrated(plain, record) for topic, record in first.items()}
        taken = [*plan.topics, *plan.needed_infos]
        index, counts = 0, dict.fromkeys(plan.names, 0)
        for record in plan.reader.records(taken, plan.start, plan.stop):
            topic = record.channel.topic
            if record.channel.msgtype not in IMAGES:
                views[topic] = _calibrated(plain, record)
                continue
            counts[topic] += 1
            if (counts[topic] - 1) % self.request.stride == 0:
                view = views.get(sibling(topic, 'camera_info'), plain)
                yield FeatureFrame(index, record.time, plan.names[topic], record), view
                index += 1

    def _joined(self, first: int) -> Iterator[FeatureFrame]:
        """Give recorded features to the images of the same stamp."""
        recorded = {name: Recorded(self.source, name) for name in self.topics}
        for frame in self._decoded(first):
            if not frame.problem:
                record = recorded[frame.topic].at(frame.stamp, frame.time)
                frame = _with_features(frame, record)
            yield frame

    def _alone(self, first: int) -> Iterator[FeatureFrame]:
        plan = self.plan
        topics = [topic for topic in self.source.topics if topic.name in plan.names]
        index, counts = 0, dict.fromkeys(plan.names, 0)
        for record in self.source.records(topics, plan.start, plan.stop):
            topic = record.channel.topic
            counts[topic] += 1
            if (counts[topic] - 1) % self.request.stride == 0:
                if index >= first:
                    yield _with_features(FeatureFrame(index, record.time, topic), record)
                index += 1


def open_frames(
    request: FramesRequest, images: bool = True, extractor: 'Extractor | None' = None
) -> Frames:
    """
    Return the frames that are asked for.

    images: whether pixels are; without them a recording of features alone will do. extractor: the
    one that `request` describes, where it is loaded already. Raises KpfeatError.
    """
    if request.features and request.model:
        raise DataError('features are either those of --features or made by --model, not both')
    reader = BagReader(request.source)
    source = BagReader(request.features) if request.features else reader
    recorded = not request.model and bool(topics_of_features(source))
    if request.features and not recorded:
        raise DataError(f"'{request.features}' has no topic of {FEATURES}")
    if not recorded:
        request = replace(request, model=request.model or DEFAULT_MODEL)
        plan = make_plan(request, reader)
        return Frames(plan, extractor or load_extractor(request))
    if _is_of_making(request):
        raise DataError(
            f"features are those recorded in '{source.recording.path}', which the given "
            'options do not change; give --model to make them anew'
        )
    plan = make_plan(request, reader, names=_recorded_names(request, reader, source, images))
    if not images:
        counted = [topic for topic in source.topics if topic.name in plan.names]
        total = source.expected(counted, plan.start, plan.stop, request.stride)
        plan = replace(plan, total=total, left_out=[], doubled=[])
    return Frames(plan, None, source, images)


def load_extractor(request: FramesRequest) -> 'Extractor':
    """Load the extractor that is asked for; raises KpfeatError."""
    from ..factory import create_extractor

    # In a thread that ends with it: one that has run PyTorch keeps helpers, and where they are
    # more than the cores, OpenMP lets those of the inference sleep after every layer. That made
    # an image of 640x480 take 53 ms instead of 34 on two cores.
    with ThreadPoolExecutor(1) as pool:
        words = request.model, request.weights, request.device
        return pool.submit(create_extractor, *words, **request.options).result()


def extracted(
    extractor: 'Extractor', frames: Iterator[FeatureFrame], batch_size: int = 1
) -> Iterator[list[FeatureFrame]]:
    """
    Extract features of decoded images, in the background.

    batch_size: images that go through the network together; a list is what went together.
    """
    ready = in_background(frames, 2 * batch_size + 2)
    return in_background((_extract(extractor, batch) for batch in batches(ready, batch_size)), 2)


def _batch_size(request: FramesRequest, extractor: 'Extractor') -> int:
    from ..models.base import FASTER_IN_BATCHES

    if request.batch_size > 0:
        return request.batch_size
    return GPU_BATCH if extractor.device.type in FASTER_IN_BATCHES else 1


def _calibrated(view: Preprocessor, record: Record) -> Preprocessor:
    try:
        return view.with_calibration(camera_info_to_calibration(decode(record)))
    except KpfeatError as error:  # told by the images
        return view.without_calibration(str(error))


def _decode(chosen: tuple[FeatureFrame, Preprocessor]) -> FeatureFrame:
    frame, view = chosen
    try:
        message = decode(frame.record)
        frame = frame._replace(header=message.header)
        image = image_to_array(message, view.config.pixel_bits)
        return frame._replace(image=image, seen=view.apply(image))
    except BadImageError as error:
        return frame._replace(problem=(error.kind, str(error)))
    except MemoryError:
        return frame._replace(
            image=None, problem=('memory', 'image takes more memory than there is')
        )


def _extract(extractor: 'Extractor', frames: list[FeatureFrame]) -> list[FeatureFrame]:
    usable = [frame for frame in frames if frame.seen]
    try:
        found = iter(_features_of(extractor, [frame.seen for frame in usable]))
    except ImageError as error:
        if len(usable) > 1:
            return [one for frame in frames for one in _extract(extractor, [frame])]
        problem = (getattr(error, 'kind', UNUSABLE), str(error))
        return [f._replace(problem=problem) if f.seen else f for f in frames]
    return [_found(f, next(found)) if f.seen else f for f in frames]


def _found(frame: FeatureFrame, features: 'Features') -> FeatureFrame:
    return frame._replace(features=features, seen=None, counts={'keypoints': features.count()})


def _features_of(extractor: 'Extractor', seen: list[Preprocessed]) -> list['Features']:
    if not seen:
        return []
    found = extractor.extract([one.image for one in seen], [one.mask for one in seen])
    return [one.finish(found.select(b)) for b, one in enumerate(seen)]


def _recorded_names(
    request: FramesRequest, reader: BagReader, source: BagReader, images: bool
) -> dict[str, str]:
    """Return the topic of recorded features by the topic that is gone through."""
    there = topics_of_features(source)
    if not images:
        chosen = source.choose(request.topics, [FEATURES]) if request.topics else there
        return {topic.name: topic.name for topic in chosen}
    topics = image_topics(reader, request.topics)
    _check_clear(topics, there)
    names = _partners([*topics, *([] if request.topics else reader.depth_topics)], there)
    missing = [name for name in request.topics if name not in names]
    if missing or not names:
        raise DataError(
            f"no features of '{(missing or ['any topic of images'])[0]}' are recorded, only "
            f'{", ".join(topic.name for topic in there)}; give --model to make them'
        )
    return names


def _is_of_making(request: FramesRequest) -> bool:
    """Return whether options are given that only features which are made now would follow."""
    kind = getattr(request, 'descriptor_type', OutputRequest.descriptor_type)
    given = request.weights or request.options or request.view != ViewConfig()
    return bool(given) or kind != OutputRequest.descriptor_type


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


def _with_features(frame: FeatureFrame, record: Record | None) -> FeatureFrame:
    if record is None:
        return frame._replace(problem=(MISSING, NOT_RECORDED))
    return from_message(frame, record)


def from_message(frame: FeatureFrame, record: Record) -> FeatureFrame:
    """Return a frame with the features of a Features message, or with the problem of that."""
    try:
        message = decode(record)
        features = message_to_features(message)
    except (BadImageError, ShapeError) as error:
        return frame._replace(problem=(getattr(error, 'kind', 'message'), str(error)))
    return frame._replace(
        header=frame.header or message.header,
        features=features,
        model=message.model,
        messages=(record,),
        counts={'keypoints': features.count()},
    )


@dataclass
class BagReport:
    """
    What became of a recording.

    out: file or folder that was written, if any. total: images that there are to be, about.
    resumed: images that an earlier run had done. discarded: whether an earlier run with other
    options or input had left some, now thrown away. skipped: images by the kind of their problem;
    reasons: the first sentence of each kind. left_out: topics of depth images, and doubled: those
    of images that were taken raw; both are taken where they are named.
    """

    source: Path
    out: Path | None = None
    total: int = 0
    images: int = 0
    features: int = 0
    keypoints: int = 0
    resumed: int = 0
    discarded: bool = False
    copied: int = 0
    skipped: Counter = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)
    damage: list[Damage] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)

    hidden = ('total',)  # what is no result

    def leave_out(self, plan: Plan) -> None:
        """Note the topics that a plan does not take."""
        self.left_out, self.doubled = list(plan.left_out), list(plan.doubled)

    def add(self, frame: FeatureFrame) -> None:
        """Count one image."""
        self.images += 1
        self.features += 'keypoints' in frame.counts
        self.keypoints += frame.counts.get('keypoints', 0)
        if frame.problem:
            kind, sentence = frame.problem
            self.skipped[kind] += 1
            self.reasons.setdefault(kind, sentence)

    def check(self, damage: Iterable[Damage]) -> None:
        """Raise DataError where not one image could be used; damage: of what was read."""
        if not self.features:
            why = self.first_reason(damage) or 'there is none in this range'
            raise DataError(f"no image of '{self.source}' could be used: {why}")

    def first_reason(self, damage: Iterable[Damage]) -> str:
        """Return why an image was skipped, or what was damaged; empty where nothing was."""
        return next((str(why) for why in (*self.reasons.values(), *damage)), '')

    @property
    def complete(self) -> bool:
        """Return whether everything was read and every image used."""
        return not self.skipped and not self.damage

    def summary(self) -> str:
        """Return what came of it, in a few words."""
        return (
            f'{self.features} of {self.images} images{earlier(self.resumed)}, '
            f'{self.keypoints} keypoints'
        )

    def described(self) -> dict[str, Any]:
        """Return the results as plain values, for JSON."""
        values = {k: v for k, v in vars(self).items() if k not in self.hidden and v is not None}
        paths = {name: str(values[name]) for name in ('source', 'out') if name in values}
        return {**values, **paths, 'damage': [str(one) for one in self.damage]}


def earlier(count: int) -> str:
    """Say how many of those that were named before are of an earlier run."""
    return f' ({count} of them by an earlier run)' if count else ''
