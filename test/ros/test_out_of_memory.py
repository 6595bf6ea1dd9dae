"""A GPU with too little memory: advice, or the CPU instead, once; with a stand-in for the GPU."""

import weakref

from kpfeat_core.models.base import Extractor
import numpy as np
import pytest
import torch

pytest.importorskip('kpfeat.msg', reason='no ROS 2 or no messages: `make test` brings them')

from kpfeat.msg import Features
from kpfeat_core.errors import ConfigError
from kpfeat_ros import model as loading
from kpfeat_ros.extractor_node import ExtractorNode
from kpfeat_ros.model import extract, OutOfMemoryError
from rclpy.parameter import Parameter


class Gpu:
    """An extractor as on a GPU that has no memory left."""

    device = 'cuda:0'

    def __init__(self, extractor: Extractor) -> None:
        self.config, self.name = extractor.config, extractor.name

    def extract(self, images, masks):
        raise torch.OutOfMemoryError('CUDA out of memory')


@pytest.fixture
def loaded(monkeypatch) -> list[str]:
    """Return the devices for which networks are loaded."""
    load, devices = loading.load_extractor, []

    def noting(options, config):
        devices.append(options.device)
        return load(options, config)

    monkeypatch.setattr(loading, 'load_extractor', noting)
    return devices


@pytest.fixture
def full(monkeypatch, loaded) -> None:
    """Let every device but the CPU, by its name, be too small for a network."""
    extract = Extractor.extract

    def failing(self, *images):
        if loaded[-1] != 'cpu':
            raise torch.OutOfMemoryError('CUDA out of memory')
        return extract(self, *images)

    monkeypatch.setattr(Extractor, 'extract', failing)


@pytest.fixture
def start(ros):
    def started(**parameters):
        return ros.start(ExtractorNode, **{'device': 'auto'} | parameters)

    return started


def test_configure_fails_with_what_to_do(full, start) -> None:
    with pytest.raises(
        ConfigError, match=r'too little memory for alike-t on 1 image\(s\) of 64x64'
    ):
        start()


def test_configure_goes_on_with_the_cpu_where_it_may_and_says_so(full, loaded, start) -> None:
    node = start(on_out_of_memory='cpu')
    assert loaded == ['auto', 'cpu']
    assert node.settings()['out_of_memory'].startswith('on the CPU instead: device ')


@pytest.mark.parametrize('rule', ['fail', 'cpu'])
def test_image_that_does_not_fit_fails_or_moves_the_model_once(
    ros, loaded, start, photo, rule
) -> None:
    errors = ros.logged(level=30)
    node = start(on_out_of_memory=rule)
    ros.until(lambda: ros.probe.count_publishers('/rosout') > 1, 'the log')
    features = ros.listen(Features, 'features')
    ros.until(node.streams[''].wanted, 'a listener')
    camera = ros.camera()
    node.model.extractor = Gpu(node.extractor)
    loaded.clear()
    camera.publish(ros.image(photo))
    ros.until(lambda: errors, 'advice in the log')
    assert 'too little memory for alike-t on 1 image(s) of 128x96' in errors[0]
    assert 'set on_out_of_memory to cpu' in errors[0]
    if rule == 'fail':
        assert node.statistics.total('failed.out_of_memory') == 1 and not features
        return
    ros.until(lambda: features, 'features')
    camera.publish(ros.image(photo))
    ros.until(lambda: len(features) == 2, 'features')
    assert loaded == ['cpu']
    assert node.statistics.total('failed') == 0
    assert np.array_equal(features[0].keypoints, features[1].keypoints)


def test_a_model_that_fits_where_it_was_asked_for_ends_the_trouble(ros, full, start) -> None:
    node = start(on_out_of_memory='cpu')
    assert 'out_of_memory' in node.settings()
    node.set_parameters([Parameter('device', value='cpu')])
    ros.until(lambda: node.model.options.device == 'cpu', 'the CPU that was asked for')
    assert 'out_of_memory' not in node.settings()


def test_what_did_not_fit_is_freed_before_anything_else_is_tried(photo) -> None:
    kept = []

    class Full:
        device, name = 'cuda:0', 'alike-t'

        def extract(self, images, masks):
            tensor = torch.zeros(1)
            kept.append(weakref.ref(tensor))
            raise torch.OutOfMemoryError('CUDA out of memory')

    with pytest.raises(OutOfMemoryError) as caught:
        extract(Full(), [photo])
    assert caught.value.__cause__ is not None  # whose traceback would hold it
    assert kept[0]() is None
