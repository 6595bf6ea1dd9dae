"""Numbers of a recording as a table for people, and as JSON and CSV for programs."""

import csv
import json
import math
from pathlib import Path
from typing import Any

from .statistics import COLUMNS, StatisticsReport, TopicStatistics
from .survival import AFTER
from ...io import replacing

DIGITS = 6  # after the point
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


def summary_rows(report: StatisticsReport) -> list[tuple[str, list[str], str]]:
    """Return name, a text for each topic, and meaning of what is known of at least one topic."""
    summaries = [topic.summary() for topic in report.topics.values()]
    rows = []
    for name, (label, form, meaning) in SUMMARY.items():
        values = [summary[name] for summary in summaries]
        texts = [_text(form, value) for value in values]
        if any(text != MISSING for text in texts):
            rows.append((label, texts, meaning))
    return rows


def as_json(report: StatisticsReport, with_images: bool = False) -> dict[str, Any]:
    """Return what is known as plain values; None for what is not known."""
    return {
        'source': str(report.source),
        'images': report.images,
        'used': report.features,
        'features': 'recorded' if report.recorded else 'made',
        'geometry': report.geometry,
        'skipped': dict(report.skipped),
        'reasons': report.reasons,
        'damage': [str(damage) for damage in report.damage],
        'left_out': report.left_out,
        'topics': {
            name: {
                'model': topic.model,
                'summary': {key: _plain(value) for key, value in topic.summary().items()},
                'track_lengths': topic.track_lengths()[1:].tolist(),
                **({'columns': _columns(topic)} if with_images else {}),
            }
            for name, topic in report.topics.items()
        },
    }


def write_json(path: Path, report: StatisticsReport) -> None:
    """Write all numbers, a list for each column; track_lengths begins with those of 1 image."""
    text = json.dumps(as_json(report, with_images=True), allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + '\n', encoding='utf-8')


def write_csv(path: Path, report: StatisticsReport) -> None:
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
        'seconds': [_plain(value) for value in topic.seconds().tolist()],
        **{name: [_plain(v) for v in column] for name, column in topic.columns.items()},
    }


def _plain(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    return int(value) if value == int(value) else round(value, DIGITS)
