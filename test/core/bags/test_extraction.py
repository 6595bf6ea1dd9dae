"""Features of recordings: every image once, the same bytes each time, nothing lost."""

import sqlite3
import threading

import pytest

pytest.importorskip('rosbags', reason='recordings need rosbags')

from bag_runs import COUNT, read, sha256
import h5py
from kpfeat_core.bags.frames import load_extractor
from kpfeat_core.bags.reader import BagReader, decode
from kpfeat_core.bags.request import ExtractRequest
from kpfeat_core.config import ViewConfig
from kpfeat_core.errors import ConfigError, DataError
from kpfeat_core.factory import create_extractor
from kpfeat_core.io import read_npz
from kpfeat_core.messages.conversions import camera_info_to_calibration, message_to_features
from kpfeat_core.messages.definitions import FEATURES
from kpfeat_core.preprocess import Preprocessor
from made_bags import (
    camera_info,
    compressed,
    IMAGE,
    image,
    images,
    LOG_DELAY,
    Made,
    PERIOD,
    pictures,
    START,
    texts,
    write_bag,
    write_ros1_bag,
)
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
import numpy as np
from rosbags.highlevel import AnyReader


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
    extract('npz', format='npz')
    extract('out.h5', format='h5')
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
