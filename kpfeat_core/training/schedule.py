"""How the learning rate and the average of weights go along a run."""

from collections.abc import Callable

import torch
from torch import Tensor

from .config import TrainConfig


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
