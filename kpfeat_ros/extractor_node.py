"""Images in, features out: `ros2 run kpfeat extractor_node --ros-args -r image:=TOPIC`."""

from .process import leave  # before torch

# isort: split
from functools import partial  # noqa: I100
from typing import Any

from kpfeat.msg import Features
from kpfeat.srv import ExtractFeatures
from kpfeat_core.config import ViewConfig
from kpfeat_core.errors import BadImageError, ConfigError, KpfeatError
from kpfeat_core.messages.conversions import (
    camera_info_to_calibration,
    DescriptorType,
    fill_features,
)
from kpfeat_core.messages.encodings import spans_little
from kpfeat_core.preprocess import Preprocessor
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from .frames import StampedFeatures
from .images import image_to_array, Stream, topic_of
from .lifecycle import answer_to
from .model import ModelManager
from .node import KpfeatNode, run
from .options import ExtractorNodeOptions, split_names
from .worker import Requests, Stage, Worker

MOST_REQUESTS = 8  # that wait for the service, each with its image


class ExtractorNode(KpfeatNode):
    """
    Publishes `features` of the images on `image`, with the image's own header.

    The newest image wins: while one is at work, later ones replace each other, and are counted as
    dropped. While nobody listens to `features`, the node does not listen to `image` either.
    Options of the input choose the part that is looked at; keypoints are in pixels of the image
    as it came, unless `undistort` is set.

    With `cameras`, several take turns: each has its topics, its newest image and its counts, and
    all share the model, which can work on the images of several of them together.
    """

    def __init__(self, name: str = 'extractor', **options: Any) -> None:
        super().__init__(name, **options)
        self.model = ModelManager(self)
        self.streams: dict[str, Stream] = {}
        self.worker: Worker | None = None
        self._requests: Requests | None = None
        # as long as the node lives: an answer may come after deactivate; in a group of its own,
        # because all others in a group wait for one that awaits
        group = ReentrantCallbackGroup()
        self.create_service(ExtractFeatures, '~/extract', self.on_extract, callback_group=group)
        self.start()

    def declare(self) -> None:
        """Declare parameters: those of the node, and those of its model."""
        super().declare()
        self.parameters.declare(ExtractorNodeOptions)
        self.parameters.declare(ViewConfig)
        self.model.declare()

    def configure(self) -> None:
        """Load the network and run it once."""
        super().configure()
        self.options = self.parameters.read(ExtractorNodeOptions, self._use_options)
        self.cameras = split_names('cameras', self.options.cameras)
        self.preprocessor = Preprocessor(self.parameters.read(ViewConfig, self._use_view))
        self.model.load()

    def parameters_of(self) -> str:
        """Return what the parameters belong to, in words."""
        return f'this node or of {self.model.options.model}'

    def reported_sources(self) -> dict[str, str]:
        """Return the cameras that share the model, each with its topic."""
        several = [source for source in self.streams if source]
        return {source: self.input_topics.get(source, '') for source in several}

    def activate(self) -> None:
        """Start the worker, then listen."""
        super().activate()
        self.worker = self.work_through(
            [
                Stage('decode', self._decode),
                Stage('extract', self._extract, together=True),
                Stage('publish', self._publish),
            ]
        )
        self._requests = Requests(self, self._answer, MOST_REQUESTS)
        for source in self.cameras:
            self._add_camera(source)

    def _add_camera(self, source: str) -> None:
        """Offer the features of one camera, and listen to it while somebody wants them."""
        publisher = self.advertise(Features, topic_of(source, 'features'))
        stream = Stream(source, publisher, self.exchange.outlet(publisher.topic_name))
        self.streams[source] = stream
        image, options = topic_of(source, 'image'), self.preprocessor.config
        listen = partial(
            self.subscribe_images,
            self.options.image_transport,
            partial(self.on_image, stream),
            topic=image,
            source=source,
        )
        self.connect_while(stream.wanted, listen)
        if options.undistort and not options.calibration_file:
            self.subscribe(
                CameraInfo,
                self.camera_info_topic(image, topic_of(source, 'camera_info')),
                partial(self.on_camera_info, stream),
                qos_profile_sensor_data,
            )

    def deactivate(self) -> None:
        """Stop working, and answer the requests that wait."""
        if self._requests:
            self._requests.close('' if self._destroyed else 'the node was deactivated meanwhile')
        self._requests = None
        super().deactivate()
        self.streams.clear()

    def cleanup(self) -> None:
        """Free the network."""
        self.model.close()
        self.preprocessor = None
        super().cleanup()

    @property
    def extractor(self) -> Any:
        """Return the network with its options; None where none is loaded."""
        return self.model.extractor

    def _use_options(self, options: ExtractorNodeOptions) -> None:
        self.options = options
        self._use_batches()

    def _use_batches(self) -> None:
        """Set how many images of different cameras are worked on together."""
        if self.worker is not None:
            wanted = sum(1 for stream in list(self.streams.values()) if stream.wanted())
            self.worker.batch = min(self.options.batch_size, wanted)
            self.worker.wait_s = 1e-3 * self.options.batch_wait_ms if self.worker.batch > 1 else 0

    def review(self) -> None:
        """Connect what is wanted; images wait for those of cameras that are."""
        super().review()
        self._use_batches()

    def _use_view(self, config: ViewConfig) -> None:
        self.preprocessor = Preprocessor(config)

    def on_image(self, stream: Stream, message: Image | CompressedImage) -> None:
        """Hand the image to the worker, if anybody wants features."""
        self.statistics.count('received', source=stream.source)
        self.has_stamp(message.header, topic_of(stream.source, 'image'))
        if not stream.wanted():
            self.statistics.count('idle', source=stream.source)
        elif stream.throttle.admits(self.options.max_rate_hz):
            self.worker.submit((stream, message), stream.source)
        else:
            self.statistics.count('throttled', source=stream.source)

    async def on_extract(
        self, request: ExtractFeatures.Request, response: ExtractFeatures.Response
    ) -> ExtractFeatures.Response:
        """Extract the features of one image beside those of the topic."""
        try:
            if self._requests is None:
                name = self.get_fully_qualified_name()
                raise ConfigError(
                    f'the node is {self.state}, expected active: `ros2 lifecycle set {name} ...`'
                )
            response.features = await self._requests.answer(request.image)
        except Exception as error:
            response.message = answer_to(self, error)
            return response
        response.success = True
        response.message = f'{len(response.features.scores)} keypoints'
        return response

    def on_camera_info(self, stream: Stream, message: CameraInfo) -> None:
        """Take over how the camera sees."""
        try:
            calibration = camera_info_to_calibration(message)
        except KpfeatError as error:
            stream.refused = error
            self.count_failure('camera_info', error, stream.source)
        else:
            stream.calibration, stream.frame_id = calibration, message.header.frame_id
            stream.refused = None

    def _decode(self, item: tuple[Stream | None, Any]) -> tuple[Stream | None, Any, Any]:
        """Return the stream, the header and the image as the extractor is to see it."""
        stream, message = item
        preprocessor = self.preprocessor
        if stream is not None and stream.calibration is not None:
            preprocessor = preprocessor.with_calibration(stream.calibration)
        elif stream is not None and stream.refused is not None:  # it came, and is of no use
            raise BadImageError('camera_info', str(stream.refused))
        image = image_to_array(message, preprocessor.config.pixel_bits)
        if stream is not None and spans_little(image):
            self._note_contrast(stream)
        return stream, message.header, preprocessor.apply(image)

    def _note_contrast(self, stream: Stream) -> None:
        self.statistics.count('low_contrast', source=stream.source)
        if not stream.told_contrast:
            stream.told_contrast = True
            topic = self.resolve_topic_name(topic_of(stream.source, 'image'))
            self.get_logger().warning(
                f"images of '{topic}' use less than a quarter of their range: set pixel_bits to "
                '10, 12 or 14 if the camera sends so many bits in 16, or to 0, which stretches '
                'each image (further ones are only counted: low_contrast in /diagnostics)'
            )

    def _extract(self, items: list[tuple]) -> list[tuple[Stream | None, StampedFeatures]]:
        """Return the streams, and the features of their images in pixels as they came."""
        images = [preprocessed for _, _, preprocessed in items]
        model, found = self.model.extract(
            [image.image for image in images], [image.mask for image in images]
        )
        return [
            (stream, StampedFeatures(header, model, preprocessed.finish(features)))
            for (stream, header, preprocessed), features in zip(items, found, strict=True)
        ]

    def _publish(self, item: tuple[Stream, StampedFeatures]) -> None:
        """Hand features over in this process as they are, and to others as a message."""
        stream, frame = item
        exact = self.options.descriptor_type == 'float32'  # else messages differ from features
        if exact:
            stream.outlet.offer(frame)
        if not exact or stream.outlet.others_listen(stream.wanted()):
            stream.publisher.publish(self._fill(frame))
        self.note_age(frame.header)

    def _fill(self, frame: StampedFeatures) -> Features:
        kind = DescriptorType[self.options.descriptor_type.upper()]
        return fill_features(Features(), frame.features, frame.header, frame.model, kind)

    def _answer(self, image: Image) -> Features:
        streams = list(self.streams.values())
        own = [s for s in streams if len(streams) == 1 or s.frame_id == image.header.frame_id]
        ((_, frame),) = self._extract([self._decode((own[0] if own else None, image))])
        return self._fill(frame)

    def settings(self) -> dict[str, str]:
        """Add the model and where it runs, what is being loaded, and why that failed last."""
        return self.model.settings()


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted; gives the exit code."""
    return run([ExtractorNode], args, __doc__)


if __name__ == '__main__':
    leave(main)
