"""The extractor node over real DDS: images in, features out."""

import array
from types import SimpleNamespace

import cv2
from kpfeat_core.messages.conversions import image_to_array, message_to_features
from kpfeat_core.registry import build_extractor, build_network, extractor_names
from kpfeat_core.weights.files import save_weights
import numpy as np
import pytest
import torch

pytest.importorskip('kpfeat.msg', reason='no ROS 2 or no messages: `make test` brings them')

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from kpfeat.msg import Features
from kpfeat_core.errors import ConfigError, WeightsError
from kpfeat_ros.extractor_node import ExtractorNode
from sensor_msgs.msg import CompressedImage

BAD = {
    'encoding': {'encoding': 'hologram'},
    'short_data': {'data': array.array('B', bytes(10))},
    'empty': {'width': 0, 'height': 0, 'step': 0, 'data': array.array('B')},
    'not_finite': {
        'encoding': '32FC1',
        'step': 160,
        'data': array.array('B', np.full((40, 40), np.nan, np.float32).tobytes()),
    },
    'step': {'step': 3},
}


def test_features_have_the_stamp_and_frame_of_their_image(ros, start, photo) -> None:
    _, camera, features = start()
    image = ros.image(photo)
    camera.publish(image)
    ros.until(lambda: features, 'features')
    assert features[0].header == image.header
    assert (features[0].width, features[0].height) == (128, 96)
    assert features[0].model == 'alike-t'


def test_features_equal_those_of_extract_on_the_same_image(ros, start, photo) -> None:
    node, camera, features = start(max_num_keypoints=50)
    camera.publish(ros.image(photo))
    ros.until(lambda: features, 'features')
    expected = node.extractor.extract(photo).numpy()
    found = message_to_features(features[0]).numpy()
    assert len(found['keypoints']) == 50
    for name, value in expected.items():
        assert np.array_equal(found[name], value), name


@pytest.mark.parametrize('model', extractor_names())
def test_every_model_serves_in_the_node(ros, start, photo, tmp_path, monkeypatch, model) -> None:
    torch.manual_seed(0)
    for name in {model, *build_extractor(model).submodules()}:
        save_weights(build_network(name).eval(), tmp_path / f'{name}.safetensors')
    monkeypatch.setenv('KPFEAT_WEIGHTS', str(tmp_path))
    options = {'max_num_keypoints': 20, 'detection_threshold': 0.0}  # the weights are random
    node, camera, features = start(weights=str(tmp_path), model=model, **options)
    camera.publish(ros.image(photo))
    ros.until(lambda: features, 'features')
    assert features[0].model == model and 0 < len(features[0].scores) <= 20
    assert features[0].descriptor_size == node.extractor.descriptor_dim
    expected = node.extractor.extract(photo).numpy()['keypoints'].flatten()
    assert np.array_equal(features[0].keypoints, expected)


def test_options_that_shape_the_network_come_from_the_weights(ros, start, tmp_path) -> None:
    path = tmp_path / 'v0.safetensors'
    save_weights(build_extractor('kp2d', version='v0'), path)
    node, _, _ = start(weights=str(path), model='kp2d')
    assert node.extractor.config.version == 'v0'


@pytest.mark.parametrize('kind', BAD)
def test_bad_image_is_counted_logged_once_and_survived(ros, start, photo, kind) -> None:
    node, camera, features = start()
    errors = ros.logged()
    for count in (1, 2, 3):
        camera.publish(ros.image(**BAD[kind]))
        ros.until(lambda: node.statistics.total('failed') == count, 'failure')  # noqa: B023
    camera.publish(ros.image(photo))
    ros.until(lambda: features, 'features of the good image after the bad ones')
    ros.until(lambda: errors, 'the log')
    ros.spin(0.2)
    assert node.statistics.total(f'failed.{kind}') == 3
    assert len([text for text in errors if text.startswith(f'{kind}: ')]) == 1
    assert len(features) == 1


def test_resolution_and_encoding_may_change_in_mid_stream(ros, start, photo) -> None:
    _, camera, features = start()
    pictures = [photo, photo[:64, :80], photo[..., 0], np.tile(photo, (2, 2, 1)), photo]
    for count, picture in enumerate(pictures, 1):
        camera.publish(ros.image(np.ascontiguousarray(picture)))
        ros.until(lambda: len(features) == count, f'features of image {count}')  # noqa: B023
    sizes = [(message.width, message.height) for message in features]
    assert sizes == [(128, 96), (80, 64), (128, 96), (256, 192), (128, 96)]


def test_newest_image_wins_and_dropped_ones_are_counted(ros, start, photo, hold) -> None:
    node, camera, features = start()
    held = hold(node)
    images = [ros.image(photo) for _ in range(5)]
    for count, image in enumerate(images, 1):
        camera.publish(image)
        ros.until(lambda: node.statistics.total('received') == count, 'arrival')  # noqa: B023
        if count == 1:  # at work, not waiting
            ros.until(lambda: held.batches, 'the first image to be taken up')
    held.release()
    ros.until(lambda: len(features) == 2, 'features of the first and the last image')
    assert [message.header for message in features] == [images[0].header, images[4].header]
    assert node.statistics.total('dropped') == 3


def test_compressed_images_are_read_below_the_topic_of_the_images(ros, start, photo) -> None:
    node, camera, features = start(image_transport='compressed')
    data = array.array('B', cv2.imencode('.png', photo[..., ::-1])[1].tobytes())
    image = CompressedImage(header=ros.image().header, format='rgb8; png compressed', data=data)
    camera.publish(image)
    ros.until(lambda: features, 'features')
    expected = node.extractor.extract(image_to_array(image))
    assert np.array_equal(image_to_array(image), photo)
    assert len(features[0].scores) == expected.count()


@pytest.mark.parametrize(('kind', 'size'), [('float16', 2), ('int8', 1)])
def test_descriptors_can_be_sent_smaller(ros, start, photo, kind, size) -> None:
    _, camera, features = start(descriptor_type=kind)
    camera.publish(ros.image(photo))
    ros.until(lambda: features, 'features')
    count, dim = len(features[0].scores), features[0].descriptor_size
    assert len(features[0].descriptors) == count * dim * size
    lengths = message_to_features(features[0]).descriptors.norm(dim=2)
    assert (lengths - 1).abs().max() < 0.02


def test_diagnostics_tell_counts_stages_and_what_is_wrong(ros, start, photo) -> None:
    _, camera, features = start()
    statuses = ros.listen(DiagnosticArray, '/diagnostics')

    def last(word: str):
        found = [m.status[0] for m in statuses if word in m.status[0].message]
        return found[-1] if found else None

    idle = ros.until(lambda: last("nothing received on '/image'"), 'diagnostics without images')
    assert idle.level == DiagnosticStatus.WARN
    camera.publish(ros.image(photo))
    working = ros.until(lambda: last(' Hz'), 'diagnostics after an image')
    values = {pair.key: pair.value for pair in working.values}
    assert working.name == 'kpfeat: /extractor'
    assert (values['received'], values['processed'], values['model']) == ('1', '1', 'alike-t')
    assert {'decode_ms', 'extract_ms', 'publish_ms'} <= values.keys()
    camera.publish(ros.image(encoding='hologram'))
    failing = ros.until(lambda: last('1 encoding'), 'diagnostics after a bad image')
    assert failing.level == DiagnosticStatus.WARN


def test_node_survives_a_failure_that_is_our_own_and_logs_where(ros, start, photo) -> None:
    node, camera, _ = start()
    errors = ros.logged()
    node.model.extractor = SimpleNamespace(device='cpu')
    camera.publish(ros.image(photo))
    ros.until(lambda: node.statistics.total('failed.AttributeError'), 'the failure')
    ros.until(lambda: any('Traceback' in text for text in errors), 'a traceback in the log')


def test_node_can_be_deactivated_and_activated_again(ros, start, photo) -> None:
    node, camera, features = start()
    node.trigger_deactivate()
    ros.until(lambda: not camera.get_subscription_count(), 'unsubscribing')
    node.trigger_activate()
    ros.until(node.streams[''].wanted, 'a listener')
    ros.until(camera.get_subscription_count, 'subscribing again')
    camera.publish(ros.image(photo))
    ros.until(lambda: features, 'features')


def test_publisher_of_images_may_go_and_come_again(ros, start, photo) -> None:
    _, camera, features = start()
    for count in (1, 2, 3):
        camera.publish(ros.image(photo))
        ros.until(lambda: len(features) == count, f'features of camera {count}')  # noqa: B023
        ros.probe.destroy_publisher(camera)
        ros.until(lambda: not ros.probe.count_publishers('image'), 'its end')
        camera = ros.camera()


def test_listener_to_features_may_go_and_come_again(ros, start, photo) -> None:
    node, camera, features = start()
    for _ in range(2):
        ros.stop_listening(features)
        ros.until(lambda: not camera.get_subscription_count(), 'unsubscribing')
        features = ros.listen(Features, 'features')
        ros.until(camera.get_subscription_count, 'subscribing again')
        ros.spin(0.3)  # until both ends know of each other
        camera.publish(ros.image(photo))
        ros.until(lambda: features, 'features')  # noqa: B023


def test_unknown_model_is_refused_with_the_names_of_the_others(ros) -> None:
    with pytest.raises(ConfigError, match="no model 'sift'.*alike-t"):
        ros.start(ExtractorNode, model='sift')


def test_missing_weights_are_refused_with_the_file_looked_for(ros) -> None:
    with pytest.raises(WeightsError, match='/no/such/file'):
        ros.start(ExtractorNode, weights='/no/such/file')
