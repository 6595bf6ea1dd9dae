"""What the overlay makes of depth and calibration: clouds and markers, over real DDS."""

import numpy as np
from overlay_rig import GRAY, Rig
import pytest

pytest.importorskip('kpfeat.msg', reason='no ROS 2 or no messages: `make test` brings them')

from kpfeat_ros.overlay_node import OverlayNode


def cloud_rows(cloud) -> list[list[float]]:
    assert [field.name for field in cloud.fields] == ['x', 'y', 'z', 'score']
    assert len(cloud.data) == cloud.row_step == cloud.point_step * cloud.width
    return np.frombuffer(cloud.data, '<f4').reshape(cloud.width, 4).tolist()


def test_keypoints_with_depth_are_a_cloud_in_metres(ros) -> None:
    rig = Rig(ros, 'keypoint_cloud')
    rig.send_camera_info()
    depth = np.full((60, 80), np.nan)
    depth[30, 60], depth[55, 40] = 4.0, 0.5
    image = ros.image(GRAY)
    rig.send_depth(image, depth, later_ns=5_000_000)
    ros.until(lambda: rig.node.kept.has_depth, 'the depth image')
    rig.send_features(image, (60, 30), (5, 5), (40, 55))
    cloud = rig.picture('keypoint_cloud')
    assert cloud.header == image.header
    np.testing.assert_allclose(cloud_rows(cloud), [[0.8, 0, 4, 1], [0, 0.25, 0.5, 1]], atol=1e-6)


def test_features_wait_for_their_depth_image(ros) -> None:
    rig = Rig(ros, 'keypoint_cloud')
    rig.send_camera_info()
    image = ros.image(GRAY)
    rig.send_features(image, (60, 30))
    ros.until(lambda: rig.node.statistics.total('without_depth'), 'the features')
    rig.send_depth(image, np.full((60, 80), 2.0))
    assert cloud_rows(rig.picture('keypoint_cloud'))[0][2] == 2.0
    rig.send_depth(image, np.full((60, 80), 3.0))
    ros.spin(0.3)
    assert len(rig.pictures['keypoint_cloud']) == 1


def test_depth_beyond_the_tolerance_belongs_to_other_features(ros) -> None:
    rig = Rig(ros, 'keypoint_cloud', depth_tolerance_ms=4.0)
    rig.send_camera_info()
    image = ros.image(GRAY)
    rig.send_depth(image, np.full((60, 80), 2.0), later_ns=5_000_000)
    ros.until(lambda: rig.node.kept.has_depth, 'the depth image')
    rig.send_features(image, (60, 30))
    ros.until(lambda: rig.node.statistics.total('without_depth'), 'the features')
    assert rig.pictures['keypoint_cloud'] == []


def test_markers_lie_where_the_camera_sees_the_keypoints(ros) -> None:
    rig = Rig(ros, 'keypoint_markers', marker_distance=2.0)
    rig.send_camera_info()
    image = ros.image(GRAY)
    rig.send_features(image, (60, 30), (40, 55))
    (marker,) = rig.picture('keypoint_markers').markers
    assert marker.header == image.header
    assert marker.type == marker.POINTS
    assert [(p.x, p.y, p.z) for p in marker.points] == [(0.4, 0.0, 2.0), (0.0, 1.0, 2.0)]
    assert len(marker.colors) == 2


def test_what_a_cloud_waits_for_is_named(ros) -> None:
    rig = Rig(ros, 'keypoint_cloud')
    assert rig.node.settings()['waiting_for'] == '/camera_info /depth'
    rig.send_camera_info()
    rig.send_features(ros.image(GRAY), (60, 30))
    ros.until(lambda: rig.node.statistics.total('without_depth'), 'the features')
    assert rig.node.settings()['waiting_for'] == '/depth'
    rig.send_depth(ros.image(GRAY), np.ones((60, 80)))
    ros.until(lambda: rig.node.settings()['waiting_for'] == 'nothing', 'the depth image')


def test_camera_info_is_looked_for_beside_the_images(ros) -> None:
    remap = ['-r', 'image:=/left/image_raw']
    beside = ros.start(OverlayNode, *remap)
    assert beside.camera_info_topic() == '/left/camera_info'
    given = ros.start(OverlayNode, *remap, '-r', 'camera_info:=/calibration', '-r', '__node:=b')
    assert given.camera_info_topic() == '/calibration'
