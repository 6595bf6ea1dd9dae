"""Features in, matches with the frame before or a reference out: `matcher_node`."""

import sys
from typing import Any

from kpfeat.msg import Features, Matches
from kpfeat_core.config import MatcherConfig
from kpfeat_core.matchers.pair import match_pair
from kpfeat_core.registry import create_matcher
from std_srvs.srv import Trigger

from .conversions import fill_matches
from .frames import FramePairs, message_to_frame
from .node import KpfeatNode, run
from .options import MatcherNodeOptions
from .services import offer_reset

NO_REFERENCE = "mode is consecutive; set parameter 'mode' to reference first"


class MatcherNode(KpfeatNode):
    """
    Publishes `matches` of consecutive frames, or with a reference (`~/set_reference`).

    While nobody listens to `matches` nothing is matched. In mode consecutive nothing is received
    either; in mode reference the newest frame stays known, for the service.
    """

    def __init__(self, name: str = 'matcher', **options: Any) -> None:
        super().__init__(name, **options)
        self.start()

    def declare(self) -> None:
        """Declare parameters."""
        super().declare()
        self.parameters.declare(MatcherNodeOptions)
        self.parameters.declare(MatcherConfig)

    def load(self) -> None:
        """Make the matcher."""
        super().load()
        self.options = self.parameters.read(MatcherNodeOptions, self._use_options)
        self.pairs = FramePairs(self.options.mode)
        self._use_config(self.parameters.read(MatcherConfig, self._use_config))

    def begin(self) -> None:
        """Start the worker with no frame known, then listen."""
        super().begin()
        self.pairs = FramePairs(self.options.mode)
        self.publisher = self.publish_on(Matches, 'matches')
        self.worker = self.work_through(
            [
                ('decode', message_to_frame),
                ('pair', self._pair),
                ('match', self._match),
                ('publish', self._publish),
            ]
        )
        self.offer(Trigger, '~/set_reference', self.on_set_reference)
        self.offer(Trigger, '~/clear_reference', self.on_clear_reference)
        offer_reset(self)
        self.input_topic = self.resolve_topic_name('features')
        self.connect_while(self._wants_frames, self._listen)

    def unload(self) -> None:
        """Forget all frames."""
        self.pairs = self.matcher = None
        super().unload()

    def _wants_frames(self) -> bool:
        return self.options.mode == 'reference' or self.publisher.get_subscription_count() > 0

    def _listen(self) -> Any:
        if self.options.mode == 'consecutive':  # what came before a rest is no neighbour
            self.pairs = FramePairs(self.options.mode)
        return self.listen_to(Features, 'features', self.on_features)

    def _use_options(self, options: MatcherNodeOptions) -> None:
        self.options = options
        self.pairs.set_mode(options.mode)
        self.review()

    def _use_config(self, config: MatcherConfig) -> None:
        self.matcher = create_matcher(**vars(config))

    def on_features(self, message: Features) -> None:
        """Hand the frame to the worker."""
        self.statistics.count('received')
        self.worker.submit(message)

    def on_set_reference(self, _: Any, response: Trigger.Response) -> Trigger.Response:
        """Make the newest frame the reference."""
        if self.options.mode != 'reference':
            response.message = NO_REFERENCE
            return response
        frame = self.pairs.set_reference()
        response.success = frame is not None
        response.message = f"no frame on '{self.input_topic}' so far"
        if frame is not None:
            count = frame.features.count()
            response.message = f'the newest frame, of {count} keypoints, is the reference'
        return response

    def on_clear_reference(self, _: Any, response: Trigger.Response) -> Trigger.Response:
        """Forget the reference, so that the next frame becomes it."""
        if self.options.mode != 'reference':
            response.message = NO_REFERENCE
            return response
        there = self.pairs.clear_reference()
        response.success = True
        response.message = 'the next frame becomes the reference' + (
            '' if there else ', as before'
        )
        return response

    def _pair(self, frame: Any) -> Any:
        pair = self.pairs.push(frame)
        if self.publisher.get_subscription_count():
            return pair
        self.statistics.count('idle')
        return None

    def _match(self, frames: Any) -> Any:
        frame0, frame1 = frames
        return frame0, frame1, match_pair(self.matcher, frame0.features, frame1.features)

    def _publish(self, item: Any) -> None:
        frame0, frame1, pair = item
        self.publisher.publish(fill_matches(Matches(), pair, frame0.header, frame1.header))
        self.note_age(frame1.header)


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted; gives the exit code."""
    return run([MatcherNode], args, __doc__)


if __name__ == '__main__':
    sys.exit(main())
