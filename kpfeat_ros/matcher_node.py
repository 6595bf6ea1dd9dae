"""Features in, matches with another frame or with a second camera out: `matcher_node`."""

from .process import leave  # before torch

# isort: split
from functools import partial  # noqa: I100
from typing import Any

from kpfeat.msg import Matches
from kpfeat_core.config import MatcherConfig
from kpfeat_core.errors import ConfigError
from kpfeat_core.factory import create_matcher
from kpfeat_core.matching import match_pair
from kpfeat_core.messages.conversions import fill_matches
from kpfeat_core.messages.definitions import stamp_ns
from std_srvs.srv import Trigger

from .frames import ApproximateTimeSync, FramePairs, StampedFeatures
from .node import KpfeatNode, run
from .options import MatcherNodeOptions
from .worker import Stage

STEREO = ('features0', 'features1')
WAITING = 10  # frames of a camera that wait for those of the other


class MatcherNode(KpfeatNode):
    """
    Publishes `matches` of consecutive frames, or with a reference (`~/set_reference`).

    In mode stereo it matches `features0` with `features1` of the same time, from two cameras.

    Where time jumps back, or frame_id or publisher change, the frames around that are no pair.

    While nobody listens to `matches` nothing is matched, and but for mode reference nothing is
    received either; there the newest frame stays known, for the service.
    """

    def __init__(self, name: str = 'matcher', **options: Any) -> None:
        super().__init__(name, **options)
        self._latest_ns = [0, 0]  # stamps of the newest frames of both cameras
        self.start()

    def declare(self) -> None:
        """Declare parameters."""
        super().declare()
        self.parameters.declare(MatcherNodeOptions)
        self.parameters.declare(MatcherConfig)

    def configure(self) -> None:
        """Make the matcher."""
        super().configure()
        self.options = self.parameters.read(MatcherNodeOptions, self._use_options)
        self.pairs, self.stereo = FramePairs(self.options.mode), ApproximateTimeSync(WAITING)
        self._use_config(self.parameters.read(MatcherConfig, self._use_config))

    def activate(self) -> None:
        """Start the worker with no frame known, then listen."""
        super().activate()
        self.pairs = FramePairs(self.options.mode)
        self.publisher = self.advertise(Matches, 'matches')
        self.worker = self.work_through(
            [
                Stage('pair', self._pair),
                Stage('match', self._match),
                Stage('publish', self._publish),
            ]
        )
        self.advertise_service(Trigger, '~/set_reference', self.on_set_reference)
        self.advertise_service(Trigger, '~/clear_reference', self.on_clear_reference)
        self.input_topics = {'': self.resolve_topic_name('features')}
        self.connect_while(self._wants_frames, self._subscribe)
        self.connect_while(self._wants_stereo, self._subscribe_stereo)

    def cleanup(self) -> None:
        """Forget all frames."""
        self.pairs = self.stereo = self.matcher = None
        super().cleanup()

    def _wants_frames(self) -> bool:
        mode = self.options.mode
        return mode == 'reference' or (mode == 'consecutive' and self._wanted())

    def _wants_stereo(self) -> bool:
        return self.options.mode == 'stereo' and self._wanted()

    def _wanted(self) -> bool:
        return self.publisher.get_subscription_count() > 0

    def _subscribe(self) -> Any:
        if self.options.mode == 'consecutive':  # a frame from before a rest is no neighbor
            self.pairs = FramePairs(self.options.mode)
        return self.subscribe_features('features', self.on_frame)

    def _subscribe_stereo(self) -> Any:
        self.stereo.clear()
        self._latest_ns = [0, 0]
        return tuple(
            endpoint
            for k, topic in enumerate(STEREO)
            for endpoint in self.subscribe_features(
                topic, partial(self.on_stereo_frame, k), source=topic
            )
        )

    def _use_options(self, options: MatcherNodeOptions) -> None:
        self.options = options
        self.pairs.set_mode(options.mode)
        self.review()

    def _use_config(self, config: MatcherConfig) -> None:
        self.matcher = create_matcher(**vars(config))

    def on_frame(self, frame: StampedFeatures) -> None:
        """Hand the frame to the worker."""
        self.statistics.count('received')
        self.has_stamp(frame.header, 'features')
        self.worker.submit(frame)

    def on_stereo_frame(self, stream: int, frame: StampedFeatures) -> None:
        """Hand the frame to the worker, with that of the other camera, once both are here."""
        self.statistics.count('received', source=STEREO[stream])
        if not self.has_stamp(frame.header, STEREO[stream]):
            return
        tolerance_ns = round(1e6 * self.options.stamp_tolerance_ms)
        stamp = stamp_ns(frame.header)
        if stamp < self._latest_ns[stream] - tolerance_ns:  # what waits is of another time
            self.stereo.clear()
            self._note_boundary('time_jump')
        self._latest_ns[stream] = stamp
        pair, lost = self.stereo.add(stream, stamp, frame, tolerance_ns)
        self.statistics.count('without_partner', lost)
        if pair is not None:
            self.worker.submit(pair)

    def on_set_reference(self, _: Any, response: Trigger.Response) -> Trigger.Response:
        """Make the newest frame the reference."""
        if self._refused(response):
            return response
        frame = self.pairs.set_reference()
        response.success = frame is not None
        response.message = f"no frame on '{self.input_topics['']}' so far"
        if frame is not None:
            count = frame.features.count()
            response.message = f'the newest frame, of {count} keypoints, is the reference'
        return response

    def on_clear_reference(self, _: Any, response: Trigger.Response) -> Trigger.Response:
        """Forget the reference, so that the next frame becomes it."""
        if self._refused(response):
            return response
        there = self.pairs.clear_reference()
        response.success = True
        response.message = 'the next frame becomes the reference' + (
            '' if there else ', as before'
        )
        return response

    def _refused(self, response: Trigger.Response) -> bool:
        mode = self.options.mode
        response.message = f"mode is {mode}; set parameter 'mode' to reference first"
        return mode != 'reference'

    def _pair(self, item: StampedFeatures | tuple[StampedFeatures, StampedFeatures]) -> Any:
        if isinstance(item, tuple):
            pair = item
        else:
            pair = self.pairs.push(item, mixed=self.count_publishers('features') > 1)
            if self.pairs.apart:
                self._note_boundary(self.pairs.apart)
        if self._wanted():
            return pair
        self.statistics.count('idle')
        return None

    def _note_boundary(self, why: str) -> None:
        self.statistics.count('boundary')
        self.statistics.count(f'boundary.{why}')

    def _match(self, frames: tuple[StampedFeatures, StampedFeatures]) -> Any:
        frame0, frame1 = frames
        if frame0.model != frame1.model:
            raise ConfigError(
                f"'{STEREO[0]}' are of {frame0.model} and '{STEREO[1]}' of {frame1.model}, whose "
                'descriptors cannot be compared: let both extractors use the same model'
            )
        features1 = frame1.features  # in memory, or of a message: they may be on two devices
        features0 = frame0.features.to(features1.device)
        return frame0, frame1, match_pair(self.matcher, features0, features1)

    def _publish(self, item: Any) -> None:
        frame0, frame1, pair = item
        self.publisher.publish(fill_matches(Matches(), pair, frame0.header, frame1.header))
        self.note_age(frame1.header)


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted; gives the exit code."""
    return run([MatcherNode], args, __doc__)


if __name__ == '__main__':
    leave(main)
