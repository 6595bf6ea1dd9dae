"""Features of recordings: every image once, the same bytes each time, as others read them."""

import sqlite3
import threading

import pytest

pytest.importorskip('rosbags', reason='recordings need rosbags')

from bag_runs import COUNT, read, sha256
import h5py
from kpfeat_core.bags.frames import load_extractor
from kpfeat_core.bags.reader import BagReader, decode
from kpfeat_core.bags.recording import Channel, Record
from kpfeat_core.bags.request import ExtractRequest
from kpfeat_core.bags.writers import BagSink, put
from kpfeat_core.config import ViewConfig
from kpfeat_core.errors import ConfigError, DataError
from kpfeat_core.factory import create_extractor
from kpfeat_core.io import read_npz
from kpfeat_core.messages.conversions import (
    camera_info_to_calibration,
    image_annotations,
    message_to_features,
)
from kpfeat_core.messages.definitions import (
    constructors,
    FEATURES,
    IMAGE_ANNOTATIONS,
    to_cdr,
    typestore,
)
from kpfeat_core.preprocess import Preprocessor
from made_bags import (
    camera_info,
    compressed,
    header,
    IMAGE,
    image,
    images,
    LOG_DELAY,
    Made,
    make,
    PERIOD,
    pictures,
    START,
    STRING,
    texts,
    write_bag,
    write_ros1_bag,
)
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
import yaml


def assert_same(features, expected):
    arrays = expected.numpy()
    assert all(np.array_equal(value, arrays[name]) for name, value in features.numpy().items())


def test_every_image_becomes_one_message_with_its_stamp_and_log_time(extract, extractor, tmp_path):
    report = extract()
    assert (report.images, report.features, report.complete) == (COUNT, COUNT, True)
    records = read(tmp_path / 'out.mcap')
    assert len(records) == COUNT and report.keypoints > 0
    for k, (record, pixels) in enumerate(zip(records, pictures(COUNT), strict=True)):
        message, stamp = decode(record), START + k * PERIOD
        assert record.time == stamp + LOG_DELAY
        assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == stamp
        assert (message.header.frame_id, message.model) == ('camera', 'alike-t')
        assert_same(message_to_features(message), extractor.extract(pixels))
    assert [path.name for path in tmp_path.iterdir()] == ['out.mcap']


def test_images_of_10_bits_in_16_are_seen_with_their_own_range(extract, extractor, tmp_path):
    (pixels,) = pictures(1)
    stored = pixels.astype(np.uint16) * 4
    made = [Made('/left/image_raw', IMAGE, START, image(stored, START, 'mono16'))]
    bag = write_bag(tmp_path / 'deep', made)
    extract(source=bag, view=ViewConfig(pixel_bits=10))
    (record,) = read(tmp_path / 'out.mcap')
    shown = stored.astype(np.float32) / np.float32(1023)
    assert_same(message_to_features(decode(record)), extractor.extract(shown))


@pytest.mark.parametrize('out', ['out.mcap', 'out.db3', 'folder', 'out.h5', 'npz'])
def test_the_same_input_and_options_give_the_same_bytes(extract, tmp_path, out):
    form = {'out.h5': 'h5', 'npz': 'npz'}.get(out, 'bag')
    extract(out, format=form)
    first = sha256(tmp_path / out)
    extract(out, format=form)
    assert sha256(tmp_path / out) == first


@pytest.mark.parametrize('out', ['out.mcap', 'out.db3', 'folder'])
def test_rosbags_reads_what_is_written_by_its_own_definitions(extract, tmp_path, out):
    extract(out)
    with AnyReader([tmp_path / out]) as reader:
        assert {c.topic: c.msgtype for c in reader.connections} == {'/left/features': FEATURES}
        assert '# 2N: x0 y0 x1 y1' in reader.connections[0].msgdef.data
        found = [reader.deserialize(d, c.msgtype) for c, _, d in reader.messages()]
    for message, record in zip(found, read(tmp_path / out), strict=True):
        assert_same(message_to_features(message), message_to_features(decode(record)))


def test_mcap_ros2_decodes_what_is_written_as_viewers_do(extract, tmp_path):
    extract()
    with (tmp_path / 'out.mcap').open('rb') as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        decoded = [item.decoded_message for item in reader.iter_decoded_messages()]
    assert len(decoded) == COUNT
    for message, record in zip(decoded, read(tmp_path / 'out.mcap'), strict=True):
        assert list(message.keypoints) == list(decode(record).keypoints)
        assert message.header.stamp.sec == START // 10**9


def test_topics_of_the_input_are_copied_in_order_with_the_same_bytes(extract, bag, tmp_path):
    report = extract(copy=('/text',))
    assert report.copied == 9
    source, made = BagReader(bag), BagReader(tmp_path / 'out.mcap')
    texts_in, texts_out = (list(r.records(r.choose(['/text']))) for r in (source, made))
    assert texts_out == texts_in
    extract('all.db3', copy=('*',))
    everything = BagReader(tmp_path / 'all.db3')
    assert [(t.name, t.count) for t in everything.topics] == [
        ('/left/features', COUNT),
        ('/left/image_raw', COUNT),
        ('/text', 9),
    ]
    times = [record.time for record in everything.records(everything.topics)]
    assert times == sorted(times)


def test_ros1_bags_are_copied_as_ros2_messages(extract, tmp_path):
    old = write_ros1_bag(tmp_path / 'old.bag', COUNT)
    extract(source=old, copy=('*',))
    with AnyReader([tmp_path / 'out.mcap']) as reader:
        for connection, _, data in reader.messages():
            reader.deserialize(data, connection.msgtype)
        assert sorted(c.topic for c in reader.connections) == [
            '/left/features',
            '/left/image_raw',
            '/text',
        ]


def test_topics_range_and_stride_choose_images(extract, tmp_path):
    made = images(COUNT) + images(COUNT, '/right/image_raw')
    two = write_bag(tmp_path / 'two', sorted(made, key=lambda one: one.time))
    assert extract(source=two).features == 2 * COUNT
    assert len(read(tmp_path / 'out.mcap', '/right/features')) == COUNT
    report = extract(source=two, topics=('/right/image_raw',), start='0.15', end='0.6', stride=2)
    times = [
        record.time - START - LOG_DELAY
        for record in read(tmp_path / 'out.mcap', '/right/features')
    ]
    assert times == [2 * PERIOD, 4 * PERIOD] and report.images == 2
    assert [topic.name for topic in BagReader(tmp_path / 'out.mcap').topics] == ['/right/features']


def test_a_model_is_loaded_in_a_thread_that_ends(bag, weights, tmp_path, monkeypatch):
    used = []

    def create(*words, **options):
        used.append(threading.current_thread())
        return create_extractor(*words, **options)

    monkeypatch.setattr('kpfeat_core.factory.create_extractor', create)
    load_extractor(ExtractRequest(bag, tmp_path / 'out.mcap', weights=str(weights)))
    assert [thread.is_alive() for thread in used] == [False]


@pytest.mark.parametrize('options', [{'stride': 0}, {'batch_size': 0}, {'batch_size': -2}])
def test_numbers_that_mean_nothing_are_refused(extract, tmp_path, options):
    with pytest.raises(ConfigError, match=f'{next(iter(options))} is .*, expected at least 1'):
        extract(**options)
    assert not list(tmp_path.iterdir())


def test_compressed_images_and_changing_sizes(extract, extractor, tmp_path):
    views = [pictures(1)[0], pictures(1, (160, 120))[0], pictures(1)[0]]
    made = [
        Made(
            '/a/image/compressed',
            'sensor_msgs/msg/CompressedImage',
            START + k,
            compressed(v, START),
        )
        for k, v in enumerate(views)
    ]
    extract(source=write_bag(tmp_path / 'bag', made))
    for record, view in zip(read(tmp_path / 'out.mcap', '/a/features'), views, strict=True):
        assert_same(message_to_features(decode(record)), extractor.extract(view))


def test_images_that_cannot_be_used_are_counted_by_kind_and_skipped(extract, tmp_path):
    good = pictures(1)[0]
    wrong = [image(good, START, 'hologram'), image(good[:8, :8].copy(), START), image(good, START)]
    wrong[2].data = wrong[2].data[:9]
    made = [Made('/a', IMAGE, START + k, m) for k, m in enumerate([*wrong, image(good, START)])]
    report = extract(source=write_bag(tmp_path / 'bag', made))
    assert report.skipped == {'encoding': 1, 'image': 1, 'short_data': 1}
    assert 'hologram' in report.reasons['encoding'] and not report.complete
    assert [record.time for record in read(tmp_path / 'out.mcap', '/features')] == [START + 3]


def test_no_usable_image_is_an_error_and_writes_nothing(extract, tmp_path):
    made = [Made('/a', IMAGE, START, image(pictures(1)[0], START, 'hologram'))]
    source = write_bag(tmp_path / 'bag', made)
    with pytest.raises(DataError, match=r'no image .* could be used: .*hologram'):
        extract(source=source)
    with pytest.raises(DataError, match=r'has no topic of images.*/text'):
        extract(source=write_bag(tmp_path / 'texts', texts()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ['bag', 'texts']


def test_files_for_other_tools_are_named_after_camera_and_stamp(extract, extractor, tmp_path):
    extract('npz', format='npz', descriptor_type='int8')  # which is for messages alone
    extract('out.h5', format='h5', descriptor_type='binary')
    expected = extractor.extract(pictures(COUNT)[2])
    assert len(list((tmp_path / 'npz/left').iterdir())) == COUNT
    arrays = read_npz(tmp_path / f'npz/left/{START + 2 * PERIOD}.npz')
    assert np.array_equal(arrays['descriptors'], expected.numpy()['descriptors'])
    with h5py.File(tmp_path / 'out.h5') as file:
        group = file[f'left/{START + 2 * PERIOD}']
        assert np.array_equal(group['descriptors'][:].T, arrays['descriptors'])


def test_files_for_images_go_beside_others_that_are_there(extract, tmp_path):
    (tmp_path / 'npz/left').mkdir(parents=True)
    (tmp_path / 'npz/left/mine.txt').touch()
    extract('npz', format='npz')
    assert len(list((tmp_path / 'npz/left').iterdir())) == COUNT + 1


def test_options_of_the_view_apply_as_in_the_nodes(extract, extractor, tmp_path):
    made = [*images(COUNT), camera_info(START + PERIOD), camera_info(START + 5 * PERIOD, 60)]
    source = write_bag(tmp_path / 'bag', sorted(made, key=lambda one: one.time))
    config = ViewConfig(undistort=True, roi_width=80, binning=2)
    extract(source=source, view=config)
    records = read(tmp_path / 'out.mcap')
    assert len(records) == COUNT  # the first calibration also serves the images before it
    for index, focal in ((0, 50), (3, 50), (7, 60)):
        calibration = camera_info_to_calibration(camera_info(0, focal).message)
        view = Preprocessor(config, calibration)
        expected = view.extract(extractor, pictures(COUNT)[index])
        assert_same(message_to_features(decode(records[index])), expected)


def test_a_topic_whose_type_nobody_knows_is_left_out_of_all_and_said(extract, tmp_path):
    bag = write_bag(tmp_path / 'bag', sorted(images(3) + texts(), key=lambda m: m.time), 'sqlite3')
    connection = sqlite3.connect(bag / 'bag.db3')
    connection.execute("UPDATE topics SET type = 'mine/msg/Secret' WHERE name = '/text'")
    connection.commit()
    connection.close()
    with pytest.raises(DataError, match='no definition of mine/msg/Secret'):
        extract(source=bag, copy=('/text',))
    report = extract(source=bag, copy=('*',))
    assert report.copied == 3 and report.features == 3
    assert "'/text' (9 messages lost)" in str(report.damage[0])


FOREVER = QosTime(2147483647, 4294967295)
LATCHED = Qos(
    QosHistory.KEEP_LAST,
    1,
    QosReliability.RELIABLE,
    QosDurability.TRANSIENT_LOCAL,
    FOREVER,
    FOREVER,
    QosLiveliness.AUTOMATIC,
    FOREVER,
    False,
)


@pytest.fixture(params=['mcap', 'sqlite3'])
def written(request, tmp_path):
    """Write one message of a latched topic and none of another to a folder."""
    channels = [Channel('/latched', STRING, qos=(LATCHED,)), Channel('/empty', STRING)]
    data = bytes(typestore().serialize_cdr(make(STRING, data='here'), STRING))
    sink = BagSink(tmp_path / 'out', request.param, channels)
    (tmp_path / 'work').mkdir()
    sink.open(tmp_path / 'work', resume=False)
    sink.copy(Record(channels[0], START, data))
    sink.finish()
    return tmp_path / 'out'


def test_quality_of_service_is_kept(written):
    topics = {topic.name: topic for topic in BagReader(written).topics}
    assert topics['/latched'].channel.qos == (LATCHED,)
    assert topics['/empty'].channel.qos == ()
    assert [topics[name].count for name in ('/latched', '/empty')] == [1, 0]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/old').write_text('old')
    with pytest.raises(FileNotFoundError):
        put(tmp_path / 'made', tmp_path / 'out')
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['old']


def test_metadata_are_of_a_version_that_humble_reads_as_well(written):
    about = yaml.safe_load((written / 'metadata.yaml').read_text())['rosbag2_bagfile_information']
    assert about['version'] <= 8
    profiles = {
        topic['topic_metadata']['name']: topic['topic_metadata']['offered_qos_profiles']
        for topic in about['topics_with_message_count']
    }
    # Humble takes a text here, later versions a list; policies in the text are numbers
    assert all(isinstance(text, str) for text in profiles.values())
    assert yaml.safe_load(profiles['/latched'])[0]['durability'] == 1
    assert profiles['/empty'] == ''


# What ROS 2 computes of foxglove_msgs/msg/ImageAnnotations 3.4.3 and all types within.
ANNOTATIONS_HASH = 'RIHS01_bc4e578b1ef80953415d6f966a4cab305c8a44c8b64fc405312b6f06a08fc45e'


@pytest.fixture
def annotate(extract, tmp_path):
    source = write_bag(tmp_path / 'bag', images(COUNT))
    return lambda **options: extract(source=source, annotations=True, **options)


def read_decoded(path):
    """Return messages by topic as viewers read them: by the definitions in the file."""
    found = {}
    with path.open('rb') as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        for item in reader.iter_decoded_messages():
            found.setdefault(item.channel.topic, []).append(item)
    return found


def test_the_definition_is_the_published_one():
    assert typestore().hash_rihs01(IMAGE_ANNOTATIONS) == ANNOTATIONS_HASH


def test_annotations_stand_beside_features_and_on_their_pixels(annotate, extractor, tmp_path):
    report = annotate()
    assert (report.images, report.features, report.copied) == (COUNT, COUNT, 0)
    found = read_decoded(tmp_path / 'out.mcap')
    assert {topic: len(items) for topic, items in found.items()} == {
        '/left/features': COUNT,
        '/left/image_annotations': COUNT,
    }
    for k, item in enumerate(found['/left/image_annotations']):
        assert item.schema.name == IMAGE_ANNOTATIONS
        stamp = START + k * PERIOD
        assert item.message.log_time == stamp + LOG_DELAY
        message = item.decoded_message
        (points,) = message.points
        for time in (message.timestamp, points.timestamp):  # Foxglove pairs images by it
            assert time.sec * 10**9 + time.nanosec == stamp
        expected = extractor.extract(pictures(COUNT)[k]).keypoints[0].numpy() + 0.5
        assert points.type == 1 and points.thickness > 0
        assert np.array_equal([(p.x, p.y) for p in points.points], expected)
        colours = points.outline_colors
        assert len(colours) == len(expected) and {colour.a for colour in colours} == {1}
        assert colours[0].r > 0.7 > 0.4 > colours[0].b  # best first, and red


def test_they_are_those_that_the_overlay_node_publishes(annotate, extractor, tmp_path):
    annotate()
    with (tmp_path / 'out.mcap').open('rb') as file:
        records = make_reader(file).iter_messages(topics=['/left/image_annotations'])
        data = [message.data for _, _, message in records]
    arrays = extractor.extract(pictures(COUNT)[0]).numpy()
    # the node passes foxglove_msgs.msg and its own stamp to the same function
    node = image_annotations(
        constructors('foxglove_msgs'),
        arrays['keypoints'],
        arrays['keypoint_scores'],
        header(START).stamp,
    )
    assert data[0] == to_cdr(node, IMAGE_ANNOTATIONS)


def test_the_images_can_be_copied_beside_them_and_bytes_are_the_same(annotate, tmp_path):
    report = annotate(copy=('/left/image_raw',))
    assert report.copied == COUNT
    first = sha256(tmp_path / 'out.mcap')
    annotate(copy=('*',))
    assert sha256(tmp_path / 'out.mcap') == first
