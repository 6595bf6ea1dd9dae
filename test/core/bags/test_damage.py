"""What is damaged is read as far as it goes, and what is missing is said."""

import shutil
import sqlite3

import pytest

pytest.importorskip('rosbags', reason='recordings need rosbags')

from kpfeat_core.bags.match import match_recording
from kpfeat_core.bags.reader import BagReader, decode
from kpfeat_core.bags.request import MatchRequest
from kpfeat_core.errors import BadImageError, DataError
from made_bags import (
    blot,
    flip,
    images,
    storage_file,
    texts,
    truncate,
    write_bag,
    write_ros1_bag,
    write_split_bag,
)
import numpy as np

COUNT = 400  # messages; more than a chunk of MCAP, which holds 1 MB


def large(count=COUNT):
    return images(count)


def read(path):
    reader = BagReader(path)
    return reader, [record.time for record in reader.records(reader.topics)]


@pytest.mark.parametrize(
    ('storage', 'compression'),
    [('mcap', ''), ('mcap', 'storage'), ('mcap', 'file'), ('sqlite3', ''), ('sqlite3', 'file')],
)
def test_the_beginning_of_a_truncated_recording_is_read(tmp_path, storage, compression):
    made = large()
    bag = write_bag(tmp_path / 'bag', made, storage, compression)
    truncate(storage_file(bag), 0.7)
    reader, times = read(bag)
    assert 0.2 * COUNT < len(times) < 0.8 * COUNT
    assert times == [one.time for one in made[: len(times)]]
    assert reader.damage
    promised = f'metadata.yaml tells of {COUNT} messages'
    lost = {damage.reason: damage.lost for damage in reader.damage}
    assert lost[promised] == COUNT - reader.count


@pytest.mark.parametrize('compression', ['', 'bz2', 'lz4'])
def test_the_beginning_of_a_truncated_ros1_bag_is_read(tmp_path, compression):
    path = write_ros1_bag(tmp_path / 'old.bag', COUNT, compression)
    whole, expected = read(path)
    truncate(path, 0.6)
    reader, times = read(path)
    assert times and times == expected[: len(times)] and len(times) < len(expected)
    assert any('index' in damage.reason for damage in reader.damage)
    assert reader.topics[0].channel == whole.topics[0].channel


def test_an_mcap_file_that_lost_its_last_byte_is_read_whole(tmp_path):
    bag = write_bag(tmp_path / 'bag', large(20))
    path = storage_file(bag)
    path.write_bytes(path.read_bytes()[:-1])
    _, times = read(bag)
    assert len(times) == 20


def test_a_damaged_chunk_is_passed_over_and_the_rest_is_read(tmp_path):
    bag = write_bag(tmp_path / 'bag', large(), 'mcap', 'storage')
    blot(storage_file(bag), 0.5, 0.1)
    reader, times = read(bag)
    assert 0 < len(times) < COUNT
    assert times == sorted(times) and times[-1] == large()[-1].time
    assert any('damaged' in damage.reason for damage in reader.damage)


@pytest.mark.parametrize('kind', ['mcap', 'storage', 'sqlite3', 'ros1'])
def test_no_flipped_bit_ends_in_a_traceback(tmp_path, kind):
    if kind == 'ros1':
        source = write_ros1_bag(tmp_path / 'source.bag', 12, 'lz4')
    elif kind == 'sqlite3':
        source = storage_file(write_bag(tmp_path / 'source', large(12), kind))
    else:
        compression = 'storage' if kind == 'storage' else ''
        source = storage_file(write_bag(tmp_path / 'source', large(12), 'mcap', compression))
    expected = set(read(source)[1])
    random = np.random.default_rng(0)
    # the places that matter most lie at the two ends
    places = [*random.random(25), *(0.03 * random.random(20)), *(1 - 0.03 * random.random(20))]
    for place in places:
        damaged = tmp_path / f'damaged{source.suffix}'
        shutil.copy(source, damaged)
        flip(damaged, place, int(random.integers(8)))
        try:
            reader = BagReader(damaged)
            for record in reader.records(reader.topics):
                decode(record)
        except (DataError, BadImageError) as error:
            assert str(error)
    assert len(expected) >= 12


@pytest.mark.parametrize('ending', ['.mcap', '.db3', '.bag'])
@pytest.mark.parametrize('content', [b'', b'hello', b'\x89MCAP0\r\n', b'#ROSBAG V2.0\n'])
def test_a_file_of_which_nothing_can_be_read_is_an_error(tmp_path, ending, content):
    path = tmp_path / f'broken{ending}'
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"nothing of '.*broken.*' can be read: broken"):
        BagReader(path)


def test_a_missing_part_is_named(tmp_path):
    made = large(20)
    bag = write_split_bag(tmp_path / 'bag', [made[:8], made[8:15], made[15:]])
    (bag / 'bag_1.mcap').unlink()
    reader, times = read(bag)
    assert len(times) == 13
    told = [str(damage) for damage in reader.damage]
    assert told == [
        'bag_1.mcap: the file is missing',
        'bag: metadata.yaml tells of 20 messages (7 messages lost)',
    ]


def test_an_empty_part_is_named_and_the_others_are_read(tmp_path):
    made = large(20)
    bag = write_split_bag(tmp_path / 'bag', [made[:8], made[8:]])
    (bag / 'bag_0.mcap').write_bytes(b'')
    reader, times = read(bag)
    assert len(times) == 12
    assert 'bag_0.mcap: the file is empty' in [str(damage) for damage in reader.damage]


def test_a_damaged_metadata_file_changes_nothing(tmp_path):
    bag = write_bag(tmp_path / 'bag', large(20))
    (bag / 'metadata.yaml').write_text('rosbag2_bagfile_information: [1, 2')
    reader, times = read(bag)
    assert len(times) == 20 and reader.damage == []


def test_what_a_killed_recorder_left_in_the_log_of_sqlite_is_read(tmp_path):
    bag = write_bag(tmp_path / 'bag', large(5), 'sqlite3')
    path = storage_file(bag)
    connection = sqlite3.connect(path)
    connection.execute('PRAGMA journal_mode = WAL')
    row = connection.execute('SELECT topic_id, timestamp, data FROM messages').fetchone()
    query = 'INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)'
    connection.execute(query, (row[0], row[1] + 10**10, row[2]))
    connection.commit()
    killed = tmp_path / 'killed'
    shutil.copytree(bag, killed)
    connection.close()
    before = {p.name: p.read_bytes() for p in killed.iterdir() if p.suffix != '.db3-shm'}
    assert (killed / f'{path.name}-wal').stat().st_size
    _, times = read(killed)
    assert len(times) == 6
    assert {p.name: p.read_bytes() for p in killed.iterdir() if p.suffix != '.db3-shm'} == before


def test_a_message_that_is_not_as_its_definition_says_is_an_error_of_its_own(tmp_path):
    bag = write_bag(tmp_path / 'bag', texts())
    reader = BagReader(bag)
    record = next(reader.records(reader.topics))
    with pytest.raises(BadImageError, match='/text'):
        decode(record._replace(data=record.data[:6]))


def test_where_damage_leaves_no_image_the_error_tells_of_it(tmp_path, extract):
    bag = write_bag(tmp_path / 'bag', large(20))
    blot(storage_file(bag), 0.001, 0.01)  # the beginning of its one chunk
    with pytest.raises(DataError, match='no image .* could be used: .* damaged'):
        extract(source=bag)
    with pytest.raises(DataError, match='no two images .* matched: .* damaged'):
        match_recording(MatchRequest(bag, tmp_path / 'matches.mcap', model='alike-t'))
