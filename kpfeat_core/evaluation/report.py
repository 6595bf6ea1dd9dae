"""Results as a page for people, one file that needs no other, and as JSON for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from . import report_figures, tables
from .protocols import OVERLAP, Protocol, USAC
from .results import PairResult, Results
from ..errors import DataError
from ..html_report import colour, is_dashed, picture_element, require_libraries, write_page
from ..io import replacing

TEMPLATE = 'report.html.j2'
FEW_ORIGINS = 20  # below, bootstrapped intervals are too narrow to be believed
PICTURE_WIDTH = 1100
# What a picture says beside itself; accuracy at a threshold repeats what the errors say.
SHOT_COLUMNS = (
    'MMA@3', 'precision', 'right', 'matches', 'corner_error', 'pose_error', 'repeatability',
    'localization_px', 'coverage',
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
    'keypoints': 'keypoints of an image that count',
    'matches': 'matches of a pair',
    'right': 'matches of a pair that are right',
    'ms': 'milliseconds to extract an image',
}


@dataclass(frozen=True)
class Example:
    """
    A pair worth looking at.

    label: what it is an example of, such as 'best' or 'worst'; name: of the pair; values: its
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
    by label of the extractor; command: what was typed. Raises DataError for results that do not
    belong together or where a library is missing, ConfigError for an unknown reference.
    """
    require_libraries()
    write_page(path, TEMPLATE, _content(results, reference, examples or {}, command))


def write_json(path: Path | str, results: Sequence[Results]) -> None:
    """Write results of several extractors, one a line, all of it or nothing."""
    lines = ',\n'.join(json.dumps(r.to_dict(), default=str, allow_nan=False) for r in results)
    with replacing(path) as temporary:
        temporary.write_text(f'{{"results": [\n{lines}\n]}}\n', encoding='utf-8')


def read_json(path: Path | str) -> list[Results]:
    """Read a file that `write_json` wrote; raises DataError."""
    try:
        values = json.loads(Path(path).read_text(encoding='utf-8'))
        found = list(values['results'])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"'{path}' holds no results of an evaluation ({type(error).__name__}: {error}); "
            'expected a .json file that `kpfeat evaluate` wrote'
        ) from error
    return [Results.from_dict(item) for item in found]


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
    """Say what a protocol does, a sentence each, as far as the columns depend on it."""
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
    if 'repeatability' in columns:
        how = f'within {protocol.repeated_px:g} px of a keypoint of the other image'
        if protocol.repeatability == OVERLAP:
            how = 'if its region overlaps one of the other image with an error of at most 0.4'
        words.append(f'A keypoint is found again {how}.')
    if protocol.left_out:
        words.append(f'Left out where they exist: {", ".join(protocol.left_out)}.')
    return words


def meaning(column: str) -> str:
    """Say what a column is; empty for an unknown one."""
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
    return {
        'first': first,
        'extractors': [
            {
                'label': r.label,
                'colour': colour(k),
                'dashed': is_dashed(k),
            }
            for k, r in enumerate(results)
        ],
        'words': protocol_in_words(first.protocol, everything),
        'facts': _shared_facts(results, command),
        'few_origins': len(set(first.origins)) < FEW_ORIGINS,
        'drawn': tables.drawn(first),
        'columns': columns,
        'summary': tables.summary_cells(results, columns),
        'reference': reference,
        'comparison': tables.comparison_cells(results, reference, columns),
        'splits': {name: tables.summary_cells(part, columns) for name, part in splits.items()},
        'main': tables.main_column(results),
        'groups': tables.group_cells(results, tables.main_column(results)),
        'figures': _figures(results, splits),
        'shots': _shots(results, examples),
        'everything': _all_numbers(results, everything),
        'own_facts': [(r.label, facts) for r in results if (facts := _own_facts(r, results))],
        'meaning': meaning,
    }


def _figures(
    results: Sequence[Results], splits: Mapping[str, Sequence[Results]]
) -> dict[str, list[str]]:
    from markupsafe import Markup

    main = tables.main_column(results)
    groups = {g: [tables.only_group(r, g) for r in results] for g in results[0].groups}
    drawn = {
        'curves': [
            report_figures.curves(results, f) for f in report_figures.curve_families(results)
        ],
        'splits': [report_figures.bars(splits, main, 'kind of change', True)] if splits else [],
        'groups': [report_figures.bars(groups, main, 'group')] if len(groups) > 1 else [],
        'spread': [report_figures.spread(results, main)] if main else [],
        'speed': [report_figures.speed_against_accuracy(results)],
    }
    return {name: [Markup(svg) for svg in svgs if svg] for name, svgs in drawn.items()}


def _all_numbers(results: Sequence[Results], columns: Sequence[str]) -> list[tuple]:
    """Return each column with what it is and a cell for each extractor."""
    by_column = zip(*tables.summary_cells(results, columns), strict=True)
    return [(name, meaning(name), row) for name, row in zip(columns, by_column, strict=True)]


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
    numbers = tables.numbers(example.values, SHOT_COLUMNS)
    picture = picture_element(example.picture, PICTURE_WIDTH)
    return {'label': example.label, 'name': example.name, 'numbers': numbers, **picture}


def _shared_facts(results: Sequence[Results], command: str) -> dict[str, str]:
    """Return what is known about all extractors alike."""
    facts = {'command': command} if command else {}
    for name, value in results[0].about.items():
        if name not in facts and all(r.about.get(name) == value for r in results):
            facts[name] = _fact(value)
    return {name: text for name, text in facts.items() if text}


def _own_facts(result: Results, results: Sequence[Results]) -> dict[str, str]:
    """Return what is known about one extractor and not alike of all."""
    shared = _shared_facts(results, '')
    facts = {name: _fact(value) for name, value in result.about.items() if name not in shared}
    return {name: text for name, text in facts.items() if text}


def _fact(value: Any) -> str:
    """Write what JSON can hold in words; long digests by their beginning."""
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
