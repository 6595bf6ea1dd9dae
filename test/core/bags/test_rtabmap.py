"""Recordings for rtabmap: every message as its package defines it, with what belongs together."""

import zlib

import pytest

pytest.importorskip('rosbags', reason='recordings need rosbags')

from bag_runs import sha256
import cv2
from kpfeat_core.bags.extract import extract_recording
from kpfeat_core.bags.request import ExtractRequest
from kpfeat_core.config import ViewConfig
from kpfeat_core.errors import BadImageError, DataError
from kpfeat_core.features import Features
from kpfeat_core.messages.conversions import fill_features
from kpfeat_core.messages.definitions import (
    empty_message,
    FEATURES,
    from_cdr,
    new_message,
    RGBD_IMAGE,
    to_cdr,
    typestore,
)
from kpfeat_core.messages.rtabmap import compress_matrix, rgbd_image
from made_bags import (
    camera_info,
    COMPRESSED,
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
    texts,
    write_bag,
    write_ros1_bag,
)
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
import numpy as np
from rosbags.highlevel import AnyReader

COUNT = 5
TOPIC = '/left/rgbd_image'
# What ROS 2 computes of rtabmap_msgs/msg/RGBDImage and all types within, names and order included;
# the same for the releases of rtabmap_ros from Foxy to Kilted.
PUBLISHED = 'RIHS01_968d5fe5899dd06767063ffe39db48a9661c87d756abaa8448dd6be859905d43'


@pytest.fixture
def extract(extractor, tmp_path):
    """Return a function that writes messages to a recording and extracts of that to out.mcap."""

    def extract(made, on_image=lambda report: None, **options):
        source = tmp_path / f'bag{len(list(tmp_path.iterdir()))}'
        write_bag(source, sorted(made, key=lambda one: one.time))
        return again(source, on_image, **options)

    def again(source, on_image=lambda report: None, **options):
        options = {'format': 'rtabmap', 'out': tmp_path / 'out.mcap', **options}
        return extract_recording(ExtractRequest(source, **options), extractor, on_image)

    extract.again = again
    return extract


def read(path, topic=TOPIC):
    """Return messages as viewers read them: by the definition in the file, without our code."""
    with path.open('rb') as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        return [item.decoded_message for item in reader.iter_decoded_messages(topics=[topic])]


def unpacked(data):
    """Return the matrix of compressed bytes by the layout that rtabmap documents in its code."""
    data = bytes(data)
    rows, columns, kind = np.frombuffer(data[-12:], '<i4')
    assert kind == 5  # CV_32FC1
    return np.frombuffer(zlib.decompress(data[:-12]), '<f4').reshape(rows, columns)


def depth_image(k, late=0, log_delay=0):
    """Return the depth of the k-th image, whose stamp is `late` nanoseconds later."""
    pixels = np.full((64, 96), 1000 + k, np.uint16)
    stamp = START + k * PERIOD + late
    return Made('/depth/image', IMAGE, stamp + log_delay, image(pixels, stamp, '16UC1'))


def stamp_of(message):
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def test_the_definition_is_the_published_one():
    assert typestore().hash_rihs01(RGBD_IMAGE) == PUBLISHED


def test_every_image_goes_with_its_own_features(extract, extractor, tmp_path):
    report = extract(images(COUNT) + [camera_info(START)])
    assert (report.features, report.complete) == (COUNT, True)
    messages = read(tmp_path / 'out.mcap')
    assert len(messages) == COUNT
    for k, (message, pixels) in enumerate(zip(messages, pictures(COUNT), strict=True)):
        assert stamp_of(message) == stamp_of(message.rgb) == START + k * PERIOD
        assert message.header.frame_id == 'camera'
        assert bytes(message.rgb.data) == pixels.tobytes() and message.rgb.encoding == 'mono8'
        assert not message.rgb_compressed.data and not message.depth.data
        assert message.rgb_camera_info.k[0] == message.depth_camera_info.k[0] == 50
        expected = extractor.extract(pixels).numpy()
        points = [(p.pt.x, p.pt.y) for p in message.key_points]
        assert np.array_equal(np.array(points, np.float32), expected['keypoints'])
        scores = [np.float32(p.response) for p in message.key_points]
        assert scores == list(expected['keypoint_scores'])
        assert {(p.size, p.angle, p.octave, p.class_id) for p in message.key_points} == {
            (8, -1, 0, -1)
        }
        assert np.array_equal(unpacked(message.descriptors), expected['descriptors'])
        assert not message.points and not message.global_descriptor.data


def test_rosbags_reads_the_same_by_the_definition_in_the_file(extract, tmp_path):
    extract(images(COUNT))
    with AnyReader([tmp_path / 'out.mcap']) as reader:
        assert {c.topic: c.msgtype for c in reader.connections} == {TOPIC: RGBD_IMAGE}
        assert reader.typestore.hash_rihs01(RGBD_IMAGE) == PUBLISHED
        found = [reader.deserialize(data, c.msgtype) for c, _, data in reader.messages()]
        times = [time for _, time, _ in reader.messages()]
    assert times == [START + LOG_DELAY + k * PERIOD for k in range(COUNT)]
    for ours, theirs in zip(found, read(tmp_path / 'out.mcap'), strict=True):
        assert bytes(ours.descriptors) == bytes(theirs.descriptors)
        assert [p.pt.x for p in ours.key_points] == [p.pt.x for p in theirs.key_points]


def test_compressed_images_stay_as_they_are(extract, tmp_path):
    made = compressed(pictures(1)[0], START)
    extract([Made('/left/image_raw/compressed', COMPRESSED, START, made)])
    (message,) = read(tmp_path / 'out.mcap')
    assert bytes(message.rgb_compressed.data) == bytes(made.data)
    assert message.rgb_compressed.format == 'png' and not message.rgb.data
    assert message.rgb_camera_info.k[0] == 0  # nobody calibrated it


def test_scales_and_orientations_become_those_of_opencv():
    arrays = {
        'keypoints': np.array([[1.5, 2], [3, 4]], np.float32),
        'keypoint_scores': np.array([0.9, 0.1], np.float32),
        'descriptors': np.eye(2, 8, dtype=np.float32),
        'image_size': np.array([96, 64], np.float32),
        'scales': np.array([1, 2.5], np.float32),
        'orientations': np.array([np.pi / 2, -np.pi / 4], np.float32),
    }
    features = Features.from_numpy(arrays)
    filled = fill_features(empty_message(FEATURES), features, header(7))
    message = from_cdr(to_cdr(filled, FEATURES), FEATURES)
    first, second = rgbd_image(message, new_message(IMAGE)).key_points
    assert (first.size, second.size) == (8, 20)
    assert np.allclose((first.angle, second.angle), (90, 315))  # degrees, from x towards y


def test_no_descriptors_are_no_bytes_as_rtabmap_has_it():
    assert not len(compress_matrix(np.zeros((0, 64), np.float32)))


def test_depth_is_the_one_with_the_nearest_stamp_whenever_it_was_recorded(extract, tmp_path):
    depths = [depth_image(k, late=(-1) ** k * 10**7, log_delay=3 * 10**7) for k in range(COUNT)]
    report = extract(images(COUNT) + depths, depth='/depth/image', topics=('/left/image_raw',))
    assert report.complete
    for k, message in enumerate(read(tmp_path / 'out.mcap')):
        assert message.depth.encoding == '16UC1'
        assert np.frombuffer(message.depth.data, '<u2')[0] == 1000 + k


def test_compressed_depth_is_unpacked(extract, tmp_path):
    depths = np.full((64, 96), 1234, np.uint16)
    data = np.frombuffer(bytes(12) + cv2.imencode('.png', depths)[1].tobytes(), np.uint8)
    topic = '/depth/image/compressedDepth'
    made = [
        Made(topic, COMPRESSED, START, make(COMPRESSED, header=header(START), format='', data=d))
        for d in (data, data[:9])
    ]
    report = extract(images(1) + made[:1], depth=topic)
    assert report.complete
    (message,) = read(tmp_path / 'out.mcap')
    depth = message.depth
    assert (depth.encoding, depth.width, depth.height, depth.step) == ('16UC1', 96, 64, 192)
    assert np.array_equal(np.frombuffer(depth.data, '<u2').reshape(64, 96), depths)
    assert stamp_of(depth) == START
    damaged = extract(images(1) + made[1:], depth=topic)
    assert 'no depth image' in damaged.damage[0].reason


def test_images_without_depth_are_counted(extract, tmp_path):
    made = images(COUNT) + [depth_image(1), depth_image(2, late=3 * 10**7)]
    report = extract(made, depth='/depth/image', topics=('/left/image_raw',))
    (damage,) = report.damage
    assert damage.reason == '4 images have no depth image of /depth/image within 20 ms'
    assert not report.complete
    assert [bool(m.depth.data) for m in read(tmp_path / 'out.mcap')] == [0, 1, 0, 0, 0]


def test_images_of_the_same_log_time_are_told_apart_by_their_stamps(extract, tmp_path):
    made = [
        Made('/left/image_raw', IMAGE, START, image(pixels, START + k))
        for k, pixels in enumerate(pictures(3))
    ]
    extract(made)
    messages = read(tmp_path / 'out.mcap')
    assert [stamp_of(m) for m in messages] == [START + k for k in range(3)]
    assert [bytes(m.rgb.data) for m in messages] == [p.tobytes() for p in pictures(3)]


def test_calibrations_are_the_newest_or_else_the_first(extract, tmp_path):
    infos = [camera_info(START + 2 * PERIOD, 60), camera_info(START + 4 * PERIOD, 70)]
    extract(images(COUNT) + infos, stride=2)
    focal = [m.rgb_camera_info.k[0] for m in read(tmp_path / 'out.mcap')]
    assert focal == [60, 60, 70]


def test_two_cameras_have_topics_of_their_own_and_others_are_copied(extract, tmp_path):
    made = images(2) + images(2, '/right/image_raw') + texts(3)
    report = extract(made, copy=('/text', '/left/image_raw'))
    assert report.copied == 5
    for topic, count in ((TOPIC, 2), ('/right/rgbd_image', 2), ('/text', 3)):
        assert len(read(tmp_path / 'out.mcap', topic)) == count
    with AnyReader([tmp_path / 'out.mcap']) as reader:
        times = [time for _, time, _ in reader.messages()]
        assert '/left/features' not in reader.topics and times == sorted(times)


def test_images_of_ros_1_are_taken_as_those_of_ros_2(extract, tmp_path):
    extract.again(write_ros1_bag(tmp_path / 'old.bag', COUNT))
    messages = read(tmp_path / 'out.mcap')
    assert [bytes(m.rgb.data) for m in messages] == [p.tobytes() for p in pictures(COUNT)]


@pytest.mark.parametrize('out', ['out.mcap', 'out.db3'])
def test_the_same_input_gives_the_same_bytes_however_often_it_was_killed(extract, tmp_path, out):
    def stop(report):
        if report.images == 3:
            raise KeyboardInterrupt

    bag = write_bag(tmp_path / 'bag', images(COUNT))
    where = tmp_path / out
    extract.again(bag, out=where)
    expected = sha256(where)
    with pytest.raises(KeyboardInterrupt):
        extract.again(bag, stop, out=where)
    assert extract.again(bag, out=where).resumed == 3
    assert sha256(where) == expected


@pytest.mark.parametrize(
    'options, sentence',
    [
        ({'depth': '/nothing'}, "no topic '/nothing'"),
        ({'depth': '/text'}, 'expected sensor_msgs/msg/Image'),
        ({'view': ViewConfig(undistort=True)}, 'leave out --undistort'),
        ({'depth': '/left/image_raw', 'format': 'bag'}, '--depth goes with --format rtabmap'),
    ],
)
def test_what_does_not_go_together_is_refused(extract, tmp_path, options, sentence):
    with pytest.raises(DataError, match=sentence):
        extract(images(1) + texts(1), **options)
    assert not (tmp_path / 'out.mcap').exists()


def test_depth_is_refused_for_several_cameras(extract):
    made = images(1) + images(1, '/right/image_raw')
    with pytest.raises(DataError, match='choose one with --topics'):
        extract(made, depth='/right/image_raw')


def test_damaged_depth_and_calibrations_are_passed_over(extract, tmp_path, monkeypatch):
    from kpfeat_core.bags import plan as beside

    def decode(record):
        damaged = record.channel.topic == '/depth/image' and record.time == START + PERIOD
        if damaged or (record.channel.topic == '/left/camera_info' and record.time > START):
            raise BadImageError('message', 'damaged')
        return decode_well(record)

    decode_well = beside.decode
    monkeypatch.setattr(beside, 'decode', decode)
    made = images(3) + [depth_image(k) for k in range(3)]
    made += [camera_info(START, 50), camera_info(START + PERIOD, 60)]
    extract(made, depth='/depth/image', topics=('/left/image_raw',))
    messages = read(tmp_path / 'out.mcap')
    assert [bool(m.depth.data) for m in messages] == [True, False, True]
    assert [m.rgb_camera_info.k[0] for m in messages] == [50, 50, 50]
