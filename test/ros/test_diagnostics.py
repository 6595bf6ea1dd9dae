"""What diagnostics conclude from what was counted."""

from types import SimpleNamespace

from kpfeat_ros.stats import Statistics
import pytest


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def judged(**counts: int) -> tuple[bytes, str]:
    """Return level and sentence after these counts within one second."""
    pytest.importorskip('rclpy', reason='rclpy is not installed')
    from kpfeat_ros.node import judge

    clock = Clock()
    statistics = Statistics(clock)
    for name, count in counts.items():
        if name.startswith('failed_'):
            for _ in range(count):
                statistics.fail(name.removeprefix('failed_'))
        else:
            statistics.count(name, count)
    clock.now = 1.0
    return judge(statistics.report(), '/image')


OK, WARN = b'\x00', b'\x01'


def test_node_at_work_is_well_and_says_its_rate() -> None:
    assert judged(received=30, processed=12, dropped=18) == (OK, '12.0 Hz')


@pytest.mark.parametrize(
    ('counts', 'words'),
    [
        ({}, "nothing received on '/image' yet"),
        ({'received': 9, 'processed': 6, 'failed_encoding': 3}, '3 encoding'),
        ({'received': 9, 'processed': 9, 'lost': 4}, '4.0 messages a second were lost'),
        ({'received': 9, 'unpaired': 5}, "no image on '/image' has the stamp"),
    ],
)
def test_trouble_is_a_warning_that_names_it(counts, words) -> None:
    level, sentence = judged(**counts)
    assert level == WARN
    assert words in sentence


def test_resting_because_nobody_listens_is_no_trouble() -> None:
    assert judged(received=30, idle=30) == (OK, 'idle: nobody listens to the results')


def test_end_of_the_images_is_reported() -> None:
    pytest.importorskip('rclpy', reason='rclpy is not installed')
    from kpfeat_ros.node import judge

    statistics = Statistics()
    statistics.count('received')
    statistics.report()
    assert judge(statistics.report(), '/image')[0] == WARN


def test_messages_that_the_middleware_loses_are_counted(ros) -> None:
    from kpfeat_ros.matcher_node import MatcherNode

    node = ros.start(MatcherNode)
    node._note_lost(SimpleNamespace(total_count_change=3))  # as rclpy calls it
    assert node.statistics.total('lost') == 3
