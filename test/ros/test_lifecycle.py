"""The life of the nodes as `ros2 lifecycle` and lifecycle managers steer it, over real DDS."""

import gc
import re
import threading
import weakref

from kpfeat_core.errors import ConfigError
from kpfeat_core.registry import build_extractor
from kpfeat_core.weights import save_weights
import pytest
import torch

EXTRACTOR = '/extractor'


class Steered:
    """An extractor that waits to be told, and what it publishes about its life."""

    def __init__(self, ros, **parameters) -> None:
        from kpfeat_ros.extractor_node import ExtractorNode
        from lifecycle_msgs.msg import TransitionEvent

        self.ros = ros
        given = {'autostart': 'false', 'device': 'cpu'} | parameters
        self.node = ros.start(ExtractorNode, **given)
        self.events: list = ros.listen(TransitionEvent, f'{EXTRACTOR}/transition_event')

    def change(self, *labels: str) -> bool:
        """Ask for transitions by name, one after another; gives whether the last succeeded."""
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        for label in labels:
            wanted = Transition(label=label)
            answer = self.ros.call(ChangeState, f'{EXTRACTOR}/change_state', transition=wanted)
        return answer.success

    @property
    def state(self) -> str:
        from lifecycle_msgs.srv import GetState

        return self.ros.call(GetState, f'{EXTRACTOR}/get_state').current_state.label

    def set(self, **values):
        from rcl_interfaces.srv import SetParameters
        from rclpy.parameter import Parameter

        parameters = [Parameter(k, value=v).to_parameter_msg() for k, v in values.items()]
        name = f'{EXTRACTOR}/set_parameters'
        return self.ros.call(SetParameters, name, parameters=parameters).results[0]


@pytest.fixture
def steered(ros, weights_file):
    def started(**parameters) -> Steered:
        return Steered(ros, **{'weights': weights_file} | parameters)

    return started


def topics_of(ros, node: str = 'extractor') -> set[str]:
    """Return the topics of images and features that a node is connected to, as others see it."""
    try:
        found = [
            *ros.probe.get_subscriber_names_and_types_by_node(node, '/'),
            *ros.probe.get_publisher_names_and_types_by_node(node, '/'),
        ]
    except RuntimeError:  # not discovered yet, or gone
        return set()
    return {name for name, _ in found} & {'/image', '/features'}


def diagnostics(ros) -> list:
    """Return the statuses of the extractor, from now on."""
    from diagnostic_msgs.msg import DiagnosticArray

    messages = ros.listen(DiagnosticArray, '/diagnostics')

    class Statuses:
        def find(self, words: str):
            found = [m.status[0] for m in messages if words in m.status[0].message]
            return found[-1] if found else None

    return Statuses()


def test_node_starts_by_itself_unless_told_otherwise(ros, steered, weights_file) -> None:
    from kpfeat_ros.extractor_node import ExtractorNode

    assert steered().state == 'unconfigured'
    node = ros.start(ExtractorNode, '-r', '__node:=other', weights=weights_file)
    assert node.state == 'active'


def test_every_node_is_managed(ros) -> None:
    from kpfeat_ros.camera_node import CameraNode
    from kpfeat_ros.matcher_node import MatcherNode
    from kpfeat_ros.overlay_node import OverlayNode

    for cls in (CameraNode, MatcherNode, OverlayNode):
        node = ros.start(cls, autostart='false')
        for step in ('configure', 'activate', 'deactivate', 'cleanup', 'configure', 'shutdown'):
            assert getattr(node, f'trigger_{step}')().name == 'SUCCESS', (cls, step)
        assert node.state == 'finalized'
        assert not node._endpoints and not node._workers


def test_life_from_configure_to_cleanup_is_published_as_events(ros, steered) -> None:
    subject = steered()
    assert subject.change('configure', 'activate', 'deactivate', 'cleanup')
    ros.until(lambda: len(subject.events) == 8, 'events')
    assert [event.goal_state.label for event in subject.events] == [
        'configuring',
        'inactive',
        'activating',
        'active',
        'deactivating',
        'inactive',
        'cleaningup',
        'unconfigured',
    ]


def test_topics_are_there_only_while_the_node_is_active(ros, steered, photo) -> None:
    from kpfeat.msg import Features

    subject = steered()
    ros.spin(0.3)
    assert topics_of(ros) == set()
    subject.change('configure')
    assert topics_of(ros) == set()
    for _ in range(2):
        subject.change('activate')
        features, camera = ros.listen(Features, 'features'), ros.camera()
        ros.until(lambda: topics_of(ros) == {'/image', '/features'}, 'topics')
        ros.until(subject.node.streams[''].wanted, 'a listener')
        camera.publish(ros.image(photo))
        ros.until(lambda: features, 'features')  # noqa: B023
        subject.change('deactivate')
        ros.until(lambda: topics_of(ros) == set(), 'no topics')
        ros.until(lambda: not camera.get_subscription_count(), 'unsubscribing')  # noqa: B023
    subject.change('cleanup')
    assert subject.node.extractor is None


def test_configure_runs_the_network_once_at_the_expected_size(steered, monkeypatch) -> None:
    from kpfeat_core.models.base import Extractor

    sizes, extract = [], Extractor.extract

    def noting(self, images, *others, **options):
        sizes.extend(image.shape[:2] for image in images)
        return extract(self, images, *others, **options)

    monkeypatch.setattr(Extractor, 'extract', noting)
    assert steered(warm_up_size='96x64').change('configure')
    assert sizes == [(64, 96)]


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
    ros.until(lambda: ros.probe.count_publishers('/rosout') > 1, 'the log')
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
    ros.until(lambda: ros.probe.count_publishers('/rosout') > 1, 'the log')
    assert not subject.change('configure')
    ros.until(lambda: errors, 'the error in the log')
    assert str(path) in errors[0] and 'Traceback' not in errors[0]


def test_model_can_be_another_after_cleanup_and_changed_values_stay(
    ros, steered, tmp_path
) -> None:
    path = tmp_path / 'kp2d.safetensors'
    save_weights(build_extractor('kp2d', version='v0'), path)
    subject = steered(max_num_keypoints=77)
    subject.change('configure')
    assert subject.set(nms_radius=5).successful
    refused = subject.set(warm_up_size='64x64')
    assert not refused.successful
    assert 'read-only' in refused.reason and 'ros2 lifecycle set /extractor' in refused.reason
    subject.change('cleanup')
    assert subject.set(model='kp2d').successful and subject.set(weights=str(path)).successful
    assert subject.change('configure')
    config = subject.node.extractor.config
    assert type(config).__name__ == 'Kp2dConfig'
    assert (config.max_num_keypoints, config.nms_radius) == (77, 5)
    assert not subject.node.has_parameter('upstream_borders')  # an option of alike alone


def test_unknown_parameter_is_a_warning_that_names_the_nearest_one(ros, steered) -> None:
    warnings = ros.logged(level=30)
    subject = steered(nms_radus=3)
    ros.until(lambda: ros.probe.count_publishers('/rosout') > 1, 'the log')
    subject.change('configure')
    text = "no parameter of this node or of alike-t: 'nms_radus' (did you mean 'nms_radius'?)"
    ros.until(lambda: warnings, 'the warning')
    assert text in warnings[0]


def test_autostart_is_read_only_and_must_be_true_or_false(steered) -> None:
    subject = steered()
    assert 'read-only' in subject.set(autostart=True).reason
    with pytest.raises(ConfigError, match='autostart.*expected bool'):
        steered(autostart='perhaps')


def test_transition_that_is_not_possible_is_refused_and_survived(ros, steered) -> None:
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    subject = steered()
    for wanted in (Transition(id=Transition.TRANSITION_ACTIVATE), Transition(id=99)):
        answer = ros.call(ChangeState, f'{EXTRACTOR}/change_state', transition=wanted)
        assert not answer.success
    assert not subject.change('deactivate')
    assert not subject.change('fly')
    assert subject.state == 'unconfigured'
    assert subject.change('configure')


@pytest.mark.parametrize('before', [[], ['configure'], ['configure', 'activate']])
def test_shutdown_is_possible_from_every_state_and_frees_everything(ros, steered, before) -> None:
    subject = steered()
    assert not before or subject.change(*before)
    assert subject.change('shutdown')
    assert subject.state == 'finalized'
    assert subject.node.extractor is None
    assert topics_of(ros) == set()


def test_failure_of_our_own_frees_everything_and_the_node_can_go_on(ros, steered) -> None:
    subject, errors = steered(), ros.logged()
    ros.until(lambda: ros.probe.count_publishers('/rosout') > 1, 'the log')
    begin = subject.node.begin

    def broken() -> None:
        begin()
        raise ZeroDivisionError('our own')

    subject.node.begin = broken
    subject.change('configure')
    assert not subject.change('activate')
    assert subject.state == 'unconfigured'
    ros.until(lambda: errors, 'the error in the log')
    assert 'Traceback' in errors[0] and 'our own' in errors[0]
    assert subject.node.extractor is None
    assert topics_of(ros) == set()
    subject.node.begin = begin
    assert subject.change('configure', 'activate')


def test_activation_that_fails_leaves_the_node_inactive_and_disconnected(ros, steered) -> None:
    subject = steered()
    begin = subject.node.begin

    def refused() -> None:
        begin()
        raise ConfigError('no such port')

    subject.node.begin = refused
    subject.change('configure')
    assert not subject.change('activate')
    assert subject.state == 'inactive'
    assert not subject.node._endpoints
    subject.node.begin = begin
    assert subject.change('activate')


def test_diagnostics_say_that_a_node_is_not_active(ros, steered) -> None:
    subject = steered()
    statuses = diagnostics(ros)
    for words, *steps in (
        ('inactive, not configured', 'configure'),
        ('inactive: `ros2 lifecycle set /extractor activate`', 'activate'),
        ('idle: nobody listens', 'deactivate', 'shutdown'),
        ('inactive, finalized', ''),
    ):
        status = ros.until(lambda: statuses.find(words), words)  # noqa: B023
        assert status.level == b'\x00'
        if steps[0]:
            subject.change(*steps)


def test_destroyed_node_leaves_the_graph_at_once(ros, steered) -> None:
    subject = steered()
    subject.change('configure', 'activate')
    ros.until(lambda: 'extractor' in ros.probe.get_node_names(), 'the node')
    ros.executor.remove_node(subject.node)
    subject.node.destroy_node()
    subject.node.destroy_node()  # the second time does nothing
    ros.until(lambda: 'extractor' not in ros.probe.get_node_names(), 'its leave')
    assert not ros.probe.count_publishers(f'{EXTRACTOR}/transition_event')


def resident_mib() -> float:
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * 4096 / 2**20


def test_cleanup_frees_the_network(ros, steered, photo) -> None:
    from kpfeat.msg import Features

    subject = steered()
    subject.change('configure', 'activate')
    ros.listen(Features, 'features')
    ros.camera().publish(ros.image(photo))
    ros.until(lambda: subject.node.statistics.total('received'), 'the image')
    network = weakref.ref(subject.node.extractor)
    parameter = weakref.ref(next(subject.node.extractor.parameters()))
    subject.change('deactivate')
    assert network() is not None
    subject.change('cleanup')
    assert network() is None and parameter() is None


def test_memory_of_a_large_network_falls_back_after_cleanup(ros, steered) -> None:
    subject = steered()
    subject.change('configure', 'cleanup')  # what is loaded once and stays, such as libraries
    load = subject.node.load

    def load_more() -> None:
        load()
        layers = [torch.nn.Linear(128, 128) for _ in range(4096)]  # 256 MiB in small pieces
        subject.node.extractor.ballast = torch.nn.ModuleList(layers)

    subject.node.load = load_more
    before = resident_mib()
    subject.change('configure')
    assert resident_mib() > before + 200
    subject.change('cleanup')
    assert resident_mib() < before + 60


def test_twenty_lives_leak_nothing(ros, steered, photo) -> None:
    from kpfeat.msg import Features

    subject = steered(warm_up_size='64x64')
    features: list[Features] = []
    ros.probe.create_subscription(Features, 'features', features.append, 10)
    camera = ros.probe.create_publisher(type(ros.image()), 'image', 10)

    def live() -> None:
        seen = len(features)
        subject.change('configure', 'activate')
        ros.until(subject.node.streams[''].wanted, 'a listener')
        ros.until(camera.get_subscription_count, 'a subscriber')
        camera.publish(ros.image(photo))
        ros.until(lambda: len(features) > seen, 'features')
        subject.change('deactivate', 'cleanup')

    def held() -> dict[str, int]:
        gc.collect()
        node = subject.node
        return {
            'threads': threading.active_count(),
            'subscriptions': len(list(node.subscriptions)),
            'publishers': len(list(node.publishers)),
            'timers': len(list(node.timers)),
            'services': len(list(node.services)),
            'parameters': len(node._parameters),
            'tensors': sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()),
        }

    for _ in range(3):  # what is loaded once and stays
        live()
    before, memory = held(), resident_mib()
    for _ in range(17):
        live()
    assert held() == before
    assert resident_mib() < memory + 30
