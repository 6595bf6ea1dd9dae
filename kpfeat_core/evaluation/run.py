"""Measuring an extractor on pairs: views are resized, extracted, matched, compared with truth."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
import multiprocessing
from pathlib import Path

import numpy as np
import torch

from ..image import image_to_tensor, read_image, resize, scaled_size
from .cache import Extraction
from .measure import measure_pair, Measured, Viewed
from .pairs import Pair, resized_pixels, View
from .protocols import Protocol, PROTOCOLS
from .results import PairResult, Results
from .sources import FeatureSource, Source

Progress = Callable[[Iterable[PairResult]], Iterable[PairResult]]


class Evaluator:
    """One extractor under a protocol; views that are files are extracted once in a sequence."""

    def __init__(
        self, source: Source | FeatureSource, protocol: Protocol, cache: Path | None = None
    ) -> None:
        self.protocol = protocol
        self.extraction = Extraction(source, protocol.extracted, cache)
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
        if not isinstance(view, Path):
            return self._extract(view)
        if view not in self._seen:
            self._seen[view] = self._extract(read_image(view))
        return self._seen[view]

    def _extract(self, image: np.ndarray) -> Viewed:
        small = resized_view(image, self.protocol)
        features, seconds = self.extraction(small)
        return Viewed(features, resized_pixels(*image.shape[:2], *small.shape[:2]), seconds)


def load_view(view: View, protocol: Protocol) -> np.ndarray:
    """Read a view that is a file, and resize it as the protocol asks."""
    return resized_view(read_image(view) if isinstance(view, Path) else view, protocol)


def resized_view(image: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Return a (H, W, 3) uint8 RGB image at the size that the protocol asks for."""
    height, width = image.shape[:2]
    size = (height, width)
    if protocol.size is not None:
        size = protocol.size
    elif 0 < protocol.long_side < max(size):
        size = scaled_size(height, width, protocol.long_side)
    if size == (height, width):
        return image
    small = resize(image_to_tensor(image), size)[0].permute(1, 2, 0)
    return (small * 255).round().clamp(0, 255).byte().numpy()


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
    pairs = _Chosen(pairs, protocol)
    work = _Work(source, protocol, cache)
    if workers == 1 or len(pairs) < 2:
        results = tuple(progress(_in_turn(work, pairs)))
    else:
        with ProcessPoolExecutor(
            workers, multiprocessing.get_context('spawn'), _start, (work, pairs)
        ) as pool:
            chunks = pool.map(_measure_chunk, pairs.chunks())
            results = tuple(progress(result for chunk in chunks for result in chunk))
    label = source.label if isinstance(source, Source) else type(source).__name__
    about = source.about() if isinstance(source, Source) else {}
    return Results(label, data, protocol, results, about)


class _Chosen(Sequence[Pair]):
    """The pairs that count under a protocol; they may be made when they are read."""

    def __init__(self, pairs: Sequence[Pair], protocol: Protocol) -> None:
        self.pairs = pairs
        if protocol.left_out:
            self.pairs = [pair for pair in pairs if pair.group not in protocol.left_out]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        return self.pairs[index]

    def chunks(self) -> list[range]:
        """Split into runs of pairs that share images, and single ones."""
        if not isinstance(self.pairs, list):  # made one by one: nothing is shared
            return [range(i, i + 1) for i in range(len(self))]
        starts = [
            i
            for i, pair in enumerate(self.pairs)
            if i == 0 or pair.group != self.pairs[i - 1].group
        ]
        return [range(a, b) for a, b in zip(starts, [*starts[1:], len(self)], strict=True)]


@dataclass(frozen=True)
class _Work:
    source: Source | FeatureSource
    protocol: Protocol
    cache: Path | None


def _in_turn(work: _Work, pairs: Sequence[Pair]) -> Iterator[PairResult]:
    evaluator = Evaluator(work.source, work.protocol, work.cache)
    for index in range(len(pairs)):
        yield _result(evaluator, pairs[index])


def _result(evaluator: Evaluator, pair: Pair) -> PairResult:
    return PairResult(pair.group, pair.name, evaluator(pair).values)


def _start(work: _Work, pairs: Sequence[Pair]) -> None:
    """Prepare a worker process: everything stays in it between its chunks."""
    global _evaluator, _pairs
    torch.set_num_threads(1)
    _evaluator, _pairs = Evaluator(work.source, work.protocol, work.cache), pairs


def _measure_chunk(chunk: range) -> list[PairResult]:
    return [_result(_evaluator, _pairs[index]) for index in chunk]


_evaluator: Evaluator
_pairs: Sequence[Pair]
