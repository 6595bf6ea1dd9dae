"""Pictures of the pairs that an extractor does best and worst on."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from . import tables
from .pairs import Pair
from .report import Example, extreme_pairs
from .results import PairResult, Results
from .run import counted_pairs, Evaluator, load_view
from .sources import Source
from ..visualize import draw_matches

DRAWN = 200  # matches of a pair, or nothing can be seen


def draw_examples(
    source: Source,
    results: Results,
    pairs: Sequence[Pair],
    cache: Path | None = None,
    best: int = 3,
    worst: int = 3,
) -> Iterator[Example]:
    """
    Draw the matches of the best and then of the worst pairs, right ones green, wrong ones red.

    results: what `evaluate` gave for the source on these pairs. cache: as there. Raises
    KpfeatError for views that cannot be used.
    """
    column = tables.main_column([results])
    chosen = [('best', pair) for pair in extreme_pairs(results, column, best)[0]]
    chosen += [('worst', pair) for pair in extreme_pairs(results, column, worst)[1]]
    index = {pair.name: k for k, pair in enumerate(results.pairs)}
    pairs = counted_pairs(pairs, results.protocol)
    evaluator = Evaluator(source, results.protocol, cache)
    for label, found in chosen:
        yield _draw(label, found, pairs[index[found.name]], evaluator)


def _draw(label: str, found: PairResult, pair: Pair, evaluator: Evaluator) -> Example:
    measured = evaluator(pair)
    views = [load_view(view, evaluator.protocol) for view in (pair.view0, pair.view1)]
    points = (measured.points0, measured.points1)
    picture = draw_matches(*views, *points, correct=measured.right.numpy(), limit=DRAWN)
    return Example(label, found.name, measured.values, picture)
