"""`kpfeat bag match`."""

import json
from pathlib import Path
import subprocess
import sys
import time

import pytest

pytest.importorskip('rosbags', reason='recordings need rosbags')

from bag_runs import batches_done
import kpfeat_core
from kpfeat_core.bags import match as matching
from kpfeat_core.bags.reader import BagReader
from made_bags import images, storage_file, truncate, write_bag
from run_kpfeat import assert_one_error, run

ROOT = Path(kpfeat_core.__file__).parents[1]


@pytest.fixture(scope='module')
def features(drive, weights, tmp_path_factory):
    out = tmp_path_factory.mktemp('features') / 'features.mcap'
    words = ('--weights', weights, '--max-keypoints', 30)
    assert run('bag', 'extract', drive, '--out', out, *words).exit_code == 0
    return out


@pytest.fixture
def match(features, tmp_path):
    """Return a function that runs `kpfeat bag match`, by default on features, to out.mcap."""

    def match(*words, source=features, out='out.mcap'):
        return run('bag', 'match', source, '--out', tmp_path / out, *words)

    return match


def counts(path):
    return {topic.name: topic.count for topic in BagReader(path).topics}


def test_help_has_examples():
    result = run('bag', 'match', '--help')
    assert result.exit_code == 0
    assert 'kpfeat bag match features.mcap --every 5' in result.output


def test_it_tells_what_it_did(match, tmp_path):
    result = match()
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith('4 pairs of 5 images, ')
    assert ' inliers (median ' in result.stdout and str(tmp_path / 'out.mcap') in result.stdout
    assert counts(tmp_path / 'out.mcap') == {'/left/features': 5, '/left/matches': 4}
    assert 'inliers' not in match('--geometry', 'none').stdout
    assert ', 1 keyframe, ' in match('--keyframes').stdout


def test_quiet_says_nothing_and_json_all(match):
    result = match('--quiet')
    assert (result.exit_code, result.output) == (0, '')
    report = json.loads(match('--json', '--keyframes').stdout)
    assert (report['images'], report['features'], report['pairs']) == (5, 5, 4)
    assert 0 < report['inliers'] <= report['matches'] and 0 < report['inlier_share'] <= 1
    assert (report['keyframes'], report['skipped'], report['recorded']) == (1, {}, True)


def test_options_reach_the_matching(match, drive, features, tmp_path):
    words = (
        '--stride',
        2,
        '--every',
        2,
        '--copy',
        '/text,/left/image_raw',
        '--features',
        features,
    )
    result = match(*words, '--storage', 'sqlite3', source=drive, out='folder')
    assert result.exit_code == 0, result.output
    assert BagReader(tmp_path / 'folder').recording.storage == 'sqlite3'
    assert counts(tmp_path / 'folder') == {
        '/left/features': 3,
        '/left/image_raw': 5,
        '/left/matches': 1,
        '/text': 9,
    }
    result = match('--min-similarity', 0.9999, '--json')
    assert json.loads(result.stdout)['matches'] < json.loads(match('--json').stdout)['matches']


def test_without_recorded_features_they_are_made(match, drive, features, weights, tmp_path):
    words = ('--weights', weights, '--max-keypoints', 30, '--json')
    made = json.loads(match(*words, source=drive, out='made.mcap').stdout)
    match()
    read = [BagReader(tmp_path / name) for name in ('made.mcap', 'out.mcap')]
    assert not made['recorded']
    first, second = ([(r.time, r.data) for r in one.records(one.topics)] for one in read)
    assert first == second


def test_a_truncated_recording_is_used_as_far_as_it_goes_with_exit_code_3(
    match, weights, tmp_path
):
    bag = write_bag(tmp_path / 'bag', images(30), 'sqlite3')
    truncate(storage_file(bag), 0.7)
    result = match('--weights', weights, '--max-keypoints', 30, source=bag)
    assert result.exit_code == 3
    assert 'damaged: bag: metadata.yaml tells of 30 messages (' in result.stderr
    found = counts(tmp_path / 'out.mcap')
    assert 0 < found['/left/matches'] == found['/left/features'] - 1 < 29


def test_skipped_images_are_counted_by_kind_with_exit_code_3(match, weights, tmp_path):
    made = images(4)
    made[2].message.encoding = 'hologram'
    bag = write_bag(tmp_path / 'bag', made)
    result = match('--weights', weights, '--max-keypoints', 30, source=bag)
    assert result.exit_code == 3
    assert "skipped 1 of 4 images (encoding): encoding is 'hologram'" in result.stderr
    assert result.stdout.startswith('2 pairs of 4 images')


@pytest.mark.parametrize(
    ('words', 'parts'),
    [
        (('--every', 2, '--keyframes'), ('every is 2', 'keyframes')),
        (('--every', 0), ('every is 0', 'at least 1')),
        (('--keyframe-share', 2), ('keyframe_share is 2', 'at most 1')),
        (('--geometry', 'essential'), ("'essential'", 'homography')),
        (('--topics', '/right'), ("there is no topic '/right'", '/left/features')),
        (('--start', '100'), ('no two images', 'in this range')),
        (('--max-keypoints', 9), ('features are those recorded', '--model')),
        (('--features', 'drive.mcap', '--model', 'alike-t'), ('not both',)),
        (('--copy', '/left/features'), ("'/left/features'", 'written anew')),
        (('--storage', 'sqlite3'), ('out.mcap', 'sqlite3')),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(match, tmp_path, words, parts):
    assert_one_error(match(*words), *parts)
    assert list(tmp_path.iterdir()) == []


def test_without_rosbags_it_says_what_to_install(match, monkeypatch):
    monkeypatch.setitem(sys.modules, 'rosbags', None)
    assert_one_error(match(), 'rosbags', "pip install 'kpfeat[bags]'")


def test_a_process_that_is_killed_goes_on_to_the_same_bytes(weights, tmp_path):
    bag = write_bag(tmp_path / 'bag', images(40))
    words = [
        '--weights',
        weights,
        '--max-keypoints',
        '50',
        '--keyframes',
        '--keyframe-share',
        '.7',
    ]
    command = [sys.executable, '-m', 'kpfeat_core.cli', 'bag', 'match', str(bag)]
    command += [*map(str, words), '--out']
    expected, out = tmp_path / 'a/out.mcap', tmp_path / 'b/out.mcap'
    assert run(*command[3:], expected).exit_code == 0
    process = subprocess.Popen([*command, str(out)], cwd=ROOT)
    while process.poll() is None and batches_done(out) < 5:
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert run(*command[3:], out).exit_code == 0
    assert out.read_bytes() == expected.read_bytes()
    assert [path.name for path in out.parent.iterdir()] == ['out.mcap']


def test_an_interrupted_run_says_how_it_goes_on(match, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(matching, 'match_recording', interrupted)
    result = match()
    assert result.exit_code not in (0, 2, 3)
    assert 'stopped; the same command goes on from here' in result.stderr
