"""A recording for rtabmap: images, calibration, depth and features in one message."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TYPE_CHECKING

from .copying import Beside, decoded, Nearest
from .recording import Channel, Damage, LAST_TIME, Record, sibling
from .writers import BagSink
from ..messages.definitions import FEATURES, from_cdr, RGBD_IMAGE, to_cdr
from ..messages.rtabmap import rgbd_image

if TYPE_CHECKING:
    from .plan import Plan

SECOND = 10**9
DEPTH_SLACK = 20_000_000  # nanoseconds from the stamp of an image to that of its depth


class RtabmapSink(BagSink):
    """
    Writes RGBDImage messages in place of features.

    channels: of what is copied. topics: of what is made, for each topic of features. plan: where
    the rest is read; each image gets the nearest depth. note: is told of images without.
    """

    def __init__(
        self,
        out: Path,
        storage: str,
        work: Path,
        channels: Sequence[Channel],
        topics: Mapping[str, str],
        plan: 'Plan',
        note: Callable[[Damage], None],
    ) -> None:
        made = {name: Channel(topic, RGBD_IMAGE) for name, topic in topics.items()}
        super().__init__(out, storage, work, [*made.values(), *channels])
        self._made, self._plan = made, plan
        self._images = {features: image for image, features in plan.names.items()}
        self._lacking, self._note = 0, note  # images without depth

    def __enter__(self) -> 'RtabmapSink':
        plan, infos = self._plan, self._plan.shots.infos
        first = plan.shots.first_calibrations(infos)
        self._first = {topic: decoded(record) for topic, record in first.items()}
        with ExitStack() as stack:
            taken = [*plan.topics, *infos]
            self._beside = stack.enter_context(Beside(plan.reader, taken, plan.start, plan.stop))
            self._depth = None
            if plan.depths:
                first, last = max(0, plan.start - SECOND), min(LAST_TIME, plan.stop + SECOND)
                self._depth = Nearest(plan.reader.records(plan.depths, first, last))
                stack.callback(self._depth.close)
            super().__enter__()
            self._opened = stack.pop_all()
        return self

    def write(self, record: Record) -> None:
        channel = self._made.get(record.channel.topic)
        if channel:
            message = to_cdr(self._message(record), RGBD_IMAGE)
            super().write(Record(channel, record.time, message))
        else:
            super().write(record)

    def __exit__(self, kind: Any, *rest: Any) -> None:
        with self._opened:
            super().__exit__(kind, *rest)
        if self._lacking:
            name = self._plan.depths[0].name
            slack = f'{1e-6 * DEPTH_SLACK:g} ms'
            reason = f'{self._lacking} images have no depth image of {name} within {slack}'
            self._note(Damage(self._plan.reader.recording.path, reason))

    def _message(self, record: Record) -> Any:
        features = from_cdr(record.data, FEATURES)
        topic, stamp = self._images[record.channel.topic], features.header.stamp
        info_topic = sibling(topic, 'camera_info')
        image = self._beside.at(topic, record.time, stamp)
        info = self._beside.newest(info_topic, record.time) or self._first.get(info_topic)
        depth = self._depth and self._depth.to(stamp, DEPTH_SLACK)
        self._lacking += self._depth is not None and depth is None
        return rgbd_image(features, image, info, depth)
