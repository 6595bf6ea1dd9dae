"""Nodes that are loaded into one process: by the manager alone, and over the services."""

import gc
import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
from typing import Any
import weakref

import pytest

SLOW_IMPORT_S = 1.5
NODES = """
import time
from rclpy.node import Node


class Plain(Node):  # as most are written: no options
    def __init__(self):
        super().__init__('plain')
        self.declare_parameter('answer', 1)
        self.publisher = self.create_publisher(Log, 'out', 1)


class Open(Node):
    def __init__(self, **options):
        super().__init__('open', **options)
        self.get_logger().debug('open is there')


class Needy(Node):
    def __init__(self, robot):
        super().__init__('needy')


kept = []


class Broken(Node):
    def __init__(self):
        super().__init__('broken')
        kept.append(self)  # nothing but its end takes it away
        self.create_publisher(Log, 'broken_out', 1)
        raise ValueError('there is no lens')


class Leaving(Node):
    def __init__(self):
        super().__init__('leaving')
        raise SystemExit('there is no licence')


class Stubborn(Node):
    def __init__(self):
        super().__init__('stubborn')

    def destroy_node(self):
        raise OSError('the camera does not let go')


class Slow(Node):
    def __init__(self, **options):
        time.sleep(1.5)
        super().__init__('slow', **options)


from rcl_interfaces.msg import Log

number = 5
"""
needs_services = pytest.mark.skipif(
    importlib.util.find_spec('composition_interfaces') is None,
    reason='composition_interfaces is not installed: `make test` compiles it',
)


@pytest.fixture(scope='module', autouse=True)
def others(tmp_path_factory) -> Any:
    """Give the Python package of somebody else, with an entry point."""
    folder = tmp_path_factory.mktemp('others')
    (folder / 'others_nodes.py').write_text(NODES)
    (folder / 'others_lacking.py').write_text('import no_such_module\n')
    info = folder / 'others-1.0.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: others\nVersion: 1.0\n')
    (info / 'entry_points.txt').write_text(
        '[rclpy_components]\nothers::Open = others_nodes:Open\n'
    )
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture
def manager(ros) -> Any:
    from kpfeat_ros.components import ComponentManager

    manager = ComponentManager(ros.probe)
    yield manager
    manager.close()


def node_of(manager: Any, unique_id: int) -> Any:
    return manager._nodes[unique_id]


def level_of(name: str) -> int:
    from rclpy.logging import get_logger_level

    return int(get_logger_level(name))


def names(ros: Any) -> list[str]:
    return [
        f'{ns}/{name}'.replace('//', '/') for name, ns in ros.probe.get_node_names_and_namespaces()
    ]


def test_node_gets_name_namespace_remappings_parameters_and_level(ros, manager) -> None:
    from rclpy.parameter import Parameter

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
    ros.until(lambda: '/left/robin' in names(ros), 'the node in the graph')
    assert manager.unload(1) == (True, '')
    ros.until(lambda: '/left/robin' not in names(ros), 'the node to go')
    assert level_of('left.robin') == 0


def test_node_that_nothing_is_said_about_has_its_own_name(manager) -> None:
    assert manager.load('others', 'others_nodes:Plain').full_node_name == '/plain'
    assert manager.load('others', 'others_nodes:Plain', namespace='a/b').error
    assert manager.load('others', 'others_nodes:Plain', namespace='/a/b')[2] == '/a/b/plain'
    assert manager.list() == [(1, '/plain'), (2, '/a/b/plain')]


@pytest.mark.parametrize('plugin', ['others::Open', 'Open', 'others_nodes:Open'])
def test_node_is_found_as_entry_point_and_as_class(manager, plugin) -> None:
    assert manager.load('others', plugin).full_node_name == '/open'


def test_every_node_of_ours_is_a_plugin(repository) -> None:
    from kpfeat_ros.plugins import find_node_class, OWN

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
    before = names(ros)
    loaded = manager.load('others', **wanted)
    assert not loaded.success
    assert (loaded.full_node_name, loaded.unique_id) == ('', 0)
    assert re.search(sentence, loaded.error), loaded.error
    assert '\n' not in loaded.error
    assert manager.list() == []
    ros.until(lambda: set(names(ros)) <= set(before), 'the failed node to go')
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
    from kpfeat_ros import components

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
    ros.until(lambda: '/stubborn' in names(ros), 'the node in the graph')
    assert manager.unload(1) == (True, '')
    assert manager.list() == []
    ros.until(lambda: '/stubborn' not in names(ros), 'the node to go')


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
    from kpfeat_ros import exchange
    from rclpy.node import Node

    seen = []

    class Watcher(Node):
        def __init__(self) -> None:
            super().__init__(f'watcher{len(seen)}')
            seen.append(exchange.current_exchange())

    sys.modules['others_nodes'].Watcher = Watcher

    def load(extra):
        return manager.load('', 'others_nodes:Watcher', extra_arguments=extra)

    for extra in ({}, {'use_intra_process_comms': True}, {'use_intra_process_comms': False}):
        assert load(extra).success
    assert seen[0] is seen[1] is exchange.current_exchange()
    assert seen[2] is not seen[0]


def test_unloading_frees_the_model(ros, manager, weights_file) -> None:
    from rclpy.parameter import Parameter

    given = {'model': 'alike-t', 'weights': weights_file, 'device': 'cpu', 'warm_up_size': '64x64'}
    parameters = [Parameter(name, value=value) for name, value in given.items()]
    loaded = manager.load('kpfeat', 'kpfeat::ExtractorNode', parameters=parameters)
    assert loaded.full_node_name == '/extractor', loaded.error
    extractor = node_of(manager, 1).extractor
    gone = [weakref.ref(extractor), weakref.ref(next(extractor.parameters()))]
    del extractor
    ros.spin(0.2)
    manager.unload(1)
    ros.spin(0.2)  # the executor forgets it too
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_bad_weights_of_our_node_give_its_own_sentence(manager) -> None:
    from rclpy.parameter import Parameter

    parameters = [Parameter('weights', value='/no/such/file.safetensors')]
    loaded = manager.load('kpfeat', 'kpfeat::ExtractorNode', parameters=parameters)
    assert '/no/such/file.safetensors' in loaded.error
    assert 'Traceback' not in loaded.error


def test_node_that_is_ready_after_the_end_is_destroyed(ros, manager) -> None:
    answers = []
    loading = threading.Thread(
        target=lambda: answers.append(manager.load('others', 'others_nodes:Slow'))
    )
    loading.start()
    manager.close()
    loading.join()
    assert 'the container has ended' in answers[0].error
    ros.until(lambda: '/slow' not in names(ros), 'the node to go')


class Container:
    """A container among the nodes of a test, and its services."""

    def __init__(self, ros: Any) -> None:
        from kpfeat_ros.container import ComponentContainer

        self.ros = ros
        self.node = ros.add(ComponentContainer(use_global_arguments=False))

    def load(self, plugin: str, **fields: Any) -> Any:
        return self.ros.call(
            *self.service('load'), package_name='others', plugin_name=plugin, **fields
        )

    def unload(self, unique_id: int) -> Any:
        return self.ros.call(*self.service('unload'), unique_id=unique_id)

    def list(self) -> dict[int, str]:
        answer = self.ros.call(*self.service('list'))
        return dict(zip(answer.unique_ids, answer.full_node_names, strict=True))

    def service(self, verb: str) -> tuple[type, str]:
        from composition_interfaces import srv

        plural = 'nodes' if verb == 'list' else 'node'
        kind = getattr(srv, f'{verb.capitalize()}{plural.capitalize()}')
        return kind, f'/ComponentManager/_container/{verb}_{plural}'


@pytest.fixture
def container(ros) -> Container:
    return Container(ros)


def parameter(name: str, **value: Any) -> Any:
    from rcl_interfaces.msg import Parameter, ParameterValue

    return Parameter(name=name, value=ParameterValue(**value))


@needs_services
def test_services_load_list_and_unload(ros, container) -> None:
    answer = container.load(
        'others::Open',
        node_name='one',
        node_namespace='/left',
        parameters=[parameter('use_sim_time', type=1, bool_value=True)],
        extra_arguments=[parameter('use_intra_process_comms', type=1, bool_value=False)],
        remap_rules=['a:=b'],
        log_level=20,
    )
    assert (answer.success, answer.full_node_name, answer.unique_id) == (True, '/left/one', 1)
    assert node_of(container.node.manager, 1).get_parameter('use_sim_time').value is True
    assert container.load('others::Open').full_node_name == '/open'
    assert container.list() == {1: '/left/one', 2: '/open'}
    refused = container.load('others::Open')
    assert not refused.success
    assert 'is taken' in refused.error_message
    assert container.unload(1).success
    assert 'no node with the id 1' in container.unload(1).error_message
    assert container.list() == {2: '/open'}


@needs_services
def test_loaded_nodes_are_spun(ros, container) -> None:
    from rcl_interfaces.srv import GetParameters

    container.load('others::Open')
    answer = ros.call(GetParameters, '/open/get_parameters', names=['use_sim_time'])
    assert answer.values[0].bool_value is False


@needs_services
def test_loading_does_not_keep_the_executor_waiting(ros, container) -> None:
    kind, name = container.service('load')
    client = ros.probe.create_client(kind, name)
    ros.until(client.service_is_ready, 'the service')
    ticks: list[float] = []
    ros.probe.create_timer(0.01, lambda: ticks.append(time.monotonic()))
    future = client.call_async(kind.Request(plugin_name='others_nodes:Slow'))
    ros.spin(0.3)
    assert container.list() == {}  # is answered meanwhile
    assert not future.done()
    ros.until(future.done, 'the slow node')
    assert future.result().success, future.result().error_message
    gaps = [later - earlier for earlier, later in zip(ticks, ticks[1:], strict=False)]
    assert max(gaps) < SLOW_IMPORT_S / 2


@needs_services
def test_requests_that_wait_are_answered_in_their_order(ros, container) -> None:
    kind, name = container.service('load')
    client = ros.probe.create_client(kind, name)
    ros.until(client.service_is_ready, 'the service')
    requests = [kind.Request(plugin_name='others_nodes:Open', node_name=f'n{k}') for k in range(4)]
    futures = [client.call_async(request) for request in requests]
    ros.until(lambda: all(future.done() for future in futures), 'all answers')
    assert sorted(container.list().values()) == ['/n0', '/n1', '/n2', '/n3']
    assert {future.result().unique_id for future in futures} == {1, 2, 3, 4}


@needs_services
def test_waiting_for_a_node_does_not_keep_a_core_busy(ros, container) -> None:
    kind, name = container.service('load')
    client = ros.probe.create_client(kind, name)
    ros.until(client.service_is_ready, 'the service')
    future = client.call_async(kind.Request(plugin_name='others_nodes:Slow'))
    ros.spin(0.2)
    start, turns = time.monotonic(), 0
    while not future.done() and time.monotonic() < start + 30.0:
        ros.executor.spin_once(timeout_sec=1.0)
        turns += 1
    assert future.result().success
    assert turns < 200


@needs_services
def test_unloading_over_the_service_frees_the_model(ros, container, weights_file) -> None:
    given = {'weights': weights_file, 'device': 'cpu', 'warm_up_size': '64x64'}
    parameters = [parameter(name, type=4, string_value=value) for name, value in given.items()]
    answer = container.load('kpfeat::ExtractorNode', parameters=parameters)
    assert answer.success, answer.error_message
    gone = weakref.ref(node_of(container.node.manager, 1).extractor)
    node = weakref.ref(node_of(container.node.manager, 1))
    assert container.unload(1).success
    ros.until(lambda: gone() is None and node() is None, 'model and node to go')


def test_container_without_the_services_says_what_it_needs(ros, monkeypatch) -> None:
    from kpfeat_core.errors import ConfigError
    from kpfeat_ros import container

    monkeypatch.setattr(container, 'LoadNode', None)
    with pytest.raises(
        ConfigError, match='no node is given to start with.*composition-interfaces'
    ):
        container.ComponentContainer(use_global_arguments=False)
    logged = ros.logged(30)
    node = ros.add(
        container.ComponentContainer(['one=others_nodes:Open'], use_global_arguments=False)
    )
    ros.until(lambda: node.manager.list() == [(1, '/one')], 'the node')
    ros.until(lambda: any('composition-interfaces' in text for text in logged), 'the warning')


def test_given_nodes_follow_the_command_line_but_keep_their_names() -> None:
    from kpfeat_ros.container import package_of, without_names

    words = [
        '--ros-args',
        '-r',
        '__node:=box',
        '-r',
        '__ns:=/a',
        '--remap',
        '__name:=b',
        '-p',
        'c:=1',
    ]
    assert without_names(words) == ['--ros-args', '-r', '__ns:=/a', '-p', 'c:=1']
    assert package_of('kpfeat::ExtractorNode') == 'kpfeat'
    assert package_of('a.b:Class') == 'a'


def start(folder: Any, *arguments: str) -> subprocess.Popen:
    environment = {**os.environ, 'PYTHONPATH': f'{folder}:{os.environ.get("PYTHONPATH", "")}'}
    return subprocess.Popen(
        [sys.executable, '-m', 'kpfeat_ros.container', *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def said_by(process: subprocess.Popen) -> str:
    """Return all that a process says until it ends by itself."""
    try:
        return process.communicate(timeout=60)[0]
    finally:
        process.kill()


def test_process_starts_the_nodes_of_command_line_and_parameter_and_ends_on_interrupt(
    ros, others
) -> None:
    process = start(
        others,
        'one=others_nodes:Plain',
        '--ros-args',
        *('-r', '__node:=box', '-r', '__ns:=/a', '-r', 'out:=changed'),
        *('-p', "components:=['others::Open']"),
    )
    try:
        wanted = {'/a/box', '/a/one', '/a/open'}
        ros.until(lambda: wanted <= set(names(ros)) or process.poll() is not None, 'the nodes')
        ros.until(lambda: ros.probe.count_publishers('/a/changed'), 'the remapped topic')
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, process.stdout.read()
    finally:
        process.kill()
        process.communicate()


def test_process_ends_with_one_sentence_if_a_given_node_fails(ros_context, others) -> None:
    process = start(others, 'kpfeat::Absent')
    said = said_by(process)
    assert process.returncode == 2, said
    assert (
        said.strip().splitlines()[-1].startswith("error: there is no component 'kpfeat::Absent'")
    )


def test_process_that_is_interrupted_while_it_loads_ends(ros, others) -> None:
    process = start(others, 'others_nodes:Slow')
    try:
        ros.until(lambda: '/ComponentManager' in names(ros), 'the container')
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, -signal.SIGINT)
    finally:
        process.kill()
        process.communicate()


def test_help_of_the_container_tells_how_to_give_nodes(ros_context, others) -> None:
    process = start(others, '--help')
    said = said_by(process)
    assert process.returncode == 0
    assert 'kpfeat::ExtractorNode' in said
