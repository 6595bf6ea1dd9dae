"""Nothing is lost: runs that are killed, disks that are full, outputs that are there already."""

import errno
import shutil
import threading

import pytest

pytest.importorskip('rosbags', reason='recordings need rosbags')

from bag_runs import COUNT, kill_after, Killed, read, sha256
from kpfeat_core.bags import steps
from kpfeat_core.bags import writers as writing
from kpfeat_core.bags.extract import extract_recording, Extraction
from kpfeat_core.bags.reader import BagReader
from kpfeat_core.errors import DataError
from made_bags import IMAGE, image, images, Made, pictures, START, texts, write_bag
import numpy as np


@pytest.mark.parametrize('out', ['out.mcap', 'out.db3', 'folder', 'out.h5'])
@pytest.mark.parametrize('batch_size', [1, 3])
def test_a_run_that_was_killed_goes_on_to_the_same_bytes(extract, tmp_path, out, batch_size):
    options = {'copy': ('*',)} if out != 'out.h5' else {'format': 'h5'}
    options |= {'batch_size': batch_size}
    extract(out, **options)
    expected = sha256(tmp_path / out)
    for path in (tmp_path / out,):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for count in (1, 4, 5):
        with pytest.raises(Killed):
            extract(out, on_step=kill_after(count), **options)
        assert not (tmp_path / out).exists()
    report = extract(out, **options)
    assert sha256(tmp_path / out) == expected
    assert report.resumed >= 5 - 5 % batch_size and report.images == COUNT
    assert [path.name for path in tmp_path.iterdir()] == [out]


def test_a_journal_that_is_cut_anywhere_leads_to_the_same_bytes(extract, tmp_path):
    extract()
    expected = sha256(tmp_path / 'out.mcap')
    with pytest.raises(Killed):
        extract(on_step=kill_after(6))
    kept = tmp_path / 'kept'
    work = tmp_path / '.out.mcap.partial'
    shutil.copytree(work, kept)
    data = (kept / 'steps-000000.mcap').read_bytes()
    resumed = set()
    for cut in np.random.default_rng(1).integers(0, len(data), 12):
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(kept, work)
        (work / 'steps-000000.mcap').write_bytes(data[:cut])
        resumed.add(extract().resumed)
        assert sha256(tmp_path / 'out.mcap') == expected
    assert len(resumed) > 2


def test_a_damaged_journal_is_used_up_to_the_damage(extract, tmp_path):
    extract()
    expected = sha256(tmp_path / 'out.mcap')
    with pytest.raises(Killed):
        extract(on_step=kill_after(6))
    path = tmp_path / '.out.mcap.partial/steps-000000.mcap'
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert extract().resumed < 6
    assert sha256(tmp_path / 'out.mcap') == expected


def test_what_other_options_made_is_not_taken_over(extract, extractor, bag, tmp_path):
    with pytest.raises(Killed):
        extract(on_step=kill_after(4))
    assert extract(stride=2).resumed == 0
    with pytest.raises(Killed):
        extract(on_step=kill_after(4))
    wanted = Extraction(bag, tmp_path / 'out.mcap')
    assert extract_recording(wanted, extractor.with_options(max_num_keypoints=9)).resumed == 0


def test_skipped_images_are_counted_after_a_resumed_run_as_well(extract, tmp_path):
    good = pictures(4)
    made = [image(good[0], START, 'hologram'), *(image(pixels, START) for pixels in good)]
    made = [Made('/a', IMAGE, START + k, one) for k, one in enumerate(made)]
    source = write_bag(tmp_path / 'bag', made)
    with pytest.raises(Killed):
        extract(source=source, on_step=kill_after(3))
    report = extract(source=source)
    assert report.skipped == {'encoding': 1} and 'hologram' in report.reasons['encoding']
    assert report.resumed == 3 and report.features == 4


@pytest.mark.parametrize('out', ['out.mcap', 'out.db3'])
def test_a_full_disk_is_told_and_what_is_done_is_kept(extract, tmp_path, monkeypatch, out):
    extract(out)
    expected = sha256(tmp_path / out)
    (tmp_path / out).unlink()
    write, written = writing.BagSink.write, []

    def full(sink, record):
        written.append(record)
        if len(written) == 5:
            raise OSError(errno.ENOSPC, 'No space left on device')
        write(sink, record)

    monkeypatch.setattr(writing.BagSink, 'write', full)
    with pytest.raises(
        DataError, match='the disk is full: 5 images are done and kept in'
    ) as error:
        extract(out)
    assert 'same command again' in str(error.value)
    assert not (tmp_path / out).exists()
    partial = BagReader(tmp_path / f'.{out}.partial/steps-000000.mcap')  # as any viewer reads it
    assert len(list(partial.records(partial.choose(['/left/features'])))) == 5
    monkeypatch.setattr(writing.BagSink, 'write', write)
    assert extract(out).resumed == 5
    assert sha256(tmp_path / out) == expected


def test_two_runs_never_write_to_one_output(extract, extractor, bag, tmp_path):
    def again(report):
        if report.images == 2:
            with pytest.raises(DataError, match='another run is writing'):
                extract()

    assert extract(on_step=again).complete


def test_the_output_never_replaces_the_input_or_other_folders(extract, bag, tmp_path):
    for source, out in ((bag, bag), (bag / 'bag.mcap', bag / 'bag.mcap'), (bag, bag / 'bag.mcap')):
        with pytest.raises(DataError, match='which is the input'):
            extract(out, source=source)
    (tmp_path / 'mine').mkdir()
    with pytest.raises(DataError, match='holds no recording'):
        extract('mine')
    with pytest.raises(DataError, match='a folder; expected the name of a file'):
        extract('mine', format='h5')
    for name in ('out.bag', 'out.MCAP'):
        with pytest.raises(DataError, match=r'ends in \.mcap or \.db3, or that of a folder'):
            extract(name)
    (tmp_path / 'file').touch()
    with pytest.raises(DataError, match='a file; expected the name of a folder'):
        extract('file', format='npz')


def test_the_output_never_becomes_a_part_of_the_input(extract, bag):
    for source, out in ((bag, bag / 'new.mcap'), (bag / 'bag.mcap', bag / 'new.mcap')):
        with pytest.raises(DataError, match='of which it would become a part'):
            extract(out, source=source)
    assert sorted(path.name for path in bag.iterdir()) == ['bag.mcap', 'metadata.yaml']


def test_a_recording_that_is_no_output_is_never_replaced(extract, tmp_path):
    for name, made in (('mine', texts()), ('other', images(2))):
        write_bag(tmp_path / name, made)
        with pytest.raises(DataError, match='holds no features and would be replaced'):
            extract(name)
    extract()
    extract(stride=2)
    with pytest.raises(DataError, match='a name for --format h5, and the format is bag'):
        extract('out.h5')
    with pytest.raises(DataError, match='a name for --format bag, and the format is npz'):
        extract('out.mcap', format='npz')


@pytest.mark.parametrize('format', ['bag', 'npz', 'h5', 'colmap'])
def test_all_that_a_killed_run_would_leave_is_in_one_folder(extract, tmp_path, format):
    def look(report):
        assert [path.name for path in tmp_path.iterdir()] == ['.out.partial']

    extract('out', format=format, on_step=look)


def test_an_older_output_stays_until_the_new_one_is_complete(extract, tmp_path):
    extract('folder')
    before = sha256(tmp_path / 'folder')
    with pytest.raises(Killed):
        extract('folder', stride=2, on_step=kill_after(2))
    assert sha256(tmp_path / 'folder') == before
    extract('folder', stride=2)
    assert len(read(tmp_path / 'folder')) == COUNT // 2


def test_the_disk_may_be_full_at_any_write_of_the_journal(extract, tmp_path, monkeypatch):
    extract()
    expected = sha256(tmp_path / 'out.mcap')
    (tmp_path / 'out.mcap').unlink()
    add = steps.Journal.add

    def full(journal, done):
        if done[0].index == 3:
            journal._file.write(b'half a chunk')
            raise OSError(errno.ENOSPC, 'No space left on device')
        add(journal, done)

    monkeypatch.setattr(steps.Journal, 'add', full)
    with pytest.raises(DataError, match='the disk is full: 3 images are done'):
        extract()
    assert not any('kpfeat' in thread.name for thread in threading.enumerate())
    monkeypatch.setattr(steps.Journal, 'add', add)
    assert extract().resumed == 3
    assert sha256(tmp_path / 'out.mcap') == expected
