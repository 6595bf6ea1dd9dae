"""Which of the images are worked on, if not all; free of ROS."""

from collections.abc import Callable
import time


class Throttle:
    """
    Admits items at a rate, on average, whatever the rate at which they arrive.

    An item is admitted when it comes, or not at all: what is worked on is always the newest.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due = -float('inf')

    def admits(self, rate_hz: float) -> bool:
        """Say whether the item that has come now is to be worked on; rate_hz <= 0 admits all."""
        if rate_hz <= 0:
            return True
        now, period = self._clock(), 1 / rate_hz
        self._due = min(self._due, now + period)  # the rate may have been lower before
        if now < self._due:
            return False
        # from when it was due, so that 30 images a second become 20 and not 15; from now after a
        # pause, so that no burst follows it
        self._due = (self._due if now - self._due < period else now) + period
        return True
