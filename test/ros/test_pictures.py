"""Messages to JPEG, clouds, annotations and markers, without a node."""

from types import SimpleNamespace

import cv2
from kpfeat_core.camera import Calibration, undistort
from kpfeat_core.errors import BadImageError, ConfigError, ImageError, ShapeError
from kpfeat_core.features import Features
from kpfeat_core.messages.conversions import fill_jpeg
from made_frames import pair_of
import numpy as np
import pytest

pytest.importorskip('kpfeat.msg', reason='no ROS 2 or no messages: `make test` brings them')

from kpfeat.msg import Matches
from kpfeat_core.messages.conversions import depth_to_metres, fill_matches
from kpfeat_core.tracks import Trail
from kpfeat_ros import pictures as points
from kpfeat_ros.frames import StampedFeatures
from kpfeat_ros.pictures import (
    cloud_of_keypoints,
    distortion_for,
    fill_annotations,
    fill_markers,
    find_messages,
    frame_in_image,
    picture_of_keypoints,
    picture_of_matches,
    picture_of_tracks,
)
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header


def made_frame(*points, scores=None, size=(80, 60)):
    count = len(points)
    arrays = {
        'keypoints': np.array(points, np.float32).reshape(-1, 2),
        'keypoint_scores': np.array(scores or [1.0] * count, np.float32),
        'descriptors': np.ones((count, 1), np.float32),
        'image_size': np.array(size, np.float32),
    }
    header = Header(frame_id='camera_optical')
    header.stamp.sec = 7
    return StampedFeatures(header, 'alike-t', Features.from_numpy(arrays))


def depth_message(array: np.ndarray, encoding: str, is_bigendian: int = 0, padding: int = 0):
    rows = array.view(np.uint8).reshape(len(array), -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=255)
    return Image(
        height=array.shape[0],
        width=array.shape[1],
        encoding=encoding,
        is_bigendian=is_bigendian,
        step=rows.shape[1],
        data=rows.tobytes(),
    )


def black_image():
    return depth_message(np.zeros((480, 640), np.uint8), 'mono8')


def camera_info(**fields):
    message = CameraInfo(width=80, height=60, distortion_model='plumb_bob')
    message.k = [100.0, 0.0, 40.0, 0.0, 50.0, 30.0, 0.0, 0.0, 1.0]
    message.p = [200.0, 0.0, 40.0, -9.0, 0.0, 200.0, 30.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def rows_of(cloud) -> np.ndarray:
    return np.frombuffer(cloud.data, '<f4').reshape(-1, 4)


@pytest.mark.parametrize(
    ('dtype', 'encoding'), [('<u2', '16UC1'), ('<u2', 'mono16'), ('>u2', '16UC1')]
)
def test_depths_of_16_bits_are_millimetres(dtype, encoding):
    stored = np.array([[0, 1500, 65535], [1, 2, 3]], dtype)
    found = depth_to_metres(depth_message(stored, encoding, int(dtype[0] == '>'), padding=5))
    np.testing.assert_allclose(found, [[0, 1.5, 65.535], [0.001, 0.002, 0.003]], rtol=1e-6)


def test_depths_of_32_bits_are_metres_with_nan_for_unknown_and_others_are_refused():
    stored = np.array([[np.nan, 0.5], [12, np.inf]], '<f4')
    np.testing.assert_array_equal(depth_to_metres(depth_message(stored, '32FC1')), stored)
    with pytest.raises(BadImageError, match="encoding 'rgb8', expected 16UC1 in millimetres"):
        depth_to_metres(depth_message(np.zeros((2, 2), '<u2'), 'rgb8'))
    short = depth_message(np.zeros((2, 2), '<u2'), '16UC1')
    short.data = short.data[:5]
    with pytest.raises(BadImageError, match='holds 5 bytes'):
        depth_to_metres(short)


@pytest.mark.parametrize(
    ('dtype', 'encoding', 'unit'), [('<u2', '16UC1', 1000), ('<f4', '32FC1', 1)]
)
def test_a_cloud_holds_keypoints_with_depth_and_their_scores(dtype, encoding, unit):
    stored = np.zeros((60, 80), dtype)
    stored[30, 60], stored[55, 40] = 4 * unit, unit / 2
    features = made_frame((60, 30), (10, 10), (40, 55), scores=[0.9, 0.8, 0.25])
    depth = depth_message(stored, encoding)
    cloud = cloud_of_keypoints(features, depth, camera_info(), 'distorted')
    assert cloud.header == features.header
    assert (cloud.height, cloud.width, cloud.point_step) == (1, 2, 16)
    offsets = {'x': 0, 'y': 4, 'z': 8, 'score': 12}
    assert {field.name: field.offset for field in cloud.fields} == offsets
    expected = [[0.8, 0, 4, 0.9], [0, 0.25, 0.5, 0.25]]
    np.testing.assert_allclose(rows_of(cloud), expected, atol=1e-6)


LENS = [-0.3, 0.0, 0.0, 0.0, 0.0]
MATRIX = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
CORNERS = np.array([[40.0, 30], [600, 30], [40, 450], [600, 450]], np.float32)


@pytest.fixture
def bent():
    """Return keypoints freed of a lens that shows them at CORNERS, and its camera_info."""
    ideal, good = undistort(Calibration(MATRIX, (640, 480), 'plumb_bob', tuple(LENS)), CORNERS)
    assert good.all() and (ideal < 0).any()  # outside the image
    info = camera_info(width=640, height=480, k=MATRIX.ravel(), d=LENS)
    return made_frame(*ideal, size=(640, 480)), info


def test_a_cloud_of_undistorted_keypoints_has_the_depths_that_the_lens_shows_them_at(bent):
    frame, info = bent
    slanted = (1 + np.arange(640) / 1000 + np.arange(480)[:, None] / 1000).astype('<f4')
    cloud = cloud_of_keypoints(frame, depth_message(slanted, '32FC1'), info, 'undistorted')
    z = 1 + CORNERS.sum(1, keepdims=True) / 1000
    rays = np.concatenate([frame.features.numpy()['keypoints'] - MATRIX[:2, 2], z * 0 + 500], 1)
    np.testing.assert_allclose(rows_of(cloud)[:, :3], z * rays / 500, atol=1e-5)


def test_undistorted_keypoints_are_drawn_where_the_image_shows_them(bent):
    frame, info = bent
    distortion = distortion_for(info, 'undistorted')
    drawn = picture_of_keypoints(black_image(), frame, distortion).any(2)
    expected = picture_of_keypoints(black_image(), made_frame(*CORNERS, size=(640, 480))).any(2)
    assert expected.any() and np.array_equal(drawn, expected)


def test_undistorted_matches_and_tracks_are_drawn_where_the_images_show_them(bent):
    frame, info = bent
    distortion = distortion_for(info, 'undistorted')
    ideal = frame.features.numpy()['keypoints']

    def matches(point0, point1):
        return fill_matches(Matches(), pair_of(point0, point1), Header(), Header())

    images = black_image(), black_image()
    found = picture_of_matches(*images, matches(ideal[0], CORNERS[3]), -1, distortion, None)
    assert np.array_equal(found, picture_of_matches(*images, matches(CORNERS[0], CORNERS[3]), -1))
    found = picture_of_matches(*images, matches(CORNERS[0], ideal[3]), -1, None, distortion)
    assert np.array_equal(found, picture_of_matches(*images, matches(CORNERS[0], CORNERS[3]), -1))
    found = picture_of_tracks(images[0], [Trail(ideal, 2)], distortion)
    assert np.array_equal(found, picture_of_tracks(images[0], [Trail(CORNERS, 2)]))


def test_pictures_of_few_of_16_bits_are_bright():
    ramp = np.tile(np.linspace(300, 900, 80).astype('<u2'), (60, 1))
    image = depth_message(ramp, 'mono16')
    for picture in (picture_of_keypoints(image, made_frame()), picture_of_tracks(image, [])):
        assert (picture.min(), picture.max()) == (0, 255)


def test_undistorted_keypoints_need_the_calibration_of_their_images(bent):
    frame, info = bent
    with pytest.raises(BadImageError, match='no camera_info came so far') as error:
        distortion_for(None, 'undistorted')
    assert error.value.kind == 'camera_info'
    assert distortion_for(None, 'distorted') is distortion_for(None, 'rectified') is None
    info.width = 320
    with pytest.raises(ShapeError, match='is of 640x480 pixels, the calibration of 320x480'):
        frame_in_image(frame, distortion_for(info, 'undistorted'))


def test_rectified_pixels_are_seen_by_p_and_undistorted_ones_by_k_alone():
    depth = depth_message(np.ones((60, 80), '<f4'), '32FC1')
    info = camera_info(d=[-0.3, 0.1, 0.0, 0.0, 0.0])
    x = {
        pixels: rows_of(cloud_of_keypoints(made_frame((60, 30)), depth, info, pixels))[0, 0]
        for pixels in ('distorted', 'undistorted', 'rectified')
    }
    assert x['undistorted'] == pytest.approx(0.2)
    assert x['rectified'] == pytest.approx(0.1)
    assert x['distorted'] > 0.201  # what a barrel lens drew inwards


def test_no_keypoints_and_no_depth_give_an_empty_cloud():
    nothing = depth_message(np.zeros((60, 80), '<u2'), '16UC1')
    for features in (made_frame(), made_frame((60, 30))):
        cloud = cloud_of_keypoints(features, nothing, camera_info(), 'distorted')
        assert cloud.width == 0 and len(cloud.data) == 0


def test_images_of_another_size_than_the_calibration_are_refused():
    small = depth_message(np.ones((30, 40), '<f4'), '32FC1')
    with pytest.raises(ShapeError, match='depth image is of 40x30'):
        cloud_of_keypoints(made_frame((6, 3)), small, camera_info(), 'distorted')
    depth = depth_message(np.ones((60, 80), '<f4'), '32FC1')
    with pytest.raises(ShapeError, match='the image of the features is of 80x60'):
        cloud_of_keypoints(made_frame((6, 3)), depth, camera_info(width=160), 'distorted')
    with pytest.raises(ConfigError, match='not calibrated'):
        cloud_of_keypoints(made_frame((6, 3)), depth, camera_info(k=[0.0] * 9), 'distorted')


def test_sensor_msgs_py_makes_the_cloud_where_it_is_installed(monkeypatch):
    given = []
    monkeypatch.setattr(points, 'create_cloud', lambda *args: given.append(args) or 'cloud')
    header, rows = object(), np.ones((2, 4), np.float32)
    assert points.make_cloud(header, rows) == 'cloud'
    assert given == [(header, points.FIELDS, rows)]


def test_our_cloud_is_that_of_sensor_msgs_py(monkeypatch):
    library = pytest.importorskip(
        'sensor_msgs_py.point_cloud2', reason='sensor_msgs_py comes with ROS, not as a wheel'
    )

    rows = np.random.default_rng(0).random((5, 4), np.float32)
    theirs = library.create_cloud(Header(), points.FIELDS, rows)
    monkeypatch.setattr(points, 'create_cloud', None)
    ours = points.make_cloud(Header(), rows)
    assert bytes(ours.data) == bytes(theirs.data)
    assert ours.fields == theirs.fields and ours.point_step == theirs.point_step


class StandIn:
    """What compiled messages of Foxglove look like, from what their package documents."""

    class Of:
        def __init__(self, **fields) -> None:
            unknown = set(fields) - set(self.FIELDS)
            assert not unknown, unknown
            for name in self.FIELDS:
                setattr(self, name, fields.get(name))

    class Point2(Of):
        FIELDS = ('x', 'y')

    class Color(Of):
        FIELDS = ('r', 'g', 'b', 'a')

    class PointsAnnotation(Of):
        POINTS = 1
        FIELDS = ('timestamp', 'type', 'points', 'outline_color', 'outline_colors')
        FIELDS += ('fill_color', 'thickness')

    class ImageAnnotations(Of):
        FIELDS = ('circles', 'points', 'texts')


def test_annotations_are_coloured_points_in_pixels_that_begin_at_the_corner():
    features = made_frame((0, 0), (20.25, 10), (5, 5), scores=[0.9, 0.5, 0.1])
    messages = find_messages('foxglove_msgs') or StandIn
    (points,) = fill_annotations(messages, features).points
    assert points.type == messages.PointsAnnotation.POINTS
    assert points.timestamp == features.header.stamp
    assert [(p.x, p.y) for p in points.points] == [(0.5, 0.5), (20.75, 10.5), (5.5, 5.5)]
    best, _, worst = points.outline_colors
    assert best.r > 0.7 > 0.4 > best.b and worst.b > 0.7 > 0.4 > worst.r
    assert best.a == worst.a == 1.0


def test_newer_annotations_say_their_time_once_more():
    class Newer(StandIn):
        class ImageAnnotations(StandIn.Of):
            FIELDS = ('timestamp', 'circles', 'points', 'texts')

    features = made_frame((1, 1))
    assert fill_annotations(Newer, features).timestamp == features.header.stamp


def test_markers_of_no_keypoints_delete_those_before():
    messages = find_messages('visualization_msgs')
    (marker,) = fill_markers(messages, made_frame(), camera_info(), 'distorted', 1.0).markers
    assert marker.action == marker.DELETE
    before = fill_markers(messages, made_frame((6, 3)), camera_info(), 'distorted', 1.0)
    assert (before.markers[0].ns, before.markers[0].id) == (marker.ns, marker.id)


def test_packages_that_are_not_installed_give_no_messages():
    assert find_messages('hologram_msgs') is None
    assert find_messages('std_msgs').Header


def test_jpeg_keeps_red_and_is_smaller_at_a_lower_quality():
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    fine, coarse = (fill_jpeg(SimpleNamespace(), picture, None, q) for q in (95, 10))
    assert len(coarse.data) < len(fine.data) / 2
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 255
    message = fill_jpeg(SimpleNamespace(), red, None, 95)
    decoded = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)  # BGR
    assert (decoded[..., 2] > 240).all() and (decoded[..., 0] < 15).all()


def test_a_picture_beyond_what_jpeg_holds_is_refused():
    with pytest.raises(ImageError, match='65500 pixels at most'):
        fill_jpeg(SimpleNamespace(), np.zeros((1, 65600, 3), np.uint8), None, 80)
