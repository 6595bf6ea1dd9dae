"""The camera node over real DDS: what it sends is what its source holds."""

from pathlib import Path

from kpfeat_core.image import write_image
from kpfeat_core.messages.conversions import camera_info_to_calibration, image_to_array
from kpfeat_core.video import Video
from kpfeat_core.virtual_camera import VirtualCamera
import numpy as np
import pytest

pytest.importorskip('kpfeat.msg', reason='no ROS 2 or no messages: `make test` brings them')

from kpfeat_ros.camera_node import CameraNode
from kpfeat_ros.frames import stamp_ns
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image


@pytest.fixture
def sent(ros):
    """Start a camera node; gives the node and the list that its images gather in."""

    def started(**parameters):
        node = ros.start(CameraNode, **{'rate_hz': 20.0, **parameters})
        return node, ros.listen(Image, 'camera/image_raw')

    return started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for value in (10, 20, 30):
        write_image(tmp_path / f'{value}.png', np.full((40, 60, 3), value, np.uint8))
    return tmp_path


def levels(images) -> list[int]:
    return [int(image_to_array(image).mean().round()) for image in images]


def test_stamp_of_a_virtual_image_gives_the_picture_and_so_the_truth(ros, sent) -> None:
    _, images = sent(size='160x120', frame_id='lens')
    ros.until(lambda: len(images) >= 2, 'two images')
    camera = VirtualCamera(size=(160, 120))
    for image in images[:2]:
        assert np.array_equal(image_to_array(image), camera.frame(stamp_ns(image.header)))
        assert (image.header.frame_id, image.encoding) == ('lens', 'rgb8')
    stamps = [stamp_ns(image.header) for image in images[:2]]
    assert not np.allclose(camera.homography(*stamps), np.eye(3))


def test_each_virtual_image_has_the_calibration_of_its_camera(ros, sent) -> None:
    _, images = sent(size='160x120', frame_id='lens')
    infos = ros.listen(CameraInfo, 'camera/camera_info')
    ros.until(lambda: infos, 'camera_info')
    ros.until(lambda: images and stamp_ns(images[-1].header) >= stamp_ns(infos[0].header), 'both')
    assert infos[0].header in [image.header for image in images]
    calibration = camera_info_to_calibration(infos[0])
    assert calibration.size == (160, 120) and calibration.is_ideal
    assert np.array_equal(calibration.matrix, VirtualCamera(size=(160, 120)).calibration.matrix)
    assert np.array_equal(np.reshape(infos[0].p, (3, 4))[:, :3], calibration.matrix)
    assert np.array_equal(np.reshape(infos[0].r, (3, 3)), np.eye(3))


def test_calibration_of_unknown_cameras_is_not_made_up(ros, sent, folder) -> None:
    _, images = sent(images=str(folder))
    ros.until(lambda: images, 'an image')
    assert not ros.probe.count_publishers('camera/camera_info')


def test_camera_info_lies_beside_images_that_are_remapped(ros) -> None:
    ros.start(CameraNode, '-r', 'camera/image_raw:=/front/image')
    ros.until(lambda: ros.probe.count_publishers('/front/camera_info'), 'camera_info')


def test_images_of_a_folder_come_in_order_from_the_first_and_then_end(ros, sent, folder) -> None:
    _, images = sent(images=str(folder), loop=False)
    ros.until(lambda: len(images) == 3, 'three images')
    ros.spin(0.3)
    assert levels(images) == [10, 20, 30]


def test_broken_image_is_counted_logged_and_passed_over(ros, sent, folder) -> None:
    (folder / '15.png').write_bytes(b'not a picture')
    errors = ros.logged()
    node, images = sent(images=str(folder))
    ros.until(lambda: len(images) >= 6 and errors, 'two rounds')
    assert levels(images)[:6] == [10, 20, 30, 10, 20, 30]
    assert node.statistics.total('failed.image') >= 1
    assert len(errors) == 1
    assert '15.png' in errors[0]


def test_frames_of_a_video_come_at_its_own_rate(ros, sent, tmp_path) -> None:
    with Video(tmp_path / 'a.mp4', rate_hz=5.0) as film:
        for k in range(4):
            film.add(k * 200_000_000, np.full((40, 60, 3), 50 * k, np.uint8))
    node, images = sent(video=str(tmp_path / 'a.mp4'), rate_hz=-1.0)
    ros.until(lambda: len(images) >= 4, 'a round')
    assert np.allclose(levels(images)[:4], [0, 50, 100, 150], atol=6)
    assert node.source.rate_hz == pytest.approx(5)


def test_camera_pauses_and_goes_on_by_parameter(ros, sent) -> None:
    def set_sending(value):
        parameter = Parameter('sending', value=value).to_parameter_msg()
        ros.call(SetParameters, '/camera/set_parameters', parameters=[parameter])

    _, images = sent(size='64x48')
    ros.until(lambda: images, 'an image')
    set_sending(False)
    ros.spin(0.2)
    count = len(images)
    ros.spin(0.4)
    assert len(images) == count
    set_sending(True)
    ros.until(lambda: len(images) > count, 'another image')


def test_nothing_is_sent_before_somebody_listens(ros, sent, folder) -> None:
    node = ros.start(CameraNode, images=str(folder), rate_hz=50.0)
    ros.spin(0.3)
    assert node.statistics.total('received') == 0
