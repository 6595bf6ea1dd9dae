"""Extractor, matcher and overlay in one process: features in memory, with equal results."""

from functools import partial

from kpfeat_core.messages.conversions import message_to_matches
import numpy as np
import pytest

pytest.importorskip('kpfeat.msg', reason='no ROS 2 or no messages: `make test` brings them')

from kpfeat.msg import Features, Matches
from kpfeat_ros.exchange import Exchange, using
from kpfeat_ros.extractor_node import ExtractorNode
from kpfeat_ros.matcher_node import MatcherNode
from kpfeat_ros.overlay_node import OverlayNode
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image


class Chain:
    """Extractor and matcher in one process; each image gives matches with the one before."""

    def __init__(self, ros, apart: bool = False, **parameters) -> None:
        self.ros = ros
        self.extractor = ros.start(ExtractorNode, **parameters)
        if apart:  # as in two processes
            with using(Exchange()):
                self.matcher = ros.start(MatcherNode)
        else:
            self.matcher = ros.start(MatcherNode)
        self.matches = ros.listen(Matches, 'matches')
        ros.until(self.extractor.streams[''].wanted, 'the matcher')
        self.camera = ros.camera()
        self.published: list = []
        publisher = self.extractor.streams[''].publisher
        publish = publisher.publish
        publisher.publish = lambda message: (self.published.append(message), publish(message))

    def send(self, pixels: np.ndarray) -> None:
        """Publish an image and wait until the matcher is through with it."""
        total = self.matcher.statistics.total
        done = lambda: total('processed') + total('skipped')  # noqa: E731
        before = done()
        self.camera.publish(self.ros.image(pixels))
        self.ros.until(lambda: done() > before, 'the matcher')


@pytest.fixture
def chain(ros):
    return partial(Chain, ros)


def matched(ros, subject: Chain, photo: np.ndarray) -> list:
    for k in range(3):
        subject.send(np.roll(photo, 8 * k, 1))
    ros.until(lambda: len(subject.matches) >= 2, 'matches')
    return [message_to_matches(message) for message in subject.matches[-2:]]


def test_results_are_equal_to_those_through_messages(ros, chain, photo) -> None:
    together = matched(ros, chain(), photo)
    while ros.nodes[1:]:
        node = ros.nodes.pop()
        ros.executor.remove_node(node)
        node.destroy_node()
    apart = chain(apart=True)
    for one, other in zip(together, matched(ros, apart, photo), strict=True):
        assert len(one) > 10
        for name, value in vars(one).items():
            assert np.array_equal(value, getattr(other, name)), name
    assert len(apart.published) == 3


def test_nothing_is_published_while_only_nodes_of_the_process_listen(ros, chain, photo) -> None:
    subject = chain()
    subject.send(photo)
    ros.spin(0.2)  # the first message shows that nobody but the matcher hears of it
    before = len(subject.published)
    subject.send(photo)
    assert len(subject.published) == before
    features = ros.listen(Features, 'features')
    ros.until(lambda: subject.extractor.streams[''].wanted() == 2, 'another listener')
    subject.send(photo)
    ros.until(lambda: features, 'features for others')
    assert len(subject.published) == before + 1
    assert subject.matcher.statistics.total('received') == 3  # in memory, not once more


def test_smaller_descriptors_reach_the_matcher_as_they_reach_others(ros, chain, photo) -> None:
    subject = chain(descriptor_type='int8')
    matched(ros, subject, photo)
    assert len(subject.published) == 3


def test_features_go_by_message_again_when_the_matcher_is_made_anew(ros, chain, photo) -> None:
    subject = chain()
    subject.matcher.trigger_deactivate()
    assert subject.extractor.exchange.inboxes('/features') == []
    ros.until(lambda: not subject.camera.get_subscription_count(), 'the extractor to rest')
    subject.matcher.trigger_activate()
    ros.until(subject.extractor.streams[''].wanted, 'the matcher')
    ros.until(subject.camera.get_subscription_count, 'the extractor')
    subject.send(photo)
    ros.spin(0.2)  # the first message shows that nobody but the matcher hears of it
    before = len(subject.published)
    matched(ros, subject, np.roll(photo, 1, 0))
    assert len(subject.published) == before


def test_overlay_draws_what_comes_in_memory(ros, chain, photo) -> None:
    subject = chain()
    overlay = ros.start(OverlayNode)
    pictures = ros.listen(Image, 'image_keypoints')
    ros.until(lambda: subject.extractor.streams[''].wanted() == 2, 'the overlay')
    ros.until(lambda: subject.camera.get_subscription_count() == 2, 'the overlay')
    subject.send(photo)
    ros.until(lambda: pictures, 'a picture')
    assert overlay.statistics.total('features.received') == 1  # in memory, not once more
    assert overlay.statistics.total('failed') == 0


def test_others_hear_of_features_that_a_node_of_the_process_cannot_hear_as_messages(
    ros, photo
) -> None:
    best_effort = ['-p', 'qos_overrides./features.publisher.reliability:=best_effort']
    extractor = ros.start(ExtractorNode, *best_effort)
    matcher = ros.start(MatcherNode, mode='reference')  # asks for reliable
    seen: list = []
    ros.probe.create_subscription(Features, 'features', seen.append, qos_profile_sensor_data)
    ros.until(lambda: extractor.streams[''].wanted() == 1, 'the probe alone')
    camera = ros.camera()
    camera.publish(ros.image(photo))
    ros.until(lambda: seen and matcher.statistics.total('received'), 'features for both')


def test_messages_that_wait_long_bring_no_features_twice(ros, chain, photo) -> None:
    subject = chain()
    ros.listen(Features, 'features')  # so that messages are sent at all
    ros.until(lambda: subject.extractor.streams[''].wanted() == 2, 'another listener')
    subject.send(photo)
    ros.executor.remove_node(subject.matcher)  # an executor that is busy with something else
    total = subject.extractor.statistics.total
    for k in range(1, 9):
        subject.camera.publish(ros.image(np.roll(photo, k, 1)))
        ros.until(lambda k=k: total('processed') == k + 1, 'the extractor')
    ros.executor.add_node(subject.matcher)
    ros.spin(0.5)
    assert subject.matcher.statistics.total('received') == 9
