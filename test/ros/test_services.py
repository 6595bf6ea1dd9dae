"""Services of the nodes over real DDS, beside the topics."""

import array
from functools import partial
import threading
from types import SimpleNamespace

from kpfeat_core.messages.conversions import message_to_features
import numpy as np
import pytest

pytest.importorskip('kpfeat.msg', reason='no ROS 2 or no messages: `make test` brings them')

from kpfeat.srv import ExtractFeatures
from kpfeat_ros.extractor_node import ExtractorNode, MOST_REQUESTS
from kpfeat_ros.matcher_node import MatcherNode
from rcl_interfaces.srv import GetParameters
from rclpy.executors import SingleThreadedExecutor
from std_srvs.srv import Trigger


@pytest.fixture
def start(ros):
    return partial(ros.start, ExtractorNode)


def extract(ros, image, name: str = '/extractor/extract'):
    return ros.call(ExtractFeatures, name, image=image)


def ask(ros, *images):
    """Send requests at once; gives their futures."""
    client = ros.probe.create_client(ExtractFeatures, '/extractor/extract')
    ros.until(client.service_is_ready, 'the service')
    return [client.call_async(ExtractFeatures.Request(image=image)) for image in images]


def test_features_of_the_image_in_the_request_are_those_of_extract(ros, start, photo) -> None:
    node, image = start(max_num_keypoints=50), ros.image(photo)
    response = extract(ros, image)
    assert (response.success, response.message) == (True, '50 keypoints')
    assert response.features.header == image.header
    assert response.features.model == 'alike-t'
    expected = node.extractor.extract(photo).numpy()
    found = message_to_features(response.features).numpy()
    for name, value in expected.items():
        assert np.array_equal(found[name], value), name


def test_options_of_the_input_and_of_sending_hold_for_requests_too(ros, start, photo) -> None:
    start(roi_x_offset=64, descriptor_type='int8', max_rate_hz=0.01)
    for _ in range(2):
        features = extract(ros, ros.image(photo)).features
        assert min(features.keypoints[::2]) >= 64
        assert features.descriptor_type == features.INT8


@pytest.mark.parametrize(
    ('fields', 'sentence'),
    [
        ({'encoding': 'hologram'}, "encoding 'hologram' is not one"),
        ({'data': array.array('B', bytes(10))}, 'image holds 10 bytes, expected 1600'),
        ({}, 'alike-t needs at least 32x32'),
    ],
)
def test_image_that_has_no_features_is_answered_with_the_reason(
    ros, start, fields, sentence
) -> None:
    node = start()
    picture = np.zeros((40, 40) if fields else (20, 20), np.uint8)
    response = extract(ros, ros.image(picture, **fields))
    assert not response.success
    assert sentence in response.message
    assert len(response.features.scores) == 0
    assert node.statistics.total('failed') == 0  # of images on the topic


def test_failure_of_our_own_is_answered_and_the_node_lives(ros, start, photo) -> None:
    node, errors = start(), ros.logged()
    extractor, node.model.extractor = node.extractor, SimpleNamespace(device='cpu')
    response = extract(ros, ros.image(photo))
    assert not response.success and 'AttributeError' in response.message
    ros.until(lambda: any('Traceback' in text for text in errors), 'a traceback in the log')
    node.model.extractor = extractor
    assert extract(ros, ros.image(photo)).success


def test_executor_goes_on_while_a_request_is_at_work(ros, start, photo, hold) -> None:
    node = start()
    held = hold(node)
    (future,) = ask(ros, ros.image(photo))
    ros.until(lambda: held.batches, 'the request to be at work')
    values = ros.call(GetParameters, '/extractor/get_parameters', names=['model']).values
    assert values[0].string_value == 'alike-t'
    assert not future.done()
    held.release()
    ros.until(future.done, 'the answer')
    assert future.result().success


def test_every_request_is_answered_in_order_and_too_many_are_refused(
    ros, start, photo, hold
) -> None:
    node = start()
    held = hold(node)
    images = [ros.image(photo) for _ in range(MOST_REQUESTS + 2)]
    futures = ask(ros, *images)
    ros.until(
        lambda: sum(f.done() for f in futures) == 2 and held.batches, 'the last to be refused'
    )
    refused = [f.result() for f in futures if f.done()]
    assert all('8 requests wait already' in r.message and not r.success for r in refused)
    held.release()
    ros.until(lambda: all(f.done() for f in futures), 'all answers')
    answered = [i for i, f in enumerate(futures) if f.result().success]
    assert len(answered) == MOST_REQUESTS
    for i in answered:
        assert futures[i].result().features.header == images[i].header


def test_answer_comes_at_once_and_not_with_the_next_event(ros, start, photo) -> None:
    """Nothing else wakes an executor that sleeps: the end of the work must."""
    node = start()
    for timer in list(node.timers):
        node.destroy_timer(timer)
    ros.executor.remove_node(node)
    alone = SingleThreadedExecutor()
    alone.add_node(node)
    thread = threading.Thread(target=alone.spin, daemon=True)
    thread.start()
    try:
        assert extract(ros, ros.image(photo)).success
    finally:
        alone.shutdown()
        thread.join(10)


def test_request_is_answered_when_the_node_is_deactivated_meanwhile(
    ros, start, photo, hold
) -> None:
    node = start()
    held = hold(node)
    futures = ask(ros, ros.image(photo), ros.image(photo))
    ros.until(lambda: held.batches, 'the request to be at work')
    ros.until(lambda: len(node._requests._waiting) == 2, 'both requests')
    node.trigger_deactivate()
    ros.until(lambda: all(f.done() for f in futures), 'the answers')
    assert {f.result().message for f in futures} == {'the node was deactivated meanwhile'}
    held.release()
    assert 'the node is inactive, expected active' in extract(ros, ros.image(photo)).message
    node.trigger_activate()
    assert extract(ros, ros.image(photo)).success


def test_node_can_be_destroyed_with_a_request_at_work(ros, start, photo, hold) -> None:
    node = start()
    held = hold(node)
    (future,) = ask(ros, ros.image(photo))
    ros.until(lambda: held.batches, 'the request to be at work')
    ros.executor.remove_node(node)
    node.destroy_node()
    held.release()
    ros.spin(0.5)
    assert not future.done()


@pytest.mark.parametrize('name', ['extractor', 'matcher'])
def test_statistics_can_be_set_back(ros, start, name) -> None:
    node = start() if name == 'extractor' else ros.start(MatcherNode)
    node.statistics.count('received', 5)
    node.statistics.fail('encoding')
    node.statistics.add_duration('decode', 1.0)
    response = ros.call(Trigger, f'/{name}/reset_statistics')
    assert (response.success, response.message) == (True, 'all counts and times start again')
    report = node.statistics.report()
    assert set(report.totals.values()) == {0} and not report.durations_ms and not report.failures
    assert node.statistics.fail('encoding')  # the first of its kind again: logged again


def test_services_follow_the_name_and_namespace_of_the_node(ros, start, photo) -> None:
    start('-r', '__ns:=/robot', '-r', '__node:=front')
    assert extract(ros, ros.image(photo), '/robot/front/extract').success
