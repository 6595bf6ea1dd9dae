"""Many recordings: each part once, a manifest of all, and only what is missing done again."""

import errno
import json
import os
import shutil

import pytest

pytest.importorskip('rosbags', reason='recordings need rosbags')

from bag_runs import contents, DRIVE_COUNT, sha256, write_drive
from kpfeat_core.bags import batch as work
from kpfeat_core.bags.batch import extract_batch, InTurn
from kpfeat_core.bags.extract import extract_recording
from kpfeat_core.bags.manifest import LOG, MANIFEST, Manifest
from kpfeat_core.bags.reader import BagReader
from kpfeat_core.bags.recording import find_bag_files
from kpfeat_core.bags.request import ExtractRequest
from kpfeat_core.bags.writers import InUseError
from kpfeat_core.config import ViewConfig
from kpfeat_core.errors import DataError
from made_bags import (
    camera_info,
    images,
    PERIOD,
    START,
    storage_file,
    write_bag,
    write_split_bag,
)
from rosbags.rosbag2 import Reader
import torch

OPTIONS = {'max_num_keypoints': 20}


@pytest.fixture(autouse=True)
def one_thread():
    """Have single runs take as many threads as a part of a fleet, for the same digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def extract(weights, fleet, tmp_path, monkeypatch):
    """Return a function that extracts a fleet, by default `fleet` to the folder out."""
    monkeypatch.setattr(work, 'PAUSES', (0.0,))

    def extract(out='out', words=(fleet,), verify=False, on_image=lambda report: None, **options):
        wanted = ExtractRequest(
            tmp_path, tmp_path / out, weights=str(weights), options=OPTIONS, **options
        )
        parts = find_bag_files(words, wanted.out)
        return extract_batch(wanted, parts, InTurn(on_image), verify=verify)

    return extract


def manifest(out):
    return json.loads((out / MANIFEST).read_text())['parts']


def read(path):
    reader = BagReader(path)
    assert reader.damage == []
    return [(record.time, record.data) for record in reader.records(reader.topics)]


def test_each_part_gets_an_output_below_the_name_of_its_recording(extract, tmp_path):
    report = extract()
    assert (report.done, report.total('images'), report.complete) == (4, 12, True)
    assert list(contents(tmp_path / 'out')) == [
        'manifest.json',
        'old/metadata.yaml',
        'old/old.mcap',
        'site/drive/drive_0.mcap',
        'site/drive/drive_1.mcap',
        'site/drive/drive_2.mcap',
        'site/drive/metadata.yaml',
    ]


def test_the_outputs_of_all_parts_are_one_recording_as_if_it_was_never_split(
    extract, fleet, weights, tmp_path
):
    extract()
    whole = ExtractRequest(
        fleet / 'site/drive', tmp_path / 'whole.mcap', weights=str(weights), options=OPTIONS
    )
    extract_recording(whole)
    assert read(tmp_path / 'out/site/drive') == read(tmp_path / 'whole.mcap')
    with Reader(tmp_path / 'out/site/drive') as reader:
        assert [(c.topic, c.msgcount) for c in reader.connections] == [
            ('/left/features', DRIVE_COUNT)
        ]
        times = [time for _, time, _ in reader.messages()]
        assert (reader.start_time, reader.end_time - 1) == (times[0], times[-1])


def test_the_manifest_tells_of_inputs_outputs_and_counts(extract, fleet, tmp_path):
    extract()
    out = tmp_path / 'out'
    entry = manifest(out)['site/drive/drive_1']
    assert (entry['state'], entry['counts']['features']) == ('done', 3)
    for file in (entry['input'], entry['output']):
        path = out / file['path']
        assert not file['path'].startswith('/')
        assert (file['size'], file['sha256']) == (path.stat().st_size, sha256(path))
    settings = json.loads((out / MANIFEST).read_text())['settings'][entry['settings']]
    assert settings['model'][0] == 'alike-t'


def test_equal_runs_have_equal_manifests_and_outputs(extract, tmp_path):
    extract('a')
    extract('b')
    assert contents(tmp_path / 'a') == contents(tmp_path / 'b')


def test_a_second_run_does_nothing(extract, tmp_path):
    extract()
    before = contents(tmp_path / 'out')
    report = extract()
    assert (report.seconds, report.done, report.total('images')) == ({}, 4, 12)
    assert contents(tmp_path / 'out') == before


def delete(path, fleet):
    path.unlink()


def cut(path, fleet):
    path.write_bytes(path.read_bytes()[:-1])


def change_input(path, fleet):
    file = fleet / 'site/drive/drive_1.mcap'
    shutil.copy(storage_file(write_bag(fleet / '.new/bag', images(2))), file)


@pytest.mark.parametrize('harm', [delete, cut, change_input])
def test_what_is_gone_or_was_changed_is_done_again(extract, fleet, tmp_path, harm):
    extract()
    harm(tmp_path / 'out/site/drive/drive_1.mcap', fleet)
    report = extract()
    assert list(report.seconds) == ['site/drive/drive_1']
    entry = manifest(tmp_path / 'out')['site/drive/drive_1']
    assert sha256(tmp_path / 'out/site/drive/drive_1.mcap') == entry['output']['sha256']
    assert len(read(tmp_path / 'out/site/drive')) == report.total('images') - 3


def test_an_output_that_kept_its_size_is_found_by_verify(extract, tmp_path):
    extract()
    path = tmp_path / 'out/old/old.mcap'
    expected = path.read_bytes()
    path.write_bytes(expected[:-9] + b'x' + expected[-8:])
    assert list(extract().seconds) == []
    assert list(extract(verify=True).seconds) == ['old/old']
    assert path.read_bytes() == expected


def test_inputs_that_are_only_newer_are_not_done_again(extract, fleet):
    extract()
    os.utime(fleet / 'old.bag', (1, 1))
    assert list(extract().seconds) == []


def test_other_options_do_everything_again(extract, tmp_path):
    extract()
    report = extract(stride=2)
    assert len(report.seconds) == 4
    assert len(json.loads((tmp_path / 'out' / MANIFEST).read_text())['settings']) == 1


def test_a_recording_that_cannot_be_read_does_not_stop_the_others(extract, fleet, tmp_path):
    good = (fleet / 'old.bag').read_bytes()
    (fleet / 'old.bag').write_bytes(b'#ROSBAG V2.0\n nothing')
    report = extract()
    assert list(report.failed) == ['old/old'] and report.done == 3
    entry = manifest(tmp_path / 'out')['old/old']
    assert entry['state'] == 'failed' and 'old.bag' in entry['error']
    (fleet / 'old.bag').write_bytes(good)
    assert list(extract().seconds) == ['old/old']


def test_a_part_that_cannot_be_read_does_not_stop_the_others(extract, fleet, tmp_path):
    (fleet / 'site/drive/drive_1.mcap').write_bytes(b'')
    report = extract()
    assert list(report.failed) == ['site/drive/drive_1'] and report.done == 3
    assert not (tmp_path / 'out/site/drive/metadata.yaml').exists()
    last = manifest(tmp_path / 'out')['site/drive/drive_2']
    assert last['incomplete'] == ['drive: metadata.yaml tells of 9 messages (3 messages lost)']


def test_an_interrupted_run_goes_on_with_the_same_result(extract, tmp_path):
    extract('expected')
    steps = []

    def stop(report):
        steps.append(report.images)
        if len(steps) == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(on_image=stop)
    assert 0 < len(manifest(tmp_path / 'out')) < 4
    resumed = []
    report = extract(on_image=lambda one: resumed.append(one.resumed))
    assert max(resumed) > 0 and len(report.seconds) < 4
    assert contents(tmp_path / 'out') == contents(tmp_path / 'expected')


def test_entries_of_a_killed_run_are_found_in_the_log(extract, tmp_path):
    extract()
    out = tmp_path / 'out'
    expected = (out / MANIFEST).read_bytes()
    values = json.loads(expected)
    lines = [json.dumps(item) for item in values['parts'].items()]
    (out / LOG).write_text('\n'.join(lines)[:-5])
    values['parts'] = {}
    (out / MANIFEST).write_text(json.dumps(values))
    assert list(extract().seconds) == ['site/drive/drive_2']
    assert (out / MANIFEST).read_bytes() == expected


def test_a_range_counts_from_the_start_of_the_recording(extract, fleet, tmp_path):
    report = extract(words=[fleet / 'site'], start='0.25', end='0.65')
    counts = [entry.counts['images'] for entry in report.entries.values()]
    assert counts == [0, 3, 1] or counts == [1, 3, 0] or sum(counts) == 4
    assert len(read(tmp_path / 'out/drive')) == 4
    assert extract(words=[fleet / 'site'], start='99').failed.keys() == report.entries.keys()


def test_a_part_takes_the_calibration_of_the_parts_before(extract, fleet, weights, tmp_path):
    shutil.rmtree(fleet / 'site')
    made = write_drive(fleet / 'site/drive', camera_info(START), camera_info(START + PERIOD, 60))
    view = ViewConfig(undistort=True)
    extract(words=[fleet / 'site'], view=view)
    whole = ExtractRequest(
        made, tmp_path / 'whole.mcap', weights=str(weights), options=OPTIONS, view=view
    )
    extract_recording(whole)
    assert read(tmp_path / 'out/drive') == read(tmp_path / 'whole.mcap')


def test_topics_have_the_names_of_the_whole_recording_in_every_part(extract, tmp_path):
    first, second = images(3), images(3, '/left/image_color', start=START + 5 * PERIOD)
    write_split_bag(tmp_path / 'more/drive', [first, second])
    extract(words=[tmp_path / 'more'])
    topics = [topic.name for topic in BagReader(tmp_path / 'out/drive').topics]
    assert topics == ['/left/image_color/features', '/left/image_raw/features']


@pytest.mark.parametrize('form', ['npz', 'h5'])
def test_other_formats_are_done_once_as_well(extract, tmp_path, form):
    extract(format=form)
    assert extract(format=form).seconds == {}
    extract(format=form, stride=2)
    extract('expected', format=form, stride=2)
    assert contents(tmp_path / 'out') == contents(tmp_path / 'expected')


@pytest.mark.parametrize('error', [OSError(5, 'Input/output error'), InUseError('another run')])
def test_what_may_pass_is_tried_again(extract, monkeypatch, error):
    errors = [error]

    def flaky(*words, **more):
        if errors:
            raise errors.pop()
        return extract_recording(*words, **more)

    monkeypatch.setattr(work, 'extract_recording', flaky)
    assert extract().complete


def test_an_unexpected_error_is_noted_with_its_place(extract, monkeypatch):
    def broken(*words, **more):
        raise ZeroDivisionError('by nothing')

    monkeypatch.setattr(work, 'extract_recording', broken)
    failed = extract().failed
    assert len(failed) == 4 and 'ZeroDivisionError: by nothing (test_batch' in failed['old/old']


def test_two_runs_in_one_folder_are_refused(extract, tmp_path):
    with Manifest(tmp_path / 'out'), pytest.raises(DataError, match='another run is writing'):
        extract()


def test_features_of_another_recording_are_not_written_over(extract, fleet, tmp_path):
    extract(words=[fleet / 'old.bag'])
    (tmp_path / 'b').mkdir()
    shutil.copy(fleet / 'old.bag', tmp_path / 'b')
    with pytest.raises(DataError, match='holds the features of'):
        extract(words=[tmp_path / 'b/old.bag'])
    (fleet / 'old.bag').unlink()  # it was moved
    assert extract(words=[tmp_path / 'b/old.bag']).seconds == {}


def test_a_recording_of_unknown_origin_is_not_written_over(extract, tmp_path):
    write_bag(tmp_path / 'out/old', images(2))
    before = contents(tmp_path / 'out')
    with pytest.raises(DataError, match='the manifest does not tell of'):
        extract()
    assert contents(tmp_path / 'out') == before


def test_outputs_are_never_inputs(extract, fleet):
    extract(fleet / 'features')
    assert extract(fleet / 'features').seconds == {}
    with pytest.raises(DataError, match='no recording outside'):
        find_bag_files([fleet / 'features'], fleet)


def test_a_disk_that_is_full_for_the_manifest_is_told(extract, tmp_path):
    extract('expected')

    def full(manifest):
        raise OSError(errno.ENOSPC, 'No space left on device')

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Manifest, 'save', full)
        with pytest.raises(DataError, match='the disk is full: what is done .*same command again'):
            extract()
    assert extract().complete
    assert contents(tmp_path / 'out') == contents(tmp_path / 'expected')
