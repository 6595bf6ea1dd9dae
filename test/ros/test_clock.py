"""Simulated time that stands still or jumps, and stamps from another time."""

import time

import pytest

pytest.importorskip('kpfeat.msg', reason='no ROS 2 or no messages: `make test` brings them')

from diagnostic_msgs.msg import DiagnosticArray
from kpfeat.msg import Features, Matches
from kpfeat_ros.extractor_node import ExtractorNode
from kpfeat_ros.matcher_node import MatcherNode
from kpfeat_ros.overlay_node import OverlayNode
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image

PERIOD_S = 0.1  # between images


@pytest.fixture
def simulated(ros):
    """Start an extractor and a matcher on simulated time; gives the nodes and a clock to set."""
    given = {'use_sim_time': 'true'}
    extractor = ros.start(ExtractorNode, **given)
    matcher = ros.start(MatcherNode, geometry='none', **given)
    publisher = ros.probe.create_publisher(Clock, '/clock', 10)
    ros.until(lambda: publisher.get_subscription_count() >= 2, 'listeners to the clock')

    def set_clock(seconds: int) -> None:
        clock = Clock()
        clock.clock.sec = seconds
        publisher.publish(clock)
        for node in (extractor, matcher):
            ros.until(lambda: node.get_clock().now().nanoseconds == seconds * 10**9)  # noqa: B023

    return extractor, matcher, set_clock


def diagnostics(ros) -> list:
    return ros.listen(DiagnosticArray, '/diagnostics')


def test_diagnostics_go_on_while_simulated_time_stands_still_or_jumps(ros, simulated) -> None:
    _, _, set_clock = simulated
    messages = diagnostics(ros)
    ros.until(lambda: len(messages) > 3, 'diagnostics before the first time')
    assert messages[-1].header.stamp.sec == 0
    for seconds in (1000, 10, 2_000_000_000):
        set_clock(seconds)
        messages.clear()
        ros.until(lambda: len(messages) > 3, 'diagnostics')
        assert {message.header.stamp.sec for message in messages[-2:]} == {seconds}


@pytest.mark.parametrize('stamp', [0, 5, 1000, 2**31 - 1, -(2**31)])
def test_images_are_served_whatever_the_clock_and_their_stamps_say(
    ros, simulated, photo, stamp
) -> None:
    extractor, _, set_clock = simulated
    features, matches = ros.listen(Features, 'features'), ros.listen(Matches, 'matches')
    camera = ros.camera()
    ros.until(lambda: extractor.streams[''].wanted() == 2, 'listeners')
    ros.spin(0.5)  # until both ends know of each other
    for count, seconds in enumerate((0, 1000, 10, 2_000_000_000, 1000), 1):
        if seconds:
            set_clock(seconds)
        image = ros.image(photo)
        image.header.stamp.sec, image.header.stamp.nanosec = stamp, count
        camera.publish(image)
        ros.until(lambda: len(features) == count, f'features at {seconds} s')  # noqa: B023
        assert features[-1].header == image.header
        ros.until(lambda: len(matches) == count - 1, 'matches')  # noqa: B023
    durations = extractor.statistics.report().durations_ms
    if 'stamp_to_publish' in durations:  # only where the clock fits the stamp
        assert all(0 <= value < 60_000 for value in durations['stamp_to_publish'])


def test_pictures_are_drawn_after_the_stamps_jump_back(ros, simulated, photo) -> None:
    _, _, set_clock = simulated
    ros.start(OverlayNode, use_sim_time='true')
    pictures = ros.listen(Image, 'image_keypoints')
    camera = ros.camera()
    ros.until(lambda: camera.get_subscription_count() == 2, 'extractor and overlay')
    due = 0.0
    for seconds in (2000, 10, 3000):
        set_clock(seconds)
        before = len(pictures)

        def drawn() -> bool:
            nonlocal due
            if time.monotonic() > due:  # all nodes share one thread: a flood would starve some
                due = time.monotonic() + PERIOD_S
                image = ros.image(photo)
                image.header.stamp.sec = seconds  # noqa: B023
                image.header.stamp.nanosec = ros.stamp
                camera.publish(image)
            return len(pictures) > before  # noqa: B023

        ros.until(drawn, f'a picture at {seconds} s')
