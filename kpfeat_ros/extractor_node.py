"""Images in, features out: `ros2 run kpfeat extractor_node --ros-args -r image:=TOPIC`."""

from contextlib import suppress
from dataclasses import replace
from functools import partial
import sys
import traceback
from typing import Any

from kpfeat.msg import Features
from kpfeat.srv import ExtractFeatures
from kpfeat_core.errors import ConfigError, KpfeatError
from kpfeat_core.registry import extractor_config_class, extractor_names
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from .background import Background, Requests
from .conversions import camera_info_to_calibration, fill_features, image_to_array
from .descriptors import DescriptorType
from .loading import check_loadable, load_extractor, release_memory
from .node import KpfeatNode, run
from .options import ExtractorNodeOptions, InputOptions
from .regions import View
from .services import offer_reset
from .throttle import Throttle


class ExtractorNode(KpfeatNode):
    """
    Publishes `features` of what arrives on `image`, with the image's own header.

    The newest image wins: while one is at work, later ones replace each other, and are counted as
    dropped. While nobody listens to `features`, the node does not listen to `image` either.
    Options of the input choose what is looked at; keypoints are in pixels of the image as it
    came, unless `undistort` is set.

    Another model, weights or device is loaded beside the one at work, which it replaces between
    two images; where that fails the old one goes on and the parameters are put back.
    """

    def __init__(self, name: str = 'extractor', **options: Any) -> None:
        super().__init__(name, **options)
        self.extractor: Any = None
        self._config_class: type | None = None  # of the model whose options are declared
        self._wanted: ExtractorNodeOptions | None = None  # what is being loaded
        self._loader: Background | None = None
        self._switch_trouble = ''
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
        self.parameters.declare(InputOptions)
        with suppress(ConfigError):  # there is no such model: configure says so
            self._declare_options_of(self.get_parameter('model').value)

    def load(self) -> None:
        """Load the network and run it once."""
        super().load()
        self.options = self.parameters.read(ExtractorNodeOptions, self._use_options)
        self.view = View(self.parameters.read(InputOptions, self._use_input))
        config_class = self._declare_options_of(self.options.model)
        config = self.parameters.read(config_class, self._use_config)
        self.extractor = load_extractor(self.options, config)
        unknown = self.parameters.unknown()
        if unknown:
            self.get_logger().warning(
                f'given, but no parameter of this node or of {self.options.model}: '
                + ', '.join(unknown)
            )
        self._loader = Background(self, lambda request: load_extractor(*request), self._switch)
        self._say_ready()

    def begin(self) -> None:
        """Start the worker, then listen."""
        super().begin()
        self.publisher = self.publish_on(Features, 'features')
        self.worker = self.work_through(
            [('decode', self._decode), ('extract', self._extract), ('publish', self._publish)]
        )
        self._requests = Requests(self, self._answer)
        offer_reset(self)
        self.throttle = Throttle()
        listen = partial(self.listen_to_images, self.options.image_transport, self.on_image)
        self.connect_while(self.publisher.get_subscription_count, listen)
        if self.view.options.undistort and not self.view.options.calibration_file:
            self.listen_to(
                CameraInfo, self.camera_info_topic(), self.on_camera_info, qos_profile_sensor_data
            )

    def end(self) -> None:
        """Stop working; who waits for an answer is told."""
        if self._requests:
            self._requests.close('' if self._destroyed else 'the node was deactivated meanwhile')
        self._requests = None
        super().end()

    def unload(self) -> None:
        """Free the network."""
        if self._loader:
            self._loader.close()
        self._loader = self._wanted = None
        self._switch_trouble = ''
        self.extractor = self.view = None
        super().unload()
        release_memory()

    def _declare_options_of(self, model: str) -> type:
        before, self._config_class = self._config_class, extractor_config_class(model)
        if before is not self._config_class:
            self.parameters.exchange(before, self._config_class)
        return self._config_class

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
            self._switch_trouble = ''
            self._say_ready()
            release_memory()

    def _stay(self, options: ExtractorNodeOptions, error: Exception) -> None:
        """Say why the old model goes on, and put its parameters back."""
        running, what = _loaded_by(self.options), str(error)
        if not isinstance(error, KpfeatError):  # ours, not the user's: say where
            what = ''.join(traceback.format_exception(error))
        self._switch_trouble = f'{options.model} could not be loaded: {what}'
        self.statistics.count('failed.switch')
        self.get_logger().error(f'{self._switch_trouble} ({running["model"]} goes on)')
        self.set_parameters([Parameter(name, value=value) for name, value in running.items()])

    def _say_ready(self) -> None:
        self.get_logger().info(f'{self.options.model} is ready on {self.extractor.device}')

    def _use_input(self, options: InputOptions) -> None:
        self.view = View(options, self.view.calibration)

    def _use_config(self, config: Any) -> None:
        self.extractor = self.extractor.with_options(**vars(config))

    def on_image(self, message: Image | CompressedImage) -> None:
        """Hand the image to the worker, if anybody wants features."""
        self.statistics.count('received')
        if not self.publisher.get_subscription_count():
            self.statistics.count('idle')
        elif self.throttle.admits(self.view.options.max_rate_hz):
            self.worker.submit(message)
        else:
            self.statistics.count('throttled')

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

    def on_camera_info(self, message: CameraInfo) -> None:
        """Take over how the camera sees."""
        try:
            calibration = camera_info_to_calibration(message)
        except KpfeatError as error:
            self.note_error('camera_info', error, self.statistics.fail('camera_info'))
        else:
            self.view = self.view.with_calibration(calibration)

    def _decode(self, message: Any) -> Any:
        return message.header, image_to_array(message)

    def _extract(self, item: Any) -> Any:
        header, image = item
        with self.parameters.lock:
            view, extractor, model = self.view, self.extractor, self.options.model
        return header, view.extract(extractor, image), model

    def _publish(self, item: Any) -> None:
        message = self._fill(item)
        self.publisher.publish(message)
        self.note_age(message.header)

    def _fill(self, item: Any) -> Features:
        header, features, model = item
        kind = DescriptorType[self.options.descriptor_type.upper()]
        return fill_features(Features(), features, header, model, kind)

    def _answer(self, image: Image) -> Features:
        return self._fill(self._extract(self._decode(image)))

    def settings(self) -> dict[str, str]:
        """Add the model and where it runs, what is being loaded, and why that failed last."""
        values = {'model': self.options.model, 'device': str(self.extractor.device)}
        if self._wanted:
            values['loading'] = self._wanted.model
        if self._switch_trouble:
            values['switch_failed'] = self._switch_trouble
        return values


def _loaded_by(options: ExtractorNodeOptions) -> dict[str, str]:
    """Return the options of which a change means loading."""
    return {name: getattr(options, name) for name in ('model', 'weights', 'device')}


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted; gives the exit code."""
    return run([ExtractorNode], args, __doc__)


if __name__ == '__main__':
    sys.exit(main())
