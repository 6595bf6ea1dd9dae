"""The overlay node over real DDS: pictures, and only for those who look."""

from kpfeat_core.features import Features
from kpfeat_core.matchers.pair import PairMatches
from kpfeat_ros.conversions import fill_features, fill_matches, image_to_array
import numpy as np
import pytest

GRAY = np.full((60, 80, 3), 90, np.uint8)


def features_at(*points: tuple[float, float]) -> Features:
    arrays = {
        'keypoints': np.array(points, np.float32).reshape(-1, 2),
        'keypoint_scores': np.ones(len(points), np.float32),
        'descriptors': np.ones((len(points), 1), np.float32),
        'image_size': np.array([80, 60], np.float32),
    }
    return Features.from_numpy(arrays)


def pair_of(point0: tuple[float, float], point1: tuple[float, float]) -> PairMatches:
    one = np.zeros(1, np.int64)
    points = [np.array([point], np.float32) for point in (point0, point1)]
    return PairMatches(one, one, np.ones(1, np.float32), *points, np.ones(1, bool), 'none')


class Rig:
    """An overlay node with everything that it listens to."""

    def __init__(self, ros, *topics: str, **parameters) -> None:
        from kpfeat.msg import Features as FeaturesMessage
        from kpfeat.msg import Matches
        from kpfeat_ros.overlay_node import OverlayNode
        from sensor_msgs.msg import Image

        self.ros = ros
        self.kinds = {'image': Image, 'features': FeaturesMessage, 'matches': Matches}
        self.node = ros.start(OverlayNode, **parameters)
        self.publishers = {
            name: ros.probe.create_publisher(kind, name, 10) for name, kind in self.kinds.items()
        }
        self.pictures = {topic: ros.listen(Image, topic) for topic in topics}
        needed = {'image_keypoints': ['image', 'features'], 'image_matches': ['image', 'matches']}
        for topic in topics:
            for name in needed[topic]:
                ros.until(self.publishers[name].get_subscription_count, f'the overlay on {name}')

    def send_image(self, pixels: np.ndarray = GRAY):
        """Publish an image and wait until it is there; gives the message."""
        image = self.ros.image(pixels)
        before = self.node.statistics.total('received')
        self.publishers['image'].publish(image)
        self.ros.until(lambda: self.node.statistics.total('received') > before, 'the image')
        return image

    def send_features(self, image, *points) -> None:
        message = self.kinds['features']()
        fill_features(message, features_at(*points), image.header)
        self.publishers['features'].publish(message)

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


def test_keypoints_are_drawn_where_they_are_on_the_image_of_the_same_stamp(ros) -> None:
    rig = Rig(ros, 'image_keypoints')
    rig.send_image()
    image = rig.send_image()
    rig.send_image()
    rig.send_features(image, (20, 40), (60, 10))
    picture = rig.picture('image_keypoints')
    assert picture.header == image.header
    assert picture.encoding == 'rgb8'
    drawn = changed(image_to_array(picture))
    near = [np.abs(drawn - point).max(axis=1) <= 6 for point in ((20, 40), (60, 10))]
    assert all(part.any() for part in near)
    assert np.logical_or(*near).all()


def test_features_that_come_before_their_image_wait_for_it(ros) -> None:
    rig = Rig(ros, 'image_keypoints')
    image = ros.image(GRAY)
    rig.send_features(image, (20, 40))
    ros.until(lambda: rig.node.statistics.total('unpaired'), 'the features')
    rig.publishers['image'].publish(image)
    assert rig.picture('image_keypoints').header == image.header


def test_matches_are_drawn_between_both_images(ros) -> None:
    rig = Rig(ros, 'image_matches')
    image0, image1 = rig.send_image(), rig.send_image()
    rig.send_matches(image0, image1)
    picture = rig.picture('image_matches')
    assert picture.header == image1.header
    assert picture.height == 60
    assert picture.width >= 160


def test_reference_image_is_kept_however_many_images_come_after(ros) -> None:
    rig = Rig(ros, 'image_matches', buffer_size=2)
    reference = rig.send_image()
    for count in range(1, 6):
        rig.send_matches(reference, rig.send_image())
        rig.picture('image_matches', count)


def test_matches_of_forgotten_images_are_counted_and_not_drawn(ros) -> None:
    rig = Rig(ros, 'image_matches', buffer_size=2)
    images = [rig.send_image() for _ in range(4)]
    rig.send_matches(images[0], images[3])
    ros.until(lambda: rig.node.statistics.total('unpaired') == 1, 'the matches')
    assert rig.pictures['image_matches'] == []


def test_nothing_is_subscribed_or_drawn_while_nobody_looks(ros) -> None:
    rig = Rig(ros)
    ros.spin(0.6)
    assert [p.get_subscription_count() for p in rig.publishers.values()] == [0, 0, 0]


@pytest.mark.parametrize(
    ('topic', 'idle'), [('image_keypoints', 'matches'), ('image_matches', 'features')]
)
def test_only_what_is_looked_at_is_subscribed_and_let_go_afterwards(ros, topic, idle) -> None:
    rig = Rig(ros, topic)
    assert rig.publishers[idle].get_subscription_count() == 0
    ros.stop_listening(rig.pictures[topic])
    ros.until(
        lambda: not any(p.get_subscription_count() for p in rig.publishers.values()),
        'the overlay to let go',
    )


def test_broken_image_is_counted_and_survived(ros) -> None:
    rig = Rig(ros, 'image_keypoints')
    image = ros.image(GRAY, encoding='hologram')
    rig.publishers['image'].publish(image)
    rig.send_features(image, (20, 40))
    ros.until(lambda: rig.node.statistics.total('failed.encoding') == 1, 'the failure')
    good = rig.send_image()
    rig.send_features(good, (20, 40))
    assert rig.picture('image_keypoints').header == good.header
