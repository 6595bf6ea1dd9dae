"""Nodes that are loaded into one process over the services of a container."""

import importlib.util
import time
from typing import Any
import weakref

import pytest

pytest.importorskip('kpfeat.msg', reason='no ROS 2 or no messages: `make test` brings them')

from kpfeat_core.errors import ConfigError
from kpfeat_ros.container import ComponentContainer
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import GetParameters

needs_services = pytest.mark.skipif(
    importlib.util.find_spec('composition_interfaces') is None,
    reason='composition_interfaces is not installed: `make test` compiles it',
)


class Container:
    """A container among the nodes of a test, and its services."""

    def __init__(self, ros: Any) -> None:
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
def container(ros, others) -> Container:
    return Container(ros)


def parameter(name: str, **value: Any) -> Any:
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
    assert container.node.manager._nodes[1].get_parameter('use_sim_time').value is True
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
    container.load('others::Open')
    answer = ros.call(GetParameters, '/open/get_parameters', names=['use_sim_time'])
    assert answer.values[0].bool_value is False


@needs_services
def test_idle_container_wakes_every_second_and_so_hears_of_an_interrupt(ros, others) -> None:
    container = Container(ros)
    ros.until(lambda: len(list(container.node.timers)) == 1, 'the end of its start')
    (timer,) = container.node.timers
    assert timer.timer_period_ns <= 1e9
    assert not timer.is_canceled()


@needs_services
def test_loading_does_not_keep_the_executor_waiting(ros, container, waiting) -> None:
    kind, name = container.service('load')
    client = ros.probe.create_client(kind, name)
    ros.until(client.service_is_ready, 'the service')
    future = client.call_async(kind.Request(plugin_name='others_nodes:Waiting'))
    ros.until(waiting.begun.is_set, 'the node to begin')
    assert container.list() == {}  # is answered meanwhile
    assert not future.done()
    waiting.may_go_on.set()
    ros.until(future.done, 'the node')
    assert future.result().success, future.result().error_message


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
    gone = weakref.ref(container.node.manager._nodes[1].extractor)
    node = weakref.ref(container.node.manager._nodes[1])
    assert container.unload(1).success
    ros.until(lambda: gone() is None and node() is None, 'model and node to go')


def test_container_without_the_services_says_what_it_needs(ros, others, monkeypatch) -> None:
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
