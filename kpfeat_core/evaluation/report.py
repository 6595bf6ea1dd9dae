"""Results as a page, one file that needs no other: tables, figures, best and worst pairs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
import math
from pathlib import Path
import re
from typing import Any

import numpy as np

from . import tables
from .pairs import Pair
from .results import OVERLAP, PairResult, Protocol, Results, USAC
from .run import counted_pairs, Evaluator, read_view, resized_view
from .sources import Source
from ..errors import DataError
from ..html_report import (
    color,
    figure,
    INK,
    is_dashed,
    line_style,
    picture_element,
    require_libraries,
    write_page,
)
from ..visualize import draw_matches

TEMPLATE = 'report.html.j2'
FEW_ORIGINS = 20  # below, bootstrapped intervals are too narrow to be believed
PICTURE_WIDTH = 1100
DRAWN = 200  # matches of a pair, or nothing can be seen
MAX_BARS = 120  # with more than this, each group is a row of dots
MAX_LABELLED = 24
MAX_BANDS = 3  # with more, intervals hide each other; they are in the tables
# Numbers beside a picture; accuracy at a threshold would repeat the errors.
SHOT_COLUMNS = (
    'MMA@3', 'epipolar@2', 'precision', 'right', 'matches', 'corner_error', 'pose_error',
    'repeatability', 'localization_px', 'coverage',
)  # fmt: skip
MEANINGS = {
    'MMA': 'share of the matches within {} px of the truth; 0 without matches',
    'HA': 'share of the pairs whose homography moves the corners by at most {} px on average',
    'AUC': 'area under the recall of corner errors up to {} px',
    'pose_AUC': 'area under the recall of pose errors up to {}°',
    'repeatability': 'share of the keypoints that both images see which are found in both',
    'repeatability_scale': 'the same for regions of the size that the detector gives',
    'localization_px': 'mean distance of keypoints found in both images, in pixels',
    'matching_score': 'share of the keypoints both images see whose nearest neighbour is right',
    'coverage': 'share of the cells of a 10×10 grid over the first image with a right match',
    'precision': 'share of the matches that agree with the true pose',
    'epipolar': 'share of the matches within {} px of the true epipolar line',
    'keypoints': 'keypoints of an image that count',
    'matches': 'matches of a pair',
    'right': 'matches of a pair that are right',
    'ms': 'milliseconds to extract an image',
}


@dataclass(frozen=True)
class Example:
    """
    A pair worth looking at.

    label: its kind, such as 'best' or 'worst'; name: of the pair; values: its
    numbers by column; picture: both views with their matches.
    """

    label: str
    name: str
    values: Mapping[str, float]
    picture: np.ndarray


def write_report(
    path: Path | str,
    results: Sequence[Results],
    reference: str = '',
    examples: Mapping[str, Sequence[Example]] | None = None,
    command: str = '',
) -> None:
    """
    Write results of one or several extractors as an HTML file.

    reference: the label that others are compared with, '' is the first; examples: pairs to show,
    by label of the extractor; command: the command line. Raises DataError for results that do not
    belong together or where a library is missing, ConfigError for an unknown reference.
    """
    require_libraries()
    write_page(path, TEMPLATE, _content(results, reference, examples or {}, command))


def extreme_pairs(
    results: Results, column: str, count: int
) -> tuple[list[PairResult], list[PairResult]]:
    """
    Return the best and the worst pairs by a column, each of another group as far as that goes.

    Of an extractor with fewer than 2 * count pairs none is both.
    """
    sign = 1 if column in tables.LOWER_IS_BETTER else -1
    finite = [p for p in results.pairs if math.isfinite(p.values.get(column, math.nan))]
    order = sorted(finite, key=lambda pair: sign * pair.values[column])
    best = _one_a_group(order, min(count, (len(order) + 1) // 2))
    rest = [pair for pair in reversed(order) if pair not in best]
    return best, _one_a_group(rest, count)


def protocol_in_words(protocol: Protocol, columns: Sequence[str]) -> list[str]:
    """Return sentences about a protocol, those that the columns depend on."""
    if protocol.size:
        how = 'resized until they fill, and cut to' if protocol.crop else 'stretched to'
        words = [f'Images are {how} {protocol.size[1]}×{protocol.size[0]} pixels']
    elif protocol.long_side > 0:
        words = [f'Images whose long side is above {protocol.long_side} pixels are reduced to it']
    else:
        words = ['Images keep their size']
    words[0] += '; the truth moves with them, and distances are in pixels of these images.'
    kept = f'The best {protocol.max_num_keypoints} keypoints of each image count'
    kept += ', of those that the other image can see' if protocol.shared_region else ''
    kept += f', none within {protocol.nms_px} px of a better one' if protocol.nms_px else ''
    words += [f'{kept}.', 'Matches are mutual nearest neighbours without further filters.']
    estimator = "OpenCV's USAC (MAGSAC)" if protocol.estimator == USAC else "OpenCV's plain RANSAC"
    if any(name.startswith('HA@') for name in columns):
        px = f'{protocol.ransac_px:g} px'
        words.append(f'Homographies are estimated by {estimator} with inliers up to {px}.')
    if any(name.startswith('pose_') for name in columns):
        how = 'refined' if protocol.estimator == USAC else 'not refined'
        words.append(
            f'Poses come from essential matrices by {estimator} with inliers up to '
            f'{protocol.ransac_px:g} px, {how}.'
        )
    if 'repeatability' in columns:
        how = f'within {protocol.repeated_px:g} px of a keypoint of the other image'
        if protocol.repeatability == OVERLAP:
            how = 'if its region overlaps one of the other image with an error of at most 0.4'
        words.append(f'A keypoint is found again {how}.')
    if protocol.left_out:
        words.append(f'Left out where they exist: {", ".join(protocol.left_out)}.')
    return words


def meaning(column: str) -> str:
    """Return the meaning of a column; empty for an unknown one."""
    family, _, threshold = column.partition('@')
    return MEANINGS.get(family, '').format(threshold)


def _content(
    results: Sequence[Results],
    reference: str,
    examples: Mapping[str, Sequence[Example]],
    command: str,
) -> dict[str, Any]:
    first = tables.check_together(results)
    columns, everything = tables.headlines(results), tables.all_columns(results)
    reference = reference or first.label
    splits = tables.split_results(results)
    by_column = zip(*tables.summary_cells(results, everything), strict=True)
    abouts = [result.about for result in results]
    shared = {n: v for n, v in first.about.items() if all(a.get(n) == v for a in abouts)}
    own = [
        (r.label, _in_words({n: v for n, v in r.about.items() if n not in shared}))
        for r in results
    ]
    facts = {n: v for n, v in shared.items() if not (command and n == 'command')}
    return {
        'first': first,
        'extractors': [
            {'label': r.label, 'color': color(k), 'dashed': is_dashed(k)}
            for k, r in enumerate(results)
        ],
        'words': protocol_in_words(first.protocol, everything),
        'facts': _in_words({'command': command} | facts),
        'few_origins': len(set(first.origins)) < FEW_ORIGINS,
        'drawn': tables.drawn(first),
        'columns': columns,
        'summary': tables.summary_cells(results, columns),
        'reference': reference,
        'comparison': tables.comparison_cells(results, reference, columns),
        'split_kind': tables.split_kind(first),
        'splits': {name: tables.summary_cells(part, columns) for name, part in splits.items()},
        'main': tables.main_column(results),
        'groups': tables.group_cells(results, tables.main_column(results)),
        'figures': _figures(results, splits),
        'shots': _shots(results, examples),
        'everything': [
            (name, meaning(name), row) for name, row in zip(everything, by_column, strict=True)
        ],
        'own_facts': [(label, facts) for label, facts in own if facts],
        'meaning': meaning,
    }


def _figures(
    results: Sequence[Results], splits: Mapping[str, Sequence[Results]]
) -> dict[str, list[str]]:
    from markupsafe import Markup

    main = tables.main_column(results)
    groups = {g: [tables.only_group(r, g) for r in results] for g in results[0].groups}
    drawn = {
        'curves': [curves(results, f) for f in curve_families(results)],
        'splits': [bars(splits, main, tables.split_kind(results[0]), True)] if splits else [],
        'groups': [bars(groups, main, 'group')] if len(groups) > 1 else [],
        'spread': [spread(results, main)] if main else [],
        'speed': [speed_against_accuracy(results)],
    }
    return {name: [Markup(svg) for svg in svgs if svg] for name, svgs in drawn.items()}


def _shots(
    results: Sequence[Results], examples: Mapping[str, Sequence[Example]]
) -> list[tuple[str, list[dict[str, Any]]]]:
    unknown = set(examples) - {result.label for result in results}
    if unknown:
        raise DataError(f'examples of {", ".join(sorted(unknown))}, of which there are no results')
    return [
        (result.label, [_shot(example) for example in examples[result.label]])
        for result in results
        if examples.get(result.label)
    ]


def _shot(example: Example) -> dict[str, Any]:
    picture = picture_element(example.picture, PICTURE_WIDTH)
    known = [name for name in SHOT_COLUMNS if not math.isnan(example.values.get(name, math.nan))]
    numbers = [(name, tables.format_number(name, example.values[name])) for name in known]
    return {'label': example.label, 'name': example.name, 'numbers': numbers, **picture}


def _in_words(about: Mapping[str, Any]) -> dict[str, str]:
    return {name: text for name, value in about.items() if (text := _fact(value))}


def _fact(value: Any) -> str:
    """Write a JSON value in words; long digests by their beginning."""
    if isinstance(value, Mapping):
        return ', '.join(f'{name} {_fact(item)}' for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return ', '.join(map(_fact, value))
    text = str(value)
    is_digest = len(text) >= 40 and set(text) <= set('0123456789abcdef')
    return f'{text[:12]}…' if is_digest else text


def _one_a_group(order: Sequence[PairResult], count: int) -> list[PairResult]:
    """Take the first of each group, then the first of the rest; in the given order."""
    seen: set[str] = set()
    firsts = [p for p in order if not (p.group in seen or seen.add(p.group))]
    chosen = [*firsts, *(p for p in order if p not in firsts)][:count]
    return [pair for pair in order if pair in chosen]


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

    results: of `evaluate` for the source on these pairs. cache: as there. Raises
    KpfeatError for views that cannot be used.
    """
    column = tables.main_column([results])
    chosen = [('best', pair) for pair in extreme_pairs(results, column, best)[0]]
    chosen += [('worst', pair) for pair in extreme_pairs(results, column, worst)[1]]
    index = {pair.name: k for k, pair in enumerate(results.pairs)}
    pairs = counted_pairs(pairs, results.protocol)
    evaluator = Evaluator(source, results.protocol, cache)
    for label, found in chosen:
        pair = pairs[index[found.name]]
        measured = evaluator(pair)
        images = (read_view(view) for view in (pair.view0, pair.view1))
        views = (resized_view(image, results.protocol)[0] for image in images)
        points = (measured.points0, measured.points1)
        picture = draw_matches(*views, *points, correct=measured.correct.numpy(), limit=DRAWN)
        yield Example(label, found.name, measured.values, picture)


def curve_families(results: Sequence[Results]) -> list[str]:
    """Return the numbers that have several thresholds, such as MMA for MMA@1 … MMA@10."""
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
            axis.plot(at, means, **line_style(k), marker='o', markersize=3, linewidth=1.5)
            if len(result.pairs) > 1 and len(results) <= MAX_BANDS:
                bands = np.transpose([result.interval(f'{family}@{t:g}') for t in at])
                axis.fill_between(at, *bands, color=color(k), alpha=0.13, linewidth=0)
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

    groups: results of the extractors, in the same order, by name of the group; what: the word for
    a group.
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
                axis.plot(means, rows, marker, color=color(k), markersize=4, alpha=0.85)
                continue
            look = {'color': color(k)}
            if is_dashed(k):
                look = {'facecolor': 'none', 'edgecolor': color(k), 'hatch': '//////'}
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
            axis.plot(values, scatter, 'o', color=color(k), markersize=2.5, alpha=0.45)
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
    column = tables.main_column(results)
    shown = [(k, r) for k, r in enumerate(results) if np.isfinite(r.column('ms')).any()]
    if len(shown) < 2 or column in tables.LOWER_IS_BETTER:
        return ''
    with figure(2.9) as (axis, done):
        for k, result in shown:
            x, y = result.mean('ms'), result.mean(column)
            if len(result.pairs) > 1:
                axis.vlines(x, *result.interval(column), color=color(k), linewidth=1.5, alpha=0.5)
            axis.plot(x, y, 'o', color=color(k), markersize=7)
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
        text = tables.format_number(column, mean)
        axis.annotate(text, (place, row), (3, 0), textcoords='offset points', va='center', size=7)


def _thresholds(results: Sequence[Results], family: str) -> list[float]:
    """Return the numbers after the @ of columns that have a value."""
    names = dict.fromkeys(name for result in results for name in result.columns)
    found = (re.fullmatch(re.escape(family) + r'@(\d+(?:\.\d+)?)', name) for name in names)
    kept = [m for m in found if m and any(np.isfinite(r.mean(m.string)) for r in results)]
    return sorted(float(match[1]) for match in kept)
