"""The few worst moments of a recording, found while it goes by."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

KEPT = 4


class Moment(NamedTuple):
    """One image that is bad: how bad, its number, its log time, a picture; None without images."""

    badness: float
    index: int
    time: int
    picture: np.ndarray | None


class Moments:
    """
    The worst moments of one kind; of those within `apart` nanoseconds only the worst.

    Memory is that of a few pictures.
    """

    def __init__(self, apart: int) -> None:
        self._apart = apart
        self.worst: list[Moment] = []  # the worst first

    def offer(
        self, badness: float, index: int, time: int, draw: Callable[[], np.ndarray | None]
    ) -> None:
        """Keep a moment if it is among the worst so far; NaN never is."""
        near = [moment for moment in self.worst if abs(moment.time - time) < self._apart]
        others = [moment for moment in self.worst if abs(moment.time - time) >= self._apart]
        if not all(badness > moment.badness for moment in near):
            return
        if np.isnan(badness) or (len(others) == KEPT and badness <= others[-1].badness):
            return
        kept = [*others, Moment(badness, index, time, draw())]
        self.worst = sorted(kept, key=lambda moment: (-moment.badness, moment.index))[:KEPT]
