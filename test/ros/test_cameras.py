"""Several cameras in one extractor, over real DDS: a topic and counts each, one model for all."""

from functools import partial

from kpfeat_core.messages.conversions import message_to_features
import numpy as np
import pytest

pytest.importorskip('kpfeat.msg', reason='no ROS 2 or no messages: `make test` brings them')

from diagnostic_msgs.msg import DiagnosticArray
from kpfeat.msg import Features
from kpfeat_core.errors import ConfigError
from kpfeat_ros.extractor_node import ExtractorNode
from sensor_msgs.msg import CameraInfo

CAMERAS = ('left', 'right')


class Rig:
    """An extractor of two cameras, their images, and the features that came."""

    def __init__(self, ros, photo, *arguments, images=(), **parameters) -> None:
        self.ros, self.photo = ros, photo
        self.node = ros.start(ExtractorNode, *arguments, **{'cameras': 'left,right'} | parameters)
        self.features = {name: ros.listen(Features, f'{name}/features') for name in CAMERAS}
        for name in CAMERAS:
            ros.until(self.node.streams[name].wanted, 'a listener')
        topics = {name: f'{name}/image' for name in CAMERAS} | dict(images)
        self.publishers = {name: ros.camera(topic) for name, topic in topics.items()}

    def send(self, camera: str, pixels=None):
        """Publish an image, wait until the node has it, and return it."""
        image = self.ros.image(self.photo if pixels is None else pixels)
        count = self.total(f'{camera}.received')
        self.publishers[camera].publish(image)
        self.ros.until(lambda: self.total(f'{camera}.received') > count, 'the image')
        return image

    def total(self, name: str) -> int:
        return self.node.statistics.total(name)


@pytest.fixture
def rig(ros, photo):
    return partial(Rig, ros, photo)


def test_each_camera_gets_the_features_of_its_own_images(rig, ros, photo) -> None:
    subject = rig()
    sent = {'left': subject.send('left'), 'right': subject.send('right', photo[:, ::-1].copy())}
    for name, image in sent.items():
        (message,) = ros.until(lambda: subject.features[name], 'features')  # noqa: B023
        assert message.header == image.header
    found = {name: message_to_features(some[0]).numpy() for name, some in subject.features.items()}
    expected = subject.node.extractor.extract(photo).numpy()
    assert np.array_equal(found['left']['keypoints'], expected['keypoints'])
    assert not np.array_equal(found['right']['keypoints'], expected['keypoints'])


def test_topics_of_each_camera_can_be_remapped(rig, ros) -> None:
    subject = rig(
        '-r', 'left/image:=/stereo/left/image_rect', images={'left': '/stereo/left/image_rect'}
    )
    subject.send('left')
    ros.until(lambda: subject.features['left'], 'features')
    assert subject.node.input_topics['right'] == '/right/image'


def test_newest_image_of_each_camera_wins_and_drops_are_counted_for_each(rig, ros, hold) -> None:
    subject = rig()
    held = hold(subject.node)
    subject.send('left')
    ros.until(lambda: held.batches, 'the first to be at work')
    newest = {'left': [subject.send('left') for _ in range(3)][-1], 'right': subject.send('right')}
    held.release()
    ros.until(lambda: subject.total('processed') == 3, 'the newest of both')
    assert subject.features['left'][-1].header == newest['left'].header
    assert subject.features['right'][-1].header == newest['right'].header
    assert (subject.total('left.dropped'), subject.total('right.dropped')) == (2, 0)
    assert subject.total('dropped') == 2


def test_images_of_both_are_worked_on_together_and_equal_those_alone(
    rig, ros, photo, hold
) -> None:
    subject = rig(batch_size=2, batch_wait_ms=1000.0)
    expected = subject.node.extractor.extract(photo).numpy()
    held = hold(subject.node)
    held.release()
    subject.send('left')
    subject.send('right')
    ros.until(lambda: subject.total('processed') == 2, 'both')
    assert held.batches == [2]
    for name in CAMERAS:
        found = message_to_features(ros.until(lambda n=name: subject.features[n], 'it')[0])
        np.testing.assert_allclose(found.numpy()['keypoints'], expected['keypoints'], atol=1e-3)


def test_nobody_waits_for_a_camera_that_nobody_wants(rig, ros) -> None:
    subject = rig(batch_size=2, batch_wait_ms=1000.0)
    ros.until(lambda: subject.node.worker.batch == 2, 'both to be wanted')
    ros.stop_listening(subject.features['right'])
    ros.until(lambda: subject.node.worker.batch == 1, 'one to be wanted')
    ros.until(lambda: not ros.probe.count_subscribers('right/image'), 'unsubscribing')
    assert ros.probe.count_subscribers('left/image')
    assert subject.node.worker.wait_s == 0


def test_a_camera_that_stops_is_reported_by_its_topic(rig, ros) -> None:
    subject = rig(max_age_warn_s=0.5)
    statuses = ros.listen(DiagnosticArray, '/diagnostics')

    def last() -> dict:
        ours = [s for array in statuses for s in array.status if s.name.endswith('/extractor')]
        return {'message': ours[-1].message, **{v.key: v.value for v in ours[-1].values}}

    subject.send('right')

    def told() -> bool:
        subject.send('left')
        return bool(statuses) and "'/right/image' for" in last()['message']

    ros.until(told, 'the warning')
    assert float(last()['right.age_s']) >= 0.5 > float(last()['left.age_s'])


def test_lens_of_each_camera_is_its_own(rig, ros, photo) -> None:
    subject = rig(undistort=True)
    for name, strength in (('left', 0.0), ('right', 0.3)):
        info = CameraInfo(width=128, height=96, distortion_model='plumb_bob')
        info.k = [100.0, 0.0, 64.0, 0.0, 100.0, 48.0, 0.0, 0.0, 1.0]
        info.d = [strength, 0.0, 0.0, 0.0, 0.0]
        publisher = ros.probe.create_publisher(CameraInfo, f'{name}/camera_info', 1)
        ros.until(publisher.get_subscription_count, 'the extractor')
        publisher.publish(info)
        ros.until(lambda: subject.node.streams[name].calibration, 'it')  # noqa: B023
        subject.send(name)
        ros.until(lambda: subject.features[name], 'features')  # noqa: B023
    found = {name: message_to_features(some[0]).numpy() for name, some in subject.features.items()}
    straight = subject.node.extractor.extract(photo).numpy()['keypoints']
    np.testing.assert_allclose(found['left']['keypoints'], straight, atol=1e-2)
    assert np.abs(found['right']['keypoints'] - straight).max() > 1


@pytest.mark.parametrize('cameras', ['left,left', 'left,', '1st', 'a/b'])
def test_names_that_are_none_or_not_different_are_refused(rig, cameras) -> None:
    with pytest.raises(ConfigError, match='expected different names between commas'):
        rig(cameras=f"'{cameras}'")
