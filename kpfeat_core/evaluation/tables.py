"""Tables of results, on a terminal or in a report: means, intervals, differences, splits."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import compress
import math
from typing import NamedTuple

import numpy as np
from rich.table import Table
from rich.text import Text

from .pairs import THIRDS
from .results import compare, Results
from ..errors import ConfigError, DataError

COUNTS = ('keypoints', 'matches', 'right')
LOWER_IS_BETTER = ('localization_px', 'ms')
NEITHER_IS_BETTER = ('keypoints', 'matches')
MISSING = '—'
# What changes within a sequence of the HPatches layout, by the first letters of its name.
SPLITS = {'v_': 'viewpoint', 'i_': 'light', 'x_': 'other'}
BEST, BETTER, WORSE, NOISE = 'best', 'better', 'worse', 'noise'
STYLES = {BEST: 'bold', BETTER: 'green', WORSE: 'red', NOISE: 'dim', '': ''}


class Cell(NamedTuple):
    """A number as a table shows it: its text, its interval, and whether it is best or noise."""

    text: str
    spread: str = ''
    kind: str = ''

    @property
    def plain(self) -> str:
        """All of it in one line."""
        words = [self.text, f'({self.spread})' if self.spread else '']
        return ' '.join(filter(None, [*words, self.kind if self.kind == NOISE else '']))


def summary_table(results: Sequence[Results]) -> Table:
    """Return a row for each extractor: headlines with 95 % intervals, matches, time; best bold."""
    columns, first = headlines(results), check_together(results)
    title = f'{first.data}: {len(first.pairs)} pairs, protocol {first.protocol.name}'
    return _table(f'{title}, mean (95 % interval)', columns, _labelled(results, columns))


def group_table(results: Sequence[Results], column: str) -> Table:
    """Return the mean of a column for each sequence or level; the best of each row bold."""
    title, labels = f'{check_together(results).data}: {column}', [r.label for r in results]
    return _table(title, labels, group_cells(results, column))


def split_table(results: Sequence[Results]) -> Table:
    """Return the headlines of each kind of sequence, viewpoint and light and others apart."""
    columns, first = headlines(results), check_together(results)
    parts = split_results(results).items()
    sections = (_labelled(part, columns, f'{name}: ') for name, part in parts)
    return _table(f'{first.data}: by {split_kind(first)}', columns, *sections)


def comparison_table(
    results: Sequence[Results], reference: str, columns: Sequence[str] = ()
) -> Table:
    """
    Return the difference of each extractor from the reference, which is one of their labels.

    Without columns the headlines are compared. A difference whose 95 % interval holds 0 is called
    noise. Raises ConfigError for an unknown label and DataError for results of different pairs.
    """
    columns = columns or headlines(results)
    cells = comparison_cells(results, reference, columns)
    return _table(f'difference from {reference} (95 % interval)', columns, cells)


def check_together(results: Sequence[Results]) -> Results:
    """Return the first of results that belong in one table; raises DataError for others."""
    if not results:
        raise DataError('there are no results to show; expected those of at least one extractor')
    kinds = list(dict.fromkeys((r.data, r.protocol.name) for r in results))
    if len(kinds) > 1 or len({r.protocol for r in results}) > 1:
        what = '; '.join(f'{data} under {protocol}' for data, protocol in kinds)
        raise DataError(f'one table shows one data set under one protocol, got {what}')
    labels = [r.label for r in results]
    if len(set(labels)) < len(labels):
        raise DataError(f'labels of extractors must differ, got {", ".join(labels)}')
    return results[0]


def drawn(result: Results) -> str:
    """Return the units that the bootstrap draws, in words."""
    count = len(set(result.origins))
    if result.protocol.scenes_alike:
        return f'{count} scenes, which count alike, and over the pairs of each that is drawn'
    if count in (1, len(result.pairs)):
        return f'{len(result.pairs)} pairs'
    what = 'photographs' if any(pair.origin for pair in result.pairs) else 'groups'
    return f'{count} {what} with all their pairs, since pairs of one resemble each other'


def headlines(results: Sequence[Results]) -> list[str]:
    """Return the columns that a summary shows: the protocol's own, then matches and time."""
    wanted = (*check_together(results).protocol.headlines, 'matches', 'ms')
    columns = [name for name in dict.fromkeys(wanted) if _measured(results, name)]
    return columns or all_columns(results)


def all_columns(results: Sequence[Results]) -> list[str]:
    """Return every column whose mean means something and that any of the results has."""
    return list(dict.fromkeys(name for result in results for name in result.averaged()))


def main_column(results: Sequence[Results]) -> str:
    """Return the column that sequences and pairs are shown by: MMA@3, else the first headline."""
    first = next(iter(headlines(results)), '')
    planar = not first.startswith('pose_')
    return 'MMA@3' if planar and _measured(results, 'MMA@3') else first


def only_group(result: Results, group: str) -> Results:
    """Return the results of one group, not of others whose names begin alike."""
    return _only(result, (pair.group == group for pair in result.pairs))


def split_results(results: Sequence[Results]) -> dict[str, list[Results]]:
    """
    Return the results of each part, or of each kind of sequence in the HPatches layout, by name.

    Empty where a group has no such prefix, or all have the same.
    """
    first = check_together(results)
    if parts := {pair.part for pair in first.pairs if pair.part}:
        order = sorted(parts, key=lambda part: (THIRDS.index(part) if part in THIRDS else 9, part))
        return {
            name: [_only(r, (p.part == name for p in r.pairs)) for r in results] for name in order
        }
    groups = first.groups
    kinds = [kind for kind in SPLITS.items() if any(g.startswith(kind[0]) for g in groups)]
    if len(kinds) < 2 or not all(g.startswith(tuple(SPLITS)) for g in groups):
        return {}
    return {
        name: [_only(r, (p.group.startswith(prefix) for p in r.pairs)) for r in results]
        for prefix, name in kinds
    }


def split_kind(result: Results) -> str:
    """Return the property that `split_results` splits by, in words."""
    return 'baseline' if any(pair.part for pair in result.pairs) else 'kind of change'


def summary_cells(results: Sequence[Results], columns: Sequence[str]) -> list[list[Cell]]:
    """Return a row of cells for each extractor."""
    rows = [[_mean_cell(result, name) for name in columns] for result in results]
    return _mark_best(rows, [[r.mean(name) for name in columns] for r in results], columns)


def group_cells(results: Sequence[Results], column: str) -> dict[str, list[Cell]]:
    """Return for each group a cell for each extractor, without intervals."""
    rows = {}
    for group in check_together(results).groups:
        means = [[only_group(result, group).mean(column)] for result in results]
        cells = [[Cell(format_number(column, mean))] for (mean,) in means]
        rows[group] = [cell for (cell,) in _mark_best(cells, means, [column])]
    return rows


def comparison_cells(
    results: Sequence[Results], reference: str, columns: Sequence[str]
) -> dict[str, list[Cell]]:
    """Return for each other extractor its differences from the reference; raises ConfigError."""
    labels = {result.label: result for result in results}
    if reference not in labels:
        raise ConfigError(f"reference is '{reference}', expected one of {', '.join(labels)}")
    base = labels.pop(reference)
    return {
        label: [_difference_cell(result, base, name) for name in columns]
        for label, result in labels.items()
    }


def format_number(name: str, value: float, signed: bool = False) -> str:
    """Write a number of a column with as many digits as mean something; — for NaN."""
    if math.isinf(value):
        return '∞'
    if not math.isfinite(value):
        return MISSING
    return f'{value:{"+" if signed else ""}.{_decimals(name, value)}f}'


def _labelled(
    results: Sequence[Results], columns: Sequence[str], prefix: str = ''
) -> dict[str, list[Cell]]:
    labels = [f'{prefix}{result.label}' for result in results]
    return dict(zip(labels, summary_cells(results, columns), strict=True))


def _table(title: str, columns: Sequence[str], *sections: Mapping[str, Sequence[Cell]]) -> Table:
    """Return a table of rows of cells by label, with a line between sections."""
    table = Table(title=Text(title), title_justify='left', box=None, pad_edge=False)
    table.add_column('', overflow='fold')
    for name in columns:
        table.add_column(Text(name), justify='right', overflow='fold', min_width=len(name))
    for rows in sections:
        table.add_section()
        for label, cells in rows.items():
            table.add_row(Text(label), *(Text(c.plain, style=STYLES[c.kind]) for c in cells))
    return table


def _mean_cell(result: Results, name: str) -> Cell:
    mean = result.mean(name)
    if np.isfinite(result.column(name)).sum() < 2:  # one pair has no interval
        return Cell(format_number(name, mean))
    decimals = max(0, _decimals(name, mean) - 1)
    low, high = result.interval(name)
    return Cell(format_number(name, mean), f'{low:.{decimals}f}–{high:.{decimals}f}')


def _difference_cell(result: Results, base: Results, name: str) -> Cell:
    difference = compare(result, base, name)
    text = format_number(name, difference.difference, signed=True)
    if text == MISSING:
        return Cell(text)
    shared = np.isfinite(result.column(name)) & np.isfinite(base.column(name))
    if shared.sum() < 2:
        return Cell(text, 'one pair', NOISE)
    kind = BETTER if (difference.difference < 0) == (name in LOWER_IS_BETTER) else WORSE
    if difference.is_noise:
        kind = NOISE
    elif name in NEITHER_IS_BETTER:
        kind = ''
    ends = (format_number(name, end, signed=True) for end in difference[1:3])
    return Cell(text, ' to '.join(ends), kind)


def _mark_best(
    rows: list[list[Cell]], means: list[list[float]], columns: Sequence[str]
) -> list[list[Cell]]:
    """Mark the best of each column, and numbers that look the same."""
    for k, name in enumerate(columns):
        finite = [row[k] for row in means if math.isfinite(row[k])]
        if len(finite) < 2 or name in NEITHER_IS_BETTER:
            continue
        best = format_number(name, min(finite) if name in LOWER_IS_BETTER else max(finite))
        for row in rows:
            if row[k].text == best:
                row[k] = row[k]._replace(kind=BEST)
    return rows


def _decimals(name: str, value: float) -> int:
    if name in COUNTS:
        return 0
    size = abs(value)
    if name == 'ms':
        return 0 if size >= 99.95 else 1 if size >= 9.995 else 2
    return 2 if name.endswith(('_px', '_error')) else 3


def _measured(results: Sequence[Results], name: str) -> bool:
    return any(np.isfinite(result.column(name)).any() for result in results)


def _only(result: Results, counts: Iterable[bool]) -> Results:
    return replace(result, pairs=tuple(compress(result.pairs, counts)))
