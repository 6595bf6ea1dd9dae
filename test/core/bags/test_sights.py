"""Images with their features, made or recorded."""

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip('rosbags', reason='recordings need rosbags')

from bag_runs import LEFT, RIGHT
from kpfeat_core.bags.formats import features_encoder
from kpfeat_core.bags.frames import MISSING, open_frames
from kpfeat_core.bags.request import MatchRequest
from kpfeat_core.config import ViewConfig
from kpfeat_core.errors import DataError
from made_bags import PERIOD, START
import numpy as np


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
