"""`kpfeat bag stats`, as a user sees it: output, files, exit codes."""

import json
import sys

import pytest

pytest.importorskip('rosbags', reason='recordings need rosbags')
pytest.importorskip('matplotlib', reason='pages need matplotlib')
pytest.importorskip('jinja2', reason='pages need jinja2')

from made_bags import image, images, PERIOD, pictures, START, write_bag
from run_kpfeat import assert_one_error, run


@pytest.fixture
def stats(drive, weights):
    """Return a function that runs `kpfeat bag stats` on a recording."""

    def stats(*words, source=drive):
        limits = ('--weights', weights, '--max-keypoints', 30)
        return run('bag', 'stats', source, *limits, *words)

    return stats


def test_help_has_examples():
    result = run('bag', 'stats', '--help')
    assert result.exit_code == 0
    assert 'Examples' in result.output and 'kpfeat bag stats' in result.output


def test_it_prints_a_summary_and_writes_what_is_named(stats, tmp_path):
    outputs = [tmp_path / f'stats.{ending}' for ending in ('html', 'csv', 'json')]
    result = stats(*(word for out in outputs for word in ('--out', out)))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ['/left/features']
    assert lines[1].split()[:2] == ['images', '5'] and lines[2].split()[:3] == [
        'rate',
        '10.00',
        'Hz',
    ]
    assert lines[-1].startswith('5 of 5 images, ') and str(outputs[0]) in lines[-1]
    assert sorted(tmp_path.iterdir()) == sorted(outputs)


def test_quiet_says_nothing_and_json_all(stats):
    result = stats('--quiet')
    assert (result.exit_code, result.output) == (0, '')
    report = json.loads(stats('--json', '--geometry', 'none').stdout)
    assert (report['images'], report['used'], report['features']) == (5, 5, 'made')
    assert report['geometry'] == 'none' and report['seconds'] > 0
    assert report['topics']['/left/features']['summary']['keypoints'] == 30


def test_skipped_images_are_counted_by_kind_with_exit_code_3(stats, tmp_path):
    made = images(3)
    bad = image(pictures(1)[0], START + PERIOD, 'hologram')
    made[1] = made[1].__class__(made[1].topic, made[1].msgtype, made[1].time, bad)
    result = stats('-o', tmp_path / 'a.html', source=write_bag(tmp_path / 'bag', made))
    assert result.exit_code == 3
    assert "skipped 1 of 3 images (encoding): encoding is 'hologram'" in result.stderr
    assert (tmp_path / 'a.html').is_file()


@pytest.mark.parametrize(
    ('words', 'parts'),
    [
        (('--out', 'stats.pdf'), ('stats.pdf', '.html')),
        (('--topics', '/up'), ("there is no topic '/up'",)),
        (('--start', '100'), ('no image', 'none in this range')),
        (('--geometry', 'sphere'), ("'sphere'", 'homography')),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(stats, tmp_path, monkeypatch, words, parts):
    monkeypatch.chdir(tmp_path)
    assert_one_error(stats(*words), *parts)
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_page_is_refused_before_the_work(stats, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    words = ('pip install', 'kpfeat[evaluate]')
    assert_one_error(stats('--out', tmp_path / 'a.html'), 'matplotlib', *words)
    assert stats('--out', tmp_path / 'a.json').exit_code == 0
