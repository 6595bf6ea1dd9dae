"""Measuring an extractor on pairs: views are resized, extracted, matched, compared with truth."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
import multiprocessing
from pathlib import Path
import signal
import threading
from typing import Any

import numpy as np
import torch

from .measure import measure_pair, Measured, Viewed
from .pairs import MotionPair, Pair, View
from .results import PairResult, Protocol, PROTOCOLS, Results
from .sources import FeatureCache, FeatureSource, Source
from ..errors import DataError
from ..image import image_to_tensor, read_image, rescale_points, resize, scaled_size

Progress = Callable[[Iterable[PairResult]], Iterable[PairResult]]
MOST_VIEWS = 16  # of one group whose features stay in memory
MOST_PAIRS = 10  # of one group that a worker takes at a time


class Evaluator:
    """One extractor under a protocol; views that are files are extracted once in a sequence."""

    def __init__(
        self,
        source: Source | FeatureSource,
        protocol: Protocol,
        cache: Path | None = None,
        workers: int = 1,
    ) -> None:
        self.protocol = protocol
        self.extraction = FeatureCache(source, protocol.extracted, cache, workers)
        self._seen: dict[Path, Viewed] = {}
        self._group = ''

    def __call__(self, pair: Pair) -> Measured:
        """Measure a pair; raises KpfeatError for views that cannot be used."""
        if pair.group != self._group:  # a sequence has its own images: let go of the last one's
            self._seen.clear()
            self._group = pair.group
        return measure_pair(pair, self.view(pair.view0), self.view(pair.view1), self.protocol)

    def view(self, view: View) -> Viewed:
        """Resize and extract a view."""
        viewed = self._seen.pop(view, None) if isinstance(view, Path) else None
        if viewed is None:
            image = read_view(view)
            small, moved = resized_view(image, self.protocol)
            features, seconds = self.extraction(small)
            viewed = Viewed(features, moved, image.shape[1::-1], seconds)
        if isinstance(view, Path):
            self._seen[view] = viewed  # the last one now
            if len(self._seen) > MOST_VIEWS:
                del self._seen[next(iter(self._seen))]
        return viewed


def read_view(view: View) -> np.ndarray:
    """Return a view (H, W, 3) uint8 RGB, from its file if it is one."""
    return read_image(view) if isinstance(view, Path) else view


def resized_view(image: np.ndarray, protocol: Protocol) -> tuple[np.ndarray, np.ndarray]:
    """
    Return a (H, W, 3) uint8 RGB image at the size that the protocol asks for.

    Also (3, 3), which takes pixels of the image given to those of the image returned.
    """
    given = image.shape[:2]
    size = _full_size(*given, protocol)
    moved = np.diag([size[1] / given[1], size[0] / given[0], 1.0])
    moved[:2, 2] = rescale_points(torch.zeros(2, dtype=torch.float64), given, size)
    if size != given:
        small = resize(image_to_tensor(image), size)[0].permute(1, 2, 0)
        image = (small * 255).round().clamp(0, 255).byte().numpy()
    if not protocol.crop or size == protocol.size:
        return image, moved
    height, width = protocol.size
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    cut = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]])
    return image[top : top + height, left : left + width], cut @ moved


def _full_size(height: int, width: int, protocol: Protocol) -> tuple[int, int]:
    """Return (height, width) of a resized view, before it is cut."""
    if protocol.size is not None:
        if not protocol.crop:
            return protocol.size
        scale = max(protocol.size[0] / height, protocol.size[1] / width)
        return round(height * scale), round(width * scale)
    if 0 < protocol.long_side < max(height, width):
        return scaled_size(height, width, protocol.long_side)
    return height, width


def evaluate(
    source: Source | FeatureSource,
    pairs: Sequence[Pair],
    protocol: Protocol = PROTOCOLS['default'],
    data: str = '',
    *,
    cache: Path | None = None,
    workers: int = 1,
    progress: Progress = iter,
) -> Results:
    """
    Measure an extractor on image pairs with known truth.

    cache: a folder that keeps features; only those of a `Source` can be found again. workers:
    processes, each with one thread, that share the pairs; more than one needs a `Source`.
    progress may wrap the results as they come, to show how far it is. Raises KpfeatError.
    """
    pairs = counted_pairs(pairs, protocol)
    prepare = partial(Evaluator, source, protocol, cache, workers)
    if workers == 1 or len(pairs) < 2:
        found = map(partial(_result, prepare()), pairs)
    else:
        found = _side_by_side(prepare, pairs, workers)
    results = tuple(progress(found))
    if isinstance(source, Source):
        return Results(source.label, data, protocol, results, source.about())
    return Results(type(source).__name__, data, protocol, results)


def counted_pairs(pairs: Sequence[Pair], protocol: Protocol) -> Sequence[Pair]:
    """Return the pairs that count under a protocol, in their order; DataError without any."""
    if isinstance(pairs, list):  # others are made when they are read
        pairs = [pair for pair in pairs if pair.group not in protocol.left_out]
    if not pairs:
        raise DataError(f"there are no pairs that count under the protocol '{protocol.name}'")
    return pairs


def _chunks(pairs: Sequence[Pair]) -> list[range]:
    """Split into short runs of pairs that share images, and single ones."""
    if not isinstance(pairs, list):  # made one by one: nothing is shared
        return [range(i, i + 1) for i in range(len(pairs))]
    starts = [i for i in range(len(pairs)) if i == 0 or pairs[i].group != pairs[i - 1].group]
    return [
        range(i, min(i + MOST_PAIRS, end))
        for start, end in zip(starts, [*starts[1:], len(pairs)], strict=True)
        for i in range(start, end, MOST_PAIRS)
    ]


def _side_by_side(
    prepare: Callable[[], Evaluator], pairs: Sequence[Pair], workers: int
) -> Iterator[PairResult]:
    context = multiprocessing.get_context('spawn')
    try:
        with ProcessPoolExecutor(workers, context, _start, (prepare, pairs)) as pool:
            with _deaf():
                chunks = pool.map(_measure_chunk, _chunks(pairs))
            for chunk in chunks:
                yield from chunk
    except BrokenExecutor as error:
        raise DataError(
            f'a process that measures died ({error}); run again to go on, with fewer workers if '
            'memory is short'
        ) from error


@contextmanager
def _deaf() -> Iterator[None]:
    """Ignore Ctrl-C, and so do processes that are started meanwhile, until they are ready."""
    if threading.current_thread() is not threading.main_thread():  # which may not ask for it
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _result(evaluator: Evaluator, pair: Pair) -> PairResult:
    part = pair.part if isinstance(pair, MotionPair) else ''
    return PairResult(pair.group, pair.name, evaluator(pair).values, pair.origin, part)


def _start(prepare: Callable[[], Evaluator], pairs: Sequence[Pair]) -> None:
    """Prepare a worker process: everything stays in it between its chunks."""
    global _evaluator, _pairs
    signal.signal(signal.SIGINT, _stop)
    torch.set_num_threads(1)
    _evaluator, _pairs = prepare(), pairs


def _stop(*_: Any) -> None:
    """Take no more pairs after Ctrl-C, which all processes receive; the main one reports it."""
    global _stopped
    _stopped = True


def _measure_chunk(chunk: range) -> list[PairResult]:
    return [_result(_evaluator, _pairs[index]) for index in chunk if not _stopped]


_evaluator: Evaluator
_pairs: Sequence[Pair]
_stopped = False
