"""Recordings of every kind are read: all messages, in order, as they were written."""

import hashlib

import pytest

pytest.importorskip('rosbags', reason='recordings need rosbags')

from kpfeat_core.bags.plan import image_topics
from kpfeat_core.bags.reader import BagReader, decode
from kpfeat_core.bags.recording import find_bag_files, find_recording, find_recordings
from kpfeat_core.errors import DataError
from kpfeat_core.messages.conversions import image_to_array
from kpfeat_core.messages.definitions import definition_of
from made_bags import (
    image,
    images,
    Made,
    PERIOD,
    pictures,
    START,
    storage_file,
    texts,
    write_bag,
    write_ros1_bag,
    write_ros1_camera_info,
    write_split_bag,
)
from mcap.writer import Writer as McapWriter
import numpy as np
from rosbags.typesys import get_typestore, Stores

KINDS = (
    ('mcap', ''),
    ('mcap', 'storage'),
    ('mcap', 'message'),
    ('mcap', 'file'),
    ('sqlite3', ''),
    ('sqlite3', 'message'),
    ('sqlite3', 'file'),
)


def mixed(count=6):
    return sorted(images(count) + texts(), key=lambda made: made.time)


def read(path, *names, **options):
    reader = BagReader(path)
    topics = reader.choose(names) if names else reader.topics
    return reader, list(reader.records(topics, **options))


def assert_is_mixed(path, count=6):
    reader, records = read(path)
    expected = mixed(count)
    assert [record.time for record in records] == [made.time for made in expected]
    assert [record.channel.topic for record in records] == [made.topic for made in expected]
    seen = [image_to_array(decode(r)) for r in records if r.channel.topic != '/text']
    assert all(np.array_equal(*pair) for pair in zip(seen, pictures(count), strict=True))
    assert [decode(r).data for r in records if r.channel.topic == '/text'][3] == 'number 3'
    assert reader.damage == []
    return reader


@pytest.mark.parametrize(('storage', 'compression'), KINDS)
@pytest.mark.parametrize('described', [True, False], ids=['metadata', 'no metadata'])
def test_rosbag2_of_every_storage_and_compression(tmp_path, storage, compression, described):
    bag = write_bag(tmp_path / 'bag', mixed(), storage, compression)
    if not described:
        (bag / 'metadata.yaml').unlink()
    reader = assert_is_mixed(bag)
    assert [(t.name, t.count) for t in reader.topics] == [('/left/image_raw', 6), ('/text', 9)]
    assert (reader.start, reader.count) == (START, 15)
    assert reader.duration_s == pytest.approx(0.507)


@pytest.mark.parametrize('compression', ['', 'bz2', 'lz4'])
def test_ros1_bags_are_given_as_ros2_messages(tmp_path, compression):
    reader = assert_is_mixed(write_ros1_bag(tmp_path / 'old.bag', compression=compression))
    topic = reader.choose(['/left/image_raw'])[0]
    message = decode(next(reader.records([topic])))
    assert not hasattr(message.header, 'seq')
    assert message.header.frame_id == 'camera' and topic.msgtype == 'sensor_msgs/msg/Image'


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('described', [True, False], ids=['metadata', 'no metadata'])
def test_split_recordings_are_one(tmp_path, storage, described):
    everything = mixed(12)
    parts = [everything[:6], everything[6:9], everything[9:]]
    bag = write_split_bag(tmp_path / 'bag', parts, storage)
    if not described:
        (bag / 'metadata.yaml').unlink()
    assert len(assert_is_mixed(bag, 12).recording.files) == 3


def test_parts_that_overlap_are_merged_by_log_time(tmp_path):
    everything = mixed(12)
    bag = write_split_bag(tmp_path / 'bag', [everything[::2], everything[1::2]])
    assert_is_mixed(bag, 12)


def test_messages_out_of_order_are_put_in_order(tmp_path):
    for storage in ('mcap', 'sqlite3'):
        assert_is_mixed(write_bag(tmp_path / storage, mixed()[::-1], storage))


def test_an_mcap_file_without_chunks_or_index_is_read(tmp_path):
    source = BagReader(write_bag(tmp_path / 'bag', mixed()))
    path = tmp_path / 'plain.mcap'
    with path.open('wb') as file:
        writer = McapWriter(file, use_chunking=False)
        writer.start('ros2')
        keys = {}
        for record in source.records(source.topics):
            c = record.channel
            if c not in keys:
                schema = writer.register_schema(c.msgtype, 'ros2msg', c.definition.encode())
                keys[c] = writer.register_channel(c.topic, 'cdr', schema)
            writer.add_message(keys[c], record.time, record.data, record.time)
        writer.finish()
    assert_is_mixed(path)


def write_foreign(path, encoding, schemas, messages, chunked=True):
    """Write an MCAP file of topics with schemas (name, form, text) and messages (topic, data)."""
    with path.open('wb') as file:
        writer = McapWriter(file, use_chunking=chunked)
        writer.start()
        keys = {
            topic: writer.register_channel(topic, encoding, writer.register_schema(*schema))
            for topic, schema in schemas.items()
        }
        for topic, time, data in messages:
            writer.add_message(keys[topic], time, data, time)
        writer.finish()
    return path


@pytest.mark.parametrize('chunked', [True, False])
def test_messages_of_ros1_in_mcap_are_given_as_those_of_ros2(tmp_path, chunked):
    store = get_typestore(Stores.ROS1_NOETIC)
    made = sorted(images(store=store) + texts(store=store), key=lambda one: one.time)
    schemas = {
        one.topic: (
            one.msgtype.replace('/msg/', '/'),
            'ros1msg',
            store.generate_msgdef(one.msgtype)[0].encode(),
        )
        for one in made
    }
    messages = [(m.topic, m.time, store.serialize_ros1(m.message, m.msgtype)) for m in made]
    bag = write_foreign(tmp_path / 'a.mcap', 'ros1', schemas, map(bytes_of, messages), chunked)
    reader = assert_is_mixed(bag)
    assert reader.topics[0].channel.definition == definition_of('sensor_msgs/msg/Image')


def bytes_of(message):
    return *message[:2], bytes(message[2])


@pytest.mark.parametrize(
    ('encoding', 'schema'),
    [
        ('protobuf', ('foxglove.CompressedImage', 'protobuf', b'')),
        ('json', ('sensor_msgs/msg/Image', 'jsonschema', b'{}')),
    ],
)
def test_messages_that_are_not_of_ros_are_named_as_such(tmp_path, encoding, schema):
    topics = {'/camera': schema}
    path = write_foreign(tmp_path / 'a.mcap', encoding, topics, [('/camera', START, b'{}')])
    reader = BagReader(path)
    sentence = f'no topic of images.*/camera .{schema[0]} in {encoding}.; convert it'
    with pytest.raises(DataError, match=sentence):
        image_topics(reader)
    with pytest.raises(DataError, match=f'is of {schema[0]} in {encoding}, expected'):
        image_topics(reader, ['/camera'])


def test_what_a_recorder_was_killed_at_is_read_also_in_folders(tmp_path):
    for name, storage in (('a', 'mcap'), ('b', 'sqlite3')):
        file = storage_file(write_bag(tmp_path / name, mixed(), storage))
        (tmp_path / name / 'metadata.yaml').unlink()
        file.rename(f'{file}.active')
        assert_is_mixed(tmp_path / name)
    (tmp_path / 'old').mkdir()
    old = write_ros1_bag(tmp_path / 'old/drive_0.bag')
    active = tmp_path / 'old/drive_1.bag.active'
    write_ros1_bag(active)
    assert_is_mixed(active)
    assert find_recording(old.parent).files == (old, active)
    twin = write_ros1_bag(tmp_path / 'old/drive_0.bag.active')
    found = {recording.files for recording in find_recordings([old.parent])}
    assert found == {(old, active), (twin,)}


def test_topics_and_times_are_chosen(tmp_path):
    bag = write_bag(tmp_path / 'bag', mixed(20))
    reader, records = read(bag, '/text')
    assert {record.channel.topic for record in records} == {'/text'}
    start, stop = reader.span('0.25', '0.5')
    topic = reader.choose(['/left/image_raw'])
    times = [record.time - START for record in reader.records(topic, start, stop)]
    assert times == [307_000_000, 407_000_000]
    assert reader.span('1700000000.25')[0] == start


@pytest.mark.parametrize(
    ('words', 'part'),
    [(('soon', ''), "'soon'"), (('5', '2'), 'after its start'), (('', 'nan'), "'nan'")],
)
def test_a_range_that_means_nothing_is_refused(tmp_path, words, part):
    reader = BagReader(write_bag(tmp_path / 'bag', mixed()))
    with pytest.raises(DataError, match=part):
        reader.span(*words)


def test_a_topic_that_is_not_there_is_named_beside_those_that_are(tmp_path):
    reader = BagReader(write_bag(tmp_path / 'bag', mixed()))
    with pytest.raises(DataError, match=r"'/right'.*/left/image_raw, /text"):
        reader.choose(['/right'])
    with pytest.raises(DataError, match='std_msgs/msg/String, expected'):
        reader.choose(['/text'], ['sensor_msgs/msg/Image'])


def test_an_input_that_cannot_be_written_to_is_read_and_stays_as_it_was(tmp_path):
    for storage in ('mcap', 'sqlite3'):
        bag = write_bag(tmp_path / storage, mixed(), storage)
        before = {p.name: hashlib.sha256(p.read_bytes()).digest() for p in bag.iterdir()}
        for path in (*bag.iterdir(), bag):
            path.chmod(0o555)
        assert_is_mixed(bag)
        bag.chmod(0o755)
        assert {p.name: hashlib.sha256(p.read_bytes()).digest() for p in bag.iterdir()} == before


def test_a_recording_without_messages_has_none(tmp_path):
    for storage in ('mcap', 'sqlite3'):
        reader, records = read(write_bag(tmp_path / storage, [], storage))
        assert records == [] and reader.topics == [] and reader.damage == []
        assert reader.duration_s == 0


def test_changing_resolutions_are_read(tmp_path):
    small, large = pictures(1)[0], pictures(1, (160, 120))[0]
    made = [
        Made('/a', 'sensor_msgs/msg/Image', START + k * PERIOD, image(pixels, START))
        for k, pixels in enumerate([small, large, small])
    ]
    _, records = read(write_bag(tmp_path / 'bag', made))
    assert [image_to_array(decode(r)).shape for r in records] == [(64, 96), (120, 160), (64, 96)]


def test_recordings_are_found_in_folders_files_and_patterns(tmp_path):
    one = write_bag(tmp_path / 'all/one', mixed())
    two = write_bag(tmp_path / 'all/deep/two', mixed(), 'sqlite3')
    write_ros1_bag(tmp_path / 'all/old_0.bag')
    write_ros1_bag(tmp_path / 'all/old_1.bag')
    found = find_recordings([tmp_path / 'all'])
    assert {r.path: len(r.files) for r in found} == {
        one: 1,
        two: 1,
        tmp_path / 'all/old_0.bag': 2,
    }
    assert [r.storage for r in find_recordings([str(tmp_path / 'all/*')])] == [
        'sqlite3',
        'ros1',
        'ros1',
        'mcap',
    ]
    assert find_recording(storage_file(one)).name == 'one'
    with pytest.raises(DataError, match='holds 3 recordings'):
        find_recording(tmp_path / 'all')
    with pytest.raises(DataError, match=r"'.*nothing' is no recording.*\.mcap"):
        find_recording(tmp_path / 'nothing')


def test_linked_folders_are_followed_and_each_recording_is_found_once(tmp_path):
    fleet, elsewhere = tmp_path / 'fleet', tmp_path / 'elsewhere'
    drive = write_bag(fleet / 'a/drive', mixed())
    other = write_bag(elsewhere / 'other', mixed())
    (fleet / 'a/loop').symlink_to(fleet)
    (fleet / '0_again').symlink_to(drive)
    (fleet / 'up').symlink_to(tmp_path)
    (fleet / 'there').symlink_to(elsewhere)
    (elsewhere / 'back').symlink_to(elsewhere)
    expected = [drive, fleet / 'there/other']
    assert [one.path for one in find_recordings([fleet])] == expected
    assert [one.path for one in find_recordings([fleet / '*', fleet / 'a/loop'])] == expected
    assert other not in expected
    out = tmp_path / 'out'
    assert len(find_bag_files([fleet], out)) == 2


def test_the_real_recordings_are_read(shared):
    folder = shared / 'data/bags'
    if not folder.is_dir():
        pytest.skip(f'no recordings at {folder}')
    for name, shape in (('euroc_sqlite3_raw', (480, 752)), ('tum_fr2_mcap_compressed', None)):
        reader, records = read(folder / name)
        assert len(records) == 20 and reader.damage == []
        pixels = image_to_array(decode(records[0]))
        assert pixels.shape == shape or (shape is None and pixels.shape[2] == 3)


def test_types_of_ros1_that_ros2_has_are_those_of_ros2(tmp_path):
    bag = write_ros1_camera_info(tmp_path / 'old.bag')
    reader = BagReader(bag)
    info, log = (reader.choose([name])[0] for name in ('/left/camera_info', '/log'))
    message = decode(next(reader.records([info])))
    assert list(message.k[:3]) == [50, 0, 48] and message.distortion_model == 'plumb_bob'
    assert info.channel.definition == definition_of('sensor_msgs/msg/CameraInfo')
    # of another layout in ROS 2
    assert decode(next(reader.records([log]))).msg == 'hello'
