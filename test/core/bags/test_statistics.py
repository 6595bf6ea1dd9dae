"""Numbers of every image of a recording, and the page that shows them."""

from dataclasses import replace
import json
import math
import re
import sys

import pytest

pytest.importorskip('rosbags', reason='recordings need rosbags')
pytest.importorskip('matplotlib', reason='pages need matplotlib')
pytest.importorskip('jinja2', reason='pages need jinja2')

import cv2
from kpfeat_core.bags.extract import extract_recording
from kpfeat_core.bags.frames import FeatureFrame
from kpfeat_core.bags.render import Matched
from kpfeat_core.bags.request import ExtractRequest, FramesRequest
from kpfeat_core.bags.stats import (
    AFTER,
    blur,
    COLUMNS,
    exposure,
    KEPT,
    measure_recording,
    OF_IMAGES,
    Survival,
    TopicStatistics,
    WorstFrames,
)
from kpfeat_core.bags.stats_report import (
    MAX_POINTS,
    over_time,
    write_csv,
    write_json,
    write_report,
)
from kpfeat_core.errors import DataError
from kpfeat_core.matching import PairMatches
from kpfeat_core.virtual_camera import VirtualCamera
from made_bags import (
    IMAGE,
    image,
    images,
    LOG_DELAY,
    Made,
    PERIOD,
    pictures,
    START,
    write_bag,
)
import numpy as np

COUNT = 14
LEFT = '/left/features'


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    """Images with two missing before the last four, one of them dark and one blurred."""
    made = images(COUNT)
    scene = pictures(COUNT)
    for k in range(COUNT):
        stamp = START + (k + 2 * (k >= COUNT - 4)) * PERIOD
        pixels = scene[k]
        if k == 3:
            pixels = cv2.GaussianBlur(pixels, (0, 0), 4)
        if k == 6:
            pixels = pixels // 60
        made[k] = Made(made[k].topic, IMAGE, stamp + LOG_DELAY, image(pixels, stamp))
    return write_bag(tmp_path_factory.mktemp('bags') / 'drive', made)


@pytest.fixture(scope='module')
def report(bag, extractor):
    return measure(bag, extractor)


def measure(bag, extractor=None, **options):
    if 'features' in options:
        options['features'] = str(options['features'])
    return measure_recording(FramesRequest(bag, **options), extractor=extractor)


def pair_of(*indices):
    """Return matches of keypoints i with j, all inliers."""
    rows = np.array(indices, np.int64).reshape(-1, 2)
    points = np.zeros((len(rows), 2), np.float32)
    ones = np.ones(len(rows), np.float32)
    return PairMatches(rows[:, 0], rows[:, 1], ones, points, points, ones.astype(bool))


def test_every_image_has_a_value_of_each_kind(report):
    topic = report.topics[LEFT]
    assert report.complete and list(report.topics) == [LEFT]
    assert topic.index.tolist() == list(range(COUNT))
    for name in COLUMNS:
        values = topic.column(name)
        first = int(name[9:]) if name.startswith('survived') else 1
        first = 0 if name in (*OF_IMAGES, 'keypoints', 'mean_score', 'coverage') else first
        first = 0 if name == 'delay_ms' else first
        assert np.isnan(values[:first]).all() and np.isfinite(values[first:]).all(), name
    assert np.median(topic.column('keypoints')) == 40
    assert 0.2 < np.median(topic.column('coverage')) < 0.6
    shares = topic.column('inliers')[1:] / topic.column('matches')[1:]
    assert topic.column('inlier_share')[1:] == pytest.approx(shares)


def test_gaps_rate_and_delay_are_found_from_stamps(report):
    summary = report.topics[LEFT].summary()
    assert summary['rate_hz'] == pytest.approx(10)
    assert (summary['gaps'], summary['missing'], summary['backward']) == (1, 2, 0)
    assert summary['longest_s'] == pytest.approx(0.3)
    assert summary['delay_ms'] == pytest.approx(7)
    assert [m.index for m in report.topics[LEFT].worst_frames['gap'].worst][:1] == [COUNT - 4]


def test_the_blurred_and_the_dark_image_stand_out(report):
    topic = report.topics[LEFT]
    assert topic.column('blur').argmax() == 3
    assert topic.column('brightness').argmin() == 6 and topic.column('dark')[6] > 0.99
    worst = topic.worst_frames['blur'].worst[0]
    assert (worst.index, worst.time) == (3, START + 3 * PERIOD + LOG_DELAY)
    assert worst.picture.shape == (64, 96, 3)


def test_blur_depends_neither_on_contrast_nor_much_on_resolution():
    sharp = cv2.cvtColor(VirtualCamera(None, (640, 480)).frame(0), cv2.COLOR_RGB2GRAY)
    values = [blur(cv2.GaussianBlur(sharp, (0, 0), sigma)) for sigma in (0.5, 1, 2, 4, 8, 16)]
    assert values == sorted(values) and 0 < values[0] < 0.4 and 0.9 < values[-1] <= 1
    moved = cv2.blur(sharp, (9, 1))  # in x only
    assert blur(moved) > blur(sharp) + 0.1
    assert blur(np.ascontiguousarray(moved.T)) == pytest.approx(blur(moved), abs=0.02)
    assert blur(sharp // 2 + 60) == pytest.approx(blur(sharp), abs=0.03)
    large = cv2.resize(sharp, (1920, 1440), interpolation=cv2.INTER_CUBIC)
    assert blur(large) == pytest.approx(blur(sharp), abs=0.03)
    assert math.isnan(blur(np.full((9, 9), 7, np.uint8)))


def test_exposure_counts_both_ends():
    gray = np.array([[0, 5, 6, 249], [250, 255, 128, 128]], np.uint8)
    assert exposure(gray) == pytest.approx((gray.mean() / 255, 2 / 8, 2 / 8))


def test_survival_follows_keypoints_over_images():
    survival = Survival()
    frame = [FeatureFrame(k, k, LEFT) for k in range(4)]
    assert np.isnan(survival.add(0, 4, None)).all()
    shares = survival.add(1, 5, Matched(frame[0], pair_of((0, 1), (1, 2), (3, 0))))
    assert shares[0] == 3 / 4 and np.isnan(shares[1:]).all()
    shares = survival.add(2, 5, Matched(frame[1], pair_of((1, 0), (4, 3))))
    assert shares[:2] == [2 / 5, 1 / 4]
    shares = survival.add(3, 1, Matched(frame[2], pair_of((0, 0))))
    assert shares[:2] == [1 / 5, 1 / 5]
    # 0-1-2-3 lives; 4 of image 1 and 2; two of images 0 and 1; 11 keypoints that were seen once
    lengths = survival.lengths()
    assert lengths.tolist() == [0, 1 + 1 + 3 + 0, 3, 0, 1]
    assert lengths @ np.arange(5) == 4 + 5 + 5 + 1
    assert np.isnan(survival.add(4, 2, None)).all()  # begins anew
    assert survival.lengths().tolist() == [0, 7, 3, 0, 1]
    assert AFTER[:2] == (1, 2)


def test_moments_are_the_worst_and_apart_from_each_other():
    moments = WorstFrames(10)
    badness = [0, 5, 6, 1, 9, 2, 3, math.nan, 4, 8, 7]
    for k, value in enumerate(badness):
        moments.offer(value, k, 4 * k, lambda: None)
    kept = [(moment.badness, moment.index) for moment in moments.worst]
    assert kept == [(9, 4), (8, 9)]
    for k in range(20):
        moments.offer(1 + k / 100, 50 + k, 1000 + 100 * k, lambda: None)
    assert [moment.badness for moment in moments.worst] == [9, 8, 1.19, 1.18] and KEPT == 4


def test_an_image_that_cannot_be_used_is_no_gap(extractor, tmp_path):
    made = images(6)
    made[3] = replace(made[3], message=image(pictures(1)[0], START + 3 * PERIOD, 'hologram'))
    report = measure(write_bag(tmp_path / 'bag', made), extractor)
    topic = report.topics[LEFT]
    assert report.skipped == {'encoding': 1} and topic.index.tolist() == [0, 1, 2, 4, 5]
    assert topic.summary()['gaps'] == 0
    assert np.isfinite(topic.column('inlier_share')[1:]).all()  # 4 is matched with 2


def test_stamps_that_are_missing_or_go_back_are_seen(extractor, tmp_path):
    made = images(6)
    none = [replace(one, message=image(pictures(1)[0], 0)) for one in made]
    topic = measure(write_bag(tmp_path / 'none', none), extractor).topics[LEFT]
    assert topic.summary()['rate_hz'] == pytest.approx(10)  # of log times
    assert math.isnan(topic.summary()['delay_ms'])
    made[4] = replace(made[4], message=image(pictures(1)[0], START + 2 * PERIOD))
    topic = measure(write_bag(tmp_path / 'back', made), extractor).topics[LEFT]
    assert topic.summary()['backward'] == 1


def test_features_alone_give_all_but_what_needs_images(report, bag, extractor, tmp_path):
    features = tmp_path / 'features.mcap'
    extract_recording(ExtractRequest(bag, features), extractor)
    alone = measure(features)
    assert alone.recorded and not alone.with_images
    for name in COLUMNS:
        values = alone.topics[LEFT].column(name)
        if name in OF_IMAGES:
            assert np.isnan(values).all()
        else:
            assert np.array_equal(values, report.topics[LEFT].column(name), equal_nan=True)
    write_report(tmp_path / 'alone.html', alone)
    page = (tmp_path / 'alone.html').read_text()
    assert 'There are no images here' in page and '<img' not in page and 'Sharpness' not in page
    both = measure(bag, features=features)
    assert np.array_equal(both.topics[LEFT].column('blur'), report.topics[LEFT].column('blur'))
    assert both.topics[LEFT].model == alone.topics[LEFT].model == 'alike-t'


def test_the_page_stands_alone_and_is_the_same_each_time(report, bag, extractor, tmp_path):
    write_report(tmp_path / 'a.html', report)
    write_report(tmp_path / 'b.html', measure(bag, extractor))
    page = (tmp_path / 'a.html').read_text()
    assert page == (tmp_path / 'b.html').read_text()
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert links and all(link.startswith(('data:image/jpeg;base64,', '#')) for link in links)
    assert 'http' not in page.replace('http://www.w3.org', '')
    for words in ('14 of 14 images used', 'alike-t', 'missing images', '10.00 Hz', 'homography'):
        assert words in page
    assert page.count('<figure><svg') == 14
    assert 'The most blurred images' in page and '300 ms since the image before' in page


def test_one_image_is_enough_names_with_markup_stay_text_and_problems_are_told(
    extractor, tmp_path
):
    made = images(1, '/a<b>/image_raw')
    bad = image(pictures(1)[0], START, '<script>')
    made.append(Made('/a<b>/image_raw', IMAGE, made[-1].time + 1, bad))
    report = measure(write_bag(tmp_path / 'a<i>b', made), extractor)
    write_report(tmp_path / 'page.html', report)
    page = (tmp_path / 'page.html').read_text()
    assert '<script>' not in page and '<i>b' not in page and '/a<b>' not in page
    assert '1 image skipped (encoding)' in page
    write_json(tmp_path / 'page.json', report)
    (topic,) = report.topics.values()  # one image is enough
    assert topic.summary()['track_length'] == 1


def test_json_and_csv_hold_the_numbers_of_every_image(report, tmp_path):
    write_json(tmp_path / 'stats.json', report)
    found = json.loads((tmp_path / 'stats.json').read_text())
    assert 'NaN' not in (tmp_path / 'stats.json').read_text()
    topic = found['topics'][LEFT]
    assert topic['columns']['stamp_ns'][1] == START + PERIOD
    assert topic['columns']['inliers'][0] is None and topic['columns']['keypoints'][0] == 40
    assert sum(topic['track_lengths']) == report.topics[LEFT].track_lengths().sum()
    assert 'columns' not in report.described()['topics'][LEFT]
    write_csv(tmp_path / 'stats.csv', report)
    rows = [line.split(',') for line in (tmp_path / 'stats.csv').read_text().splitlines()]
    assert len(rows) == COUNT + 1 and rows[0][:2] == ['topic', 'index']
    first = dict(zip(rows[0], rows[1], strict=True))
    assert (first['topic'], first['keypoints'], first['inliers']) == (LEFT, '40', '')
    assert first['time_ns'] == str(START + LOG_DELAY)


def test_figures_of_long_recordings_stay_small_and_show_single_peaks():
    topic = TopicStatistics(0, 10**12)
    count = 20 * MAX_POINTS
    topic.time.extend(k * 10**7 for k in range(count))
    topic.columns['interval_ms'].extend([math.nan] + [100.0] * (count - 1))
    flat = over_time({LEFT: topic}, 'interval_ms', 'ms')
    topic.columns['interval_ms'][777] = 900.0
    peak = over_time({LEFT: topic}, 'interval_ms', 'ms')
    assert len(peak) < 100_000
    assert '>800<' in peak and '>800<' not in flat


def test_without_matplotlib_it_says_what_to_install(report, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    with pytest.raises(DataError, match=r"pip install 'kpfeat\[evaluate\]'"):
        write_report(tmp_path / 'stats.html', report)
    assert list(tmp_path.iterdir()) == []
