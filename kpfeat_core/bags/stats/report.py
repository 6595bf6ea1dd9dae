"""Statistics of a recording as a page for people, one file that needs no other."""

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from . import figures
from .moments import Moment
from .numbers import summary_rows
from .statistics import LATE, StatisticsReport, TopicStatistics
from ...html_report import colour, is_dashed, picture_element, require_libraries, write_page

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


def write_report(path: Path, report: StatisticsReport) -> None:
    """Write the page, all of it or nothing; raises DataError where a library is missing."""
    require_libraries()
    write_page(path, TEMPLATE, _content(report))


def _content(report: StatisticsReport) -> dict[str, Any]:
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
                'colour': colour(k),
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
        svgs = [figures.over_time(topics, *curve) for curve in curves]
        if title.startswith('Matches'):
            svgs += [figures.survival(topics), figures.track_lengths(topics)]
        found[title] = [Markup(svg) for svg in svgs if svg]
    return {title: svgs for title, svgs in found.items() if svgs}


def _moments(topic: TopicStatistics) -> list[dict[str, Any]]:
    """Return the worst moments of each kind, with pictures where there are images."""
    found = []
    for kind, (title, form) in KINDS.items():
        least = LATE * topic.usual_interval_ms() if kind == 'gap' else 0.0
        worst = [_moment(m, topic, form) for m in topic.moments[kind].worst if m.badness > least]
        if worst:
            found.append({'title': title, 'single': kind == 'blur', 'moments': worst})
    return found


def _moment(moment: Moment, topic: TopicStatistics, form: str) -> dict[str, Any]:
    seconds = 1e-9 * (moment.time - topic.start)
    picture = None if moment.picture is None else picture_element(moment.picture, PICTURE_WIDTH)
    return {
        'when': f'{seconds:.2f} s',
        'words': f'#{moment.index}, {form.format(moment.badness)}'.replace('%', ' %'),
        'picture': picture,
    }
