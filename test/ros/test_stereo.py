"""Two cameras in the matcher and the overlay, over real DDS: by stamp, with a tolerance."""

from kpfeat_core.messages.conversions import (
    fill_features,
    fill_matches,
    image_to_array,
    message_to_matches,
)
from made_frames import pair_of, shifted
import numpy as np
import pytest

pytest.importorskip('kpfeat.msg', reason='no ROS 2 or no messages: `make test` brings them')

from diagnostic_msgs.msg import DiagnosticArray
from kpfeat.msg import Features, Matches
from kpfeat_ros.matcher_node import MatcherNode
from kpfeat_ros.overlay_node import OverlayNode
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image


class Stereo:
    """A matcher of two cameras, and the matches that came."""

    def __init__(self, ros, **parameters) -> None:
        self.ros, self.message = ros, Features
        self.node = ros.start(MatcherNode, **{'mode': 'stereo'} | parameters)
        self.matches = ros.listen(Matches, 'matches')
        ros.until(self.node.publisher.get_subscription_count, 'a listener')
        topics = ('features0', 'features1')
        self.publishers = [ros.probe.create_publisher(Features, topic, 10) for topic in topics]
        for publisher in self.publishers:
            ros.until(publisher.get_subscription_count, 'the matcher')

    def send(self, camera: int, stamp_ms: int, shift: float = 0.0, model: str = 'alike-t'):
        """Publish a frame, wait until the node has it, and return its header."""
        header = self.ros.image().header
        header.stamp.sec, header.stamp.nanosec = divmod(stamp_ms * 1_000_000, 1_000_000_000)
        before = self.node.statistics.total('received')
        message = fill_features(self.message(), shifted(shift=shift), header, model)
        self.publishers[camera].publish(message)
        self.ros.until(lambda: self.node.statistics.total('received') > before, 'the frame')
        return header


def test_frames_of_the_same_time_are_matched_left_to_right_whichever_comes_first(ros) -> None:
    subject = Stereo(ros)
    right, left = subject.send(1, 1000, shift=7.0), subject.send(0, 1004)
    ros.until(lambda: subject.matches, 'matches')
    subject.send(0, 1100), subject.send(1, 1104, shift=7.0)
    ros.until(lambda: len(subject.matches) == 2, 'matches')
    message = subject.matches[0]
    assert [message.header0, message.header] == [left, right]
    for message in subject.matches:
        pair = message_to_matches(message)
        assert np.allclose(pair.keypoints1 - pair.keypoints0, [7, 0], atol=1e-3)


def test_frames_of_different_times_are_counted_and_diagnostics_say_what_to_do(ros) -> None:
    subject = Stereo(ros, stamp_tolerance_ms=5.0)
    statuses = ros.listen(DiagnosticArray, '/diagnostics')
    for k in range(15):
        subject.send(0, 1000 + 100 * k), subject.send(1, 1050 + 100 * k)
    assert subject.node.statistics.total('without_partner') == 2 * (15 - 10)
    texts = lambda: [s.message for array in statuses for s in array.status]  # noqa: E731
    ros.until(lambda: any('raise stamp_tolerance_ms' in text for text in texts()), 'advice')
    assert not subject.matches


def test_tolerance_changes_live(ros) -> None:
    subject = Stereo(ros, stamp_tolerance_ms=5.0)
    subject.send(0, 1000), subject.send(1, 1050)
    subject.node.set_parameters([Parameter('stamp_tolerance_ms', value=60.0)])
    subject.send(0, 1100), subject.send(1, 1150)
    ros.until(lambda: subject.matches, 'matches')


def test_frames_of_two_models_are_refused_in_words(ros) -> None:
    errors = ros.logged()
    subject = Stereo(ros)
    ros.until(lambda: ros.probe.count_publishers('/rosout') > 1, 'the log')
    subject.send(0, 1000), subject.send(1, 1000, model='superpoint')
    ros.until(lambda: errors, 'the error')
    assert "'features0' are of alike-t and 'features1' of superpoint" in errors[0]


def test_mode_changes_live_and_so_does_what_is_listened_to(ros) -> None:
    subject = Stereo(ros)
    assert not ros.probe.count_subscribers('features')
    subject.node.set_parameters([Parameter('mode', value='consecutive')])
    ros.until(lambda: ros.probe.count_subscribers('features'), 'listening to one camera')
    ros.until(lambda: not ros.probe.count_subscribers('features0'), 'leaving the others')
    subject.node.set_parameters([Parameter('mode', value='stereo')])
    for topic in ('features0', 'features1'):
        ros.until(lambda: ros.probe.count_subscribers(topic), topic)  # noqa: B023


@pytest.fixture
def overlay(ros):
    node = ros.start(OverlayNode, stereo=True)
    pictures = ros.listen(Image, 'image_matches')
    kinds = {'image': Image, 'image1': Image, 'matches': Matches}
    publishers = {name: ros.camera(name, kind) for name, kind in kinds.items()}
    return node, publishers, pictures


def test_picture_shows_the_images_of_both_cameras_side_by_side(ros, overlay) -> None:
    node, publishers, pictures = overlay
    dark, bright = np.full((60, 80, 3), 40, np.uint8), np.full((60, 80, 3), 200, np.uint8)
    images = ros.image(dark), ros.image(bright)
    images[1].header.stamp = images[0].header.stamp  # as triggered cameras have it
    for name, image in zip(('image', 'image1'), images, strict=True):
        publishers[name].publish(image)
    ros.until(lambda: node.statistics.total('received') == 2, 'both images')
    pair = pair_of((20, 30), (10, 30))
    message = fill_matches(Matches(), pair, images[0].header, images[1].header)
    publishers['matches'].publish(message)
    picture = image_to_array(ros.until(lambda: pictures, 'the picture')[0])
    assert picture.shape[1] >= 160
    assert np.median(picture[:, :80]) == 40 and np.median(picture[:, -80:]) == 200


def test_a_pair_offers_its_matches_and_nothing_that_is_of_one_camera(overlay) -> None:
    publishers = [p for output in overlay[0].outputs.values() for p in output.publishers]
    assert [p.topic_name for p in publishers] == ['/image_matches', '/image_matches/compressed']
