"""Figures of a report as SVG that lies in the page: its ink is the page's, light or dark."""

from collections.abc import Mapping, Sequence
import re
from typing import Any

import numpy as np

from .results import Results
from .tables import format_number, LOWER_IS_BETTER, main_column
from ..html_report import colour, figure, INK, is_dashed

MAX_BARS = 120  # with more than this, each group is a row of dots
MAX_LABELLED = 24
MAX_BANDS = 3  # with more, intervals hide each other; they are in the tables


def curve_families(results: Sequence[Results]) -> list[str]:
    """Return what is measured at several thresholds, such as MMA for MMA@1 … MMA@10."""
    names = dict.fromkeys(name for result in results for name in result.columns)
    families = [name.rpartition('@')[0] for name in names if '@' in name]
    found = [family for family in dict.fromkeys(families) if family]
    return [family for family in found if len(_thresholds(results, family)) > 1]


def curves(results: Sequence[Results], family: str) -> str:
    """Return the means of a family over its thresholds, intervals as bands if they are few."""
    unit = '°' if family.startswith('pose') else 'px'
    with figure(2.9) as (axis, done):
        for k, result in enumerate(results):
            at = _thresholds([result], family)
            means = [result.mean(f'{family}@{t:g}') for t in at]
            style = '--' if is_dashed(k) else '-'
            axis.plot(at, means, style, color=colour(k), marker='o', markersize=3, linewidth=1.5)
            if len(result.pairs) > 1 and len(results) <= MAX_BANDS:
                bands = np.transpose([result.interval(f'{family}@{t:g}') for t in at])
                axis.fill_between(at, *bands, color=colour(k), alpha=0.13, linewidth=0)
        ticks = _thresholds(results, family)
        axis.set(xlabel=f'threshold ({unit})', ylabel=family, xticks=ticks)
        axis.set_ylim(0, min(1.02, axis.get_ylim()[1]))
    return done(f'{family} over its threshold')


def bars(
    groups: Mapping[str, Sequence[Results]],
    column: str,
    what: str,
    with_intervals: bool = False,
) -> str:
    """
    Return the mean of a column for each extractor in each group, side by side.

    groups: results of the extractors, in the same order, by name of the group; what: a group is.
    """
    count = max(len(results) for results in groups.values())
    as_bars = len(groups) * count <= MAX_BARS
    step = 0.8 / count
    height = len(groups) * (0.15 + 0.13 * count if as_bars else 0.17)
    with figure(0.6 + height) as (axis, done):
        for k in range(count):
            means = np.array([results[k].mean(column) for results in groups.values()])
            rows = np.arange(len(groups)) + ((k - (count - 1) / 2) * step if as_bars else 0)
            if not as_bars:
                marker = 's' if is_dashed(k) else 'o'
                axis.plot(means, rows, marker, color=colour(k), markersize=4, alpha=0.85)
                continue
            look = {'color': colour(k)}
            if is_dashed(k):
                look = {'facecolor': 'none', 'edgecolor': colour(k), 'hatch': '//////'}
            axis.barh(rows, np.nan_to_num(means), step * 0.9, alpha=0.85, **look)
            ends = means
            if with_intervals:
                spans = np.array([results[k].interval(column) for results in groups.values()])
                axis.hlines(rows, *spans.T, color=INK, linewidth=1)
                ends = np.fmax(means, spans[:, 1])
            if len(groups) * count <= MAX_LABELLED:
                _write_values(axis, column, rows, means, ends)
        axis.set(xlabel=column, yticks=range(len(groups)), yticklabels=list(groups))
        axis.set_ylim(len(groups) - 0.4, -0.6)  # the first on top
        axis.set_xlim(0, None)
        axis.grid(axis='y', visible=not as_bars)
        axis.tick_params(axis='y', length=0)
    return done(f'{column} of each {what}')


def spread(results: Sequence[Results], column: str) -> str:
    """Return a dot for every pair, and a box of their quartiles with the median."""
    rng = np.random.default_rng(0)
    with figure(0.6 + 0.45 * len(results)) as (axis, done):
        for k, result in enumerate(results):
            values = result.column(column)
            values = values[np.isfinite(values)]
            scatter = k + rng.uniform(-0.3, 0.3, len(values))
            axis.plot(values, scatter, 'o', color=colour(k), markersize=2.5, alpha=0.45)
            if len(values):
                low, middle, high = np.percentile(values, [25, 50, 75])
                axis.barh(k, high - low, 0.72, low, color='none', edgecolor=INK, linewidth=1)
                axis.vlines(middle, k - 0.36, k + 0.36, color=INK, linewidth=2)
        axis.set(xlabel=f'{column} of a pair', yticks=range(len(results)))
        axis.set_yticklabels([result.label for result in results])
        axis.set_ylim(len(results) - 0.4, -0.6)
        axis.grid(axis='y', visible=False)
        axis.tick_params(axis='y', length=0)
    return done(f'{column} of every pair')


def speed_against_accuracy(results: Sequence[Results]) -> str:
    """Return each extractor's main number over its time an image; empty without times."""
    column = main_column(results)
    shown = [(k, r) for k, r in enumerate(results) if np.isfinite(r.column('ms')).any()]
    if len(shown) < 2 or column in LOWER_IS_BETTER:
        return ''
    with figure(2.9) as (axis, done):
        for k, result in shown:
            x, y = result.mean('ms'), result.mean(column)
            if len(result.pairs) > 1:
                axis.vlines(x, *result.interval(column), color=colour(k), linewidth=1.5, alpha=0.5)
            axis.plot(x, y, 'o', color=colour(k), markersize=7)
            axis.annotate(result.label, (x, y), (6, 3), textcoords='offset points', fontsize=8)
        axis.set(xlabel='ms an image', ylabel=column, xscale='log')
        axis.margins(x=0.25)
        axis.tick_params(axis='x', which='minor', pad=5)  # level with the long ticks' labels
        axis.grid(which='minor', visible=False)
        axis.xaxis.set_major_formatter(lambda value, _: f'{value:g}')
        axis.xaxis.set_minor_formatter(lambda value, _: f'{value:g}' if _is_2_or_5(value) else '')
    return done(f'{column} over time')


def _is_2_or_5(value: float) -> bool:
    return f'{value:e}'[0] in '25'


def _write_values(axis: Any, column: str, rows: Any, means: Any, ends: Any) -> None:
    for row, mean, end in zip(rows, means, ends, strict=True):
        place = end if np.isfinite(end) else 0
        text = format_number(column, mean)
        axis.annotate(text, (place, row), (3, 0), textcoords='offset points', va='center', size=7)


def _thresholds(results: Sequence[Results], family: str) -> list[float]:
    """Return the numbers after the @ of columns that have a value."""
    names = dict.fromkeys(name for result in results for name in result.columns)
    found = (re.fullmatch(re.escape(family) + r'@(\d+(?:\.\d+)?)', name) for name in names)
    kept = [m for m in found if m and any(np.isfinite(r.mean(m.string)) for r in results)]
    return sorted(float(match[1]) for match in kept)
