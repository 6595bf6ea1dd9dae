"""Images with their features, made or recorded."""

from pathlib import Path

import pytest

pytest.importorskip('rosbags', reason='recordings need rosbags')

from kpfeat_core.bags.extraction import extract_recording, Extraction
from kpfeat_core.bags.sights import MISSING, Sights
from kpfeat_core.config import ViewConfig
from kpfeat_core.errors import DataError
from kpfeat_core.registry import create_extractor
from made_bags import images, PERIOD, START, texts, write_bag
import numpy as np

COUNT = 6


@pytest.fixture(scope='module')
def extractor(weights):
    return create_extractor('alike-t', str(weights), max_num_keypoints=40)


@pytest.fixture(scope='module')
def made():
    return sorted(images(COUNT) + images(3, '/right/image_raw') + texts(), key=lambda m: m.time)


@pytest.fixture(scope='module')
def bag(tmp_path_factory, made):
    return write_bag(tmp_path_factory.mktemp('bags') / 'bag', made)


@pytest.fixture
def extract(extractor, bag, tmp_path):
    """Return a function that records features of the bag."""

    def extract(out='features.mcap', **options):
        extract_recording(Extraction(bag, tmp_path / out, **options), extractor)
        return tmp_path / out

    return extract


def all_of(sights, first=0):
    return [sight for found in sights.lists(first) for sight in found]


def wanted(source, **options):
    return Extraction(source, Path('nowhere'), **{'model': '', **options})


def assert_same_features(found, expected):
    assert [s.index for s in found] == list(range(len(expected)))
    for one, other in zip(found, expected, strict=True):
        assert (one.time, one.topic) == (other.time, other.topic)
        assert one.header.stamp.sec == other.header.stamp.sec
        assert one.header.stamp.nanosec == other.header.stamp.nanosec
        arrays = other.features.numpy()
        for name, value in one.features.numpy().items():
            assert np.array_equal(value, arrays[name])


def test_features_recorded_beside_or_apart_are_those_that_are_made(bag, extractor, extract):
    made = all_of(Sights(wanted(bag), extractor=extractor))
    assert len(made) == COUNT + 3 and all(s.image is not None for s in made)
    apart = Sights(wanted(bag), features=extract())
    assert apart.recorded and apart.total == len(made)
    assert_same_features(all_of(apart), made)
    assert all(s.image is not None for s in all_of(apart))
    beside = Sights(wanted(extract(copy=('*',))))
    assert beside.recorded
    assert_same_features(all_of(beside), made)
    alone = Sights(wanted(bag), extract(), images=False)
    assert alone.total == len(made)
    assert_same_features(all_of(alone), made)
    assert all(s.image is None for s in all_of(alone))


@pytest.mark.parametrize('kind', ['made', 'joined', 'alone'])
def test_going_on_in_the_middle_gives_the_rest(bag, extractor, extract, kind):
    if kind == 'made':
        sights = Sights(wanted(bag, stride=2), extractor=extractor)
    elif kind == 'joined':
        sights = Sights(wanted(bag, stride=2), features=extract())
    else:
        sights = Sights(wanted(extract(), stride=2), images=False)
    whole = all_of(sights)
    assert len(whole) == 3 + 2
    assert [s.time for s in all_of(sights, 3)] == [s.time for s in whole[3:]]
    assert [s.index for s in all_of(sights, 3)] == [3, 4]


def test_the_message_of_made_features_is_that_of_an_extraction(bag, extractor, extract):
    made = Sights(wanted(bag), extractor=extractor)
    recorded = Sights(wanted(extract()), images=False)
    messages = [made.message(sight) for sight in all_of(made)]
    assert [m.data for m in messages] == [recorded.message(s).data for s in all_of(recorded)]


def test_images_without_recorded_features_say_so_and_later_ones_have_theirs(bag, extract):
    found = all_of(Sights(wanted(bag), features=extract(stride=2)))
    left = [s for s in found if s.topic == '/left/features']
    assert [s.problem and s.problem[0] for s in left] == [None, MISSING] * (COUNT // 2)
    assert all((s.features is None) == bool(s.problem) for s in left)


def test_one_topic_and_a_range_of_it_can_be_chosen(bag, extract):
    begin = str(1e-9 * PERIOD)
    chosen = wanted(bag, topics=('/left/image_raw',), start=begin)
    found = all_of(Sights(chosen, features=extract()))
    assert [s.topic for s in found] == ['/left/features'] * (COUNT - 1)
    stamps = [s.header.stamp.sec * 10**9 + s.header.stamp.nanosec for s in found]
    assert stamps == [START + k * PERIOD for k in range(1, COUNT)]


def test_options_that_would_change_nothing_are_refused(bag, extract):
    features = extract()
    for options in (
        {'options': {'nms_radius': 3}},
        {'view': ViewConfig(binning=2)},
        {'weights': 'mine.safetensors'},
        {'descriptor_type': 'int8'},
    ):
        with pytest.raises(DataError, match='give --model to make them anew'):
            Sights(wanted(bag, **options), features=features)
    with pytest.raises(DataError, match='not both'):
        Sights(wanted(bag, model='alike-t'), features=features)
    with pytest.raises(DataError, match='has no topic of kpfeat/msg/Features'):
        Sights(wanted(bag), features=bag)


def test_topics_without_recorded_features_are_named(bag, extract):
    features = extract(topics=('/left/image_raw',))
    assert Sights(wanted(bag), features=features).topics == ['/left/features']
    with pytest.raises(DataError, match="no features of '/right/image_raw' are recorded"):
        Sights(wanted(bag, topics=('/right/image_raw',)), features=features)
