"""A recording in which Foxglove shows the keypoints over their images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from .writing import BagSink
from ..records import Channel, Record
from ...messages.annotations import image_annotations
from ...messages.conversions import message_to_features
from ...messages.definitions import constructors, FEATURES, from_cdr, IMAGE_ANNOTATIONS, to_cdr


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
