"""The overlay node over real DDS: pictures, and only for those who look."""

from kpfeat_core.messages.conversions import image_to_array
import numpy as np
from overlay_rig import changed, GRAY, Rig
import pytest

pytest.importorskip('kpfeat.msg', reason='no ROS 2 or no messages: `make test` brings them')

from types import SimpleNamespace

from kpfeat_ros import overlay_node
from kpfeat_ros.overlay_node import OverlayNode
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image


def test_keypoints_are_drawn_where_they_are_on_the_image_of_the_same_stamp(ros) -> None:
    rig = Rig(ros, 'image_keypoints')
    rig.send_image()
    image = rig.send_image()
    rig.send_image()
    rig.send_features(image, (20, 40), (60, 10))
    picture = rig.picture('image_keypoints')
    assert picture.header == image.header
    assert picture.encoding == 'rgb8'
    drawn = changed(image_to_array(picture))
    near = [np.abs(drawn - point).max(axis=1) <= 6 for point in ((20, 40), (60, 10))]
    assert all(part.any() for part in near)
    assert np.logical_or(*near).all()


def test_undistorted_keypoints_are_drawn_through_the_lens_of_camera_info(ros) -> None:
    rig = Rig(ros, 'image_keypoints', keypoint_pixels='undistorted')
    ros.until(rig.publishers['camera_info'].get_subscription_count, 'the overlay on camera_info')
    rig.send_features(rig.send_image(), (80, 30))
    ros.until(lambda: rig.node.statistics.total('failed.camera_info'), 'the refusal')
    rig.send_camera_info((-1.0, 0.0, 0.0, 0.0))
    rig.send_features(rig.send_image(), (80, 30))  # 0.4 to the right, shown at 0.4 - 0.4 ** 3
    drawn = changed(image_to_array(rig.picture('image_keypoints')))
    assert np.abs(drawn - [73.6, 30]).max() <= 7


def test_each_image_of_a_pair_has_its_own_lens(ros) -> None:
    remap = ['-r', 'image:=/left/image_raw', '-r', 'image1:=/right/image_raw']
    node = ros.start(OverlayNode, *remap, stereo=True, keypoint_pixels='undistorted')
    ros.listen(Image, 'image_matches')
    for topic in ('/left/camera_info', '/right/camera_info'):
        ros.until(lambda: node.count_subscribers(topic), topic)  # noqa: B023


def test_features_that_come_before_their_image_wait_for_it(ros) -> None:
    rig = Rig(ros, 'image_keypoints')
    image = ros.image(GRAY)
    rig.send_features(image, (20, 40))
    ros.until(lambda: rig.node.statistics.total('unpaired'), 'the features')
    rig.publishers['image'].publish(image)
    assert rig.picture('image_keypoints').header == image.header


def test_matches_are_drawn_between_both_images(ros) -> None:
    rig = Rig(ros, 'image_matches')
    image0, image1 = rig.send_image(), rig.send_image()
    rig.send_matches(image0, image1)
    picture = rig.picture('image_matches')
    assert picture.header == image1.header
    assert picture.height == 60
    assert picture.width >= 160


def test_reference_image_is_kept_however_many_images_come_after(ros) -> None:
    rig = Rig(ros, 'image_matches', buffer_size=2)
    reference = rig.send_image()
    for count in range(1, 6):
        rig.send_matches(reference, rig.send_image())
        rig.picture('image_matches', count)


def test_matches_of_forgotten_images_are_counted_and_not_drawn(ros) -> None:
    rig = Rig(ros, 'image_matches', buffer_size=2)
    images = [rig.send_image() for _ in range(4)]
    rig.send_matches(images[0], images[3])
    ros.until(lambda: rig.node.statistics.total('unpaired') == 1, 'the matches')
    assert rig.pictures['image_matches'] == []


def test_nothing_is_subscribed_or_drawn_while_nobody_looks(ros) -> None:
    rig = Rig(ros)
    ros.spin(0.3)
    assert [p.get_subscription_count() for p in rig.publishers.values()] == [0] * 5


@pytest.mark.parametrize(
    ('topic', 'idle'),
    [
        ('image_keypoints', ['matches', 'depth', 'camera_info']),
        ('image_keypoints/compressed', ['matches', 'depth', 'camera_info']),
        ('image_matches', ['features', 'depth', 'camera_info']),
        ('image_tracks', ['features', 'depth', 'camera_info']),
        ('keypoint_markers', ['image', 'matches', 'depth']),
        ('keypoint_cloud', ['image', 'matches']),
    ],
)
def test_only_what_is_looked_at_is_subscribed_and_let_go_afterwards(ros, topic, idle) -> None:
    rig = Rig(ros, topic)
    assert not any(rig.publishers[name].get_subscription_count() for name in idle)
    ros.stop_listening(rig.pictures[topic])
    ros.until(
        lambda: not any(p.get_subscription_count() for p in rig.publishers.values()),
        'the overlay to let go',
    )


def test_broken_image_is_counted_and_survived(ros) -> None:
    rig = Rig(ros, 'image_keypoints')
    image = ros.image(GRAY, encoding='hologram')
    rig.publishers['image'].publish(image)
    rig.send_features(image, (20, 40))
    ros.until(lambda: rig.node.statistics.total('failed.encoding') == 1, 'the failure')
    good = rig.send_image()
    rig.send_features(good, (20, 40))
    assert rig.picture('image_keypoints').header == good.header


def test_tracks_are_drawn_over_the_newest_image_and_reach_back_over_frames(ros) -> None:
    rig = Rig(ros, 'image_tracks')
    images = [rig.send_image() for _ in range(3)]
    rig.send_matches(images[0], images[1], (10, 50), (10, 20))
    rig.picture('image_tracks')
    rig.send_matches(images[1], images[2], (10, 20), (60, 20))
    picture = rig.picture('image_tracks', 2)
    assert picture.header == images[2].header
    drawn = set(map(tuple, changed(image_to_array(picture)).tolist()))
    assert {(10, y) for y in range(20, 50)} | {(x, 20) for x in range(10, 60)} <= drawn
    assert all(abs(x - 10) <= 4 or abs(y - 20) <= 4 for x, y in drawn)


def test_tracks_go_on_where_an_image_was_lost(ros) -> None:
    rig = Rig(ros, 'image_tracks')
    first, lost = rig.send_image(), ros.image(GRAY)
    last = rig.send_image()
    rig.send_matches(first, lost, (10, 50), (10, 20))
    rig.send_matches(lost, last, (10, 20), (60, 20))
    drawn = changed(image_to_array(rig.picture('image_tracks'))).tolist()
    assert [10, 40] in drawn and [40, 20] in drawn


def test_matches_that_do_not_fit_are_counted_and_tracks_go_on(ros) -> None:
    rig = Rig(ros, 'image_tracks')
    image0, image1 = rig.send_image(), rig.send_image()
    broken = rig.kinds['matches'](header0=image0.header, header=image1.header, scores=[1.0])
    rig.publishers['matches'].publish(broken)
    ros.until(lambda: rig.node.statistics.total('failed.ShapeError') == 1, 'the failure')
    rig.send_matches(image0, image1)
    assert rig.picture('image_tracks').header == image1.header


def test_compressed_pictures_are_jpeg_and_show_the_same(ros) -> None:
    topics = ['image_keypoints', 'image_keypoints/compressed']
    rig = Rig(ros, *topics, jpeg_quality=95)
    image = rig.send_image()
    rig.send_features(image, (20, 40), (60, 10))
    raw, compressed = (rig.picture(topic) for topic in topics)
    assert compressed.header == image.header
    assert compressed.format == 'rgb8; jpeg compressed bgr8'
    assert bytes(compressed.data[:2]) == b'\xff\xd8'
    pixels = image_to_array(compressed).astype(int)
    difference = np.abs(pixels - image_to_array(raw))
    assert difference.mean() < 2 and difference[5:15, 55:65].mean() < 30
    assert rig.node.statistics.total('processed') == 1  # drawn once


def test_only_the_form_that_is_listened_to_is_published(ros) -> None:
    rig = Rig(ros, 'image_keypoints/compressed')
    raw = ros.probe.count_publishers('image_keypoints')
    rig.send_features(rig.send_image(), (20, 40))
    assert rig.picture('image_keypoints/compressed')
    assert raw == 1  # offered, and nothing is on its way
    assert rig.node.wanted == {'keypoints'}


def test_annotations_need_nothing_but_features(ros, monkeypatch) -> None:
    # any compiled message does for Foxglove's, which the wheels lack
    found = {'foxglove_msgs': SimpleNamespace(ImageAnnotations=Image)}
    monkeypatch.setattr(overlay_node, 'find_messages', found.get)
    monkeypatch.setattr(
        overlay_node, 'fill_annotations', lambda _, features: Image(header=features.header)
    )
    rig = Rig(ros, 'image_annotations')
    assert sorted(rig.node.inputs) == ['features']
    image = ros.image(GRAY)
    rig.send_features(image, (20, 40))
    assert rig.picture('image_annotations').header == image.header
    assert rig.node.statistics.total('received') == 1


def test_the_length_of_trails_changes_while_the_node_runs(ros) -> None:
    rig = Rig(ros, 'image_tracks')
    images = [rig.send_image() for _ in range(4)]
    (done,) = rig.node.set_parameters([Parameter('track_length', value=2)])
    assert done.successful
    for k, (x0, x1) in enumerate([(10, 30), (30, 50), (50, 70)]):
        rig.send_matches(images[k], images[k + 1], (x0, 30), (x1, 30))
        picture = rig.picture('image_tracks', k + 1)
    drawn = changed(image_to_array(picture))
    assert drawn[:, 0].min() >= 48


def test_without_the_messages_of_foxglove_the_node_says_so_once(ros, monkeypatch) -> None:
    monkeypatch.setattr(overlay_node, 'find_messages', lambda package: None)
    logged = ros.logged(level=20)
    ros.until(lambda: ros.probe.count_publishers('/rosout'), 'the log')
    node = Rig(ros).node
    for transition in ('deactivate', 'cleanup', 'configure', 'activate'):
        getattr(node, f'trigger_{transition}')()
    ros.until(lambda: [text for text in logged if 'visualization_msgs' in text], 'the sentence')
    ros.spin(0.3)
    for topic, package in overlay_node.OPTIONAL.items():
        said = [text for text in logged if topic in text]
        assert len(said) == 1 and package in said[0]
        assert ros.probe.count_publishers(topic) == 0


def test_nothing_is_kept_after_deactivate_and_all_works_again_after_activate(ros) -> None:
    rig = Rig(ros, 'image_keypoints')
    image = rig.send_image()
    partners = rig.node.kept
    assert partners.image_of(image) is not None
    rig.node.trigger_deactivate()
    assert partners.image_of(image) is None
    assert not rig.node.outputs and not rig.node.inputs
    rig.node.trigger_activate()
    ros.until(rig.publishers['image'].get_subscription_count, 'the overlay on image')
    ros.until(rig.publishers['features'].get_subscription_count, 'the overlay on features')
    image = rig.send_image()
    rig.send_features(image, (20, 40))
    assert rig.picture('image_keypoints').header == image.header


def test_silence_is_blamed_on_the_topic_that_is_awaited_after_listeners_changed(ros) -> None:
    rig = Rig(ros, 'keypoint_markers', 'image_keypoints')
    rig.send_image()
    ros.stop_listening(rig.pictures['image_keypoints'])
    ros.until(lambda: not rig.publishers['image'].get_subscription_count(), 'the end of pictures')
    assert not rig.node.rests
    quietest = rig.node.statistics.report().quietest
    assert rig.node.input_topics[quietest] == '/features'


def test_images_without_a_stamp_are_warned_of_once_and_never_shown_with_features(ros) -> None:
    rig = Rig(ros, 'image_keypoints')
    warnings = ros.logged(level=30)
    image = ros.image(GRAY)
    image.header.stamp.sec = image.header.stamp.nanosec = 0
    for _ in range(3):
        rig.publishers['image'].publish(image)
        rig.send_features(image, (20, 40))
    ros.until(lambda: rig.node.statistics.total('unstamped') == 6, 'all messages')
    ros.until(lambda: len(warnings) == 2, 'a warning for each topic')
    assert all('stamp 0, which means that it is not set' in text for text in warnings)
    ros.spin(0.2)
    assert rig.node.statistics.total('processed') == 0
