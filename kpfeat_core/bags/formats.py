"""A recording in which Foxglove shows the keypoints over their images."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .recording import Channel, Damage, Record
from .writers import BagSink, HlocSink, NpzSink, Sink
from ..errors import DataError
from ..messages.conversions import image_annotations, message_to_features
from ..messages.definitions import constructors, FEATURES, from_cdr, IMAGE_ANNOTATIONS, to_cdr

if TYPE_CHECKING:
    from .extract import Extraction
    from .plan import Plan


class AnnotatedSink(BagSink):
    """
    Writes a recording with annotations beside features.

    topics: of the annotations, for each topic of features; the rest as in `BagSink`.
    """

    def __init__(
        self,
        out: Path,
        storage: str,
        work: Path,
        channels: Sequence[Channel],
        topics: Mapping[str, str],
    ) -> None:
        made = {name: Channel(topic, IMAGE_ANNOTATIONS) for name, topic in topics.items()}
        super().__init__(out, storage, work, [*channels, *made.values()])
        self._made = made
        self._messages = constructors('foxglove_msgs')

    def write(self, record: Record) -> None:
        super().write(record)
        channel = self._made.get(record.channel.topic)
        if channel:
            features = from_cdr(record.data, FEATURES)
            arrays = message_to_features(features).numpy()
            message = image_annotations(
                self._messages,
                arrays['keypoints'],
                arrays['keypoint_scores'],
                features.header.stamp,
            )
            super().write(Record(channel, record.time, to_cdr(message, IMAGE_ANNOTATIONS)))


RECORDINGS = ('bag', 'rtabmap')  # formats that are recordings
# Endings of names, and the formats that they fit; all others fit any.
NAMES = {'.mcap': RECORDINGS, '.db3': RECORDINGS, '.h5': ('h5',), '.db': ('colmap',)}
# An option that has a meaning with one format alone.
ONLY_WITH = {'annotations': 'bag', 'pictures': 'colmap', 'depth': 'rtabmap'}


def check_options(wanted: 'Extraction') -> None:
    """Raise DataError for options that do not go together."""
    fitting = NAMES.get(wanted.out.suffix, (wanted.format,))
    if wanted.format not in fitting:
        raise DataError(
            f"--out is '{wanted.out}', a name for --format {fitting[0]}, and the format is "
            f'{wanted.format}; change one of them'
        )
    for option, form in ONLY_WITH.items():
        if getattr(wanted, option) and wanted.format != form:
            raise DataError(
                f'--{option} goes with --format {form}, and the format is {wanted.format}'
            )
    if wanted.copy and wanted.format not in RECORDINGS:
        raise DataError(f'topics cannot be copied to {wanted.format}; use the format bag')
    if wanted.view.undistort and (wanted.pictures or wanted.format == 'rtabmap'):
        raise DataError(
            'keypoints without distortion do not fit the images, which keep theirs, and both go '
            'into the output; leave out --undistort'
        )


def made_topics(wanted: 'Extraction', features: list[str]) -> list[str]:
    """Return the topics that an extraction makes: those of features, or in their place."""
    if wanted.format == 'rtabmap':
        return list(_beside(features, 'rgbd_image').values())
    annotations = _beside(features, 'image_annotations') if wanted.annotations else {}
    return [*features, *annotations.values()]


def make_sink(
    wanted: 'Extraction', plan: 'Plan', work: Path, note: Callable[[Damage], None]
) -> Sink:
    """
    Return what takes the features.

    note: is told of what the output lacks. Raises DataError.
    """
    if wanted.format == 'npz':
        return NpzSink(wanted.out, work)
    if wanted.format == 'h5':
        return HlocSink(wanted.out, work)
    if wanted.format == 'colmap':
        from .colmap import calibrations, ColmapSink

        known = calibrations(plan, wanted.view)
        bits = wanted.view.pixel_bits
        return ColmapSink(wanted.out, work, plan, known, wanted.pictures, bits)
    target = (wanted.out, wanted.storage, work)
    features = list(plan.names.values())
    if wanted.format == 'rtabmap':
        from .rtabmap import RtabmapSink

        copied = [topic.channel for topic in plan.copies.topics]
        topics = _beside(features, 'rgbd_image')
        return RtabmapSink(*target, copied, topics, plan, note)
    if wanted.annotations:
        return AnnotatedSink(*target, plan.channels, _beside(features, 'image_annotations'))
    return BagSink(*target, plan.channels)


def _beside(features: list[str], name: str) -> Mapping[str, str]:
    """Return the topic of another name beside each topic of features."""
    return {topic: f'{topic.removesuffix("features")}{name}' for topic in features}
