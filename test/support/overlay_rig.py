"""An overlay node with everything that it listens to, for tests over real DDS."""

from kpfeat_core.features import Features
from kpfeat_core.messages.conversions import fill_features, fill_matches
from made_frames import pair_of
import numpy as np

GRAY = np.full((60, 80, 3), 90, np.uint8)


def features_at(*points: tuple[float, float]) -> Features:
    arrays = {
        'keypoints': np.array(points, np.float32).reshape(-1, 2),
        'keypoint_scores': np.ones(len(points), np.float32),
        'descriptors': np.ones((len(points), 1), np.float32),
        'image_size': np.array([80, 60], np.float32),
    }
    return Features.from_numpy(arrays)


class Rig:
    """An overlay node with everything that it listens to."""

    def __init__(self, ros, *topics: str, **parameters) -> None:
        from kpfeat.msg import Features as FeaturesMessage
        from kpfeat.msg import Matches
        from kpfeat_ros.overlay_node import OverlayNode
        from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
        from visualization_msgs.msg import MarkerArray

        self.ros = ros
        self.kinds = {
            'image': Image,
            'features': FeaturesMessage,
            'matches': Matches,
            'depth': Image,
            'camera_info': CameraInfo,
        }
        outputs = {'keypoint_cloud': PointCloud2, 'keypoint_markers': MarkerArray}
        needed = {
            'image_keypoints': ['image', 'features'],
            'image_tracks': ['image', 'matches'],
            'image_matches': ['image', 'matches'],
            'image_annotations': ['features'],
            'keypoint_markers': ['features', 'camera_info'],
            'keypoint_cloud': ['features', 'camera_info', 'depth'],
        }
        self.node = ros.start(OverlayNode, **parameters)
        self.publishers = {
            name: ros.probe.create_publisher(kind, name, 10) for name, kind in self.kinds.items()
        }
        self.pictures = {}
        for topic in topics:
            kind = CompressedImage if topic.endswith('/compressed') else Image
            self.pictures[topic] = ros.listen(outputs.get(topic, kind), topic)
        for topic in topics:
            for name in needed[topic.split('/')[0]]:
                ros.until(self.publishers[name].get_subscription_count, f'the overlay on {name}')

    def send_image(self, pixels: np.ndarray = GRAY):
        """Publish an image and wait until it is there; gives the message."""
        image = self.ros.image(pixels)
        before = self.node.statistics.total('image.received')
        self.publishers['image'].publish(image)
        self.ros.until(lambda: self.node.statistics.total('image.received') > before, 'the image')
        return image

    def send_features(self, image, *points) -> None:
        message = self.kinds['features']()
        fill_features(message, features_at(*points), image.header)
        self.publishers['features'].publish(message)

    def send_depth(self, image, metres: np.ndarray, later_ns: int = 0):
        """Publish a depth image in metres, stamped somewhat later than an image."""
        message = self.kinds['depth']()
        message.header.stamp.sec = image.header.stamp.sec
        message.header.stamp.nanosec = image.header.stamp.nanosec + later_ns
        message.height, message.width = metres.shape
        message.encoding, message.step = '32FC1', 4 * metres.shape[1]
        message.data = metres.astype('<f4').tobytes()
        self.publishers['depth'].publish(message)

    def send_camera_info(self, distortion: tuple[float, ...] = ()) -> None:
        """Publish a calibration for focal lengths 100 and 50, and wait until it is there."""
        message = self.kinds['camera_info'](width=80, height=60, d=distortion)
        message.distortion_model = 'plumb_bob'
        message.k = [100.0, 0.0, 40.0, 0.0, 50.0, 30.0, 0.0, 0.0, 1.0]
        self.publishers['camera_info'].publish(message)
        self.ros.until(lambda: self.node.camera_infos, 'camera_info')

    def send_matches(self, image0, image1, point0=(20, 20), point1=(30, 20)) -> None:
        message = self.kinds['matches']()
        fill_matches(message, pair_of(point0, point1), image0.header, image1.header)
        self.publishers['matches'].publish(message)

    def picture(self, topic: str, count: int = 1):
        self.ros.until(lambda: len(self.pictures[topic]) >= count, f'picture {count} on {topic}')
        return self.pictures[topic][count - 1]


def changed(picture: np.ndarray) -> np.ndarray:
    """Return x, y of the pixels that were drawn."""
    return np.argwhere((picture != GRAY).any(axis=2))[:, ::-1]
