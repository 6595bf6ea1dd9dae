"""Images at a rate, whatever the rate at which they come; on a clock of the test."""

from kpfeat_ros.images import Throttle
import pytest


def admitted(arrivals: list[float], rate_hz: float) -> list[float]:
    now = [0.0]
    throttle = Throttle(lambda: now[0])
    found = []
    for now[0] in arrivals:
        if throttle.admits(rate_hz):
            found.append(now[0])
    return found


REGULAR = [0.21 * i for i in range(50)]
IRREGULAR = [0.0, 0.0, 0.001, 5.0]


@pytest.mark.parametrize(
    ('arrivals', 'rate_hz', 'expected'),
    [
        (IRREGULAR, -1.0, IRREGULAR),  # no rate: all
        (IRREGULAR, 0.0, IRREGULAR),
        (REGULAR, 5.0, REGULAR),  # a slower camera
        ([0.0, 0.05, 3.0], 1.0, [0.0, 3.0]),  # at once after a pause
    ],
)
def test_images_that_are_due_are_admitted_when_they_come(arrivals, rate_hz, expected) -> None:
    assert admitted(arrivals, rate_hz) == expected


@pytest.mark.parametrize('rate_hz', [1.0, 7.0, 20.0, 29.0])
def test_rate_is_met_and_not_exceeded_whatever_the_camera_s(rate_hz) -> None:
    arrivals = [i / 30 for i in range(30 * 20)]
    count = len(admitted(arrivals, rate_hz))
    assert 20 * rate_hz - 1 <= count <= 20 * rate_hz + 1


def test_no_burst_follows_a_pause() -> None:
    arrivals = [0.0, *[100 + 0.01 * i for i in range(100)]]
    assert len(admitted(arrivals, 10.0)) <= 1 + 10


def test_higher_rate_applies_at_once() -> None:
    now = [0.0]
    throttle = Throttle(lambda: now[0])
    assert throttle.admits(0.01)
    now[0] = 1.0
    assert not throttle.admits(0.01)
    throttle.admits(10.0)
    now[0] = 1.2
    assert throttle.admits(10.0)
