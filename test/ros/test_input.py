"""What the extractor node sees of its images, over real DDS: region, mask, rate and lens."""

import cv2
from kpfeat_core.image import write_image
from kpfeat_core.messages.conversions import camera_info_to_calibration, message_to_features
import numpy as np
import pytest

pytest.importorskip('kpfeat.msg', reason='no ROS 2 or no messages: `make test` brings them')

from kpfeat_core.errors import ImageError
from sensor_msgs.msg import CameraInfo

COEFFICIENTS = [-0.2, 0.05, 0.001, -0.001, 0.0]


@pytest.fixture
def large(photo) -> np.ndarray:
    """Return the picture (192, 256, 3) with the small one in its lower right quarter."""
    picture = np.zeros((192, 256, 3), np.uint8)
    picture[96:, 128:] = photo
    return picture


def camera_info(ros, width: int = 128, height: int = 96, **fields):
    k = [100.0, 0.0, width / 2, 0.0, 100.0, height / 2, 0.0, 0.0, 1.0]
    message = CameraInfo(width=width, height=height, k=k, header=ros.image().header)
    message.distortion_model, message.d = 'plumb_bob', COEFFICIENTS
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def wait(ros, camera, features, image, count: int):
    camera.publish(image)
    ros.until(lambda: len(features) == count, f'features of image {count}')
    return message_to_features(features[-1]).numpy()


def test_region_gives_the_same_features_as_a_cut_image_moved(ros, start, photo, large) -> None:
    node, camera, features = start(roi_x_offset=128, roi_y_offset=96)
    found = wait(ros, camera, features, ros.image(large), 1)
    cut = node.extractor.extract(photo).numpy()
    assert (features[0].width, features[0].height) == (256, 192)
    assert np.allclose(found['keypoints'], cut['keypoints'] + [128, 96], atol=1e-4)
    assert np.array_equal(found['descriptors'], cut['descriptors'])


def test_region_and_binning_change_together_and_live(ros, start, photo, large) -> None:
    node, camera, features = start()
    wait(ros, camera, features, ros.image(large), 1)
    region = {'roi_x_offset': 128, 'roi_y_offset': 96, 'roi_width': 128, 'binning': 2}
    assert ros.set(**region).successful
    found = wait(ros, camera, features, ros.image(large), 2)
    small = cv2.resize(photo, (64, 48), interpolation=cv2.INTER_AREA)
    expected = node.extractor.extract(small).numpy()['keypoints']
    assert np.allclose(found['keypoints'], (expected + 0.5) * 2 - 0.5 + [128, 96], atol=1e-4)
    refused = ros.set(roi_x_offset=0, binning=17)
    assert not refused.successful and 'binning' in refused.reason
    assert node.preprocessor.config.roi_x_offset == 128


def test_region_that_does_not_fit_is_counted_and_the_node_goes_on(ros, start, photo) -> None:
    node, camera, features = start(roi_width=200)
    errors = ros.logged()
    camera.publish(ros.image(photo))
    ros.until(lambda: node.statistics.total('failed.region'), 'the failure')
    ros.until(lambda: any('does not fit into an image of 128x96' in e for e in errors), 'the log')
    ros.set(roi_width=100)
    assert wait(ros, camera, features, ros.image(photo), 1)['keypoints'][:, 0].max() < 100


def in_12_bits(ros, photo):
    """Make a mono16 message of a camera with 12 bits, and the picture that it shows."""
    gray = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    stored = gray.astype(np.uint16) * 16
    return ros.image(gray, encoding='mono16', step=256, data=stored.tobytes()), stored / 4095


def test_few_of_16_bits_are_said_once_and_filled_by_a_live_option(ros, start, photo) -> None:
    warnings = ros.logged(30)
    node, camera, features = start()
    ros.until(lambda: ros.probe.count_publishers('/rosout') > 1, 'the log')
    for count in (1, 2):
        wait(ros, camera, features, in_12_bits(ros, photo)[0], count)
    assert node.statistics.total('low_contrast') == 2
    ros.until(lambda: warnings, 'the warning')
    assert len(warnings) == 1 and 'pixel_bits' in warnings[0] and "'/image'" in warnings[0]
    for count, bits in ((3, 12), (4, 0)):
        assert ros.set(pixel_bits=bits).successful
        image, shown = in_12_bits(ros, photo)
        found = wait(ros, camera, features, image, count)['keypoints']
        if bits:
            assert np.array_equal(found, node.extractor.extract(shown).numpy()['keypoints'])
    assert node.statistics.total('low_contrast') == 2


def test_mask_hides_keypoints_and_may_change_live(ros, start, photo, tmp_path) -> None:
    for name, columns in (('left', slice(0, 64)), ('right', slice(64, None))):
        picture = np.zeros_like(photo)
        picture[:, columns] = 255
        write_image(tmp_path / f'{name}.png', picture)
    write_image(tmp_path / 'small.png', picture[:50])
    node, camera, features = start(mask=str(tmp_path / 'left.png'))
    left = wait(ros, camera, features, ros.image(photo), 1)['keypoints']
    assert len(left) and left[:, 0].max() < 63.5
    assert ros.set(mask=str(tmp_path / 'right.png')).successful
    right = wait(ros, camera, features, ros.image(photo), 2)['keypoints']
    assert len(right) and right[:, 0].min() >= 63.5
    refused = ros.set(mask='/no/mask.png')
    assert (refused.successful, refused.reason) == (False, "there is no file '/no/mask.png'")
    assert ros.set(mask=str(tmp_path / 'small.png')).successful
    camera.publish(ros.image(photo))
    ros.until(lambda: node.statistics.total('failed.mask') == 1, 'the failure')
    assert ros.set(mask='').successful
    everything = wait(ros, camera, features, ros.image(photo), 3)['keypoints']
    assert len(everything) == len(left) + len(right)


def test_mask_that_is_not_there_is_one_sentence_at_start(ros, start) -> None:
    with pytest.raises(ImageError, match="there is no file '/no/mask.png'"):
        start(mask='/no/mask.png')


def test_images_beyond_the_rate_are_counted_as_throttled(ros, start, photo) -> None:
    node, camera, features = start(max_rate_hz=0.01)
    for count in range(1, 5):
        camera.publish(ros.image(photo))
        ros.until(lambda: node.statistics.total('received') == count, 'arrival')  # noqa: B023
    ros.until(lambda: features, 'features of the first image')
    assert node.statistics.total('throttled') == 3
    assert node.statistics.total('dropped') == 0
    assert ros.set(max_rate_hz=-1.0).successful
    wait(ros, camera, features, ros.image(photo), 2)


def expected_by_opencv(node, photo, info) -> np.ndarray:
    found = node.extractor.extract(photo).numpy()['keypoints'].astype(np.float64)
    matrix, coefficients = np.array(info.k).reshape(3, 3), np.array(info.d)
    return cv2.undistortPoints(found[:, None], matrix, coefficients, P=matrix)[:, 0]


def test_keypoints_are_undistorted_by_camera_info_beside_the_images(ros, start, photo) -> None:
    node, camera, features = start('-r', 'image:=/front/image_raw', undistort='true')
    info = camera_info(ros)
    camera.publish(ros.image(photo))
    ros.until(lambda: node.statistics.total('failed.camera_info') == 1, 'the image to be refused')
    publisher = ros.camera('/front/camera_info', CameraInfo)
    publisher.publish(info)
    ros.until(lambda: node.streams[''].calibration, 'the calibration')
    found = wait(ros, camera, features, ros.image(photo), 1)
    assert np.abs(found['keypoints'] - expected_by_opencv(node, photo, info)).max() < 0.05


def test_camera_info_can_be_remapped_and_a_bad_one_is_counted(ros, start, photo) -> None:
    node, camera, features = start('-r', 'camera_info:=/other/info', undistort='true')
    publisher = ros.camera('/other/info', CameraInfo)
    errors = ros.logged()
    publisher.publish(camera_info(ros, k=[0.0] * 9))
    ros.until(lambda: any('not calibrated' in text for text in errors), 'the log')
    assert node.statistics.total('failed.camera_info') == 1
    camera.publish(ros.image(photo))  # its failure is not that no camera_info came
    ros.until(lambda: node.statistics.total('failed') == 2, 'the image')
    report = node.statistics.report()
    assert 'not calibrated' in report.reason and report.failures == {'camera_info': 2}
    publisher.publish(camera_info(ros, d=[0.0] * 5))
    ros.until(lambda: node.streams[''].calibration, 'the calibration')
    found = wait(ros, camera, features, ros.image(photo), 1)
    assert np.array_equal(found['keypoints'], node.extractor.extract(photo).numpy()['keypoints'])


def test_calibration_can_come_from_a_file(ros, start, photo, tmp_path) -> None:
    info = camera_info(ros)
    path = tmp_path / 'front.yaml'
    path.write_text(
        f'image_width: 128\nimage_height: 96\ndistortion_model: plumb_bob\n'
        f'camera_matrix: {{data: {list(map(float, info.k))}}}\n'
        f'distortion_coefficients: {{data: {COEFFICIENTS}}}\n'
    )
    node, camera, features = start(undistort='true', calibration_file=str(path))
    assert not ros.probe.count_subscribers('/camera_info')
    found = wait(ros, camera, features, ros.image(photo), 1)
    assert np.abs(found['keypoints'] - expected_by_opencv(node, photo, info)).max() < 0.05


def test_nobody_listens_to_camera_info_without_need(ros, start) -> None:
    start()
    assert not ros.probe.count_subscribers('/camera_info')


def test_camera_info_of_a_binned_part_speaks_of_the_image(ros_context, ros) -> None:
    info = camera_info(ros, width=640, height=480, binning_x=2, binning_y=2)
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 100, 60, 400, 300
    part = camera_info_to_calibration(info)
    whole = camera_info_to_calibration(camera_info(ros, width=640, height=480))
    assert part.size == (200, 150)
    pixel = np.array([[10.0, 20.0]])
    assert np.allclose(
        part.directions(pixel), whole.directions((pixel + 0.5) * 2 - 0.5 + [100, 60])
    )
