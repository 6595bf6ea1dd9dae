"""Nobody listens, nothing is done: inputs come and go with those who want the results."""

import pytest

pytest.importorskip('kpfeat.msg', reason='no ROS 2 or no messages: `make test` brings them')

from diagnostic_msgs.msg import DiagnosticArray
from kpfeat.msg import Features
from kpfeat_ros import endpoints
from kpfeat_ros.extractor_node import ExtractorNode
from kpfeat_ros.matcher_node import MatcherNode
from kpfeat_ros.overlay_node import OverlayNode
from sensor_msgs.msg import Image


@pytest.fixture
def extractor(ros):
    return ros.start(ExtractorNode)


@pytest.fixture(params=[True, False], ids=['told', 'polling'])
def told(request, monkeypatch) -> bool:
    """Take from the nodes the events of listeners, as where the distribution has none."""
    if not request.param:

        class Without(endpoints.PublisherEventCallbacks):
            def __init__(self, incompatible_qos=None) -> None:
                super().__init__(incompatible_qos=incompatible_qos)

        monkeypatch.setattr(endpoints, 'PublisherEventCallbacks', Without)
    return request.param


def camera_of(ros):
    return ros.probe.create_publisher(Image, 'image', 10)


def test_images_are_received_only_while_somebody_listens(ros, told, extractor, photo) -> None:
    assert extractor._listeners_reported == told
    camera = camera_of(ros)
    ros.spin(0.3)
    assert not camera.get_subscription_count() and extractor.rests
    for _ in range(3):
        features = ros.listen(Features, 'features')
        ros.until(camera.get_subscription_count, 'subscribing')
        camera.publish(ros.image(photo))
        ros.until(lambda: features, 'features')  # noqa: B023
        ros.stop_listening(features)
        ros.until(lambda: not camera.get_subscription_count(), 'unsubscribing')
    assert extractor.statistics.total('processed') == 3


def test_middleware_that_knows_no_such_event_is_polled(ros, monkeypatch) -> None:
    class Unknown(endpoints.PublisherEventCallbacks):
        def create_event_handlers(self, *arguments):
            if self.matched or self.incompatible_qos:
                raise endpoints.UnsupportedEventTypeError('unknown')
            return []

    monkeypatch.setattr(endpoints, 'PublisherEventCallbacks', Unknown)
    node = ros.start(ExtractorNode)
    assert not node._listeners_reported
    ros.listen(pytest.importorskip('kpfeat.msg').Features, 'features')
    ros.until(lambda: not node.rests, 'subscribing')


def test_second_listener_that_leaves_does_not_end_the_first(ros, extractor, photo) -> None:
    camera = camera_of(ros)
    first, second = ros.listen(Features, 'features'), ros.listen(Features, 'features')
    ros.until(lambda: extractor.streams[''].wanted() == 2, 'both listeners')
    ros.stop_listening(second)
    ros.until(lambda: extractor.streams[''].wanted() == 1, 'one to leave')
    ros.spin(0.4)  # longer than until the next review
    camera.publish(ros.image(photo))
    ros.until(lambda: first, 'features')


def test_chain_of_nodes_wakes_from_its_end_and_falls_asleep_again(ros, extractor, photo) -> None:
    matcher, overlay = ros.start(MatcherNode), ros.start(OverlayNode)
    nodes = (extractor, matcher, overlay)
    ros.spin(0.3)
    assert all(node.rests for node in nodes)
    pictures = ros.listen(Image, 'image_matches')
    ros.until(lambda: not any(node.rests for node in nodes), 'all nodes to wake')
    camera = camera_of(ros)

    def drawn() -> bool:
        camera.publish(ros.image(photo))
        ros.spin(0.1)
        return bool(pictures)

    ros.until(drawn, 'a picture')
    ros.stop_listening(pictures)
    ros.until(lambda: all(node.rests for node in nodes), 'all nodes to rest')


def test_diagnostics_say_that_the_node_rests_and_that_this_is_well(ros, extractor) -> None:
    reports = ros.listen(DiagnosticArray, '/diagnostics')
    camera_of(ros)
    found = ros.until(lambda: reports and reports[-1].status[0], 'diagnostics')
    assert (found.level, found.message) == (b'\x00', 'idle: nobody listens to the results')


@pytest.mark.parametrize(
    ('override', 'words'),
    [('reliability:=sometimes', "QoS of '/image' is not possible"), ('depth:=many', 'depth')],
    ids=['value', 'type'],
)
def test_input_that_cannot_be_made_is_reported_and_the_node_lives_on(ros, override, words) -> None:
    override = ['-p', f'qos_overrides./image.subscription.{override}']
    node = ros.start(ExtractorNode, *override)
    warnings = ros.logged(30)
    ros.listen(Features, 'features')
    ros.until(lambda: any(words in text for text in warnings), 'the warning')
    assert words in node.mismatches()[0]


def test_deactivate_ends_what_is_connected_lazily(ros, extractor) -> None:
    camera = camera_of(ros)
    ros.listen(Features, 'features')
    ros.until(camera.get_subscription_count, 'subscribing')
    extractor.trigger_deactivate()
    extractor.review()
    ros.until(lambda: not camera.get_subscription_count(), 'unsubscribing')
    extractor.trigger_activate()
    ros.until(camera.get_subscription_count, 'subscribing again')
