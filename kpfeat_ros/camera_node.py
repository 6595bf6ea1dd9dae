"""
Images without a camera: a virtual one, a folder or a video, on `camera/image_raw`.

The virtual one has a calibration, on `camera/camera_info`.

The virtual camera moves as a function of the stamp alone, so that the stamps of two images give
the true homography between them: `VirtualCamera(size=...).homography(stamp0_ns, stamp1_ns)`.
"""

from .process import leave  # before torch

# isort: split
from typing import Any  # noqa: I100

from kpfeat_core.errors import ImageError
from kpfeat_core.messages.conversions import fill_camera_info, fill_image
from kpfeat_core.sources import create_source, SourceConfig
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from .node import KpfeatNode, run
from .options import CameraNodeOptions

TOPIC, INFO_TOPIC = 'camera/image_raw', 'camera/camera_info'


class CameraNode(KpfeatNode):
    """
    Publishes the images of a source regularly, stamped with the time at which they are taken.

    With each goes its calibration, where the source has one. The node waits for listeners, so
    that they get the first one too. An image that cannot be read is counted, logged once and
    passed over.
    """

    def __init__(self, name: str = 'camera', **options: Any) -> None:
        super().__init__(name, **options)
        self.start()

    def declare(self) -> None:
        """Declare parameters."""
        super().declare()
        self.parameters.declare(CameraNodeOptions)
        self.parameters.declare(SourceConfig)

    def configure(self) -> None:
        """Open the source."""
        super().configure()
        self.options = self.parameters.read(CameraNodeOptions, self._use_options)
        self.source = create_source(self.parameters.read(SourceConfig))
        self.input_topics = {'': self.source.name}

    def activate(self) -> None:
        """Start sending."""
        super().activate()
        self.images, self.infos = self.advertise(Image, TOPIC), None
        if self.source.calibration is not None:
            self.infos = self.advertise(CameraInfo, self.camera_info_topic(TOPIC, INFO_TOPIC))
        self.poll(1 / self.source.rate_hz, self._send)
        self.get_logger().info(
            f"{self.source.name}: {self.source.rate_hz:g} Hz on '{self.images.topic_name}'"
        )

    def cleanup(self) -> None:
        """Close the source."""
        self.source = None
        super().cleanup()

    def _use_options(self, options: CameraNodeOptions) -> None:
        self.options = options

    def _wanted(self) -> bool:
        publishers = filter(None, (self.images, self.infos))
        return any(publisher.get_subscription_count() for publisher in publishers)

    def _send(self) -> None:
        if not self.options.sending or not self._wanted():
            return
        now = self.get_clock().now()
        self.statistics.count('received')
        try:
            picture = self.source.next(now.nanoseconds)
        except ImageError as error:
            self.count_failure('image', error)
            return
        if picture is None:
            self.get_logger().info('the last image was sent')
            self.trigger_deactivate()
            return
        header = Header(stamp=now.to_msg(), frame_id=self.options.frame_id)
        self.images.publish(fill_image(Image(), picture, header))
        if self.infos is not None:
            self.infos.publish(fill_camera_info(CameraInfo(), self.source.calibration, header))
        self.statistics.count('processed')


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted; gives the exit code."""
    return run([CameraNode], args)


if __name__ == '__main__':
    leave(main)
