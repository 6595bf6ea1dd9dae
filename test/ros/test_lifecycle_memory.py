"""What a node frees at the end of each of its lives."""

import gc
import threading
import weakref

import pytest
import torch

pytest.importorskip('kpfeat.msg', reason='no ROS 2 or no messages: `make test` brings them')

from kpfeat.msg import Features


def resident_mib() -> float:
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * 4096 / 2**20


def test_cleanup_frees_the_network(ros, steered, photo) -> None:
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
    configure = subject.node.configure

    def configure_more() -> None:
        configure()
        layers = [torch.nn.Linear(128, 128) for _ in range(4096)]  # 256 MiB in small pieces
        subject.node.extractor.ballast = torch.nn.ModuleList(layers)

    subject.node.configure = configure_more
    before = resident_mib()
    subject.change('configure')
    assert resident_mib() > before + 200
    subject.change('cleanup')
    assert resident_mib() < before + 60


def test_twenty_lives_leak_nothing(ros, steered, photo) -> None:
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
            'parameters': len(node.get_parameters_by_prefix('')),
            'tensors': sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()),
        }

    for _ in range(3):  # what is loaded once and stays
        live()
    before, memory = held(), resident_mib()
    for _ in range(17):
        live()
    assert held() == before
    assert resident_mib() < memory + 30
