"""`kpfeat bag render`, as a user sees it: output, files, exit codes."""

import json
import sys

import pytest

pytest.importorskip('rosbags', reason='recordings need rosbags')
pytest.importorskip('av', reason='videos need PyAV')

from made_bags import IMAGE, image, Made, pictures, START, write_bag
from run_kpfeat import assert_one_error, run


@pytest.fixture
def render(drive, weights):
    """Return a function that runs `kpfeat bag render` on a recording."""

    def render(*words, source=drive):
        limits = ('--weights', weights, '--max-keypoints', 30)
        return run('bag', 'render', source, *limits, *words)

    return render


def test_help_has_examples():
    result = run('bag', 'render', '--help')
    assert result.exit_code == 0
    assert 'Examples' in result.output and 'kpfeat bag render' in result.output


def test_it_tells_what_it_did(render, tmp_path):
    out, sheet = tmp_path / 'drive.mp4', tmp_path / 'drive.png'
    result = render('--out', out, '--sheet', sheet)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith('5 of 5 images, 150 keypoints, ')
    assert result.stdout.endswith(f'written to {out}, {sheet}\n')
    assert out.is_file() and sheet.is_file()


def test_quiet_says_nothing_and_json_all(render, tmp_path):
    words = ('--out', tmp_path / 'drive.mp4', '--show', 'keypoints', '--speed', 2)
    result = render('--quiet', *words)
    assert (result.exit_code, result.output) == (0, '')
    report = json.loads(render('--json', *words).stdout)
    assert (report['images'], report['features'], report['keypoints']) == (5, 5, 150)
    assert report['files'] == [str(tmp_path / 'drive.mp4')] and report['codec'] == 'libx264'
    assert report['skipped'] == {} and report['damage'] == [] and report['seconds'] > 0


def test_features_of_an_extraction_are_taken(render, weights, drive, tmp_path):
    features = tmp_path / 'features.mcap'
    run('bag', 'extract', drive, '--out', features, '--weights', weights, '--max-keypoints', 7)
    result = run('bag', 'render', drive, '-f', features, '--out', tmp_path / 'drive.mp4')
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith('5 of 5 images, 35 keypoints, ')


def test_skipped_images_are_counted_by_kind_with_exit_code_3(render, tmp_path):
    good = pictures(3)
    messages = [image(good[0], START), *(image(pixels, START, 'hologram') for pixels in good[1:])]
    made = [Made('/a', IMAGE, START + k, one) for k, one in enumerate(messages)]
    source = write_bag(tmp_path / 'bag', made)
    result = render('--out', tmp_path / 'drive.mp4', source=source)
    assert result.exit_code == 3
    assert "skipped 2 of 3 images (encoding): encoding is 'hologram'" in result.stderr


@pytest.mark.parametrize(
    ('words', 'parts'),
    [
        ((), ('--out FILE.mp4', '--sheet')),
        (('--out', 'drive.gif'), ('drive.gif', '.mp4')),
        (('--sheet', 'drive.mp4'), ('drive.mp4', '.png')),
        (('--out', 'drive.mp4', '--show', 'everything'), ("'everything'", 'tracks')),
        (('--out', 'drive.mp4', '--speed', '0'), ('speed', 'at least 0.01')),
        (('--out', 'drive.mp4', '--undistort'), ('undistort',)),
        (('--out', 'drive.mp4', '--topics', '/up'), ("there is no topic '/up'",)),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(render, tmp_path, monkeypatch, words, parts):
    monkeypatch.chdir(tmp_path)
    assert_one_error(render(*words), *parts)
    assert list(tmp_path.iterdir()) == []


def test_without_pyav_it_says_what_to_install(render, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    result = render('--out', tmp_path / 'drive.mp4')
    assert_one_error(result, 'PyAV', "pip install 'kpfeat[video]'")


def test_an_extraction_draws_what_it_found(drive, weights, render, tmp_path):
    out, video = tmp_path / 'features.mcap', tmp_path / 'extracted.mp4'
    limits = ('--weights', weights, '--max-keypoints', 30)
    result = run('bag', 'extract', drive, '--out', out, '--video', video, *limits)
    assert result.exit_code == 0, result.output
    assert f'drawn to {video}' in result.output
    assert render('--out', tmp_path / 'drive.mp4').exit_code == 0
    assert video.read_bytes() == (tmp_path / 'drive.mp4').read_bytes()
    result = run('bag', 'extract', drive, '-o', out, '--video', video, '--descriptor-type', 'int8')
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ('words', 'why'),
    [
        (['--video', 'a.avi'], 'expected a name ending in .mp4'),
        (['--video', 'a.mp4', '--format', 'npz'], 'the format bag'),
        (['--video', 'a.mp4', '--by-part'], 'one recording'),
        (['--video', 'a.mp4', '--undistort'], 'leave out undistort'),
    ],
)
def test_a_video_that_cannot_be_drawn_is_refused_before_the_work(drive, tmp_path, words, why):
    out = tmp_path / 'out'
    assert_one_error(run('bag', 'extract', drive, '--out', out, *words), why)
    assert not out.exists()
