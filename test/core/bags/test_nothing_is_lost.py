"""Nothing is lost: runs that are killed, disks that are full, outputs that are there already."""

import errno
import os
import shutil
import sqlite3
import threading

import pytest

pytest.importorskip('rosbags', reason='recordings need rosbags')

from bag_runs import COUNT, kill_after, Killed, read, sha256
from kpfeat_core.bags import extract as extraction
from kpfeat_core.bags import writers as locking
from kpfeat_core.bags import writers as writing
from kpfeat_core.bags.extract import extract_recording
from kpfeat_core.bags.reader import BagReader
from kpfeat_core.bags.request import ExtractRequest
from kpfeat_core.bags.writers import InUseError, lock, remove
from kpfeat_core.errors import DataError
from made_bags import IMAGE, image, images, Made, pictures, START, texts, write_bag
import numpy as np

FORMATS = {'out.h5': 'h5', 'npz': 'npz'}


@pytest.mark.parametrize('out', ['out.mcap', 'out.db3', 'folder', *FORMATS])
@pytest.mark.parametrize('batch_size', [1, 3])
def test_a_run_that_was_killed_goes_on_to_the_same_bytes(extract, tmp_path, out, batch_size):
    form = FORMATS.get(out, 'bag')
    options = {'format': form, 'batch_size': batch_size, 'copy': ('*',) if form == 'bag' else ()}
    extract(out, **options)
    expected = sha256(tmp_path / out)
    remove(tmp_path / out)
    for count in (1, 4, 5):
        with pytest.raises(Killed):
            extract(out, on_image=kill_after(count), **options)
        assert not (tmp_path / out).exists()
    report = extract(out, **options)
    assert sha256(tmp_path / out) == expected
    assert report.resumed >= 5 - 5 % batch_size and report.images == COUNT
    assert [path.name for path in tmp_path.iterdir()] == [out]


@pytest.mark.parametrize('out', ['out.mcap', 'out.db3', 'npz'])
@pytest.mark.parametrize('what', ['output', 'log'])
def test_what_is_left_may_be_cut_off_anywhere(extract, tmp_path, out, what):
    form = FORMATS.get(out, 'bag')
    extract(out, format=form)
    expected = sha256(tmp_path / out)
    with pytest.raises(Killed):
        extract(out, format=form, on_image=kill_after(6))
    partial, kept = tmp_path / f'.{out}.partial', tmp_path / 'kept'
    shutil.copytree(partial, kept)
    path = partial / 'done.jsonl'
    if what == 'output':
        files = [*partial.rglob('*.mcap'), *partial.rglob('*.db3'), *partial.rglob('*.npz')]
        path = sorted(files)[len(files) // 2]
    data = path.read_bytes()
    resumed = set()
    for cut in np.linspace(0, len(data) - 1, 4).astype(int):
        remove(partial)
        shutil.copytree(kept, partial)
        path.write_bytes(data[:cut])
        resumed.add(extract(out, format=form).resumed)
        assert sha256(tmp_path / out) == expected
    assert len(resumed) > 1 or out != 'out.mcap'
    assert max(resumed) <= 6


@pytest.mark.parametrize('out', ['out.mcap', 'out.db3', 'npz'])
def test_a_damaged_output_is_used_up_to_the_damage(extract, tmp_path, out):
    form = FORMATS.get(out, 'bag')
    extract(out, format=form)
    expected = sha256(tmp_path / out)
    with pytest.raises(Killed):
        extract(out, format=form, on_image=kill_after(6))
    partial = tmp_path / f'.{out}.partial'
    files = [*partial.rglob('*.mcap'), *partial.rglob('*.db3'), *partial.rglob('*.npz')]
    path = sorted(files)[len(files) // 2]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert extract(out, format=form).resumed < 6
    assert sha256(tmp_path / out) == expected


def test_a_run_that_is_killed_while_it_goes_on_loses_nothing(extract, tmp_path):
    extract(copy=('*',))
    expected = sha256(tmp_path / 'out.mcap')
    with pytest.raises(Killed):
        extract(copy=('*',), on_image=kill_after(6))
    for count in (2, 4):  # among those that are recalled
        with pytest.raises(Killed):
            extract(copy=('*',), on_image=kill_after(count))
    assert extract(copy=('*',)).resumed == 6
    assert sha256(tmp_path / 'out.mcap') == expected


def test_files_are_moved_once_where_a_run_is_killed_while_it_does(extract, tmp_path, monkeypatch):
    extract('npz', format='npz')
    expected = sha256(tmp_path / 'npz')
    moved = []

    def replace(source, target, replace=os.replace):
        if '.partial' in str(source) and str(target).startswith(str(tmp_path / 'npz')):
            moved.append(target)
            if len(moved) == 4:
                raise Killed
        replace(source, target)

    monkeypatch.setattr(os, 'replace', replace)
    with pytest.raises(Killed):
        extract('npz', format='npz')
    assert extract('npz', format='npz').resumed == COUNT
    assert sha256(tmp_path / 'npz') == expected
    assert [path.name for path in tmp_path.iterdir()] == ['npz']


def test_what_other_options_or_inputs_made_is_not_taken_over(extract, extractor, bag, tmp_path):
    wanted = ExtractRequest(bag, tmp_path / 'out')
    other = extractor.with_options(max_num_keypoints=9)
    changed = write_bag(tmp_path / 'in/bag', images(COUNT, size=(80, 64)))
    for again in (
        lambda: extract('out', stride=2),
        lambda: extract('out', format='npz'),
        lambda: extract('out', copy=('/text',)),
        lambda: extract('out', source=changed),
        lambda: extract_recording(wanted, other),
    ):
        with pytest.raises(Killed):
            extract('out', on_image=kill_after(4))
        report = again()
        assert report.resumed == 0 and report.discarded
        remove(tmp_path / 'out')


def test_skipped_images_are_counted_after_a_resumed_run_as_well(extract, tmp_path):
    good = pictures(4)
    made = [image(good[0], START, 'hologram'), *(image(pixels, START) for pixels in good)]
    made = [Made('/a', IMAGE, START + k, one) for k, one in enumerate(made)]
    source = write_bag(tmp_path / 'bag', made)
    with pytest.raises(Killed):
        extract(source=source, on_image=kill_after(3))
    report = extract(source=source)
    assert report.skipped == {'encoding': 1} and 'hologram' in report.reasons['encoding']
    assert report.resumed == 3 and report.features == 4


@pytest.mark.parametrize('out', ['out.mcap', 'out.db3'])
def test_a_full_disk_is_told_and_what_is_done_is_kept(extract, tmp_path, monkeypatch, out):
    extract(out)
    expected = sha256(tmp_path / out)
    (tmp_path / out).unlink()
    copy, written = writing.BagSink.copy, []

    def full(sink, record):
        written.append(record)
        if len(written) == 5:
            raise OSError(errno.ENOSPC, 'No space left on device')
        copy(sink, record)

    monkeypatch.setattr(writing.BagSink, 'copy', full)
    with pytest.raises(
        DataError, match='the disk is full: 4 images are done and kept in'
    ) as error:
        extract(out)
    assert 'same command again' in str(error.value)
    assert not (tmp_path / out).exists()
    partial = BagReader(tmp_path / f'.{out}.partial/bag/out')  # as any viewer reads it
    assert len(list(partial.records(partial.choose(['/left/features'])))) == 4
    monkeypatch.setattr(writing.BagSink, 'copy', copy)
    assert extract(out).resumed == 4
    assert sha256(tmp_path / out) == expected


def test_two_runs_never_write_to_one_output(extract, extractor, bag, tmp_path):
    def again(report):
        if report.images == 2:
            with pytest.raises(DataError, match='another run is writing'):
                extract()

    assert extract(on_image=again).complete


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

    extract('out', format=format, on_image=look)


def test_an_older_output_stays_until_the_new_one_is_complete(extract, tmp_path):
    extract('folder')
    before = sha256(tmp_path / 'folder')
    with pytest.raises(Killed):
        extract('folder', stride=2, on_image=kill_after(2))
    assert sha256(tmp_path / 'folder') == before
    extract('folder', stride=2)
    assert len(read(tmp_path / 'folder')) == COUNT // 2


def test_the_disk_may_be_full_at_any_write_of_the_log(extract, tmp_path, monkeypatch):
    extract()
    expected = sha256(tmp_path / 'out.mcap')
    (tmp_path / 'out.mcap').unlink()
    add = extraction.ResumeLog.add

    def full(log, frames, entries):
        if frames[0].index == 3:
            log._file.write('[{"half a')
            raise OSError(errno.ENOSPC, 'No space left on device')
        add(log, frames, entries)

    monkeypatch.setattr(extraction.ResumeLog, 'add', full)
    with pytest.raises(DataError, match='the disk is full: 3 images are done'):
        extract()
    assert not any('kpfeat' in thread.name for thread in threading.enumerate())
    monkeypatch.setattr(extraction.ResumeLog, 'add', add)
    assert extract().resumed == 3
    assert sha256(tmp_path / 'out.mcap') == expected


@pytest.mark.parametrize('word', ['database or disk is full', 'SQLite error: disk is full'])
def test_a_full_disk_is_told_whatever_library_says_so(word):
    for error in (RuntimeError(word), sqlite3.OperationalError(word)):
        told = pytest.raises(DataError, match='the disk is full: 3 done; make room')
        with told, writing.full_disk('3 done'):
            raise error
    with pytest.raises(RuntimeError, match='another'), writing.full_disk(''):
        raise RuntimeError('another')


def test_a_lock_keeps_others_out_until_it_is_closed(tmp_path):
    path = tmp_path / 'new/lock'
    with lock(path), pytest.raises(InUseError, match="another run is writing to '.*/new'"):
        lock(path)
    lock(path).close()


@pytest.mark.parametrize('comes_back', [True, False])
def test_a_file_that_was_deleted_before_it_was_locked_is_not_taken(
    tmp_path, monkeypatch, comes_back
):
    path, flock = tmp_path / 'lock', locking.fcntl.flock

    def late(*words):
        monkeypatch.undo()
        path.unlink()  # by the one who held it until now
        if comes_back:
            path.touch()
        flock(*words)

    monkeypatch.setattr(locking.fcntl, 'flock', late)
    with lock(path) as file:
        assert os.path.samestat(os.fstat(file.fileno()), path.stat())
        with pytest.raises(InUseError):
            lock(path)
