"""The manager that loads nodes into one process, without its services."""

import gc
import re
import threading
from typing import Any
import weakref

import pytest

pytest.importorskip('kpfeat.msg', reason='no ROS 2 or no messages: `make test` brings them')

from kpfeat_ros import components, exchange
from kpfeat_ros.components import find_node_class, OWN
from rclpy.logging import get_logger_level
from rclpy.node import Node
from rclpy.parameter import Parameter


def node_of(manager: Any, unique_id: int) -> Any:
    return manager._nodes[unique_id]


def level_of(name: str) -> int:
    return int(get_logger_level(name))


def test_node_gets_name_namespace_remappings_parameters_and_level(ros, manager) -> None:
    loaded = manager.load(
        'others',
        'others_nodes:Plain',
        name='robin',
        namespace='/left',
        remap_rules=['out:=in', '/left/out:=/never'],
        parameters=[Parameter('answer', value=42)],
        log_level=10,
    )
    assert loaded == (True, '', '/left/robin', 1)
    node = node_of(manager, 1)
    assert node.publisher.topic_name == '/left/in'
    assert node.get_parameter('answer').value == 42
    assert level_of('left.robin') == 10
    ros.until(lambda: '/left/robin' in ros.names(), 'the node in the graph')
    assert manager.unload(1) == (True, '')
    ros.until(lambda: '/left/robin' not in ros.names(), 'the node to go')
    assert level_of('left.robin') == 0


def test_node_that_nothing_is_said_about_has_its_own_name(manager) -> None:
    assert manager.load('others', 'others_nodes:Plain').full_node_name == '/plain'
    assert manager.load('others', 'others_nodes:Plain', namespace='a/b').error
    assert manager.load('others', 'others_nodes:Plain', namespace='/a/b')[2] == '/a/b/plain'
    assert manager.list() == [(1, '/plain'), (2, '/a/b/plain')]


@pytest.mark.parametrize(
    'plugin', ['others::Open', 'Open', 'open', 'OTHERS::open', 'others_nodes:Open']
)
def test_node_is_found_as_entry_point_and_as_class(manager, plugin) -> None:
    assert manager.load('others', plugin).full_node_name == '/open'


def test_every_node_of_ours_is_a_plugin(repository) -> None:
    files = sorted(path.stem for path in (repository / 'kpfeat_ros').glob('*_node.py'))
    assert (
        sorted(path.partition(':')[0].removeprefix('kpfeat_ros.') for path in OWN.values())
        == files
    )
    for name in OWN:
        assert f'kpfeat::{find_node_class("kpfeat", name).__name__}' == name
    assert find_node_class('kpfeat', 'ExtractorNode') is find_node_class(
        '', 'kpfeat::ExtractorNode'
    )


@pytest.mark.parametrize(
    'wanted, sentence',
    [
        (
            {'plugin': 'others::Absent'},
            r"no component 'others::Absent' in package 'others'; known",
        ),
        ({'plugin': 'no_such_module:Node'}, 'install or build its package'),
        ({'plugin': 'others_nodes.absent:Node'}, 'install or build its package'),
        ({'plugin': 'others_lacking:Node'}, "No module named 'no_such_module'"),
        ({'plugin': 'others_nodes:Absent'}, "has no class 'Absent'"),
        ({'plugin': 'others_nodes:number'}, 'expected a class derived from rclpy.node.Node'),
        ({'plugin': 'others_nodes:Needy'}, r'let it take \*\*options'),
        ({'plugin': 'others_nodes:Broken'}, 'ValueError: there is no lens'),
        ({'plugin': 'others_nodes:Leaving'}, 'SystemExit: there is no licence'),
        ({'plugin': 'others_nodes:Plain', 'name': 'not a name'}, 'not a name'),
        ({'plugin': 'others_nodes:Plain', 'remap_rules': ['out']}, 'out'),
        ({'plugin': 'others_nodes:Plain', 'log_level': 7}, 'log level is 7, expected one of: 0'),
        (
            {'plugin': 'others_nodes:Plain', 'extra_arguments': {'use_gpu': True}},
            "'use_gpu' is not known; expected one of",
        ),
        (
            {'plugin': 'others_nodes:Plain', 'extra_arguments': {'enable_rosout': 'yes'}},
            "'enable_rosout' is 'yes', expected true or false",
        ),
    ],
)
def test_node_that_fails_gives_a_sentence_and_leaves_nothing(
    ros, manager, wanted, sentence
) -> None:
    before = ros.names()
    loaded = manager.load('others', **wanted)
    assert not loaded.success
    assert (loaded.full_node_name, loaded.unique_id) == ('', 0)
    assert re.search(sentence, loaded.error), loaded.error
    assert '\n' not in loaded.error
    assert manager.list() == []
    ros.until(lambda: set(ros.names()) <= set(before), 'the failed node to go')
    assert ros.probe.count_publishers('broken_out') == 0
    assert manager.load('others', 'others_nodes:Plain').success


def test_name_that_is_taken_is_refused_before_anything_is_loaded(manager) -> None:
    assert manager.load('others', 'others_nodes:Plain', name='one').success
    refused = manager.load('others', 'others::Absent', name='one')
    assert "'/one' is taken by the node with the id 1" in refused.error
    assert manager.load('others', 'others_nodes:Plain').success
    own = manager.load('others', 'others_nodes:Plain')  # known only when it is made
    assert "'/plain' is taken by the node with the id 2" in own.error
    assert manager.load('others', 'others_nodes:Plain', name='one', namespace='/a').success
    assert [name for _, name in manager.list()] == ['/one', '/plain', '/a/one']
    manager.unload(1)
    assert manager.load('others', 'others_nodes:Plain', name='one').unique_id == 4


def test_second_node_of_ours_is_refused_before_it_is_made(manager, monkeypatch) -> None:
    assert manager.load('kpfeat', 'kpfeat::MatcherNode').full_node_name == '/matcher'
    # two nodes of one name would share its log, and the end of one would end it for both
    monkeypatch.setattr(components, 'construct', None)
    again = manager.load('kpfeat', 'kpfeat::MatcherNode')
    assert "'/matcher' is taken" in again.error


def test_level_of_a_running_node_stays_when_another_of_its_name_is_refused(manager) -> None:
    manager.load('others', 'others_nodes:Plain', name='one', log_level=10)
    assert not manager.load('others', 'others_nodes:Plain', name='one', log_level=40).success
    assert level_of('one') == 10


def test_unknown_id_is_refused_with_those_there_are(manager) -> None:
    manager.load('others', 'others_nodes:Plain')
    assert manager.unload(7) == (False, 'there is no node with the id 7; loaded are: 1')


def test_node_that_fails_in_its_end_is_gone_all_the_same(ros, manager) -> None:
    manager.load('others', 'others_nodes:Stubborn')
    ros.until(lambda: '/stubborn' in ros.names(), 'the node in the graph')
    assert manager.unload(1) == (True, '')
    assert manager.list() == []
    ros.until(lambda: '/stubborn' not in ros.names(), 'the node to go')


def test_extra_arguments_reach_the_node_or_are_said_to_have_no_use(ros, manager) -> None:
    logged = ros.logged(30)
    ros.until(lambda: ros.probe.count_subscribers('/rosout'), 'the listener')
    extra = {'start_parameter_services': False, 'use_intra_process_comms': True}
    assert manager.load('others', 'others_nodes:Plain', extra_arguments=extra).success
    services = {service.srv_name for service in node_of(manager, 1).services}
    assert not {name for name in services if name.endswith('set_parameters')}
    more = {'use_clock_thread': True, 'forward_global_arguments': True}
    assert manager.load('others', 'others_nodes:Open', extra_arguments=more).success
    said = ('no use for use_intra_process_comms', 'no use_clock_thread', 'whole container')
    for words in said:
        ros.until(lambda words=words: any(words in text for text in logged), words)


def test_nodes_of_ours_meet_in_memory_unless_intra_process_is_off(manager) -> None:
    import others_nodes

    seen = []

    class Watcher(Node):
        def __init__(self) -> None:
            super().__init__(f'watcher{len(seen)}')
            seen.append(exchange.current_exchange())

    others_nodes.Watcher = Watcher

    def load(extra):
        return manager.load('', 'others_nodes:Watcher', extra_arguments=extra)

    for extra in ({}, {'use_intra_process_comms': True}, {'use_intra_process_comms': False}):
        assert load(extra).success
    assert seen[0] is seen[1] is exchange.current_exchange()
    assert seen[2] is not seen[0]


def test_unloading_frees_the_model(ros, manager, weights_file) -> None:
    given = {'model': 'alike-t', 'weights': weights_file, 'device': 'cpu', 'warm_up_size': '64x64'}
    parameters = [Parameter(name, value=value) for name, value in given.items()]
    loaded = manager.load('kpfeat', 'kpfeat::ExtractorNode', parameters=parameters)
    assert loaded.full_node_name == '/extractor', loaded.error
    extractor = node_of(manager, 1).extractor
    gone = [weakref.ref(extractor), weakref.ref(next(extractor.parameters()))]
    del extractor
    ros.spin(0.2)
    manager.unload(1)

    def is_gone() -> bool:  # when the executor has forgotten it too
        gc.collect()
        return not any(ref() for ref in gone)

    ros.until(is_gone, 'the model to go')


def test_bad_weights_of_our_node_give_its_own_sentence(manager) -> None:
    parameters = [Parameter('weights', value='/no/such/file.safetensors')]
    loaded = manager.load('kpfeat', 'kpfeat::ExtractorNode', parameters=parameters)
    assert '/no/such/file.safetensors' in loaded.error
    assert 'Traceback' not in loaded.error


def test_node_that_is_ready_after_the_end_is_destroyed(ros, manager, waiting) -> None:
    answers = []
    loading = threading.Thread(
        target=lambda: answers.append(manager.load('others', 'others_nodes:Waiting'))
    )
    loading.start()
    assert waiting.begun.wait(30)
    manager.close()
    waiting.may_go_on.set()
    loading.join()
    assert 'the container has ended' in answers[0].error
    ros.until(lambda: '/waiting' not in ros.names(), 'the node to go')


def test_method_of_somebody_else_is_not_taken_for_one_of_ours(manager) -> None:
    assert manager.load('others', 'others_nodes:Plain').success
    node_of(manager, 1).stop_work = node_of(manager, 1).ask_to_stop = lambda speed: 1 / 0
    assert manager.stop_work(1)() is node_of(manager, 1)
    manager.ask_to_stop()
