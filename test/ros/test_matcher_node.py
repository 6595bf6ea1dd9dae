"""The matcher node over real DDS: features in, matches out."""

from kpfeat_core.features import Features
from kpfeat_core.matching import match_pair
from kpfeat_core.messages.conversions import fill_features, message_to_matches
from made_frames import shifted
import numpy as np
import pytest

pytest.importorskip('kpfeat.msg', reason='no ROS 2 or no messages: `make test` brings them')

from kpfeat.msg import Features as FeaturesMessage
from kpfeat.msg import Matches
from kpfeat_ros.matcher_node import MatcherNode
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger


class Rig:
    """A matcher node, a publisher of features, and the matches that came."""

    def __init__(self, ros, *arguments: str, listen: bool = True, **parameters) -> None:
        self.ros, self.message = ros, FeaturesMessage
        self.node = ros.start(MatcherNode, *arguments, **parameters)
        self.publisher = ros.probe.create_publisher(FeaturesMessage, 'features', 10)
        self.matches = ros.listen(Matches, 'matches') if listen else []
        if listen:
            ros.until(self.node.publisher.get_subscription_count, 'a listener')
            ros.until(self.publisher.get_subscription_count, 'the matcher')

    def send(self, features: Features, model: str = 'alike-t'):
        """Publish a frame, wait until the node is through with it, and return its header."""
        header = self.ros.image().header
        statistics = self.node.statistics

        def through() -> int:
            return sum(statistics.total(name) for name in ('processed', 'skipped', 'failed'))

        before = through()
        self.publisher.publish(fill_features(self.message(), features, header, model))
        self.ros.until(lambda: through() > before, 'the frame')
        return header

    def wait(self, count: int) -> None:
        self.ros.until(lambda: len(self.matches) == count, f'{count} matches messages')


def test_consecutive_frames_are_matched_and_verified(ros) -> None:
    rig = Rig(ros)
    headers = [rig.send(shifted(shift=shift)) for shift in (0.0, 7.0)]
    rig.wait(1)
    message = rig.matches[0]
    pair = message_to_matches(message)
    assert [message.header0, message.header] == headers
    assert len(pair) == 60
    assert pair.inliers.all()
    assert np.allclose(pair.keypoints1 - pair.keypoints0, [7, 0], atol=1e-3)
    assert np.allclose(pair.matrix, [[1, 0, 7], [0, 1, 0], [0, 0, 1]], atol=1e-2)


def test_matches_equal_those_of_match_pair(ros) -> None:
    rig = Rig(ros, geometry='none', ratio_threshold=0.9)
    frames = [shifted(), shifted(50, shift=7.0)]
    for frame in frames:
        rig.send(frame)
    rig.wait(1)
    expected = match_pair(rig.node.matcher, *frames)
    found = message_to_matches(rig.matches[0])
    for name in ('indices0', 'indices1', 'scores', 'keypoints0', 'keypoints1'):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    assert found.matrix is None


def test_first_frame_is_the_reference_until_the_service_sets_another(ros) -> None:
    rig = Rig(ros, mode='reference')
    early = ros.call(Trigger, '/matcher/set_reference')
    assert (early.success, early.message) == (False, "no frame on '/features' so far")
    headers = [rig.send(shifted(shift=shift)) for shift in (0.0, 3.0, 6.0)]
    done = ros.call(Trigger, '/matcher/set_reference')
    assert (done.success, done.message) == (
        True,
        'the newest frame, of 60 keypoints, is the reference',
    )
    headers.append(rig.send(shifted(shift=9.0)))
    rig.wait(3)
    assert [message.header0 for message in rig.matches] == [headers[0], headers[0], headers[2]]


def test_cleared_reference_is_replaced_by_the_next_frame(ros) -> None:
    rig = Rig(ros, mode='reference')
    early = ros.call(Trigger, '/matcher/clear_reference')
    words = 'the next frame becomes the reference'
    assert (early.success, early.message) == (True, f'{words}, as before')
    headers = [rig.send(shifted(shift=shift)) for shift in (0.0, 3.0)]
    cleared = ros.call(Trigger, '/matcher/clear_reference')
    assert (cleared.success, cleared.message) == (True, words)
    headers += [rig.send(shifted(shift=shift)) for shift in (6.0, 9.0)]
    rig.wait(2)
    assert [message.header0 for message in rig.matches] == [headers[0], headers[2]]
    assert [message.header for message in rig.matches] == [headers[1], headers[3]]


def test_reference_cannot_be_set_in_consecutive_mode_and_the_reason_is_given(ros) -> None:
    rig = Rig(ros)
    for name in ('set_reference', 'clear_reference'):
        response = ros.call(Trigger, f'/matcher/{name}')
        assert not response.success
        assert 'mode is consecutive' in response.message
    assert rig.matches == []


def test_frames_of_different_models_are_not_matched(ros) -> None:
    rig = Rig(ros)
    rig.send(shifted(), model='alike-t')
    rig.send(shifted(shift=3.0), model='superpoint')
    rig.send(shifted(shift=6.0), model='superpoint')
    rig.wait(1)
    assert np.allclose(message_to_matches(rig.matches[0]).matrix[0, 2], 3, atol=1e-2)


def test_frames_without_keypoints_give_matches_without_entries(ros) -> None:
    rig = Rig(ros)
    rig.send(shifted(0))
    rig.send(shifted(10))
    rig.wait(1)
    assert len(rig.matches[0].scores) == 0
    assert not any(rig.matches[0].matrix)


def test_malformed_features_are_counted_logged_once_and_survived(ros) -> None:
    rig = Rig(ros)
    errors = ros.logged()
    for count in (1, 2):
        bad = fill_features(rig.message(), shifted(), ros.image().header, 'alike-t')
        bad.descriptors = bad.descriptors[:-1]
        rig.publisher.publish(bad)
        ros.until(lambda: rig.node.statistics.total('failed') == count, 'failure')  # noqa: B023
    rig.send(shifted())
    rig.send(shifted(shift=2.0))
    ros.until(lambda: rig.matches, 'matches after the bad frames')
    ros.until(lambda: errors, 'the log')
    assert len([text for text in errors if 'descriptors hold' in text]) == 1


def test_nothing_is_matched_while_nobody_listens(ros) -> None:
    rig = Rig(ros, listen=False, mode='reference')
    ros.until(rig.publisher.get_subscription_count, 'the matcher')
    rig.send(shifted())
    rig.send(shifted(shift=2.0))
    assert rig.node.statistics.total('processed') == 0
    assert 'match' not in rig.node.statistics.report().durations_ms


def test_consecutive_frames_are_not_received_while_nobody_listens(ros) -> None:
    rig = Rig(ros)
    rig.send(shifted())
    ros.stop_listening(rig.matches)
    ros.until(lambda: not rig.publisher.get_subscription_count(), 'unsubscribing')
    rig.matches = ros.listen(Matches, 'matches')
    ros.until(rig.publisher.get_subscription_count, 'subscribing again')
    headers = [rig.send(shifted(shift=shift)) for shift in (3.0, 6.0)]
    rig.wait(1)  # the frame from before the rest is matched with none
    assert [rig.matches[0].header0, rig.matches[0].header] == headers


def test_change_to_reference_mode_starts_listening_at_once(ros) -> None:
    rig = Rig(ros, listen=False)
    assert rig.node.rests
    rig.node.set_parameters([Parameter('mode', value='reference')])
    assert not rig.node.rests


@pytest.mark.parametrize('namespace', ['', 'robot'])
def test_topics_follow_namespace_and_remapping(ros, namespace) -> None:
    arguments = ['-r', f'__ns:=/{namespace}'] if namespace else []
    node = ros.start(MatcherNode, *arguments, '-r', 'matches:=/elsewhere')
    assert node.input_topics[''] == ('/robot/features' if namespace else '/features')
    ros.until(lambda: ros.probe.count_publishers('/elsewhere'), 'the remapped topic')


def test_no_pair_goes_across_a_jump_back_in_time_and_it_is_counted(ros) -> None:
    rig = Rig(ros)
    for _ in range(2):
        rig.send(shifted())
    ros.stamp = 0  # a bag starts again
    header = rig.send(shifted())
    rig.send(shifted())
    rig.wait(2)
    assert rig.matches[1].header0 == header
    total = rig.node.statistics.total
    assert (total('boundary'), total('boundary.time_jump')) == (1, 1)


def test_no_pair_is_made_while_two_publish_on_one_topic_and_both_are_named(ros) -> None:
    from diagnostic_msgs.msg import DiagnosticArray
    from rclpy.node import Node

    rig = Rig(ros)
    other = ros.add(Node('other'))
    publisher = other.create_publisher(FeaturesMessage, 'features', 10)
    reports = ros.listen(DiagnosticArray, '/diagnostics')
    ros.until(lambda: rig.node.count_publishers('/features') == 2, 'both publishers')
    for _ in range(3):
        rig.send(shifted())
    assert rig.node.statistics.total('boundary.publisher') == 2
    assert rig.matches == []
    words = "'/features' has 2 publishers (/other, /probe)"
    ros.until(lambda: any(words in s.message for r in reports for s in r.status), words)
    other.destroy_publisher(publisher)
    ros.until(lambda: rig.node.count_publishers('/features') == 1, 'one publisher')
    rig.send(shifted())
    rig.wait(1)


def test_frames_without_a_stamp_are_no_stereo_pairs(ros) -> None:
    node = ros.start(MatcherNode, mode='stereo')
    matches = ros.listen(Matches, 'matches')
    cameras = [ros.probe.create_publisher(FeaturesMessage, f'features{k}', 10) for k in range(2)]
    ros.until(lambda: all(c.get_subscription_count() for c in cameras), 'the matcher')
    header = ros.image().header
    header.stamp.sec = header.stamp.nanosec = 0
    for camera in cameras:
        camera.publish(fill_features(FeaturesMessage(), shifted(), header, 'alike-t'))
    ros.until(lambda: node.statistics.total('unstamped') == 2, 'both frames')
    ros.spin(0.2)
    assert matches == [] and node.statistics.total('failed') == 0
