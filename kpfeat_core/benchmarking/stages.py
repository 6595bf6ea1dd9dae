"""What each stage of `extract` takes: time, operations, and the operators behind them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
import time
from typing import Any

import torch
from torch.profiler import profile, ProfilerActivity
from torch.utils.flop_counter import FlopCounterMode

from .systems import Inputs, System
from .timing import percentiles, synchronize
from ..models.base import Extractor

STAGES = {'forward': '__call__', 'detect': 'detect', 'describe': 'describe'}
REPEATS = 5
OPERATORS = 25


@contextmanager
def watched(
    extractor: Extractor, around: Callable[[str], AbstractContextManager]
) -> Iterator[None]:
    """
    Enter around(stage) whenever the extractor is in 'forward', 'detect' or 'describe'.

    The class changes for a while and not the object, so that copies that `with_options` makes on
    the way are watched as well, with options of their own.
    """
    kind = type(extractor)

    def enclose(stage: str, name: str) -> Callable:
        inner = getattr(kind, name)

        def method(self: Extractor, *words: Any, **named: Any) -> Any:
            with around(stage):
                return inner(self, *words, **named)

        return method

    methods = {name: enclose(stage, name) for stage, name in STAGES.items()}
    extractor.__class__ = type(kind.__name__, (kind,), methods)
    try:
        yield
    finally:
        extractor.__class__ = kind


def count_parameters(system: System) -> int:
    """Return the learned numbers, those of submodule networks among them."""
    network = system.network
    return 0 if network is None else sum(p.numel() for p in network.parameters())


def count_macs(system: System, inputs: Inputs) -> tuple[int, int]:
    """
    Return the multiply-accumulates of (the networks at the padded size, all of `extract`).

    Counted while it runs: convolutions and matrix products as they really happen, half of torch's
    count of floating-point operations; no elementwise work, no sampling. Several scales add up.
    """
    counter = FlopCounterMode(display=False)
    forward = 0

    @contextmanager
    def add(stage: str) -> Iterator[None]:
        nonlocal forward
        before = counter.get_total_flops()
        yield
        if stage == 'forward':
            forward += counter.get_total_flops() - before

    with watched(system.network, add), counter:
        system.run(inputs)
    return forward // 2, counter.get_total_flops() // 2


def time_stages(system: System, inputs: Inputs, pictures: int) -> dict[str, float]:
    """Return the median ms per picture of each stage and of the rest, each stage waited for."""
    spent: dict[str, float] = {}

    @contextmanager
    def add(stage: str) -> Iterator[None]:
        synchronize(system.device)
        start = time.perf_counter()
        yield
        synchronize(system.device)
        spent[stage] += 1e3 * (time.perf_counter() - start)

    runs = []
    with watched(system.network, add):
        for _ in range(1 + REPEATS):
            spent |= dict.fromkeys(STAGES, 0.0)
            start = time.perf_counter()
            system.run(inputs)
            synchronize(system.device)
            whole = 1e3 * (time.perf_counter() - start)
            runs.append({**spent, 'rest': whole - sum(spent.values())})
    return {name: percentiles([run[name] for run in runs[1:]])[1] / pictures for name in runs[0]}


def profile_operators(system: System, inputs: Inputs) -> str:
    """Return torch's table of the operators of one `extract`, by the time spent in themselves."""
    activities = [ProfilerActivity.CPU]
    if system.device.type == 'cuda':
        activities.append(ProfilerActivity.CUDA)
    system.run(inputs)
    with profile(activities=activities) as profiler:
        system.run(inputs)
        synchronize(system.device)
    key = 'self_cuda_time_total' if len(activities) > 1 else 'self_cpu_time_total'
    averages = profiler.key_averages()
    return averages.table(sort_by=key, row_limit=OPERATORS, max_name_column_width=48)


def compile_network(extractor: Extractor, backend: str) -> None:
    """Put torch.compile around `forward`; it compiles at the first call of each input shape."""
    extractor.forward = torch.compile(
        extractor.forward, fullgraph=True, dynamic=False, backend=backend
    )
