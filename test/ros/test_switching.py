"""Another model, weights or device while the node works, over real DDS."""

from dataclasses import fields
import threading
import weakref

from kpfeat_core.messages.conversions import message_to_features
from kpfeat_core.registry import build_extractor, extractor_config_class
from kpfeat_core.weights.files import save_weights
import numpy as np
import pytest
import torch

pytest.importorskip('kpfeat.msg', reason='no ROS 2 or no messages: `make test` brings them')

from diagnostic_msgs.msg import DiagnosticArray
from kpfeat.msg import Features
from kpfeat_ros import model as loading
from kpfeat_ros.extractor_node import ExtractorNode
from rcl_interfaces.msg import SetParametersResult


@pytest.fixture(scope='module')
def weights(tmp_path_factory) -> dict[str, str]:
    """Return weight files of three models, and others of alike-t, that nobody trained."""
    folder, files = tmp_path_factory.mktemp('weights'), {}
    models = {'alike-t': 'alike-t', 'alike-n': 'alike-n', 'superpoint': 'superpoint'}
    for seed, (name, model) in enumerate((models | {'other': 'alike-t'}).items()):
        torch.manual_seed(seed)
        files[name] = str(folder / f'{name}.safetensors')
        save_weights(build_extractor(model).eval(), files[name])
    return files


class Rig:
    """An extractor of alike-t at work, with the services that `ros2 param` uses."""

    def __init__(self, ros, weights, photo, **parameters) -> None:
        self.ros, self.photo = ros, photo
        self.node = ros.start(ExtractorNode, **{'weights': weights['alike-t']} | parameters)
        self.features = ros.listen(Features, 'features')
        self.camera = ros.camera()

    def set(self, **values):
        return self.ros.set(**values)

    def get(self, *names: str) -> list[str]:
        return [self.node.get_parameter(name).value for name in names]

    def next(self):
        """Send an image and return its features message."""
        before = len(self.features)
        self.camera.publish(self.ros.image(self.photo))
        self.ros.until(lambda: len(self.features) > before, 'features')
        return self.features[-1]

    def ready(self, model: str) -> None:
        self.ros.until(lambda: self.node.model.options.model == model, f'{model} to be taken over')


@pytest.fixture
def rig(ros, weights, photo):
    return lambda **parameters: Rig(ros, weights, photo, **parameters)


@pytest.fixture
def gate(monkeypatch):
    """Let loading beside the work wait; gives the event that opens, and the requests that came."""
    opened, requests, load = threading.Event(), [], loading.load_extractor

    def waiting(options, config):
        if threading.current_thread() is not threading.main_thread():
            requests.append(options)
            opened.wait(30)
        return load(options, config)

    monkeypatch.setattr(loading, 'load_extractor', waiting)
    yield opened, requests
    opened.set()


def test_another_model_takes_over_between_two_images(rig, weights) -> None:
    subject = rig()
    assert subject.next().model == 'alike-t'
    assert subject.set(model='superpoint', weights=weights['superpoint']).successful
    subject.ready('superpoint')
    message = subject.next()
    assert message.model == 'superpoint'
    expected = subject.node.extractor.extract(subject.photo).numpy()
    found = message_to_features(message).numpy()
    assert np.array_equal(found['keypoints'], expected['keypoints'])
    assert np.array_equal(found['descriptors'], expected['descriptors'])


def test_options_are_those_of_the_new_model_and_changed_ones_stay(rig, weights) -> None:
    subject = rig(max_num_keypoints=33)
    subject.set(model='superpoint', weights=weights['superpoint'])
    subject.ready('superpoint')
    before, after = map(extractor_config_class, ('alike-t', 'superpoint'))
    names = {f.name for f in fields(after)}
    assert all(subject.node.has_parameter(name) for name in names)
    gone = {f.name for f in fields(before)} - names
    assert not any(subject.node.has_parameter(name) for name in gone)
    config = subject.node.extractor.config
    assert config.max_num_keypoints == 33 and len(subject.next().scores) <= 33
    assert subject.get('nms_radius') == [config.nms_radius] == [after().nms_radius]
    assert subject.set(max_num_keypoints=5).successful
    assert len(subject.next().scores) == 5


@pytest.mark.parametrize('model', ['alike-t', 'alike-n', 'superpoint'])
def test_network_runs_with_the_values_that_its_parameters_show(rig, weights, model) -> None:
    subject = rig(max_num_keypoints=512, resize=320, nms_radius=3, remove_borders=7)
    assert subject.set(max_num_keypoints=1024, resize=-1, nms_radius=5).successful
    network = subject.node.extractor
    file = weights['other' if model == 'alike-t' else model]
    assert subject.set(model=model, weights=file).successful
    subject.ros.until(lambda: subject.node.extractor is not network, f'{model} to be taken over')
    names = ('max_num_keypoints', 'resize', 'nms_radius', 'remove_borders')
    assert subject.get(*names) == [1024, -1, 5, 7]
    config = subject.node.extractor.config
    assert [getattr(config, name) for name in names] == [1024, -1, 5, 7]


def test_weights_alone_can_be_exchanged(rig, weights) -> None:
    subject = rig()
    before = message_to_features(subject.next()).descriptors
    network = subject.node.extractor
    assert subject.set(weights=weights['other']).successful
    subject.ros.until(lambda: subject.node.extractor is not network, 'other weights')
    after = message_to_features(subject.next()).descriptors
    assert before.shape != after.shape or not torch.equal(before, after)


def test_old_model_goes_on_and_follows_its_options_while_the_new_one_is_loaded(
    rig, weights, gate
) -> None:
    opened, requests = gate
    subject = rig()
    subject.set(model='superpoint', weights=weights['superpoint'])
    subject.ros.until(lambda: requests, 'loading')
    assert subject.next().model == 'alike-t'
    assert subject.set(max_num_keypoints=7, descriptor_type='float16').successful
    message = subject.next()
    assert (message.model, len(message.scores)) == ('alike-t', 7)
    assert subject.node.settings()['loading'] == 'superpoint'
    opened.set()
    subject.ready('superpoint')
    message = subject.next()
    assert (message.model, len(message.scores), message.descriptor_type) == ('superpoint', 7, 1)
    assert 'loading' not in subject.node.settings()
    assert len(requests) == 1


def test_old_network_is_freed_when_the_new_one_is_there(rig, weights) -> None:
    subject = rig()
    subject.next()
    old = weakref.ref(next(subject.node.extractor.parameters()))
    subject.set(model='alike-n', weights=weights['alike-n'])
    subject.ready('alike-n')
    subject.next()
    subject.ros.until(lambda: old() is None, 'the old network to go')


def test_what_fails_while_loading_is_told_and_put_back(ros, rig, weights) -> None:
    subject, errors = rig(), ros.logged()
    statuses = ros.listen(DiagnosticArray, '/diagnostics')
    assert subject.set(model='superpoint', weights=weights['alike-n']).successful
    ros.until(lambda: errors, 'the error in the log')
    assert errors[0].startswith('superpoint could not be loaded: ')
    assert 'expected model superpoint' in errors[0] and errors[0].endswith('(alike-t goes on)')
    assert len(errors[0].splitlines()) == 1
    assert subject.get('model', 'weights') == ['alike-t', weights['alike-t']]
    assert subject.next().model == 'alike-t'

    def warned():
        found = [m.status[0] for m in statuses if '1 switch' in m.status[0].message]
        return {pair.key: pair.value for pair in found[0].values} if found else None

    values = ros.until(warned, 'the failure in diagnostics')
    assert values['switch_failed'] in errors[0] and values['model'] == 'alike-t'
    assert subject.set(model='superpoint', weights=weights['superpoint']).successful
    subject.ready('superpoint')
    assert 'switch_failed' not in subject.node.settings()


def test_failure_of_our_own_while_loading_is_survived(ros, rig, weights, monkeypatch) -> None:
    subject, errors = rig(), ros.logged()
    monkeypatch.setattr(loading, 'load_extractor', lambda *_: 1 / 0)
    assert subject.set(weights=weights['other']).successful
    ros.until(lambda: any('ZeroDivisionError' in text for text in errors), 'the log')
    assert subject.get('weights') == [weights['alike-t']]
    assert subject.next().model == 'alike-t'


@pytest.mark.parametrize(
    'wrong',
    [{'nms_radius': 65}, {'descriptor_type': 'float8'}, {'warm_up_size': '96x64'}],
)
def test_switch_together_with_a_wrong_value_is_refused_as_a_whole(
    rig, weights, gate, wrong
) -> None:
    _, requests = gate
    subject = rig()
    before = subject.get('model', 'weights', *wrong)
    result = subject.set(model='alike-n', weights=weights['alike-n'], **wrong)
    assert not result.successful and result.reason
    subject.ros.spin(0.2)
    assert requests == []
    assert subject.get('model', 'weights', *wrong) == before
    assert subject.next().model == 'alike-t'


def test_of_several_switches_the_last_counts(rig, weights, gate) -> None:
    opened, requests = gate
    subject = rig()
    subject.set(model='alike-n', weights=weights['alike-n'])
    subject.ros.until(lambda: requests, 'loading')
    subject.set(model='alike-n', weights=weights['alike-t'])
    subject.set(model='superpoint', weights=weights['superpoint'])
    taken = []
    subject.node.add_on_set_parameters_callback(lambda p: taken.append(p) or _fine())
    opened.set()
    subject.ready('superpoint')
    assert [request.model for request in requests] == ['alike-n', 'superpoint']
    assert subject.get('model') == ['superpoint']


def _fine():
    return SetParametersResult(successful=True)


def test_switch_can_be_taken_back_while_it_loads(rig, weights, gate) -> None:
    opened, requests = gate
    subject = rig()
    network = subject.node.extractor
    subject.set(model='alike-n', weights=weights['alike-n'])
    subject.ros.until(lambda: requests, 'loading')
    assert subject.set(model='alike-t', weights=weights['alike-t']).successful
    opened.set()
    subject.ros.spin(0.5)
    assert subject.node.extractor is network
    assert subject.get('model') == ['alike-t']
    assert subject.next().model == 'alike-t'


def test_cleanup_in_the_midst_of_loading_is_clean_and_configure_loads_it(
    rig, weights, gate
) -> None:
    opened, requests = gate
    subject = rig()
    subject.set(model='alike-n', weights=weights['alike-n'])
    subject.ros.until(lambda: requests, 'loading')
    subject.node.trigger_deactivate()
    subject.node.trigger_cleanup()
    opened.set()
    subject.ros.spin(0.3)
    assert subject.node.extractor is None
    subject.node.trigger_configure()
    subject.node.trigger_activate()
    subject.ros.until(subject.camera.get_subscription_count, 'subscribing again')
    subject.ros.until(subject.node.streams[''].wanted, 'a listener')
    assert subject.next().model == 'alike-n'


def test_inactive_node_switches_too(rig, weights) -> None:
    subject = rig()
    subject.node.trigger_deactivate()
    assert subject.set(model='alike-n', weights=weights['alike-n']).successful
    subject.ready('alike-n')
    assert subject.node.state == 'inactive'


def test_node_can_be_destroyed_while_it_loads(ros, rig, weights, gate) -> None:
    opened, requests = gate
    subject = rig()
    subject.set(weights=weights['other'])
    ros.until(lambda: requests, 'loading')
    subject.node.destroy_node()
    opened.set()
    ros.spin(0.5)
