"""Numbers of a recording as a table for people, and as JSON and CSV for programs."""

from collections.abc import Mapping, Sequence
import csv
from datetime import datetime, timezone
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from .stats import AFTER, BadFrame, COLUMNS, LATE, plain, StatsReport, TopicStatistics
from ..axes import Float
from ..html_report import (
    color,
    figure,
    is_dashed,
    line_style,
    picture_element,
    require_libraries,
    write_page,
)
from ..io import replacing

MISSING = '–'
# Names of `TopicStatistics.summary`: what to call each, how to write it, and what it is.
SUMMARY = {
    'images': ('images', '{:.0f}', 'that were used'),
    'rate_hz': ('rate', '{:.2f} Hz', 'by the median interval between stamps'),
    'gaps': ('gaps', '{:.0f}', 'intervals longer than 1.5 usual ones'),
    'missing': ('missing images', '{:.0f}', 'that would have filled the gaps'),
    'longest_s': ('longest interval', '{:.3f} s', 'between two images'),
    'backward': ('stamps not after the one before', '{:.0f}', 'expected none'),
    'delay_ms': ('log delay', '{:.1f} ms', 'median of log time minus stamp'),
    'delay_95_ms': ('log delay, 95 %', '{:.1f} ms', '95 % of the images come within it'),
    'keypoints': ('keypoints', '{:.0f}', 'median of an image'),
    'mean_score': ('mean score', '{:.3f}', 'median of the mean score of an image'),
    'coverage': ('coverage', '{:.1%}', 'cells of a 10×10 grid that hold a keypoint, median'),
    'inliers': ('inliers', '{:.0f}', 'matches with the image before that agree, median'),
    'inlier_share': ('inlier share', '{:.1%}', 'of the matches with the image before, median'),
    **{
        f'survived_{k}': (
            f'alive after {k} image{"s" if k > 1 else ""}',
            '{:.1%}',
            'share of the keypoints whose track is still there, mean',
        )
        for k in AFTER
    },
    'track_length': ('track length', '{:.2f} images', 'mean; 1: never found again'),
    'blur': ('blur', '{:.3f}', 'median; 0 sharp, 1 blurred'),
    'blur_95': ('blur, 95 %', '{:.3f}', '95 % of the images are sharper'),
    'brightness': ('brightness', '{:.3f}', 'mean; 0 black, 1 white'),
    'dark': ('dark pixels', '{:.2%}', 'mean share of pixels at most 5 of 255'),
    'bright': ('bright pixels', '{:.2%}', 'mean share of pixels at least 250 of 255'),
}


def summary_rows(report: StatsReport) -> list[tuple[str, list[str], str]]:
    """Return name, a text for each topic, and meaning of what is known of at least one topic."""
    summaries = [topic.summary() for topic in report.topics.values()]
    rows = []
    for name, (label, form, meaning) in SUMMARY.items():
        values = [summary[name] for summary in summaries]
        texts = [_text(form, value) for value in values]
        if any(text != MISSING for text in texts):
            rows.append((label, texts, meaning))
    return rows


def write_json(path: Path, report: StatsReport) -> None:
    """Write all numbers, a list for each column; track_lengths begins with those of 1 image."""
    values = report.described()
    for name, topic in report.topics.items():
        values['topics'][name]['columns'] = _columns(topic)
    text = json.dumps(values, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + '\n', encoding='utf-8')


def write_csv(path: Path, report: StatsReport) -> None:
    """Write a row for each image; empty for what is not known."""
    with replacing(path) as temporary, temporary.open('w', newline='', encoding='utf-8') as file:
        rows = csv.writer(file, lineterminator='\n')
        rows.writerow(['topic', 'index', 'time_ns', 'stamp_ns', 'seconds', *COLUMNS])
        for name, topic in report.topics.items():
            columns = _columns(topic).values()
            for values in zip(*columns, strict=True):
                rows.writerow([name, *('' if value is None else value for value in values)])


def _text(form: str, value: float) -> str:
    return form.format(value).replace('%', ' %') if math.isfinite(value) else MISSING


def _columns(topic: TopicStatistics) -> dict[str, list[Any]]:
    return {
        'index': topic.index.tolist(),
        'time_ns': topic.time.tolist(),
        'stamp_ns': topic.stamp.tolist(),
        'seconds': [plain(value) for value in topic.seconds().tolist()],
        **{name: [plain(v) for v in column] for name, column in topic.columns.items()},
    }


MAX_POINTS = 500  # of a curve; more images are drawn as the median and the range of a stretch
MAX_MARKED = 100  # points, above which they have no dots
HEIGHT_IN = 2.3


def over_time(
    topics: Mapping[str, TopicStatistics], name: str, label: str, is_share: bool = False
) -> str:
    """Return one column over time; empty where there is no value."""
    columns = [topic.column(name) for topic in topics.values()]
    if not any(np.isfinite(column).any() for column in columns):
        return ''
    with figure(HEIGHT_IN) as (axis, done):
        for k, (topic, values) in enumerate(zip(topics.values(), columns, strict=True)):
            seconds, low, middle, high = _reduced(topic.seconds(), values)
            marker = 'o' if len(seconds) <= MAX_MARKED else None
            look = line_style(k) | {'marker': marker, 'markersize': 2.5, 'linewidth': 1.2}
            axis.plot(seconds, middle, **look)
            axis.fill_between(seconds, low, high, color=color(k), alpha=0.3, linewidth=0.8)
        axis.set(xlabel='seconds from the first message', ylabel=label)
        first, last = _span([topic.seconds() for topic in topics.values()])
        edge = 0.01 * (last - first) or 1
        axis.set_xlim(first - edge, last + edge)
        low, high = _span(columns)
        if is_share:
            axis.set_ylim(-0.02, 1.02)
        elif low >= 0:
            axis.set_ylim(0, 1.08 * high or 1)
        axis.ticklabel_format(useOffset=False)
    return done(f'{label} over time')


def survival(topics: Mapping[str, TopicStatistics]) -> str:
    """Return the share of keypoints whose track is still there after some images."""
    with figure(HEIGHT_IN) as (axis, done):
        for k, topic in enumerate(topics.values()):
            summary = topic.summary()
            shares = np.array([1.0, *(summary[f'survived_{after}'] for after in AFTER)])
            known = np.isfinite(shares)
            after = np.array([0, *AFTER])[known]
            axis.plot(after, shares[known], **line_style(k), marker='o', markersize=3)
        axis.set(xlabel='images later', ylabel='share still followed')
        axis.set_ylim(-0.02, 1.02)
    return done('tracks that survive')


def track_lengths(topics: Mapping[str, TopicStatistics]) -> str:
    """Return the share of the tracks of each length; lengths in steps that double."""
    lengths = [topic.track_lengths() for topic in topics.values()]
    longest = max(len(counts) for counts in lengths) - 1
    edges = [2**k for k in range(int(np.log2(max(longest, 1))) + 2)]
    width = 0.8 / len(lengths)
    with figure(HEIGHT_IN) as (axis, done):
        for k, counts in enumerate(lengths):
            shares = np.add.reduceat(np.pad(counts, (0, edges[-1])), edges)[:-1]
            places = np.arange(len(shares)) + (k - (len(lengths) - 1) / 2) * width
            axis.bar(places, shares / max(1, counts.sum()), 0.9 * width, color=color(k))
        axis.set(xlabel='images of a track (4: of 4 to 7)', ylabel='share of the tracks')
        axis.set_xticks(range(len(edges) - 1), edges[:-1])
        axis.grid(axis='x', visible=False)
    return done('lengths of tracks')


def _span(columns: Sequence[Float[np.ndarray, ' n']]) -> tuple[float, float]:
    """Return the smallest and the largest value."""
    values = np.concatenate(columns)
    return float(np.nanmin(values)), float(np.nanmax(values))


def _reduced(
    seconds: Float[np.ndarray, ' n'], values: Float[np.ndarray, ' n']
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return times and the lowest, middle and highest value; of stretches where there are many."""
    step = -(-len(values) // MAX_POINTS)
    starts = range(0, len(values), step)
    stretches = [values[k : k + step] for k in starts]
    known = [stretch[np.isfinite(stretch)] for stretch in stretches]
    rows = [(v.min(), np.median(v), v.max()) if len(v) else (np.nan,) * 3 for v in known]
    times = [seconds[k : k + step].mean() for k in starts]
    return np.array(times), *np.array(rows).T


TEMPLATE = 'bag_report.html.j2'
PICTURE_WIDTH = 640
CURVES = {
    'Features': (
        ('keypoints', 'keypoints', False),
        ('mean_score', 'mean score', False),
        ('coverage', 'coverage (share of cells)', True),
    ),
    'Matches with the image before': (
        ('inliers', 'inliers', False),
        ('inlier_share', 'inliers (share of matches)', True),
        ('survived_1', 'share found again', True),
    ),
    'Sharpness and exposure': (
        ('blur', 'blur (0 sharp, 1 blurred)', True),
        ('brightness', 'brightness (0 black, 1 white)', True),
        ('dark', 'dark pixels (share)', False),
        ('bright', 'bright pixels (share)', False),
    ),
    'Timing': (
        ('interval_ms', 'interval between images (ms)', False),
        ('delay_ms', 'log time minus stamp (ms)', False),
    ),
}
KINDS = {
    'blur': ('The most blurred images', 'blur {:.3f}'),
    'lost': ('Where the fewest keypoints are found again', '{:.0%} of those before are lost'),
    'gap': ('The longest gaps', '{:.0f} ms since the image before'),
}


def write_numbers(path: Path, report: StatsReport) -> None:
    """Write a page or numbers, by the ending of the name: .html, .json or .csv."""
    {'.html': write_report, '.json': write_json, '.csv': write_csv}[path.suffix](path, report)


def write_report(path: Path, report: StatsReport) -> None:
    """Write the page, all of it or nothing; raises DataError where a library is missing."""
    require_libraries()
    write_page(path, TEMPLATE, _content(report))


def _content(report: StatsReport) -> dict[str, Any]:
    topics = {name: topic for name, topic in report.topics.items() if len(topic.index)}
    start = next(iter(topics.values())).start
    return {
        'name': report.source.name,
        'begin': f'{datetime.fromtimestamp(1e-9 * start, timezone.utc):%Y-%m-%d %H:%M:%S} UTC',
        'report': report,
        'topics': [
            {
                'name': name,
                'model': topic.model,
                'color': color(k),
                'dashed': is_dashed(k),
                'moments': _moments(topic),
            }
            for k, (name, topic) in enumerate(topics.items())
        ],
        'rows': summary_rows(report),
        'sections': _sections(topics),
    }


def _sections(topics: dict[str, TopicStatistics]) -> dict[str, list[Any]]:
    from markupsafe import Markup

    found = {}
    for title, curves in CURVES.items():
        svgs = [over_time(topics, *curve) for curve in curves]
        if title.startswith('Matches'):
            svgs += [survival(topics), track_lengths(topics)]
        found[title] = [Markup(svg) for svg in svgs if svg]
    return {title: svgs for title, svgs in found.items() if svgs}


def _moments(topic: TopicStatistics) -> list[dict[str, Any]]:
    """Return the worst moments of each kind, with pictures where there are images."""
    found = []
    for kind, (title, form) in KINDS.items():
        least = LATE * topic.usual_interval_ms() if kind == 'gap' else 0.0
        worst = [
            _moment(m, topic, form) for m in topic.worst_frames[kind].worst if m.badness > least
        ]
        if worst:
            found.append({'title': title, 'single': kind == 'blur', 'moments': worst})
    return found


def _moment(moment: BadFrame, topic: TopicStatistics, form: str) -> dict[str, Any]:
    seconds = 1e-9 * (moment.time - topic.start)
    picture = None if moment.picture is None else picture_element(moment.picture, PICTURE_WIDTH)
    return {
        'when': f'{seconds:.2f} s',
        'words': f'#{moment.index}, {form.format(moment.badness)}'.replace('%', ' %'),
        'picture': picture,
    }
