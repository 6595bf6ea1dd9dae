"""`kpfeat bag`, as a user sees it: output, files, exit codes, interruptions."""

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
from kpfeat_core.bags.reader import BagReader
from made_bags import (
    IMAGE,
    image,
    images,
    Made,
    pictures,
    START,
    storage_file,
    truncate,
    write_bag,
)
from run_kpfeat import assert_one_error, run

ROOT = Path(kpfeat_core.__file__).parents[1]
COUNT = 5


@pytest.fixture
def extract(drive, weights, tmp_path):
    """Return a function that runs `kpfeat bag extract` on a recording to out.mcap."""

    def extract(*words, source=drive, out='out.mcap'):
        limits = ('--weights', weights, '--max-keypoints', 30)
        return run('bag', 'extract', source, '--out', tmp_path / out, *limits, *words)

    return extract


@pytest.mark.parametrize('verb', ['info', 'extract'])
def test_every_verb_has_help_with_examples(verb):
    result = run('bag', verb, '--help')
    assert result.exit_code == 0
    assert 'Examples' in result.output and f'kpfeat bag {verb}' in result.output


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


def test_quiet_says_nothing_and_json_all(extract):
    result = extract('--quiet')
    assert (result.exit_code, result.output) == (0, '')
    report = json.loads(extract('--json').stdout)
    assert (report['images'], report['features'], report['keypoints']) == (5, 5, 150)
    assert report['skipped'] == {} and report['damage'] == [] and report['seconds'] > 0


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


def test_skipped_images_are_counted_by_kind_with_exit_code_3(extract, tmp_path):
    good = pictures(3)
    messages = [image(good[0], START), *(image(pixels, START, 'hologram') for pixels in good[1:])]
    made = [Made('/a', IMAGE, START + k, one) for k, one in enumerate(messages)]
    result = extract(source=write_bag(tmp_path / 'bag', made))
    assert result.exit_code == 3
    assert "skipped 2 of 3 images (encoding): encoding is 'hologram'" in result.stderr
    assert result.stdout.startswith('1 of 3 images')


def test_a_truncated_recording_is_used_as_far_as_it_goes_with_exit_code_3(extract, tmp_path):
    bag = write_bag(tmp_path / 'bag', images(30), 'sqlite3')
    truncate(storage_file(bag), 0.7)
    result = extract(source=bag)
    assert result.exit_code == 3
    assert 'damaged: bag: metadata.yaml tells of 30 messages (' in result.stderr
    assert 0 < BagReader(tmp_path / 'out.mcap').count < 30


@pytest.mark.parametrize(
    ('words', 'parts'),
    [
        (('--topics', '/right'), ("there is no topic '/right'", '/left/image_raw')),
        (('--topics', '/text'), ('std_msgs/msg/String', 'sensor_msgs/msg/Image')),
        (('--start', 'soon'), ("'soon'", 'seconds')),
        (('--start', '100'), ('no image', 'none in this range')),
        (('--storage', 'sqlite3'), ('out.mcap', 'sqlite3')),
        (('--format', 'npz', '--copy', '/text'), ('npz',)),
        (('--undistort',), ('camera_info',)),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(extract, tmp_path, words, parts):
    assert_one_error(extract(*words), *parts)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_recording_is_said(extract, tmp_path):
    (tmp_path / 'photo.jpg').write_bytes(b'')
    assert_one_error(run('bag', 'info', tmp_path / 'photo.jpg'), 'photo.jpg', '.mcap')


def test_without_rosbags_it_says_what_to_install(drive, monkeypatch):
    monkeypatch.setitem(sys.modules, 'rosbags', None)
    assert_one_error(run('bag', 'info', drive), 'rosbags', "pip install 'kpfeat[bags]'")


def test_a_process_that_is_killed_again_and_again_ends_with_the_same_bytes(weights, tmp_path):
    bag = write_bag(tmp_path / 'bag', images(60))
    words = ['bag', 'extract', bag, '--weights', weights, '--max-keypoints', '50', '--out']
    command = [sys.executable, '-m', 'kpfeat_core.cli', *map(str, words)]
    expected, out = tmp_path / 'a/out.mcap', tmp_path / 'b/out.mcap'
    assert run(*words, expected).exit_code == 0
    for kill in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        before = batches_done(out)
        process = subprocess.Popen(
            [*command, str(out)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )
        while process.poll() is None and batches_done(out) < before + 5:
            time.sleep(0.002)
        process.send_signal(kill)
        _, errors = process.communicate()
        if kill == signal.SIGINT and process.returncode:
            assert b'the same command goes on from here' in errors
            assert b'Traceback' not in errors
    done = json.loads(run(*words, out, '--json').stdout)
    assert done['images'] == 60
    assert done['resumed'] >= 10 or process.returncode == 0  # it had finished before its signal
    assert sha256(out) == sha256(expected)
    assert [path.name for path in out.parent.iterdir()] == ['out.mcap']
