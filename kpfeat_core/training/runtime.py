"""What a run does beside learning: devices, the learning rate, stopping, and its own speed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import os
import signal
import threading
import time
from typing import Any

import torch
from torch import Tensor

from . import TrainConfig
from ..errors import ConfigError, KpfeatError
from ..factory import check_device

GRACE_SECONDS = 1.0  # that the first process stays after the others were let go


def make_fabric(config: TrainConfig) -> Any:
    """Return Lightning Fabric on one device, or as one of the processes that torchrun started."""
    try:
        from lightning_fabric import Fabric
    except ImportError:
        raise KpfeatError("training needs Lightning Fabric: pip install 'kpfeat[train]'") from None
    device = check_device(config.device)
    world, local = (int(os.environ.get(k, 1)) for k in ('WORLD_SIZE', 'LOCAL_WORLD_SIZE'))
    if config.batch_size % world:
        raise ConfigError(
            f'batch_size is {config.batch_size}, expected a multiple of {world}, the processes'
        )
    if world == 1:
        devices = 1 if device.index is None or device.type == 'cpu' else [device.index]
        return Fabric(accelerator=device.type, devices=devices, **_arithmetic(config, device))
    fabric = Fabric(
        accelerator=device.type,
        devices=local,
        num_nodes=world // local,
        strategy='ddp_find_unused_parameters_true',  # a loss may leave out a head in some steps
        **_arithmetic(config, device),
    )
    fabric.launch()
    return fabric


def leave(fabric: Any) -> None:
    """
    Let all processes end together.

    One that ends first takes with it what the others still talk to, and they abort.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        fabric.barrier()
        if fabric.is_global_zero:  # gloo's barrier may still speak to those that it lets go later
            time.sleep(GRACE_SECONDS)
        torch.distributed.destroy_process_group()


def _arithmetic(config: TrainConfig, device: torch.device) -> dict[str, Any]:
    """Return the option of Fabric for the precision; batches are handed on as they are."""
    if config.precision == '32-true':
        return {'precision': config.precision}
    from lightning_fabric.plugins import MixedPrecision

    class Mixed(MixedPrecision):
        def convert_input(self, data: Any) -> Any:
            return data  # autocast converts what it must; Fabric refuses frozen dataclasses

    return {'plugins': [Mixed(config.precision, device.type)]}


def learning_rate(step: int, config: TrainConfig) -> float:
    """Warm up linearly, stay, then fall linearly to 0 in the last `decay_share` of the run."""
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    left = (config.steps - step) / max(config.decay_share * config.steps, 1)
    return config.learning_rate * min(warm, left, 1.0)


def decay_start(config: TrainConfig) -> int:
    """Return the last step before the learning rate falls."""
    return int(config.steps * (1 - config.decay_share))


def moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Average weights exponentially, over a short past at first: random ones fade quickly."""

    def update(average: Tensor, current: Tensor, count: Tensor) -> Tensor:
        now = min(decay, (1 + int(count)) / (10 + int(count)))
        return torch.lerp(current, average, now) if average.is_floating_point() else current

    return update


class StepWatch:
    """
    Time the steps since the last report.

    A GPU computes while Python goes on, so that the share of the data can only be measured by
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


@contextmanager
def calling_on_sigterm(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` on SIGTERM, in place of what was done before; afterwards that is done again."""
    if threading.current_thread() is not threading.main_thread():  # others cannot hear signals
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: act())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
