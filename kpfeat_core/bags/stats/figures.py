"""Figures of a recording's statistics as SVG that lies in the page; a colour for each topic."""

from collections.abc import Mapping, Sequence

import numpy as np

from .statistics import TopicStatistics
from .survival import AFTER
from ...axes import Float
from ...html_report import colour, figure, is_dashed

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
            axis.fill_between(seconds, low, high, color=colour(k), alpha=0.3, linewidth=0.8)
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
            style = '--' if is_dashed(k) else '-'
            after = np.array([0, *AFTER])[known]
            axis.plot(after, shares[known], style, marker='o', markersize=3, color=colour(k))
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
            axis.bar(places, shares / max(1, counts.sum()), 0.9 * width, color=colour(k))
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
