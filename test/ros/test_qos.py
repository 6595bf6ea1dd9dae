"""Quality of service over real DDS: what is used, overrides, and ends that do not meet."""

from functools import partial

import pytest

pytest.importorskip('kpfeat.msg', reason='no ROS 2 or no messages: `make test` brings them')

from diagnostic_msgs.msg import DiagnosticArray
from kpfeat.msg import Features
from kpfeat_core.errors import ConfigError
from kpfeat_ros.endpoints import broken_promises, RELIABLE
from kpfeat_ros.extractor_node import ExtractorNode
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.qos import qos_check_compatible, QoSCompatibility, QoSProfile
from rclpy.qos import QoSDurabilityPolicy as Durability
from rclpy.qos import QoSReliabilityPolicy as Reliability
from sensor_msgs.msg import Image


def profile(**policies) -> QoSProfile:
    return QoSProfile(depth=1, **policies)


@pytest.fixture
def start(ros):
    """Start an extractor with ROS arguments for its QoS."""
    return partial(ros.start, ExtractorNode)


def seen(ros, what: str, topic: str) -> QoSProfile:
    """Return the QoS of the only publisher or subscription of a topic, as others see it."""
    look = getattr(ros.probe, f'get_{what}s_info_by_topic')
    return ros.until(lambda: look(topic), f'a {what} of {topic}')[0].qos_profile


def override(topic: str, what: str, policy: str, value: object) -> list[str]:
    return ['-p', f'qos_overrides.{topic}.{what}.{policy}:={value}']


def listen(ros, topic: str, **policies) -> list:
    found: list = []
    ros.probe.create_subscription(Features, topic, found.append, profile(**policies))
    return found


def test_newest_image_of_any_camera_is_taken_and_features_are_reliable(ros, start) -> None:
    node = start()
    ros.listen(pytest.importorskip('kpfeat.msg').Features, '/features')
    image, features = seen(ros, 'subscription', '/image'), seen(ros, 'publisher', '/features')
    assert image.reliability == Reliability.BEST_EFFORT
    assert image.durability == features.durability == Durability.VOLATILE
    assert features.reliability == Reliability.RELIABLE
    assert node.get_parameter('qos_overrides./image.subscription.depth').value == 1


@pytest.mark.parametrize('topic', ['/features', '/diagnostics'])
def test_publisher_takes_overrides(ros, start, topic) -> None:
    start(
        *override(topic, 'publisher', 'durability', 'transient_local'),
        *override(topic, 'publisher', 'reliability', 'best_effort'),
    )
    found = seen(ros, 'publisher', topic)
    assert found.durability == Durability.TRANSIENT_LOCAL
    assert found.reliability == Reliability.BEST_EFFORT


def test_subscription_takes_overrides_under_its_remapped_name(ros, start) -> None:
    start('-r', 'image:=/cam', *override('/cam', 'subscription', 'reliability', 'reliable'))
    ros.listen(pytest.importorskip('kpfeat.msg').Features, '/features')
    assert seen(ros, 'subscription', '/cam').reliability == Reliability.RELIABLE


def test_override_of_one_topic_leaves_the_others_alone(ros, start) -> None:
    start(*override('/diagnostics', 'publisher', 'reliability', 'best_effort'))
    assert seen(ros, 'publisher', '/features').reliability == Reliability.RELIABLE
    assert RELIABLE.reliability == Reliability.RELIABLE


def test_override_lasts_through_deactivate_and_activate(ros, start) -> None:
    node = start(*override('/features', 'publisher', 'durability', 'transient_local'))
    node.trigger_deactivate()
    ros.until(lambda: not ros.probe.count_publishers('/features'), 'the publisher to go')
    node.trigger_activate()
    assert seen(ros, 'publisher', '/features').durability == Durability.TRANSIENT_LOCAL


@pytest.mark.parametrize('value', ['sometimes', 3])
def test_override_that_is_no_policy_is_refused_by_name(start, value) -> None:
    with pytest.raises((ConfigError, ParameterException), match=r'/features') as caught:
        start(*override('/features', 'publisher', 'reliability', value))
    assert 'reliability' in str(caught.value)


def test_camera_that_offers_too_little_is_named_once_with_the_remedy(ros, start) -> None:
    warnings = ros.logged(30)
    node = start(*override('/image', 'subscription', 'reliability', 'reliable'))
    ros.listen(pytest.importorskip('kpfeat.msg').Features, '/features')
    ros.probe.create_publisher(Image, 'image', profile(reliability=Reliability.BEST_EFFORT))
    expected = (
        "'/image' brings nothing from /probe: its publisher offers reliability best_effort, and "
        'this subscription asks for reliable. Start /extractor with -p '
        'qos_overrides./image.subscription.reliability:=best_effort, or let /probe publish with '
        'reliable'
    )
    ros.until(lambda: expected in warnings, 'the warning')
    ros.spin(0.5)  # more diagnostics
    assert len([text for text in warnings if '/image' in text]) == 1
    assert node.mismatches() == [expected]


def test_listener_that_asks_for_too_much_is_named_with_the_remedy(ros, start) -> None:
    warnings = ros.logged(30)
    start()
    reports = ros.listen(DiagnosticArray, '/diagnostics')
    late = listen(ros, 'features', durability=Durability.TRANSIENT_LOCAL)
    words = '-p qos_overrides./features.publisher.durability:=transient_local'
    ros.until(lambda: any(words in text for text in warnings), 'the warning')
    said = [text for text in warnings if words in text][0]
    assert "'/features' does not reach /probe: its subscription asks for durability" in said
    ros.until(lambda: any(words in r.status[0].message for r in reports), 'diagnostics')
    assert reports[-1].status[0].level == b'\x01'
    assert not late


def test_the_remedy_that_was_named_helps(ros, start, photo) -> None:
    start(*override('/features', 'publisher', 'durability', 'transient_local'))
    late = listen(ros, 'features', durability=Durability.TRANSIENT_LOCAL)
    camera = ros.camera()
    camera.publish(ros.image(photo))
    ros.until(lambda: late, 'features')


def test_mismatch_that_is_gone_is_not_reported_any_more(ros, start) -> None:
    node = start()

    wish = profile(durability=Durability.TRANSIENT_LOCAL)
    greedy = ros.probe.create_subscription(Features, 'features', print, wish)
    ros.until(node.mismatches, 'the mismatch')
    ros.probe.destroy_subscription(greedy)
    ros.until(lambda: not node.mismatches(), 'its end')


@pytest.mark.parametrize(
    ('offered', 'asked', 'policy'),
    [
        ({}, {}, None),
        ({'reliability': Reliability.BEST_EFFORT}, {}, 'reliability'),
        ({}, {'reliability': Reliability.BEST_EFFORT}, None),
        ({}, {'durability': Durability.TRANSIENT_LOCAL}, 'durability'),
        ({}, {'deadline': Duration(seconds=1)}, 'deadline'),
        ({'deadline': Duration(seconds=1)}, {}, None),
        ({'deadline': Duration(seconds=1)}, {'deadline': Duration(seconds=2)}, None),
    ],
)
def test_broken_promises_are_those_that_the_middleware_refuses(offered, asked, policy) -> None:
    known = {'reliability': Reliability.RELIABLE, 'durability': Durability.VOLATILE}
    ends = profile(**known | offered), profile(**known | asked)
    assert [name for name, *_ in broken_promises(*ends)] == ([policy] if policy else [])
    refused = qos_check_compatible(*ends)[0] == QoSCompatibility.ERROR
    assert refused == bool(policy)
