"""How fast a run is, and what share of a step goes into making its data."""

from collections.abc import Iterator
from contextlib import contextmanager
import time

import torch


class StepWatch:
    """
    Time the steps since the last report.

    A GPU works behind the back of Python, so that the share of the data can only be told by
    waiting for it, which costs time: of a GPU's steps, only `exact` ones are split.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._restart()

    def _restart(self) -> None:
        self.steps, self.paused_seconds = 0, 0.0
        self.data_seconds, self.split_seconds = 0.0, 0.0
        self.begun = time.monotonic()

    @contextmanager
    def step(self, exact: bool) -> Iterator['StepWatch']:
        """Time a step, in which `data_is_ready` is called once."""
        self.steps += 1
        self.split = exact or self.device.type == 'cpu'
        start = self.ready = self._now()
        yield self
        if self.split:
            self.data_seconds += self.ready - start
            self.split_seconds += self._now() - start

    def data_is_ready(self) -> None:
        """Note that the batch is complete."""
        self.ready = self._now()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what is no training: validation, checkpoints."""
        start = time.monotonic()
        yield
        self.paused_seconds += time.monotonic() - start

    def report(self, batch_size: int) -> dict[str, float]:
        """Return examples (pairs, images) per second and the data's share, and begin anew."""
        spent = time.monotonic() - self.begun - self.paused_seconds
        numbers = {
            'examples_per_second': self.steps * batch_size / max(spent, 1e-9),
            'data_share': self.data_seconds / max(self.split_seconds, 1e-9),
        }
        self._restart()
        return numbers

    def _now(self) -> float:
        if self.split and self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        return time.monotonic()
