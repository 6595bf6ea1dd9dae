"""`kpfeat bag`, as a user sees it: output, files, exit codes, interruptions."""

from importlib.util import find_spec
import json
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip('rosbags', reason='recordings need rosbags')

from bag_runs import batches_done, sha256
import kpfeat_core
from kpfeat_core.bags import match as matching
from kpfeat_core.bags.reader import BagReader
from made_bags import IMAGE, images, START, storage_file, texts, truncate, write_bag
from run_kpfeat import assert_one_error, run

ROOT = Path(kpfeat_core.__file__).parents[1]
COUNT = 5
needs_av = pytest.mark.skipif(find_spec('av') is None, reason='videos need PyAV')
needs_plots = pytest.mark.skipif(
    find_spec('matplotlib') is None or find_spec('jinja2') is None, reason='pages need them'
)
RENDER = pytest.param('render', marks=needs_av)
# What each verb writes of a recording.
OUTPUTS = {'extract': 'out.mcap', 'match': 'out.mcap', 'render': 'drive.mp4', 'stats': 'a.json'}


@pytest.fixture
def bag_verb(drive, weights, tmp_path):
    """Return a function that runs a verb on a recording, to its file in the temporary folder."""

    def bag_verb(verb, *words, source=drive, out=None):
        target = ('--out', tmp_path / (out or OUTPUTS[verb])) if out != '' else ()
        limits = ('--weights', weights, '--max-keypoints', 30)
        return run('bag', verb, source, *limits, *target, *words)

    return bag_verb


@pytest.fixture
def extract(bag_verb):
    return lambda *words, **options: bag_verb('extract', *words, **options)


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


@pytest.mark.parametrize('verb', ['info', *OUTPUTS])
def test_every_verb_has_help_with_examples(verb):
    result = run('bag', verb, '--help')
    assert result.exit_code == 0
    assert 'Examples' in result.output and f'kpfeat bag {verb}' in result.output


@pytest.mark.parametrize('verb', ['extract', 'match', RENDER, 'stats'])
def test_quiet_says_nothing_and_json_all(bag_verb, verb):
    words = ('--geometry', 'none') if verb in ('match', 'stats') else ()
    result = bag_verb(verb, '--quiet', *words)
    assert (result.exit_code, result.output) == (0, '')
    report = json.loads(bag_verb(verb, '--json', *words).stdout)
    assert (report['images'], report['skipped'], report['damage']) == (COUNT, {}, [])
    assert report['seconds'] > 0
    if verb == 'stats':
        assert (report['used'], report['features'], report['geometry']) == (5, 'made', 'none')
        assert report['topics']['/left/features']['summary']['keypoints'] == 30
    else:
        assert (report['features'], report['keypoints']) == (5, 150)
    if verb == 'render':
        assert [Path(file).name for file in report['files']] == ['drive.mp4']
        assert report['codec'] == 'libx264'


@pytest.mark.parametrize('verb', ['extract', 'match', RENDER, 'stats'])
def test_skipped_images_are_counted_by_kind_with_exit_code_3(bag_verb, tmp_path, verb):
    made = images(4)
    made[2].message.encoding = 'hologram'
    result = bag_verb(verb, source=write_bag(tmp_path / 'bag', made))
    assert result.exit_code == 3
    assert "skipped 1 of 4 images (encoding): encoding is 'hologram'" in result.stderr
    said = '2 pairs of 4 images' if verb == 'match' else '3 of 4 images'
    assert result.stdout.splitlines()[-1].startswith(said)
    assert (tmp_path / OUTPUTS[verb]).is_file()


@pytest.mark.parametrize('verb', ['extract', 'match'])
def test_a_truncated_recording_is_used_as_far_as_it_goes_with_exit_code_3(
    bag_verb, tmp_path, verb
):
    bag = write_bag(tmp_path / 'bag', images(30), 'sqlite3')
    truncate(storage_file(bag), 0.7)
    result = bag_verb(verb, source=bag)
    assert result.exit_code == 3
    assert 'damaged: bag: metadata.yaml tells of 30 messages (' in result.stderr
    found = counts(tmp_path / 'out.mcap')
    assert 0 < found['/left/features'] < 30
    assert verb == 'extract' or found['/left/matches'] == found['/left/features'] - 1


UNDISTORT = ('--undistort',)
MISTAKES = {
    'extract': [
        (('--topics', '/right'), ("there is no topic '/right'", '/left/image_raw')),
        (('--topics', '/text'), ('std_msgs/msg/String', 'sensor_msgs/msg/Image')),
        (('--start', 'soon'), ("'soon'", 'seconds')),
        (('--start', '100'), ('no image', 'none in this range')),
        (('--storage', 'sqlite3'), ('out.mcap', 'sqlite3')),
        (('--storage', 'tape'), ("storage is 'tape'", 'mcap, sqlite3')),
        (('--format', 'npz', '--copy', '/text'), ('npz',)),
        (UNDISTORT, ('camera_info',)),
        (('--video', 'a.avi'), ('expected a name ending in .mp4',)),
        (('--video', 'a.mp4', '--format', 'npz'), ('the format bag',)),
        (('--video', 'a.mp4', '--by-part'), ('one recording',)),
    ],
    'match': [
        (('--every', 2, '--keyframes'), ('every is 2', 'keyframes')),
        (('--every', 0), ('every is 0', 'at least 1')),
        (('--keyframe-share', 2), ('keyframe_share is 2', 'at most 1')),
        (('--geometry', 'essential'), ("'essential'", 'homography')),
        (('--topics', '/right'), ("there is no topic '/right'", '/left/image_raw')),
        (('--start', '100'), ('no two images', 'in this range')),
        (('--features', 'drive.mcap', '--model', 'alike-t'), ('not both',)),
        (('--copy', '/left/features'), ("'/left/features'", 'no topic')),
        (('--storage', 'sqlite3'), ('out.mcap', 'sqlite3')),
    ],
    'render': [
        (('--out', 'drive.gif'), ('drive.gif', '.mp4')),
        (('--sheet', 'drive.mp4'), ('drive.mp4', '.png')),
        (('--show', 'everything'), ("'everything'", 'tracks')),
        (('--speed', '0'), ('speed', 'at least 0.01')),
        (UNDISTORT, ('undistort',)),
        (('--topics', '/up'), ("there is no topic '/up'",)),
    ],
    'stats': [
        (('--out', 'stats.pdf'), ('stats.pdf', '.html')),
        (('--topics', '/up'), ("there is no topic '/up'",)),
        (('--start', '100'), ('no image', 'none in this range')),
        (('--geometry', 'sphere'), ("'sphere'", 'homography')),
    ],
}


@pytest.mark.parametrize(
    ('verb', 'words', 'parts'),
    [
        pytest.param(verb, *one, marks=needs_av if verb == 'render' or '--video' in one[0] else ())
        for verb, mistakes in MISTAKES.items()
        for one in mistakes
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(bag_verb, tmp_path, verb, words, parts):
    assert_one_error(bag_verb(verb, *words), *parts)
    assert list(tmp_path.iterdir()) == []


@needs_av
def test_a_video_is_refused_before_the_work_where_it_could_not_be_drawn(extract, tmp_path):
    assert_one_error(extract('--video', 'a.mp4', *UNDISTORT), 'leave out undistort')
    assert_one_error(run('bag', 'render', tmp_path), '--out FILE.mp4', '--sheet')


@pytest.mark.parametrize('words', [('--max-keypoints', 9), ('--copy', '/left/features')])
def test_recorded_features_are_neither_changed_nor_copied(match, tmp_path, words):
    parts = ('features are those recorded', '--model') if 9 in words else ('is written anew',)
    assert_one_error(match(*words), *parts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('verb', 'module', 'extra'),
    [
        ('info', 'rosbags', 'bags'),
        ('match', 'rosbags', 'bags'),
        pytest.param('render', 'av', 'video', marks=needs_av),
        pytest.param('stats', 'matplotlib', 'evaluate', marks=needs_plots),
    ],
)
def test_without_a_package_it_says_what_to_install(bag_verb, monkeypatch, verb, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    out = {'info': '', 'stats': 'a.html'}.get(verb)
    result = run('bag', 'info', '.') if verb == 'info' else bag_verb(verb, out=out)
    assert_one_error(
        result, 'PyAV' if module == 'av' else module, f"pip install 'kpfeat[{extra}]'"
    )
    assert verb != 'stats' or bag_verb(verb).exit_code == 0


def test_what_is_no_recording_is_said(tmp_path):
    (tmp_path / 'photo.jpg').write_bytes(b'')
    assert_one_error(run('bag', 'info', tmp_path / 'photo.jpg'), 'photo.jpg', '.mcap')


def test_info_shows_topics_types_counts_and_rates(drive):
    result = run('bag', 'info', drive)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f'{drive}: mcap, 1 file, ')
    assert lines[1].startswith('14 messages in 0.480 s from 1700000000.000 (2023-11-14 22:13:20')
    rows = [line.split() for line in lines[3:]]
    assert rows[0] == ['/left/image_raw', IMAGE, '5', '8.3', 'Hz']
    assert rows[1][0] == '/text'


def test_info_as_json_is_for_scripts(drive):
    result = run('bag', 'info', drive, '--json')
    about = json.loads(result.stdout)
    assert (about['messages'], about['start'], about['storage']) == (14, START, 'mcap')
    assert about['topics'][0]['messages'] == COUNT and about['damage'] == []


def test_info_of_a_damaged_recording_says_so_with_exit_code_3(tmp_path):
    bag = write_bag(tmp_path / 'bag', images(300))
    truncate(storage_file(bag), 0.6)
    result = run('bag', 'info', bag)
    assert result.exit_code == 3
    assert 'damaged: bag.mcap: the file is cut off' in result.stderr
    assert '/left/image_raw' in result.stdout


def test_extract_tells_what_it_did(extract, tmp_path):
    result = extract()
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith('5 of 5 images, 150 keypoints, ')
    assert str(tmp_path / 'out.mcap') in result.stdout
    topics = BagReader(tmp_path / 'out.mcap').topics
    assert [(topic.name, topic.count) for topic in topics] == [('/left/features', COUNT)]


def test_options_reach_the_extraction(extract, tmp_path):
    words = ('--stride', 2, '--copy', '/text', '--roi-width', 48, '--nms-radius', 4)
    result = extract(*words, '--descriptor-type', 'int8', '--storage', 'sqlite3', out='folder')
    assert result.exit_code == 0, result.output
    reader = BagReader(tmp_path / 'folder')
    assert reader.recording.storage == 'sqlite3'
    assert [(topic.name, topic.count) for topic in reader.topics] == [
        ('/left/features', 3),
        ('/text', 9),
    ]


def test_topics_are_given_one_by_one_or_with_commas(weights, tmp_path):
    made = [one for topic in ('/a', '/b', '/c') for one in images(1, topic)]
    bag = write_bag(tmp_path / 'bag', made)
    out = ('--out', tmp_path / 'out.mcap', '--weights', weights)
    result = run('bag', 'extract', bag, *out, '--topics', '/a,/b', '-t', '/c', '--copy', '/a,/c')
    assert result.exit_code == 0, result.output
    topics = [topic.name for topic in BagReader(tmp_path / 'out.mcap').topics]
    assert topics == ['/a', '/a/features', '/b/features', '/c', '/c/features']


def test_what_is_thrown_away_is_said_before_the_work_begins(extract, tmp_path, monkeypatch):
    (tmp_path / '.out.mcap.partial').mkdir()
    (tmp_path / '.out.mcap.partial/done.jsonl').write_text('[]\n')
    (tmp_path / '.out.mcap.partial/request.json').write_text('others')

    def stop(*words):
        raise KeyboardInterrupt

    monkeypatch.setattr('kpfeat_core.bags.frames.Frames.lists', stop)
    lines = extract().stderr.splitlines()
    assert lines[0] == 'an earlier run left some of other options or input: thrown away'
    assert lines[1] == 'stopped; the same command goes on from here'


@pytest.fixture
def fleet(drive, tmp_path):
    folder = tmp_path / 'fleet'
    shutil.copytree(drive, folder / 'one')
    write_bag(folder / 'site/two', images(2))
    return folder


def test_several_recordings_give_a_folder_with_a_manifest_and_a_table(extract, fleet, tmp_path):
    result = extract(source=fleet, out='out')
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[1][:6] == ['one', '1', '5', '150', '0', '0'] and rows[1][7] == 'done'
    assert rows[2][:2] == ['site/two', '1']
    assert result.stdout.splitlines()[3].startswith('2 of 2 parts, 7 images, 210 keypoints, ')
    assert BagReader(tmp_path / 'out/site/two').count == 2
    again = json.loads(extract('--json', source=fleet, out='out').stdout)
    assert (again['done'], again['done_before'], again['recordings']) == (2, 2, 2)
    assert Path(again['manifest']).is_file()


def test_a_part_that_failed_is_told_with_exit_code_3(extract, fleet):
    (fleet / 'bad.mcap').write_bytes(b'nothing')
    result = extract(source=fleet, out='out')
    assert result.exit_code == 3
    assert 'failed: bad/bad: nothing of ' in result.stderr
    assert '1 of 1 failed' in result.stdout and '2 of 3 parts' in result.stdout
    quiet = extract('--quiet', source=fleet, out='out')
    assert (quiet.exit_code, quiet.output) == (3, '')


def test_where_no_part_could_be_done_the_exit_code_is_2(extract, fleet):
    result = extract('--topics', '/right', source=fleet, out='out')
    assert_one_error(result, 'not one of 2 parts', "no topic '/right'", '/left/image_raw')


@pytest.mark.parametrize(
    ('words', 'parts'),
    [
        ((), ('out.mcap', 'expected a folder')),
        (('--cluster', '--device', 'cuda:1', '--out', 'new'), ('Ray',)),
    ],
)
def test_mistakes_with_several_recordings_are_one_line(
    extract, fleet, words, parts, monkeypatch, tmp_path
):
    monkeypatch.setitem(sys.modules, 'ray', None)
    monkeypatch.chdir(tmp_path)
    assert_one_error(extract(*words, source=fleet), *parts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['fleet']


def test_without_ray_it_says_what_to_install(extract, fleet, monkeypatch):
    monkeypatch.setitem(sys.modules, 'ray', None)
    result = extract('--cluster', source=fleet, out='out')
    assert_one_error(result, 'Ray', "pip install 'kpfeat[cluster]'")


def test_match_tells_what_it_did(match, tmp_path):
    result = match()
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith('4 pairs of 5 images, ')
    assert ' inliers (median ' in result.stdout and str(tmp_path / 'out.mcap') in result.stdout
    assert counts(tmp_path / 'out.mcap') == {'/left/features': 5, '/left/matches': 4}
    assert 'inliers' not in match('--geometry', 'none').stdout
    assert ', 1 keyframe, ' in match('--keyframes').stdout
    report = json.loads(match('--json', '--keyframes').stdout)
    assert (report['images'], report['features'], report['pairs']) == (5, 5, 4)
    assert 0 < report['inliers'] <= report['matches'] and 0 < report['inlier_share'] <= 1
    assert (report['keyframes'], report['skipped'], report['recorded']) == (1, {}, True)


def test_options_reach_the_matching(match, drive, features, tmp_path):
    words = ('--stride', 2, '--every', 2, '--copy', '/text,/left/image_raw', '-f', features)
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


def test_without_recorded_features_they_are_made(bag_verb, match, tmp_path):
    made = json.loads(bag_verb('match', '--json', out='made.mcap').stdout)
    match()
    read = [BagReader(tmp_path / name) for name in ('made.mcap', 'out.mcap')]
    assert not made['recorded']
    first, second = ([(r.time, r.data) for r in one.records(one.topics)] for one in read)
    assert first == second


def test_an_interrupted_run_says_how_it_goes_on(match, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(matching, 'match_recording', interrupted)
    result = match()
    assert result.exit_code not in (0, 2, 3)
    assert 'stopped; the same command goes on from here' in result.stderr


@needs_av
def test_render_tells_what_it_did(bag_verb, drive, features, tmp_path):
    out, sheet = tmp_path / 'drive.mp4', tmp_path / 'drive.png'
    result = run('bag', 'render', drive, '-f', features, '--out', out, '--sheet', sheet)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith('5 of 5 images, 150 keypoints, ')
    assert result.stdout.endswith(f'written to {out}, {sheet}\n')
    assert out.is_file() and sheet.is_file()


@needs_av
def test_an_extraction_draws_what_it_found(extract, bag_verb, tmp_path):
    video = tmp_path / 'extracted.mp4'
    result = extract('--video', video)
    assert result.exit_code == 0, result.output
    assert f'drawn to {video}' in result.output
    assert bag_verb('render').exit_code == 0
    assert video.read_bytes() == (tmp_path / 'drive.mp4').read_bytes()
    result = extract('--video', video, '--descriptor-type', 'int8')
    assert result.exit_code == 0, result.output


@needs_plots
def test_stats_prints_a_summary_and_writes_what_is_named(bag_verb, tmp_path):
    outputs = [tmp_path / f'stats.{ending}' for ending in ('html', 'csv', 'json')]
    words = [word for out in outputs for word in ('--out', out)]
    result = bag_verb('stats', *words, out='')
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ['/left/features'] and lines[1][:2] == ['images', '5']
    assert lines[2][:3] == ['rate', '10.00', 'Hz']
    last = result.stdout.splitlines()[-1]
    assert last.startswith('5 of 5 images, ') and str(outputs[0]) in last
    assert sorted(tmp_path.iterdir()) == sorted(outputs)


@pytest.mark.parametrize(
    ('verb', 'kills'), [('extract', [signal.SIGKILL, signal.SIGTERM]), ('match', [signal.SIGINT])]
)
def test_a_process_that_is_killed_again_and_again_ends_with_the_same_bytes(
    weights, tmp_path, verb, kills
):
    bag = write_bag(tmp_path / 'bag', sorted(images(60) + texts(), key=lambda one: one.time))
    words = ['bag', verb, bag, '--weights', weights, '--max-keypoints', 50, '--copy', '/text']
    words += ['--keyframes', '--keyframe-share', '.7'] if verb == 'match' else []
    expected, out = tmp_path / 'a/out.mcap', tmp_path / 'b/out.mcap'
    assert run(*words, '--out', expected).exit_code == 0
    command = [sys.executable, '-m', 'kpfeat_core.cli', *map(str, words), '--out', str(out)]
    for kill in kills:
        before = batches_done(out)
        process = subprocess.Popen(command, stderr=-1, stdout=-1, cwd=ROOT)
        while process.poll() is None and batches_done(out) < before + 5:
            time.sleep(0.002)
        process.send_signal(kill)
        _, errors = process.communicate()
        if kill == signal.SIGINT and process.returncode:
            assert b'the same command goes on from here' in errors
            assert b'Traceback' not in errors
    done = json.loads(run(*words, '--out', out, '--json').stdout)
    assert done['images'] == 60
    assert done['resumed'] >= 5 or process.returncode == 0  # it had finished before its signal
    assert sha256(out) == sha256(expected)
    assert [path.name for path in out.parent.iterdir()] == ['out.mcap']
