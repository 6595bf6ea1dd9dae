"""Outputs for other programs: .npz and HDF5 files, COLMAP, rtabmap and Foxglove."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
import os
from pathlib import Path
from typing import Any

import numpy as np

from .colmap import ColmapDatabase, need_pycolmap
from .frames import FeatureFrame
from .plan import Copies, decoded, NearestByStamp, Plan, TopicCursor
from .reader import decode
from .recording import Channel, Damage, IMAGE, IMAGES, LAST_TIME, Record, sibling
from .request import ExtractRequest
from .writers import BagSink, Encode, frame_of, LogEntry, put, remove, Sink
from ..camera import Calibration, read_calibration
from ..config import ViewConfig
from ..errors import BadImageError, DataError, KpfeatError
from ..image import write_image
from ..io import hloc_file, read_npz, write_npz
from ..messages.conversions import (
    camera_info_to_calibration,
    depth_to_metres,
    DescriptorType,
    fill_features,
    image_annotations,
    image_to_array,
)
from ..messages.definitions import (
    constructors,
    empty_message,
    FEATURES,
    from_cdr,
    IMAGE_ANNOTATIONS,
    new_message,
    RGBD_IMAGE,
    to_cdr,
)
from ..messages.encodings import stored_depth
from ..messages.rtabmap import rgbd_image
from ..visualize import to_rgb8

STAMP_DIGITS = 19  # of nanoseconds since 1970: COLMAP takes images in the order of their names
PICTURES = '.images'  # ending of the folder of pictures, after the name of the database
JPEG = b'\xff\xd8'  # how a file begins
SECOND = 10**9
DEPTH_SLACK = 20_000_000  # nanoseconds from the stamp of an image to that of its depth


def made_topics(request: ExtractRequest, features: list[str]) -> list[str]:
    """Return the topics that an extraction makes: those of features, or in their place."""
    if request.format == 'rtabmap':
        return list(_beside(features, 'rgbd_image').values())
    annotations = _beside(features, 'image_annotations') if request.annotations else {}
    return [*features, *annotations.values()]


def make_sink(
    request: ExtractRequest, plan: Plan, copies: Copies, on_damage: Callable[[Damage], None]
) -> Sink:
    """
    Return what takes the frames.

    on_damage: is told of what the output lacks. Raises DataError.
    """
    if request.format == 'npz':
        return NpzSink(request.out)
    if request.format == 'h5':
        return HlocSink(request.out)
    if request.format == 'colmap':
        return ColmapSink(request.out, plan, request.pictures, on_damage)
    features = [plan.names[topic.name] for topic in plan.topics]
    copied = [topic.channel for topic in copies.topics]
    encode: Encode = features_encoder(request)
    made = [Channel(name, FEATURES) for name in features]
    channels = [*made, *copied]
    if request.format == 'rtabmap':
        depth = _depth_topics(request, plan)
        encode = RtabmapEncoder(encode, plan, depth, on_damage)
        channels = [*encode.channels.values(), *copied]
    elif request.annotations:
        encode = AnnotationsEncoder(encode, features)
        channels += encode.channels.values()
    close = getattr(encode, 'close', lambda: None)
    return BagSink(request.out, request.storage, channels, copied, encode, close)


def features_encoder(request: Any) -> Callable[[FeatureFrame], list[Record]]:
    """Return what gives the Features message of a frame, or the messages that it has already."""
    kind = DescriptorType[request.descriptor_type.upper()]

    def encode(frame: FeatureFrame) -> list[Record]:
        if frame.messages or frame.features is None:
            return list(frame.messages)
        message = empty_message(FEATURES)
        fill_features(message, frame.features, frame.header, frame.model, kind)
        return [Record(Channel(frame.topic, FEATURES), frame.time, to_cdr(message, FEATURES))]

    return encode


class AnnotationsEncoder:
    """Adds what Foxglove shows over the images; topics: of features."""

    def __init__(self, encode: Encode, topics: list[str]) -> None:
        names = _beside(topics, 'image_annotations')
        self.channels = {name: Channel(topic, IMAGE_ANNOTATIONS) for name, topic in names.items()}
        self._encode, self._messages = encode, constructors('foxglove_msgs')

    def __call__(self, frame: FeatureFrame) -> list[Record]:
        records = self._encode(frame)
        if len(records) == 1:
            arrays = frame.features.numpy()
            points, scores = arrays['keypoints'], arrays['keypoint_scores']
            message = image_annotations(self._messages, points, scores, frame.header.stamp)
            data = to_cdr(message, IMAGE_ANNOTATIONS)
            records.append(Record(self.channels[frame.topic], frame.time, data))
        return records


class RtabmapEncoder:
    """
    Gives RGBDImage messages in place of features: image, calibration, depth and features in one.

    Each image gets the nearest depth; on_damage is told in the end of images without.
    """

    def __init__(
        self, encode: Encode, plan: Plan, depth: Sequence[Any], on_damage: Callable[..., None]
    ) -> None:
        names = _beside(list(plan.names.values()), 'rgbd_image')
        self.channels = {name: Channel(topic, RGBD_IMAGE) for name, topic in names.items()}
        self._encode, self._plan, self._on_damage = encode, plan, on_damage
        self._images = {features: image for image, features in plan.names.items()}
        self._topics, self._depth, self._lacking = depth, None, 0
        self._infos: TopicCursor | None = None

    def __call__(self, frame: FeatureFrame) -> list[Record]:
        if frame.messages:  # of an earlier run
            message = from_cdr(frame.messages[0].data, RGBD_IMAGE)
            self._lacking += bool(self._topics) and not len(message.depth.data)
            return list(frame.messages)
        return [
            Record(self.channels[record.channel.topic], record.time, self._message(record, frame))
            for record in self._encode(frame)
        ]

    def close(self) -> None:
        """Stop reading, and tell of images without depth."""
        for opened in filter(None, (self._infos, self._depth)):
            opened.close()
        if self._lacking:
            slack = f'{1e-6 * DEPTH_SLACK:g} ms'
            name = self._topics[0].name
            reason = f'{self._lacking} images have no depth image of {name} within {slack}'
            self._on_damage(Damage(self._plan.reader.recording.path, reason))

    def _open(self) -> None:
        plan = self._plan
        first = plan.first_infos(plan.infos)
        self._first = {topic: decoded(record) for topic, record in first.items()}
        self._infos = TopicCursor(plan.reader, plan.infos, plan.start, plan.stop)
        if self._topics:
            start, stop = max(0, plan.start - SECOND), min(LAST_TIME, plan.stop + SECOND)
            self._depth = NearestByStamp(plan.reader.records(self._topics, start, stop))

    def _message(self, record: Record, frame: FeatureFrame) -> bytes:
        if self._infos is None:
            self._open()
        topic = sibling(self._images[frame.topic], 'camera_info')
        info = self._infos.newest(topic, frame.time) or self._first.get(topic)
        depth = self._depth and _unpacked(self._depth.to(frame.stamp, DEPTH_SLACK))
        self._lacking += self._depth is not None and depth is None
        features, image = from_cdr(record.data, FEATURES), decode(frame.record)
        return to_cdr(rgbd_image(features, image, info, depth), RGBD_IMAGE)


class ArraySink(Sink):
    """
    Keeps an .npz file for each image, CAMERA/STAMP.npz with the stamp in nanoseconds.

    digits: of stamps at least, with zeros before them, for those who sort names.
    """

    def __init__(self, out: Path, digits: int = 1) -> None:
        self._out, self._digits = out, digits
        self._named: Counter = Counter()
        self._frames: list[tuple[str, str, int]] = []  # topic, name, and which of that name

    def open(self, folder: Path, resume: bool) -> None:
        self._work, self._folder, self._placing = folder, folder / 'npz', folder / 'placing'
        if not resume:
            for path in (self._folder, self._placing):
                remove(path)
        self._folder.mkdir(exist_ok=True)

    def recall(self, entries: Sequence[LogEntry]) -> list[FeatureFrame] | None:
        done = [entry for entry in entries if not entry.get('problem')]
        names = [self._name(entry['topic'], entry.get('stamp', 0)) for entry in done]
        try:
            for name in names:
                self._arrays(name)
        except DataError:
            for _ in done:
                _, name, self._named[name] = self._frames.pop()
            return None
        return [frame_of(entry) for entry in entries]

    def forget(self) -> None:
        remove(self._placing)

    def add(self, frame: FeatureFrame) -> LogEntry:
        if frame.features is not None:
            self.write(self._name(frame.topic, frame.stamp), frame)
        return {'stamp': frame.stamp}

    def write(self, name: str, frame: FeatureFrame) -> None:
        """Write one image."""
        write_npz(self._folder / f'{name}.npz', frame.features.numpy())

    def frames(self) -> Iterator[tuple[str, str, dict[str, np.ndarray]]]:
        """Yield the topic, the name and the arrays of each image, in order."""
        for topic, name, number in self._frames:
            unique = f'{name}-{number}' if number else name
            yield topic, unique, self._arrays(unique)

    def _name(self, topic: str, stamp: int) -> str:
        """Return the name of the next image, CAMERA/STAMP; later twins get -1, -2."""
        camera = topic.strip('/').removesuffix('features').strip('/')
        name = '/'.join(filter(None, [camera, str(stamp).zfill(self._digits)]))
        number = self._named[name]
        self._named[name] += 1
        self._frames.append((topic, name, number))
        return f'{name}-{number}' if number else name

    def _arrays(self, name: str) -> dict[str, np.ndarray]:
        """Read what was written of an image; from `out` where a run was killed at the end."""
        path = self._folder / f'{name}.npz'
        if self._placing.exists() and not path.exists():
            path = self._out / f'{name}.npz'
        return read_npz(path)


class NpzSink(ArraySink):
    """A folder of .npz files; other files that are there stay."""

    def __init__(self, out: Path) -> None:
        if out.is_file():
            raise DataError(f"--out is '{out}', a file; expected the name of a folder for npz")
        super().__init__(out)

    def finish(self) -> None:
        if not self._out.exists():
            os.replace(self._folder, self._out)
            return
        self._placing.touch()
        for made in sorted(self._folder.rglob('*.npz')):
            target = self._out / made.relative_to(self._folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(made, target)


class HlocSink(ArraySink):
    """
    An HDF5 file in the layout of hloc with the groups CAMERA/STAMP.

    It is written in the end: HDF5 files whose writer is killed may be lost as a whole, so the
    images are kept as .npz files till then.
    """

    def __init__(self, out: Path) -> None:
        if out.is_dir():
            raise DataError(f"--out is '{out}', a folder; expected the name of a file for h5")
        super().__init__(out)

    def finish(self) -> None:
        made = self._work / self._out.name
        with hloc_file(made) as add:
            for _, name, arrays in self.frames():
                add(name, arrays)
        put(made, self._out)


class ColmapSink(ArraySink):
    """
    A database with the images CAMERA/STAMP.jpg, one camera for each topic and image size.

    A camera without calibration gets a guess. pictures: whether to write the images as well, to
    the folder OUT.images. The same frames give the same bytes. Raises DataError where pycolmap is
    not installed.
    """

    def __init__(
        self,
        out: Path,
        plan: Plan,
        pictures: bool = False,
        on_damage: Callable[[Damage], None] = lambda damage: None,
    ) -> None:
        need_pycolmap()
        if out.is_dir():
            raise DataError(
                f"--out is '{out}', a folder; expected a name for a database, such as a.db"
            )
        self._pictures = out.with_name(f'{out.name}{PICTURES}') if pictures else None
        if pictures and self._pictures.exists() and not out.exists():
            raise DataError(
                f"'{self._pictures}' is in the way of the pictures; choose another --out"
            )
        super().__init__(out, STAMP_DIGITS)
        self._plan, self._on_damage = plan, on_damage

    def open(self, folder: Path, resume: bool) -> None:
        super().open(folder, resume)
        if not resume:
            remove(folder / PICTURES)

    def write(self, name: str, frame: FeatureFrame) -> None:
        if self._pictures:  # first: an image is done once its features are there
            path = self._work / PICTURES / f'{name}.jpg'
            _write_picture(path, decode(frame.record), self._plan.request.view.pixel_bits)
        super().write(name, frame)

    def finish(self) -> None:
        plan, made = self._plan, self._work / self._out.name
        images = {features: image for image, features in plan.names.items()}
        known = _calibrations(plan, plan.request.view, self._on_damage)
        remove(made)
        with ColmapDatabase(made) as database:
            for topic, name, arrays in self.frames():
                database.add(f'{name}.jpg', arrays, images[topic], known.get(images[topic]))
        if self._pictures:
            put(self._work / PICTURES, self._pictures)
        put(made, self._out)


def _calibrations(
    plan: Plan, view: ViewConfig, on_damage: Callable[[Damage], None]
) -> dict[str, Calibration]:
    """
    Return the calibration of each topic of images that has one.

    Without distortion where the keypoints of `view` have none. on_damage: is told of those of no
    use, once each.
    """
    if view.undistort and view.calibration_file:
        known = dict.fromkeys(plan.names, read_calibration(view.calibration_file))
    else:
        first = plan.first_infos(plan.infos)
        infos = {topic: first.get(sibling(topic, 'camera_info')) for topic in plan.names}
        known = {}
        for topic, info in infos.items():
            try:
                known[topic] = info and camera_info_to_calibration(decode(info))
            except KpfeatError as error:
                why = f"camera_info of '{topic}' is of no use, its camera is a guess: {error}"
                on_damage(Damage(plan.reader.recording.path, why))
    return {
        topic: Calibration(one.matrix, one.size) if view.undistort else one
        for topic, one in known.items()
        if one
    }


def _write_picture(path: Path, image: Any, pixel_bits: int) -> None:
    """Write an Image or CompressedImage as JPEG; one that is JPEG, but for mosaics, as it came."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = bytes(image.data) if hasattr(image, 'format') else b''
    if data.startswith(JPEG) and not image.format.startswith('bayer_'):
        path.write_bytes(data)
    else:
        write_image(path, to_rgb8(image_to_array(image, pixel_bits)))


def _depth_topics(request: ExtractRequest, plan: Plan) -> Sequence[Any]:
    if request.depth and len(plan.topics) > 1:
        raise DataError(
            f'--depth is for one camera, and there are {len(plan.topics)} topics of images; '
            'choose one with --topics'
        )
    return plan.whole.choose([request.depth], IMAGES) if request.depth else []


def _unpacked(depth: Any) -> Any:
    """Return a depth image as an Image; None for none, and for one that cannot be read."""
    if not hasattr(depth, 'format'):
        return depth
    try:
        depth_to_metres(depth)
        pixels, encoding = stored_depth(depth.data, depth.format)
    except BadImageError:
        return None
    height, width = pixels.shape
    data = np.ascontiguousarray(pixels).view(np.uint8).reshape(-1)
    values = {'header': depth.header, 'height': height, 'width': width, 'encoding': encoding}
    return new_message(IMAGE, **values, step=len(data) // height, data=data)


def _beside(features: Sequence[str], name: str) -> dict[str, str]:
    """Return the topic of another name beside each topic of features."""
    return {topic: f'{topic.removesuffix("features")}{name}' for topic in features}
