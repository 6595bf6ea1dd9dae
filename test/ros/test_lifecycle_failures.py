"""Transitions that fail: what is said, and that the node can go on."""

import re

from kpfeat_core.errors import ConfigError
import pytest
from steered import diagnostics, EXTRACTOR, topics_of

pytest.importorskip('kpfeat.msg', reason='no ROS 2 or no messages: `make test` brings them')

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState


@pytest.mark.parametrize(
    ('given', 'sentence', 'corrected'),
    [
        ({'weights': '/no/such/file'}, '/no/such/file', {}),
        ({'model': 'sift'}, "there is no model 'sift'; expected one of", {'model': 'alike-t'}),
        ({'device': 'cuda:9'}, "device 'cuda:9' is not there.*or use device cpu", {}),
        ({'device': 'abacus'}, 'expected cpu, cuda', {}),
        ({'nms_radius': 65}, 'nms_radius.*out of range', {'nms_radius': 3}),
        ({'nms_radius': 'wide'}, 'nms_radius.*expected int', {'nms_radius': 3}),
        ({'warm_up_size': 'big'}, "warm_up_size is 'big', expected WIDTHxHEIGHT", {}),
    ],
)
def test_what_cannot_be_loaded_fails_the_transition_and_can_be_corrected(
    ros, steered, weights_file, given, sentence, corrected
) -> None:
    subject, errors = steered(**given), ros.logged()
    statuses = diagnostics(ros)
    assert not subject.change('configure')
    assert subject.state == 'unconfigured'
    ros.until(lambda: errors, 'the error in the log')
    assert len(errors) == 1 and len(errors[0].splitlines()) == 1
    assert re.search(sentence, errors[0]), errors[0]
    assert ros.until(lambda: statuses.find(errors[0]), 'the error in diagnostics').level == b'\x02'
    good = {'weights': weights_file, 'device': 'cpu', 'warm_up_size': '64x64'}
    for name, value in (corrected or {next(iter(given)): good[next(iter(given))]}).items():
        assert subject.set(**{name: value}).successful
    assert subject.change('configure', 'activate')
    assert subject.node.extractor.config.nms_radius == corrected.get('nms_radius', 2)


def test_broken_weights_fail_the_transition_with_the_file_named(ros, steered, tmp_path) -> None:
    path = tmp_path / 'broken.safetensors'
    path.write_bytes(b'not weights')
    subject, errors = steered(weights=str(path)), ros.logged()
    assert not subject.change('configure')
    ros.until(lambda: errors, 'the error in the log')
    assert str(path) in errors[0] and 'Traceback' not in errors[0]


def test_transition_that_is_not_possible_is_refused_and_survived(ros, steered) -> None:
    subject = steered()
    for wanted in (Transition(id=Transition.TRANSITION_ACTIVATE), Transition(id=99)):
        answer = ros.call(ChangeState, f'{EXTRACTOR}/change_state', transition=wanted)
        assert not answer.success
    assert not subject.change('deactivate')
    assert not subject.change('fly')
    assert subject.state == 'unconfigured'
    assert subject.change('configure')


def test_failure_of_our_own_frees_everything_and_the_node_can_go_on(ros, steered) -> None:
    subject, errors = steered(), ros.logged()
    activate = subject.node.activate

    def broken() -> None:
        activate()
        raise ZeroDivisionError('our own')

    subject.node.activate = broken
    subject.change('configure')
    assert not subject.change('activate')
    assert subject.state == 'unconfigured'
    ros.until(lambda: errors, 'the error in the log')
    assert 'Traceback' in errors[0] and 'our own' in errors[0]
    assert subject.node.extractor is None
    assert topics_of(ros) == set()
    subject.node.activate = activate
    assert subject.change('configure', 'activate')


def test_activation_that_fails_leaves_the_node_inactive_and_disconnected(ros, steered) -> None:
    subject = steered()
    activate = subject.node.activate

    def refused() -> None:
        activate()
        raise ConfigError('no such port')

    subject.node.activate = refused
    subject.change('configure')
    assert not subject.change('activate')
    assert subject.state == 'inactive'
    assert not subject.node._endpoints
    subject.node.activate = activate
    assert subject.change('activate')
