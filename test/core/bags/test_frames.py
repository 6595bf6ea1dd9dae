"""Images with their features, made or recorded, and which topics are taken."""

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip('rosbags', reason='recordings need rosbags')

from bag_runs import LEFT, RIGHT
import cv2
from kpfeat_core.bags.extract import extract_recording
from kpfeat_core.bags.formats import features_encoder
from kpfeat_core.bags.frames import MISSING, open_frames
from kpfeat_core.bags.reader import BagReader, HELD, Recorded
from kpfeat_core.bags.request import ExtractRequest, MatchRequest
from kpfeat_core.config import ViewConfig
from kpfeat_core.errors import DataError
from kpfeat_core.features import Features
from kpfeat_core.messages.conversions import fill_features
from kpfeat_core.messages.definitions import empty_message, FEATURES, from_cdr, to_cdr
from kpfeat_core.models import base
from made_bags import (
    camera_info,
    COMPRESSED,
    compressed,
    header,
    IMAGE,
    image,
    images,
    Made,
    make,
    PERIOD,
    pictures,
    START,
    write_bag,
)
import numpy as np
import torch


def all_of(frames, first=0):
    return [frame for found in frames.lists(first) for frame in found]


def wanted(source, **options):
    return MatchRequest(source, Path('nowhere'), **options)


def assert_same_features(found, expected):
    assert [s.index for s in found] == list(range(len(expected)))
    for one, other in zip(found, expected, strict=True):
        assert (one.time, one.topic) == (other.time, other.topic)
        assert one.header.stamp.sec == other.header.stamp.sec
        assert one.header.stamp.nanosec == other.header.stamp.nanosec
        arrays = other.features.numpy()
        for name, value in one.features.numpy().items():
            assert np.array_equal(value, arrays[name])


def test_features_recorded_beside_or_apart_are_those_that_are_made(
    stereo, extractor, record_features
):
    made = all_of(open_frames(wanted(stereo), extractor=extractor))
    assert len(made) == LEFT + RIGHT and all(s.image is not None for s in made)
    apart = open_frames(wanted(stereo, features=str(record_features())))
    assert apart.recorded and apart.total == len(made)
    assert_same_features(all_of(apart), made)
    assert all(s.image is not None for s in all_of(apart))
    beside = open_frames(wanted(record_features(copy=('*',))))
    assert beside.recorded
    assert_same_features(all_of(beside), made)
    alone = open_frames(wanted(stereo, features=str(record_features())), images=False)
    assert alone.total == len(made)
    assert_same_features(all_of(alone), made)
    assert all(s.image is None for s in all_of(alone))


@pytest.mark.parametrize('kind', ['made', 'joined', 'alone'])
def test_going_on_in_the_middle_gives_the_rest(stereo, extractor, record_features, kind):
    if kind == 'made':
        frames = open_frames(wanted(stereo, stride=2), extractor=extractor)
    elif kind == 'joined':
        frames = open_frames(wanted(stereo, stride=2, features=str(record_features())))
    else:
        frames = open_frames(wanted(record_features(), stride=2), images=False)
    whole = all_of(frames)
    assert len(whole) == 3 + 2
    assert [s.time for s in all_of(frames, 3)] == [s.time for s in whole[3:]]
    assert [s.index for s in all_of(frames, 3)] == [3, 4]


def test_the_message_of_made_features_is_that_of_an_extraction(stereo, extractor, record_features):
    made = open_frames(wanted(stereo), extractor=extractor)
    recorded = open_frames(wanted(record_features()), images=False)
    encode = features_encoder(made.request)
    messages = [encode(frame)[0] for frame in all_of(made)]
    assert [m.data for m in messages] == [f.messages[0].data for f in all_of(recorded)]


def test_images_without_recorded_features_say_so_and_later_ones_have_theirs(
    stereo, record_features
):
    found = all_of(open_frames(wanted(stereo, features=str(record_features(stride=2)))))
    left = [s for s in found if s.topic == '/left/features']
    assert [s.problem and s.problem[0] for s in left] == [None, MISSING] * (LEFT // 2)
    assert all((s.features is None) == bool(s.problem) for s in left)


def test_one_topic_and_a_range_of_it_can_be_chosen(stereo, record_features):
    begin = str(1e-9 * PERIOD)
    chosen = wanted(stereo, topics=('/left/image_raw',), start=begin)
    found = all_of(open_frames(replace(chosen, features=str(record_features()))))
    assert [s.topic for s in found] == ['/left/features'] * (LEFT - 1)
    stamps = [s.stamp for s in found]
    assert stamps == [START + k * PERIOD for k in range(1, LEFT)]


def test_options_that_would_change_nothing_are_refused(stereo, record_features):
    features = record_features()
    for options in (
        {'options': {'nms_radius': 3}},
        {'view': ViewConfig(binning=2)},
        {'weights': 'mine.safetensors'},
        {'descriptor_type': 'int8'},
    ):
        with pytest.raises(DataError, match='give --model to make them anew'):
            open_frames(wanted(stereo, **options, features=str(features)))
    with pytest.raises(DataError, match='not both'):
        open_frames(wanted(stereo, model='alike-t', features=str(features)))
    with pytest.raises(DataError, match='has no topic of kpfeat/msg/Features'):
        open_frames(wanted(stereo, features=str(stereo)))


def test_topics_without_recorded_features_are_named(stereo, record_features):
    features = record_features(topics=('/left/image_raw',))
    assert open_frames(wanted(stereo, features=str(features))).topics == ['/left/features']
    with pytest.raises(DataError, match="no features of '/right/image_raw' are recorded"):
        open_frames(wanted(stereo, topics=('/right/image_raw',), features=str(features)))


def test_features_that_may_be_of_several_topics_are_not_guessed(tmp_path, extractor):
    cameras = [images(3, '/cam/image_raw'), images(3, '/cam/image_rect')]
    bag = write_bag(tmp_path / 'bag', sorted(sum(cameras, []), key=lambda m: m.time))
    rect, features = ('/cam/image_rect',), tmp_path / 'features.mcap'
    extract_recording(ExtractRequest(bag, features, topics=rect), extractor)
    with pytest.raises(DataError, match=r"'/cam/features' may hold .*; name that topic"):
        open_frames(wanted(bag, features=str(features)))
    assert len(all_of(open_frames(wanted(bag, topics=rect, features=str(features))))) == 3


def test_depth_is_left_out_unless_it_is_named_or_alone(tmp_path, extractor):
    pixels = pictures(3)
    depth = [image(one.astype(np.uint16), START, '16UC1') for one in pixels]
    floats = [image(one.astype(np.float32) / 300, START, '32FC1') for one in pixels]
    made = [Made('/cam/depth', IMAGE, START, one) for one in depth]
    made += [Made('/cam/distance', IMAGE, START, one) for one in floats]
    alone = write_bag(tmp_path / 'alone', made)
    bag = write_bag(tmp_path / 'bag', [*made, *images(3, '/cam/image_raw')])
    report = extract_recording(ExtractRequest(bag, tmp_path / 'f.mcap'), extractor)
    assert report.images == 3 and report.left_out == ['/cam/depth', '/cam/distance']
    for frames in (
        open_frames(wanted(bag), extractor=extractor),
        open_frames(wanted(bag, features=str(tmp_path / 'f.mcap'))),
    ):
        assert frames.plan.left_out == report.left_out
        assert [(s.topic, s.problem) for s in all_of(frames)] == [('/cam/features', None)] * 3
    wanted_depth = ExtractRequest(bag, tmp_path / 'r.mcap', format='rtabmap', depth='/cam/depth')
    assert extract_recording(wanted_depth, extractor).left_out == ['/cam/distance']
    named = open_frames(wanted(bag, topics=('/cam/depth',)), extractor=extractor)
    assert len(all_of(named)) == 3 and named.plan.left_out == []
    assert open_frames(wanted(alone), extractor=extractor).total == 6


def test_depth_of_compressed_depth_is_known_by_its_name_or_what_it_holds(tmp_path, extractor):
    data = np.frombuffer(bytes(12) + cv2.imencode('.png', pictures(1)[0])[1].tobytes(), np.uint8)
    made = [
        Made(f'/cam/{name}', COMPRESSED, START, make(COMPRESSED, header=header(START), **values))
        for name, values in (
            ('depth/compressedDepth', {'format': '', 'data': data[:0]}),
            ('distance', {'format': '', 'data': data}),
            ('range', {'format': '16UC1; compressedDepth rvl', 'data': data}),
        )
    ]
    bag = write_bag(tmp_path / 'bag', [*made, *images(3, '/cam/image_raw')])
    report = extract_recording(ExtractRequest(bag, tmp_path / 'f.mcap'), extractor)
    assert report.left_out == ['/cam/depth/compressedDepth', '/cam/distance', '/cam/range']
    assert report.images == 3 and report.complete


def test_of_images_that_are_there_raw_and_compressed_the_raw_ones_are_taken(tmp_path, extractor):
    packed = '/cam/image_raw/compressed'
    made = [
        Made(packed, COMPRESSED, START + k * PERIOD, compressed(pixels, START + k * PERIOD))
        for k, pixels in enumerate(pictures(2))
    ]
    alone = write_bag(tmp_path / 'alone', made)
    bag = write_bag(tmp_path / 'bag', [*made, *images(3, '/cam/image_raw')])
    report = extract_recording(ExtractRequest(bag, tmp_path / 'f.mcap'), extractor)
    assert (report.images, report.doubled, report.left_out) == (3, [packed], [])
    assert [topic.name for topic in BagReader(tmp_path / 'f.mcap').topics] == ['/cam/features']
    recorded = open_frames(wanted(bag, features=str(tmp_path / 'f.mcap')))
    assert len(all_of(recorded)) == 3
    named = open_frames(wanted(bag, topics=(packed,)), extractor=extractor)
    assert (len(all_of(named)), named.plan.doubled) == (2, [])
    assert open_frames(wanted(alone), extractor=extractor).plan.names == {packed: '/cam/features'}


def test_an_image_that_memory_cannot_hold_is_skipped_and_named(tmp_path, extractor, monkeypatch):
    huge = Made('/cam/image_raw', IMAGE, START, image(np.zeros((4100, 4100), np.uint8), START))
    bag = write_bag(tmp_path / 'bag', [huge, *images(3, '/cam/image_raw')])
    monkeypatch.setattr(base, 'free_memory', lambda: 10**9)
    report = extract_recording(ExtractRequest(bag, tmp_path / 'f.mcap'), extractor)
    assert (report.images, report.features, dict(report.skipped)) == (4, 3, {'memory': 1})
    assert 'image is 4100x4100 pixels, which takes 2 GB' in report.reasons['memory']


@pytest.mark.parametrize('form', ['bag', 'colmap'])
def test_a_camera_info_of_no_use_is_named_with_its_reason(tmp_path, extractor, form):
    if form == 'colmap':
        pytest.importorskip('pycolmap')
    bag = write_bag(tmp_path / 'bag', [camera_info(START, focal=0), *images(3)])
    if form == 'bag':
        view = ViewConfig(undistort=True)
        with pytest.raises(DataError, match='camera_info is of no use: focal lengths are 0 and 0'):
            extract_recording(ExtractRequest(bag, tmp_path / 'f.mcap', view=view), extractor)
        return
    report = extract_recording(ExtractRequest(bag, tmp_path / 'a.db', format='colmap'), extractor)
    (damage,) = report.damage
    assert "camera_info of '/left/image_raw' is of no use" in damage.reason
    assert 'focal lengths are 0 and 0' in damage.reason and report.features == 3


TOPIC = '/left/features'


def image_bag(path, stamps):
    """Write images with these stamps, one each PERIOD."""
    pairs = zip(pictures(len(stamps)), stamps, strict=True)
    made = [image(pixels, stamp) for pixels, stamp in pairs]
    times = range(START, START + len(made) * PERIOD, PERIOD)
    messages = [Made('/left/image_raw', IMAGE, *one) for one in zip(times, made, strict=True)]
    return write_bag(path, messages)


@pytest.mark.parametrize('steps', [[0] * 6, [0, 0, 1, 1, 2, 2], [0, 1, 4, 2, 3, 5]])
@pytest.mark.parametrize('stamp', [0, START])
def test_stamps_that_do_not_grow_lead_to_the_right_features(tmp_path, extractor, steps, stamp):
    bag = image_bag(tmp_path / 'bag', [stamp + k * PERIOD for k in steps])
    extract_recording(ExtractRequest(bag, tmp_path / 'features.mcap'), extractor)
    features = str(tmp_path / 'features.mcap')
    for some in ({}, {'stride': 2}, {'start': '0.3'}):
        made = all_of(open_frames(wanted(bag, **some), extractor=extractor))
        found = all_of(open_frames(wanted(bag, features=features, **some)))
        assert len(found) == len(made) > 2
        for one, other in zip(found, made, strict=True):
            assert torch.equal(one.features.keypoints, other.features.keypoints)


def test_without_stamps_an_image_never_gets_the_features_of_another(tmp_path, extractor):
    bag = image_bag(tmp_path / 'bag', [0] * 6)
    extract_recording(ExtractRequest(bag, tmp_path / 'features.mcap', stride=2), extractor)
    found = all_of(open_frames(wanted(bag, features=str(tmp_path / 'features.mcap'))))
    assert [frame.problem is None for frame in found] == [True, False] * 3


def feature_bag(path, stamps, times):
    """Write empty features with these stamps and log times."""
    features = Features(
        torch.zeros(1, 0, 2), torch.zeros(1, 0), torch.zeros(1, 0, 8), torch.zeros(1, 0).bool(),
        torch.tensor([[96.0, 64.0]]),
    )  # fmt: skip
    made = []
    for stamp, time in zip(stamps, times, strict=True):
        message = fill_features(empty_message(FEATURES), features, header(stamp))
        made.append(Made(TOPIC, FEATURES, time, from_cdr(to_cdr(message, FEATURES), FEATURES)))
    return Recorded(BagReader(write_bag(path, made)), TOPIC)


@pytest.mark.parametrize('delay', [-10 * PERIOD, 0, PERIOD // 3, 10**17])
def test_features_are_found_whenever_they_were_recorded(tmp_path, delay):
    stamps = START + PERIOD * np.arange(3 * HELD)
    times = 10 * PERIOD + stamps
    recorded = feature_bag(tmp_path / 'bag', stamps[::3].tolist(), (times[::3] + delay).tolist())
    for k in range(HELD, 3 * HELD):
        found = recorded.at(int(stamps[k]), int(times[k]))
        assert (found is not None) == (k % 3 == 0)
        assert found is None or found.time == times[k] + delay
