"""Images in, features out: `ros2 run kpfeat extractor_node --ros-args -r image:=TOPIC`."""

from contextlib import suppress
from dataclasses import replace
from functools import partial
import sys
import traceback
from typing import Any, NamedTuple

from kpfeat.msg import Features
from kpfeat.srv import ExtractFeatures
from kpfeat_core.config import ViewConfig
from kpfeat_core.errors import ConfigError, KpfeatError
from kpfeat_core.messages.conversions import camera_info_to_calibration, fill_features
from kpfeat_core.messages.descriptors import DescriptorType
from kpfeat_core.registry import extractor_config_class, extractor_names
from kpfeat_core.view import Look, View
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from .background import Background, Requests
from .images import image_to_array
from .loading import check_loadable, extract, load_extractor, OutOfMemoryError, release_memory
from .node import KpfeatNode, run
from .options import ExtractorNodeOptions, split_names
from .services import offer_reset
from .streams import Stream, topic_of
from .worker import Stage, Worker


class Shot(NamedTuple):
    """One image on its way through the node."""

    stream: Stream | None
    header: Any
    look: Look
    features: Any = None
    model: str = ''


class ExtractorNode(KpfeatNode):
    """
    Publishes `features` of what arrives on `image`, with the image's own header.

    The newest image wins: while one is at work, later ones replace each other, and are counted as
    dropped. While nobody listens to `features`, the node does not listen to `image` either.
    Options of the input choose what is looked at; keypoints are in pixels of the image as it
    came, unless `undistort` is set.

    With `cameras`, several take turns: each has its topics, its newest image and its counts, and
    all share the model, which can work on the images of several of them together.

    Another model, weights or device is loaded beside the one at work, which it replaces between
    two images; where that fails the old one goes on and the parameters are put back.
    """

    def __init__(self, name: str = 'extractor', **options: Any) -> None:
        super().__init__(name, **options)
        self.extractor: Any = None
        self.streams: dict[str, Stream] = {}
        self.worker: Worker | None = None
        self._config_class: type | None = None  # of the model whose options are declared
        self._wanted: ExtractorNodeOptions | None = None  # what is being loaded
        self._loader: Background | None = None
        self._trouble: dict[str, str] = {}  # of the model: what, and a sentence
        self._requests: Requests | None = None
        # as long as the node lives: an answer may come after deactivate; in a group of its own,
        # because all others in a group wait for one that awaits
        group = ReentrantCallbackGroup()
        self.create_service(ExtractFeatures, '~/extract', self.on_extract, callback_group=group)
        self.start()

    def declare(self) -> None:
        """Declare parameters: those of the node, and those of its model."""
        super().declare()
        self.parameters.declare(ExtractorNodeOptions, {'model': extractor_names()})
        self.parameters.declare(ViewConfig)
        with suppress(ConfigError):  # there is no such model: configure says so
            self._declare_options_of(self.get_parameter('model').value)

    def load(self) -> None:
        """Load the network and run it once."""
        super().load()
        self.options = self.parameters.read(ExtractorNodeOptions, self._use_options)
        self.cameras = split_names('cameras', self.options.cameras)
        self.view = View(self.parameters.read(ViewConfig, self._use_view))
        config_class = self._declare_options_of(self.options.model)
        config = self.parameters.read(config_class, self._use_config)
        self.extractor = self._load_extractor((self.options, config))
        unknown = self.parameters.unknown()
        if unknown:
            self.get_logger().warning(
                f'given, but no parameter of this node or of {self.options.model}: '
                + ', '.join(unknown)
            )
        self._loader = Background(self, self._load_extractor, self._switch)
        self._say_ready()

    def begin(self) -> None:
        """Start the worker, then listen."""
        super().begin()
        self.worker = self.work_through(
            [
                Stage('decode', self._decode),
                Stage('extract', self._extract, together=True),
                Stage('publish', self._publish),
            ]
        )
        self._requests = Requests(self, self._answer)
        offer_reset(self)
        for source in self.cameras:
            self._serve(source)

    def _serve(self, source: str) -> None:
        """Offer the features of one camera, and listen to it while somebody wants them."""
        publisher = self.publish_on(Features, topic_of(source, 'features'))
        stream = Stream(source, publisher, self.exchange.outlet(publisher.topic_name))
        self.streams[source] = stream
        image, options = topic_of(source, 'image'), self.view.config
        listen = partial(
            self.listen_to_images,
            self.options.image_transport,
            partial(self.on_image, stream),
            topic=image,
            source=source,
        )
        self.connect_while(stream.wanted, listen)
        if options.undistort and not options.calibration_file:
            self.listen_to(
                CameraInfo,
                self.camera_info_topic(image),
                partial(self.on_camera_info, stream),
                qos_profile_sensor_data,
            )

    def end(self) -> None:
        """Stop working; who waits for an answer is told."""
        if self._requests:
            self._requests.close('' if self._destroyed else 'the node was deactivated meanwhile')
        self._requests = None
        super().end()
        self.streams.clear()

    def unload(self) -> None:
        """Free the network."""
        if self._loader:
            self._loader.close()
        self._loader = self._wanted = None
        self._trouble.clear()
        self.extractor = self.view = None
        super().unload()
        release_memory()

    def _declare_options_of(self, model: str) -> type:
        before, self._config_class = self._config_class, extractor_config_class(model)
        if before is not self._config_class:
            self.parameters.exchange(before, self._config_class)
        return self._config_class

    def _load_extractor(self, request: tuple[ExtractorNodeOptions, Any]) -> Any:
        options, config = request
        try:
            return load_extractor(options, config)
        except OutOfMemoryError as error:
            if options.on_out_of_memory != 'cpu' or options.device == 'cpu':
                raise
            extractor = load_extractor(replace(options, device='cpu'), config)
            self._note_fall(error)
            return extractor

    def _note_fall(self, error: OutOfMemoryError) -> None:
        self._trouble['out_of_memory'] = f'on the CPU instead: {error}'
        self.get_logger().warning(self._trouble['out_of_memory'])

    def _use_options(self, options: ExtractorNodeOptions) -> None:
        running = _loaded_by(self.options)
        if _loaded_by(options) == running:
            self._wanted = None
        elif self._wanted is None or _loaded_by(options) != _loaded_by(self._wanted):
            config_class = extractor_config_class(options.model)
            config = self.parameters.carried(self._config_class, config_class)
            check_loadable(options)
            self._wanted = options
            self._loader.submit((options, config))
        self.options = replace(options, **running)
        self._use_batches()

    def _use_batches(self) -> None:
        """Let images of different cameras wait for each other, where there are several."""
        if self.worker is not None:
            wanted = sum(1 for stream in list(self.streams.values()) if stream.wanted())
            self.worker.batch = min(self.options.batch_size, wanted)
            self.worker.wait_s = 1e-3 * self.options.batch_wait_ms if self.worker.batch > 1 else 0

    def review(self) -> None:
        """Connect what is wanted; images wait for those of cameras that are."""
        super().review()
        self._use_batches()

    def _switch(self, request: Any, extractor: Any, error: Exception | None) -> None:
        """Take over what was loaded beside the work, unless something else is wanted by now."""
        options, _ = request
        if options is not self._wanted:
            return
        self._wanted = None
        try:
            if error:
                raise error
            before, after = self._config_class, extractor_config_class(options.model)
            config = self.parameters.carried(before, after)  # it may have changed meanwhile
            extractor = extractor.with_options(**vars(config))
            with self.parameters.lock:
                self.parameters.switch(before, after, self._use_config)
                self.extractor = extractor
                self.options = replace(self.options, **_loaded_by(options))
                self._config_class = after
        except Exception as trouble:
            self._stay(options, trouble)
        else:
            self._trouble.pop('switch_failed', None)
            self._say_ready()
            release_memory()

    def _stay(self, options: ExtractorNodeOptions, error: Exception) -> None:
        """Say why the old model goes on, and put its parameters back."""
        running, what = _loaded_by(self.options), str(error)
        if not isinstance(error, KpfeatError):  # ours, not the user's: say where
            what = ''.join(traceback.format_exception(error))
        trouble = f'{options.model} could not be loaded: {what}'
        self._trouble['switch_failed'] = trouble
        self.statistics.count('failed.switch')
        self.get_logger().error(f'{trouble} ({running["model"]} goes on)')
        self.set_parameters([Parameter(name, value=value) for name, value in running.items()])

    def _say_ready(self) -> None:
        self.get_logger().info(f'{self.options.model} is ready on {self.extractor.device}')

    def _use_view(self, config: ViewConfig) -> None:
        self.view = View(config)

    def _use_config(self, config: Any) -> None:
        self.extractor = self.extractor.with_options(**vars(config))

    def on_image(self, stream: Stream, message: Image | CompressedImage) -> None:
        """Hand the image to the worker, if anybody wants features."""
        self.statistics.count('received', source=stream.source)
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
            response.message = str(error)
            if not isinstance(error, KpfeatError):  # ours, not the user's: say where
                response.message = f'{type(error).__name__}: {error}; the log says where'
                self.get_logger().error(''.join(traceback.format_exception(error)))
            return response
        response.success = True
        response.message = f'{len(response.features.scores)} keypoints'
        return response

    def on_camera_info(self, stream: Stream, message: CameraInfo) -> None:
        """Take over how the camera sees."""
        try:
            calibration = camera_info_to_calibration(message)
        except KpfeatError as error:
            self.note_error('camera_info', error, self.statistics.fail('camera_info'))
        else:
            stream.calibration, stream.frame_id = calibration, message.header.frame_id

    def _decode(self, item: Any) -> Shot:
        stream, message = item
        view = self.view
        if stream is not None and stream.calibration is not None:
            view = view.with_calibration(stream.calibration)
        return Shot(stream, message.header, view.look(image_to_array(message)))

    def _extract(self, shots: list[Shot]) -> list[Shot]:
        with self.parameters.lock:
            extractor, model = self.extractor, self.options.model
        looks = [shot.look for shot in shots]
        images, masks = [look.image for look in looks], [look.mask for look in looks]
        try:
            found = extract(extractor, images, masks)
        except OutOfMemoryError as error:
            if len(shots) > 1 or not self._falls_back(extractor, error):
                raise
            found = extract(self.extractor, images, masks)
        return [
            shot._replace(features=shot.look.finish(features), model=model)
            for shot, features in zip(shots, found, strict=True)
        ]

    def _falls_back(self, extractor: Any, error: OutOfMemoryError) -> bool:
        """Put the model on the CPU, if it is to go on there; once, for it stays there."""
        if self.options.on_out_of_memory != 'cpu' or str(extractor.device) == 'cpu':
            return False
        release_memory()
        other = load_extractor(replace(self.options, device='cpu'), extractor.config)
        with self.parameters.lock:
            if self.extractor is extractor:  # else another model has come meanwhile
                self.extractor = other
                self._note_fall(error)
        return True

    def _publish(self, shot: Shot) -> None:
        """Hand features over in this process as they are, and to others as a message."""
        stream = shot.stream
        exact = self.options.descriptor_type == 'float32'  # else messages differ from features
        if exact:
            stream.outlet.offer(shot.header, shot.features, shot.model)
        if not exact or stream.outlet.others_listen(stream.wanted()):
            stream.publisher.publish(self._fill(shot))
        self.note_age(shot.header)

    def _fill(self, shot: Shot) -> Features:
        kind = DescriptorType[self.options.descriptor_type.upper()]
        return fill_features(Features(), shot.features, shot.header, shot.model, kind)

    def _answer(self, image: Image) -> Features:
        streams = list(self.streams.values())
        own = [s for s in streams if len(streams) == 1 or s.frame_id == image.header.frame_id]
        return self._fill(self._extract([self._decode((own[0] if own else None, image))])[0])

    def settings(self) -> dict[str, str]:
        """Add the model and where it runs, what is being loaded, and why that failed last."""
        values = {'model': self.options.model, 'device': str(self.extractor.device)}
        if self._wanted:
            values['loading'] = self._wanted.model
        return values | self._trouble


def _loaded_by(options: ExtractorNodeOptions) -> dict[str, str]:
    """Return the options of which a change means loading."""
    return {name: getattr(options, name) for name in ('model', 'weights', 'device')}


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted; gives the exit code."""
    return run([ExtractorNode], args, __doc__)


if __name__ == '__main__':
    sys.exit(main())
