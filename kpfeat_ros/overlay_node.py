"""Images, features and matches in, pictures out: `ros2 run kpfeat overlay_node`."""

from .process import leave  # before torch

# isort: split
from collections.abc import Callable, Sequence  # noqa: I100
from dataclasses import dataclass
from functools import partial
from typing import Any

from kpfeat.msg import Matches
from kpfeat_core.errors import KpfeatError
from kpfeat_core.messages.conversions import fill_image, fill_jpeg
from kpfeat_core.tracks import Tracks
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from .frames import OverlayInputs, StampedFeatures
from .node import KpfeatNode, run
from .options import OverlayNodeOptions
from .pictures import (
    cloud_of_keypoints,
    distortion_for,
    fill_annotations,
    fill_markers,
    find_messages,
    follow_matches,
    frame_in_image,
    picture_of_keypoints,
    picture_of_matches,
    picture_of_tracks,
)
from .worker import Stage, Worker

INPUTS = ('image', 'image1', 'features', 'matches', 'depth', 'camera_info', 'camera_info1')
# Outputs with messages that not every ROS installation has
OPTIONAL = {'image_annotations': 'foxglove_msgs', 'keypoint_markers': 'visualization_msgs'}


@dataclass(frozen=True)
class Output:
    """What is made of some inputs, by a worker of its own, while somebody listens to it."""

    inputs: frozenset[str]
    publishers: Sequence[Any]
    worker: Worker

    def wanted(self) -> bool:
        """Return whether somebody listens."""
        return any(publisher.get_subscription_count() for publisher in self.publishers)


class OverlayNode(KpfeatNode):
    """
    Publishes pictures of keypoints, tracks and matches, and keypoints in forms for viewers.

    Pictures are raw and compressed; the forms are Foxglove annotations, rviz markers and, with a
    depth image, a point cloud. Each is made only while somebody listens to it. The node subscribes
    to what is needed for that, and only then, so that extractor and matcher may rest as well.

    With `stereo`, matches are between `image` and `image1`, the images of a second camera, and
    their pictures are all that is offered: the rest is for an overlay of one camera.
    """

    def __init__(self, name: str = 'overlay', **options: Any) -> None:
        super().__init__(name, **options)
        self.inputs: set[str] = set()  # that somebody needs at the moment
        self.outputs: dict[str, Output] = {}
        self.wanted: set[str] = set()
        self.kept = OverlayInputs(0)
        self.camera_infos: dict[str, CameraInfo] = {}
        self._infos: Sequence[str] = ()  # of the first and the second image of a pair
        self._missing: set[str] = set()  # packages of messages, each said once
        self.start()

    def declare(self) -> None:
        """Declare parameters."""
        super().declare()
        self.parameters.declare(OverlayNodeOptions)

    def configure(self) -> None:
        """Read parameters, and find out which messages are installed."""
        super().configure()
        self.options = self.parameters.read(OverlayNodeOptions, self._use_options)
        self.messages = {topic: find_messages(package) for topic, package in OPTIONAL.items()}
        for topic, package in OPTIONAL.items():
            offered = not self.options.stereo
            if offered and self.messages[topic] is None and package not in self._missing:
                self._missing.add(package)
                self.get_logger().info(
                    f"'{topic}' is not offered, because the ROS package {package} is not "
                    f'installed: install ros-$ROS_DISTRO-{package.replace("_", "-")} for it'
                )

    def activate(self) -> None:
        """Start the workers; topics are connected when somebody listens."""
        super().activate()
        second = 'image1' if self.options.stereo else 'image'
        self.kept = OverlayInputs(self.options.buffer_size, second)
        self._infos = ('camera_info', second.replace('image', 'camera_info'))
        self.tracks = Tracks(self.options.track_length)
        self._add_picture('matches', {'image', second, 'matches'}, self._draw_matches)
        if not self.options.stereo:
            self._add_views_of_one_camera()
        for name in INPUTS:
            self.connect_while(partial(self._needs, name), partial(self._subscribe, name))

    def _add_views_of_one_camera(self) -> None:
        self._add_picture('keypoints', {'image', 'features'}, self._draw_keypoints)
        self._add_picture('tracks', {'image', 'matches'}, self._draw_tracks)
        found = {topic: messages for topic, messages in self.messages.items() if messages}
        if 'image_annotations' in found:
            kind = found['image_annotations'].ImageAnnotations
            self._add_form('image_annotations', kind, {'features'}, self._annotate)
        if 'keypoint_markers' in found:
            kind = found['keypoint_markers'].MarkerArray
            self._add_form('keypoint_markers', kind, {'features', 'camera_info'}, self._mark)
        cloud = {'features', 'depth', 'camera_info'}
        self._add_form('keypoint_cloud', PointCloud2, cloud, self._place)

    def deactivate(self) -> None:
        """Stop drawing and forget what was kept for it."""
        super().deactivate()
        self.inputs.clear()
        self.outputs.clear()
        self.wanted.clear()
        self.kept.keep_only((), ())
        self.camera_infos.clear()

    def _use_options(self, options: OverlayNodeOptions) -> None:
        self.options = options
        if self.outputs:
            self.tracks.length = options.track_length

    def _add_picture(self, name: str, inputs: set[str], draw: Callable[[Any], Any]) -> None:
        raw = self.advertise(Image, f'image_{name}')
        compressed = self.advertise(CompressedImage, f'{raw.topic_name}/compressed')
        publish = partial(self._publish_picture, raw, compressed)
        worker = self.work_through([Stage(f'draw_{name}', draw), Stage('publish', publish)])
        self.outputs[name] = Output(frozenset(inputs), (raw, compressed), worker)

    def _add_form(
        self, topic: str, kind: type, inputs: set[str], make: Callable[[Any], Any]
    ) -> None:
        publisher = self.advertise(kind, topic)
        stages = [Stage(f'make_{topic}', make), Stage('publish', publisher.publish)]
        self.outputs[topic] = Output(frozenset(inputs), (publisher,), self.work_through(stages))

    def _needs(self, name: str) -> bool:
        return name in self.inputs

    def review(self) -> None:
        """Subscribe to the inputs of outputs that are listened to, and forget the rest."""
        self.wanted = {name for name, output in self.outputs.items() if output.wanted()}
        self.inputs = {name for output in self.wanted for name in self.outputs[output].inputs}
        if self.wanted and self.options.keypoint_pixels == 'undistorted':
            self.inputs.update(self._infos)
        super().review()
        self.kept.keep_only(self.inputs, self.wanted)
        if self.outputs and 'tracks' not in self.wanted:
            self.tracks.clear()

    def _subscribe(self, name: str) -> Any:
        if name in ('image', 'image1'):
            listener = partial(self.on_image, name)
            return self.subscribe_images(self.options.image_transport, listener, 5, name, name)
        if name == 'features':
            return self.subscribe_features(name, self.on_features, True, name)
        if name == 'matches':
            return self.subscribe(Matches, name, self.on_matches)
        if name == 'depth':
            packed = self.resolve_topic_name(name).endswith('/compressedDepth')
            kind = CompressedImage if packed else Image
            return self.subscribe(kind, name, self.on_depth, qos_profile_sensor_data)
        topic, listener = self._info_topic(name), partial(self.on_camera_info, name)
        return self.subscribe(CameraInfo, topic, listener, qos_profile_sensor_data)

    def _submit(self, output: str, *item: Any) -> None:
        if output in self.wanted:
            self.outputs[output].worker.submit(item)

    def on_image(self, name: str, image: Any) -> None:
        """Keep the image until its features come; they may have come already."""
        self.statistics.count('received', source=name)
        if not self.has_stamp(image.header, name):
            return
        features = self.kept.add_image(name, image)
        if features is not None:
            self._submit('keypoints', image, features)

    def on_features(self, features: StampedFeatures) -> None:
        """Pass the features on; to what needs an image only if that is here."""
        self.statistics.count('received', source='features')
        self._submit('image_annotations', features)
        stamped = self.has_stamp(features.header, 'features')
        if stamped and 'keypoints' in self.wanted:
            self._submit_complete('keypoints', self.kept.image_of(features), features)
        if 'camera_info' in self.camera_infos:
            self._submit('keypoint_markers', features, self.camera_infos['camera_info'])
            if stamped and 'keypoint_cloud' in self.wanted:
                self._place_at_once(features)

    def _place_at_once(self, features: StampedFeatures) -> None:
        depth = self.kept.depth_of(features, self._tolerance_ns())
        if depth is not None:
            self._submit('keypoint_cloud', features, depth, self.camera_infos['camera_info'])
        else:
            self.statistics.count('without_depth')

    def on_depth(self, depth: Image | CompressedImage) -> None:
        """Keep the depth image until its features come; they may have come already."""
        if not self.has_stamp(depth.header, 'depth'):
            return
        features = self.kept.add_depth(depth, self._tolerance_ns())
        if features is not None:
            self._submit('keypoint_cloud', features, depth, self.camera_infos['camera_info'])

    def on_camera_info(self, name: str, camera_info: CameraInfo) -> None:
        """Keep the latest one."""
        self.camera_infos[name] = camera_info

    def _info_topic(self, name: str) -> str:
        """Return the topic of the camera_info beside 'image' or 'image1'."""
        return self.camera_info_topic(name.replace('camera_info', 'image'), name)

    def _distortion(self, name: str = 'camera_info') -> Any:
        """Return the distortion to draw undistorted keypoints with."""
        return distortion_for(self.camera_infos.get(name), self.options.keypoint_pixels)

    def on_matches(self, matches: Matches) -> None:
        """Draw the matches, and the tracks that they prolong, if their images are here."""
        if not all(self.has_stamp(h, 'matches') for h in (matches.header0, matches.header)):
            return
        if 'tracks' in self.wanted:
            self._follow_tracks(self.kept.image1_of(matches), matches)
        if 'matches' in self.wanted:
            self._submit_complete('matches', *self.kept.images_of(matches), matches)

    def _follow_tracks(self, image: Any, matches: Matches) -> None:
        try:  # here and not in the worker, which may drop matches: that would end all tracks
            trails = follow_matches(self.tracks, matches)
        except KpfeatError as error:
            self.count_failure(type(error).__name__, error)
        else:
            self._submit_complete('tracks', image, trails)

    def _submit_complete(self, output: str, *item: Any) -> None:
        if any(part is None for part in item):
            self.statistics.count('unpaired')
        else:
            self._submit(output, *item)

    def _tolerance_ns(self) -> int:
        return round(1e6 * self.options.depth_tolerance_ms)

    def _draw_keypoints(self, item: Any) -> Any:
        image, features = item
        return image.header, picture_of_keypoints(image, features, self._distortion())

    def _draw_tracks(self, item: Any) -> Any:
        image, trails = item
        return image.header, picture_of_tracks(image, trails, self._distortion())

    def _draw_matches(self, item: Any) -> Any:
        image0, image1, matches = item
        distortions = (self._distortion(name) for name in self._infos)
        limit = self.options.max_drawn_matches
        return image1.header, picture_of_matches(image0, image1, matches, limit, *distortions)

    def _publish_picture(self, raw: Any, compressed: Any, item: Any) -> None:
        header, picture = item
        if raw.get_subscription_count():
            raw.publish(fill_image(Image(), picture, header))
        if compressed.get_subscription_count():
            quality = self.options.jpeg_quality
            compressed.publish(fill_jpeg(CompressedImage(), picture, header, quality))
        self.note_age(header)

    def _annotate(self, item: Any) -> Any:
        (features,) = item
        shown = frame_in_image(features, self._distortion())
        return fill_annotations(self.messages['image_annotations'], shown)

    def _mark(self, item: Any) -> Any:
        options = self.options
        messages = self.messages['keypoint_markers']
        return fill_markers(messages, *item, options.keypoint_pixels, options.marker_distance)

    def _place(self, item: Any) -> PointCloud2:
        return cloud_of_keypoints(*item, self.options.keypoint_pixels)

    def settings(self) -> dict[str, str]:
        """Add what is listened to at the moment, and which of it has never come."""
        topics = {name: self._info_topic(name) for name in ('camera_info', 'camera_info1')}
        topics['depth'] = self.resolve_topic_name('depth')
        came = {*self.camera_infos, *(['depth'] if self.kept.has_depth else [])}
        missing = [topics[name] for name in sorted((self.inputs & set(topics)) - came)]
        return {
            'listening_to': ' '.join(sorted(self.inputs)) or 'nothing',
            'waiting_for': ' '.join(missing) or 'nothing',
        }


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted; gives the exit code."""
    return run([OverlayNode], args, __doc__)


if __name__ == '__main__':
    leave(main)
