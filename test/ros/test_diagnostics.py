"""What is counted and timed, and what diagnostics conclude from it."""

from types import SimpleNamespace

import pytest

pytest.importorskip('kpfeat.msg', reason='no ROS 2 or no messages: `make test` brings them')

from diagnostic_msgs.msg import DiagnosticArray
from kpfeat.msg import Features
from kpfeat_ros.diagnostics import gpu_memory, judge, Statistics, USUAL_LIMITS
from kpfeat_ros.extractor_node import ExtractorNode
from kpfeat_ros.matcher_node import MatcherNode
from kpfeat_ros.options import DiagnosticsOptions
from rclpy.parameter import Parameter


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_rates_are_events_a_second_since_the_last_report() -> None:
    clock = Clock()
    statistics = Statistics(clock)
    for _ in range(30):
        statistics.count('received')
    clock.now = 2.0
    assert statistics.report().rates['received'] == 15
    clock.now = 3.0
    report = statistics.report()
    assert report.rates['received'] == 0
    assert report.totals['received'] == 30


def test_each_reason_of_a_failure_is_new_once() -> None:
    statistics = Statistics()
    told = [statistics.fail(kind, reason=why) for kind, why in ('aX', 'aX', 'aY', 'bX', 'aY')]
    assert told == [True, False, True, True, False]
    assert statistics.total('failed') == 5
    report = statistics.report()
    assert report.failures == {'a': 4, 'b': 1}
    assert report.reason == 'Y'
    assert statistics.report().failures == {}


def test_reasons_that_never_repeat_do_not_fill_the_log() -> None:
    statistics = Statistics()
    assert sum(statistics.fail('size', reason=f'{k} pixels') for k in range(1000)) == 10


def test_stream_of_which_nothing_succeeds_is_an_error_however_slow_it_is() -> None:
    clock = Clock()
    statistics = Statistics(clock)
    statistics.wait_for_input()

    def next_report(*events: str) -> tuple[bytes, str]:
        clock.now += 1.0
        for event in events:
            statistics.count('received')
            if event == 'good':
                statistics.count('processed')
            else:
                statistics.fail('decode', reason=event)
        return judge(statistics.report(), '/image')

    assert next_report('good')[0] == OK
    assert next_report('good', 'no JPEG') == (
        WARN,
        'failed since the last report: 1 decode; the last: no JPEG',
    )
    level, sentence = next_report('cut off')
    assert level == ERROR and 'cut off' in sentence
    level, sentence = next_report()  # an image in two seconds
    assert level == ERROR and 'nothing has succeeded since the last failure: cut off' in sentence
    assert next_report('good') == (OK, '1.0 Hz')


def test_durations_are_shown_as_median_and_largest_in_milliseconds() -> None:
    statistics = Statistics()
    for seconds in (0.001, 0.002, 0.009):
        statistics.add_duration('decode', seconds)
    report = statistics.report()
    assert report.durations_ms == {'decode': (2.0, 9.0)}
    assert ('decode_ms', '2.00') in report.values()


def test_names_never_counted_are_zero_and_the_main_ones_always_shown() -> None:
    statistics = Statistics()
    assert statistics.total('anything') == 0
    shown = dict(statistics.report().values())
    assert {'received', 'processed', 'dropped', 'failed'} <= shown.keys()


def test_input_that_comes_when_none_is_waited_for_has_no_age() -> None:
    statistics = Statistics()
    statistics.wait_for_input(source='left')
    statistics.count('received', source='left')
    assert list(statistics.report().ages_s) == ['left']
    statistics.wait_for_input(False, source='left')
    statistics.count('received', source='left')  # the last one, from another thread
    assert statistics.report().ages_s == {}


def judged(limits: DiagnosticsOptions = USUAL_LIMITS, **counts: int) -> tuple[bytes, str]:
    """Return level and sentence after these counts within one second."""
    clock = Clock()
    statistics = Statistics(clock)
    statistics.wait_for_input()
    for name, count in counts.items():
        if name.startswith('failed_'):
            for _ in range(count):
                statistics.fail(name.removeprefix('failed_'))
        else:
            statistics.count(name, count)
    clock.now = 1.0
    return judge(statistics.report(), '/image', limits=limits)


OK, WARN, ERROR = b'\x00', b'\x01', b'\x02'


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


@pytest.mark.parametrize(('seconds', 'level'), [(1.0, OK), (3.0, WARN), (20.0, ERROR)])
def test_end_of_the_images_is_a_warning_and_then_an_error(seconds, level) -> None:
    clock = Clock()
    statistics = Statistics(clock)
    statistics.wait_for_input()
    statistics.count('received')
    statistics.count('processed')
    statistics.report()
    clock.now = seconds
    found, sentence = judge(statistics.report(), '/image')
    assert found == level
    assert level == OK or f"nothing received on '/image' for {seconds:.1f} s" in sentence


@pytest.mark.parametrize(
    ('counts', 'limits', 'level', 'words'),
    [
        ({'processed': 4}, {'min_rate_warn_hz': 5.0}, WARN, '4.0 Hz'),
        ({'processed': 6}, {'min_rate_warn_hz': 5.0}, OK, '6.0 Hz'),
        ({'processed': 4}, {'min_rate_warn_hz': 9.0, 'min_rate_error_hz': 5.0}, ERROR, '4.0 Hz'),
        ({'processed': 1, 'dropped': 6}, {'max_drop_share_warn': 0.5}, WARN, '60 % of the input'),
        ({'processed': 6, 'dropped': 4}, {'max_drop_share_warn': 0.5}, OK, '6.0 Hz'),
        ({'processed': 1, 'dropped': 9}, {'max_drop_share_error': 0.8}, ERROR, '90 %'),
        ({'processed': 10}, {'max_age_warn_s': 0.5}, WARN, 'for 1.0 s'),
    ],
)
def test_limits_decide_what_is_a_warning_and_what_an_error(counts, limits, level, words) -> None:
    found, sentence = judged(limits=DiagnosticsOptions(**limits), received=10, **counts)
    assert found == level
    assert words in sentence


def test_age_begins_anew_when_input_is_waited_for_and_is_none_at_rest() -> None:
    clock = Clock()
    statistics = Statistics(clock)
    assert statistics.report().age_s is None
    statistics.wait_for_input()
    statistics.count('received')
    clock.now = 60.0
    assert statistics.report().age_s == 60.0
    statistics.wait_for_input(False)
    assert statistics.report().age_s is None
    statistics.wait_for_input()
    clock.now = 61.0
    assert statistics.report().age_s == 1.0


class Watched:
    """An extractor, its camera, and what it says about itself."""

    def __init__(self, ros, **parameters) -> None:
        self.ros = ros
        self.node = ros.start(ExtractorNode, **parameters)
        ros.listen(Features, 'features')
        self.camera = ros.camera()
        self.reports = ros.listen(DiagnosticArray, '/diagnostics')

    def says(self, level: bytes, words: str = '', photo=None) -> dict[str, str]:
        """Wait for diagnostics with this level and words; gives their values."""

        def found() -> bool:
            if photo is not None:
                self.camera.publish(self.ros.image(photo))
                self.ros.spin(0.05)
            last = self.reports[-1].status[0] if self.reports else None
            return last is not None and last.level == level and words in last.message

        self.ros.until(found, f'{level!r} {words}')
        return {pair.key: pair.value for pair in self.reports[-1].status[0].values}


def test_node_reports_that_input_stops_and_that_it_is_back(ros, photo) -> None:
    watched = Watched(ros, max_age_warn_s=0.4, max_age_error_s=0.8)
    watched.says(WARN, "nothing received on '/image' yet")
    watched.says(OK, 'Hz', photo)
    watched.says(WARN, "nothing received on '/image' for")
    values = watched.says(ERROR, "nothing received on '/image' for")
    assert float(values['age_s']) >= 0.8
    watched.says(OK, 'Hz', photo)


def test_node_reports_rates_age_and_each_stage(ros, photo) -> None:
    watched = Watched(ros)
    watched.says(OK, 'Hz', photo)
    values = watched.says(OK, 'Hz', photo)
    stages = {'decode', 'transfer', 'network', 'detect', 'describe', 'extract', 'publish'}
    assert {f'{stage}_ms' for stage in stages} <= values.keys()
    assert {'received_hz', 'processed_hz', 'dropped', 'drop_share', 'age_s'} <= values.keys()
    inner = sum(float(values[f'{stage}_ms']) for stage in ('network', 'detect', 'describe'))
    assert 0.3 * float(values['extract_ms']) < inner < 1.5 * float(values['extract_ms'])


def test_limits_can_be_changed_while_the_node_runs(ros, photo) -> None:
    watched = Watched(ros)
    watched.says(OK, 'Hz', photo)
    watched.node.set_parameters([Parameter('min_rate_error_hz', value=900.0)])
    watched.says(ERROR, 'less than asked for', photo)


def test_gpu_memory_is_told_for_each_gpu_in_use(monkeypatch) -> None:
    torch = pytest.importorskip('torch')
    if not torch.cuda.is_available():
        assert gpu_memory() == []
    held = {0: 0, 1: 3 * 2**20}
    for name, value in {
        'is_initialized': lambda: True,
        'device_count': lambda: 2,
        'memory_reserved': lambda index: 2 * held[index],
        'memory_allocated': held.get,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    assert gpu_memory() == [('gpu1_memory_mib', '3'), ('gpu1_memory_reserved_mib', '6')]


def test_messages_that_the_middleware_loses_are_counted(ros) -> None:
    node = ros.start(MatcherNode)
    node._note_lost(SimpleNamespace(total_count_change=3))  # as rclpy calls it
    assert node.statistics.total('lost') == 3


def test_cameras_of_one_extractor_have_a_status_each_that_names_its_topic(ros, photo) -> None:
    node = ros.start(ExtractorNode, cameras='left,right', max_age_warn_s=1000.0)
    for name in node.cameras:
        ros.listen(Features, f'{name}/features')
    left, right = (ros.camera(f'{name}/image') for name in node.cameras)
    reports = ros.listen(DiagnosticArray, '/diagnostics')

    def found() -> bool:
        left.publish(ros.image(photo))
        right.publish(ros.image(encoding='none'))
        ros.spin(0.05)
        levels = [status.level for status in reports[-1].status] if reports else []
        return levels == [WARN, OK, ERROR]

    ros.until(found, 'a status each')
    _, first, second = reports[-1].status
    assert first.name == 'kpfeat: /extractor: left' and first.hardware_id == '/left/image'
    assert "encoding 'none'" in second.message
    assert all(status.hardware_id for status in reports[-1].status)
    values = {pair.key: pair.value for pair in second.values}
    assert values['processed'] == '0' and int(values['failed.encoding']) > 0


@pytest.mark.parametrize(
    ('published', 'kind', 'given', 'words'),
    [
        ('/c/image', 'CompressedImage', {'image': '/c/image'}, 'expects sensor_msgs/msg/Image'),
        (
            '/c/image/compressed',
            'CompressedImage',
            {'image': '/c/image/compressed'},
            'give image as /c/image and set image_transport to compressed',
        ),
        (
            '/c/image/compressed',
            'CompressedImage',
            {'image': '/c/image/compressed', 'image_transport': 'compressed'},
            'give image as /c/image, to which compressed adds',
        ),
        (
            '/c/image/compressed',
            'CompressedImage',
            {'image': '/c/image'},
            'set image_transport of /extractor to compressed',
        ),
        (
            '/c/image',
            'Image',
            {'image': '/c/image', 'image_transport': 'compressed'},
            'set image_transport of /extractor to raw',
        ),
        ('/c/image', 'CameraInfo', {'image': '/c/image'}, 'is sensor_msgs/msg/CameraInfo'),
    ],
)
def test_wrong_type_or_transport_is_named_from_the_graph(
    ros, request, published, kind, given, words
) -> None:
    import rclpy
    import sensor_msgs.msg

    with_images = rclpy.Context()
    with_images.init(args=[])  # as in another process; in ours DDS refuses a second type at once
    request.addfinalizer(with_images.try_shutdown)
    other = ros.probe if kind == 'CameraInfo' else rclpy.create_node('other', context=with_images)
    other.create_publisher(getattr(sensor_msgs.msg, kind), published, 1)
    parameters = {k: v for k, v in given.items() if k != 'image'}
    node = ros.start(ExtractorNode, '-r', f'image:={given["image"]}', **parameters)
    ros.listen(Features, 'features')
    reports = ros.listen(DiagnosticArray, '/diagnostics')
    ros.until(lambda: [s for r in reports for s in r.status if words in s.message], words)
    assert node.state == 'active'


@pytest.mark.parametrize('node_class', ['CameraNode', 'MatcherNode', 'OverlayNode'])
def test_misspelt_parameters_are_told_by_every_node_but_not_those_of_others(ros, node_class):
    from kpfeat_ros.components import find_node_class

    node = ros.start(
        find_node_class('kpfeat', f'kpfeat::{node_class}'),
        autostart='false',
        max_age_warn_z=1.0,
        **{'jpeg_quality': 50, 'ratio_threshold': 0.9, 'binning': 1},
    )
    warnings = ros.logged(level=30)
    node.trigger_configure()
    ros.until(lambda: warnings, 'the warning')
    near = "'max_age_warn_z' (did you mean 'max_age_warn_s'?)"
    assert warnings == [f'given, but no parameter of this node: {near}']
