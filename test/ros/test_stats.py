"""Counting and timing, on a clock that the test moves."""

from kpfeat_ros.diagnostics import Statistics


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


def test_only_the_first_failure_of_a_kind_is_the_first() -> None:
    statistics = Statistics()
    assert [statistics.fail(kind) for kind in ('a', 'a', 'b', 'a')] == [True, False, True, False]
    assert statistics.total('failed') == 4
    assert statistics.report().failures == {'a': 3, 'b': 1}
    assert statistics.report().failures == {}


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
    assert {'received', 'processed', 'dropped', 'failed'} <= dict(
        statistics.report().values()
    ).keys()


def test_input_that_comes_when_none_is_waited_for_has_no_age() -> None:
    statistics = Statistics()
    statistics.wait_for_input(source='left')
    statistics.count('received', source='left')
    assert list(statistics.report().ages_s) == ['left']
    statistics.wait_for_input(False, source='left')
    statistics.count('received', source='left')  # the last one, from another thread
    assert statistics.report().ages_s == {}
