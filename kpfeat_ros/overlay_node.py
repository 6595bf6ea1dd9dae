"""Images, features and matches in, pictures out: `ros2 run kpfeat overlay_node`."""

import sys
from typing import Any

from kpfeat.msg import Features, Matches
from sensor_msgs.msg import Image

from .conversions import fill_image
from .node import KpfeatNode, run
from .options import OverlayNodeOptions
from .pictures import picture_of_keypoints, picture_of_matches
from .stamps import stamp_ns, StampBuffer

POLL_PERIOD_S = 0.2


class OverlayNode(KpfeatNode):
    """
    Publishes `image_keypoints` and `image_matches`, each only while somebody listens to it.

    It subscribes only then, so that extractor and matcher may rest as well.
    """

    def __init__(self, name: str = 'overlay', **options: Any) -> None:
        super().__init__(name, **options)
        self.inputs: dict[str, Any] = {}
        self.kept: dict[str, StampBuffer] = {}
        self.start()

    def declare(self) -> None:
        """Declare parameters."""
        super().declare()
        self.parameters.declare(OverlayNodeOptions)

    def load(self) -> None:
        """Read parameters."""
        super().load()
        self.options = self.parameters.read(OverlayNodeOptions, self._use_options)

    def begin(self) -> None:
        """Start the workers; topics are connected when somebody listens."""
        super().begin()
        self.images = StampBuffer(self.options.buffer_size)
        self.features = StampBuffer(self.options.buffer_size)
        self.kept = {'image': self.images, 'features': self.features}
        self.keypoints_publisher = self.publish_on(Image, 'image_keypoints')
        self.matches_publisher = self.publish_on(Image, 'image_matches')
        publish = ('publish', self._publish)
        self.workers = {
            'keypoints': self.work_through([('draw_keypoints', self._draw_keypoints), publish]),
            'matches': self.work_through([('draw_matches', self._draw_matches), publish]),
        }
        self.poll(POLL_PERIOD_S, self._follow_listeners)

    def end(self) -> None:
        """Stop drawing and forget what was kept for it."""
        super().end()
        self.inputs.clear()
        for buffer in self.kept.values():
            buffer.clear()

    def _use_options(self, options: OverlayNodeOptions) -> None:
        self.options = options

    def _follow_listeners(self) -> None:
        """Subscribe to what the listened-to pictures need, and to nothing else."""
        keypoints = bool(self.keypoints_publisher.get_subscription_count())
        matches = bool(self.matches_publisher.get_subscription_count())
        self._follow('image', keypoints or matches)
        self._follow('features', keypoints)
        self._follow('matches', matches)

    def _follow(self, name: str, wanted: bool) -> None:
        if wanted == (name in self.inputs):
            return
        if not wanted:
            self.disconnect(self.inputs.pop(name))
            if name in self.kept:
                self.kept[name].clear()
        elif name == 'image':
            transport = self.options.image_transport
            self.inputs[name] = self.listen_to_images(transport, self.on_image, depth=5)
        elif name == 'features':
            self.inputs[name] = self.listen_to(Features, name, self.on_features)
        else:
            self.inputs[name] = self.listen_to(Matches, name, self.on_matches)

    def on_image(self, image: Any) -> None:
        """Keep the image until its features come; they may have come already."""
        self.statistics.count('received')
        stamp = stamp_ns(image.header)
        self.images.add(stamp, image)
        features = self.features.get(stamp)
        if features is not None:
            self.workers['keypoints'].submit((image, features))

    def on_features(self, features: Features) -> None:
        """Draw the features if their image is here."""
        stamp = stamp_ns(features.header)
        image = self.images.get(stamp)
        if image is not None:
            self.workers['keypoints'].submit((image, features))
        else:
            self.statistics.count('unpaired')
            self.features.add(stamp, features)

    def on_matches(self, matches: Matches) -> None:
        """Draw the matches if both images are here; image 0 is kept, it may be a reference."""
        stamp0, stamp1 = stamp_ns(matches.header0), stamp_ns(matches.header1)
        self.images.pin(stamp0)
        image0, image1 = self.images.get(stamp0), self.images.get(stamp1)
        if image0 is None or image1 is None:
            self.statistics.count('unpaired')
        else:
            self.workers['matches'].submit((image0, image1, matches))

    def _draw_keypoints(self, item: Any) -> Any:
        image, features = item
        return self.keypoints_publisher, image.header, picture_of_keypoints(image, features)

    def _draw_matches(self, item: Any) -> Any:
        image0, image1, matches = item
        picture = picture_of_matches(image0, image1, matches, self.options.max_drawn_matches)
        return self.matches_publisher, image1.header, picture

    def _publish(self, item: Any) -> None:
        publisher, header, picture = item
        publisher.publish(fill_image(Image(), picture, header))
        self.note_age(header)

    def settings(self) -> dict[str, str]:
        """Add what is listened to at the moment."""
        return {'listening_to': ' '.join(sorted(self.inputs)) or 'nothing'}


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted; gives the exit code."""
    return run([OverlayNode], args, __doc__)


if __name__ == '__main__':
    sys.exit(main())
