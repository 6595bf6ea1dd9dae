"""Figures of a recording's statistics as SVG that lies in the page; a colour for each topic."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from .statistics import TopicStatistics
from .survival import AFTER
from ..page import colour, figure, is_dashed
from ..shapes import Float

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
            look = {'color': colour(k), 'linewidth': 1.2}
            look['marker'] = 'o' if len(seconds) <= MAX_MARKED else None
            style = '--' if is_dashed(k) else '-'
            axis.plot(seconds, middle, style, markersize=2.5, **look)
            axis.fill_between(seconds, low, high, color=colour(k), alpha=0.2, linewidth=0)
        axis.set(xlabel='seconds from the first message', ylabel=label)
        if is_share:
            axis.set_ylim(-0.02, 1.02)
        elif min(np.nanmin(c) for c in columns if np.isfinite(c).any()) >= 0:
            axis.set_ylim(bottom=0)
        axis.ticklabel_format(useOffset=False)
    return done(f'{label} over time')


def survival(topics: Mapping[str, TopicStatistics]) -> str:
    """Return the share of keypoints whose track is still there after some images."""
    with figure(HEIGHT_IN) as (axis, done):
        for k, topic in enumerate(topics.values()):
            summary = topic.summary()
            shares = [1.0, *(summary[f'survived_{after}'] for after in AFTER)]
            style = '--' if is_dashed(k) else '-'
            axis.plot([0, *AFTER], shares, style, marker='o', markersize=3, color=colour(k))
        axis.set(xlabel='images later', ylabel='share still followed', xticks=[0, *AFTER])
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
            axis.bar(places, shares / max(1, counts.sum()), 0.9 * width, color=colour(k))
        axis.set(xlabel='images of a track', ylabel='share of the tracks')
        axis.set_xticks(range(len(edges) - 1), [_range(*each) for each in pairwise(edges)])
        axis.grid(axis='x', visible=False)
    return done('lengths of tracks')


def _range(first: int, beyond: int) -> str:
    return str(first) if beyond == first + 1 else f'{first}–{beyond - 1}'


def _reduced(
    seconds: Float[np.ndarray, ' n'], values: Float[np.ndarray, ' n']
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return times and the lowest, middle and highest value; of stretches where there are many."""
    if len(values) <= MAX_POINTS:
        return seconds, values, values, values
    edges = np.linspace(seconds[0], seconds[-1], MAX_POINTS + 1)
    parts = np.split(values, np.searchsorted(seconds, edges[1:-1]))
    kept = [part[np.isfinite(part)] for part in parts]
    rows = [
        (part.min(), np.median(part), part.max()) if len(part) else (np.nan,) * 3 for part in kept
    ]
    return (edges[1:] + edges[:-1]) / 2, *np.array(rows).T
