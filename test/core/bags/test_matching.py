"""Matches of recordings: those of the nodes, the same bytes each time, nothing lost."""

from dataclasses import replace
from itertools import pairwise

import pytest

pytest.importorskip('rosbags', reason='recordings need rosbags')

from bag_runs import kill_after, Killed, LEFT, read, RIGHT, sha256
from kpfeat_core.bags.match import make_pairing, match_recording
from kpfeat_core.bags.reader import BagReader, decode
from kpfeat_core.bags.request import MatchRequest, PairingConfig
from kpfeat_core.config import make_config, MatcherConfig
from kpfeat_core.errors import ConfigError, DataError
from kpfeat_core.factory import create_matcher
from kpfeat_core.matching import match_pair
from kpfeat_core.messages.conversions import fill_features, fill_matches, message_to_features
from kpfeat_core.messages.definitions import (
    empty_message,
    FEATURES,
    from_cdr,
    MATCHES,
    to_cdr,
    typestore,
)
from made_bags import (
    header,
    IMAGE,
    image,
    images,
    LOG_DELAY,
    Made,
    PERIOD,
    pictures,
    START,
    write_bag,
)
import numpy as np
from rosbags.highlevel import AnyReader

KEYFRAMES = PairingConfig(keyframes=True, keyframe_share=0.8)


@pytest.fixture(scope='module')
def features(extractor):
    return [extractor.extract(view) for view in pictures(LEFT)]


@pytest.fixture
def match(extractor, stereo, tmp_path):
    """Return a function that matches the images of `stereo` by default, to out.mcap."""

    def match(out='out.mcap', source=stereo, on_image=lambda report: None, **options):
        if 'features' in options:
            options['features'] = str(options['features'])
        request = MatchRequest(source, tmp_path / out, **options)
        return match_recording(request, extractor, on_image)

    return match


def stamp(head):
    return head.stamp.sec * 10**9 + head.stamp.nanosec


def pairs_of(path, topic='/left/matches'):
    """Return the positions of both images of each match, by their stamps."""
    messages = [decode(record) for record in read(path, topic)]
    stamps = [(stamp(m.header0), stamp(m.header)) for m in messages]
    return [tuple((one - START) // PERIOD for one in pair) for pair in stamps]


def features_message(features, time, model='alike-t', topic='/left/features'):
    filled = fill_features(empty_message(FEATURES), features, header(time), model)
    return Made(topic, FEATURES, time, from_cdr(to_cdr(filled, FEATURES), FEATURES))


def assert_equal_fields(one, other, name):
    for field, _ in typestore().fielddefs[name][1]:
        value, expected = getattr(one, field), getattr(other, field)
        if field.startswith('header'):
            assert (stamp(value), value.frame_id) == (stamp(expected), expected.frame_id)
        else:
            assert np.array_equal(value, expected), field


@pytest.mark.parametrize('geometry', ['none', 'homography', 'fundamental'])
def test_matches_are_those_that_the_node_makes_of_the_same_features(match, tmp_path, geometry):
    report = match(matcher=MatcherConfig(geometry=geometry, ratio_threshold=0.95))
    matcher = create_matcher(geometry=geometry, ratio_threshold=0.95)
    messages = [decode(record) for record in read(tmp_path / 'out.mcap', '/left/features')]
    records = read(tmp_path / 'out.mcap', '/left/matches')
    for (before, newest), record in zip(pairwise(messages), records, strict=True):
        pair = match_pair(matcher, message_to_features(before), message_to_features(newest))
        node = fill_matches(empty_message(MATCHES), pair, before.header, newest.header)
        assert_equal_fields(decode(record), node, MATCHES)
        assert record.time == stamp(newest.header) + LOG_DELAY
    assert (report.images, report.features, report.pairs) == (
        LEFT + RIGHT,
        LEFT + RIGHT,
        LEFT + RIGHT - 2,
    )
    assert 0 < report.inliers <= report.matches and 0 < report.inlier_share <= 1


def test_features_are_written_as_an_extraction_writes_them(match, record_features, tmp_path):
    match()
    for topic in ('/left/features', '/right/features'):
        assert read(tmp_path / 'out.mcap', topic) == read(record_features(), topic)


def test_features_beside_apart_and_alone_give_the_same_bytes(match, record_features, tmp_path):
    match()
    expected = sha256(tmp_path / 'out.mcap')
    apart = record_features()
    for options in (
        {'source': apart},
        {'features': apart},
        {'source': record_features('both.mcap', copy=('*',))},
    ):
        assert match(**options).recorded
        assert sha256(tmp_path / 'out.mcap') == expected


def test_topics_never_mix_and_each_has_its_matches(match, tmp_path):
    match()
    assert pairs_of(tmp_path / 'out.mcap') == [(k, k + 1) for k in range(LEFT - 1)]
    assert pairs_of(tmp_path / 'out.mcap', '/right/matches') == [(0, 1), (1, 2), (2, 3)]
    match(pairing=PairingConfig(every=3), topics=('/left/image_raw',))
    assert pairs_of(tmp_path / 'out.mcap') == [(0, 3), (1, 4), (2, 5)]
    assert '/right/matches' not in [
        topic.name for topic in BagReader(tmp_path / 'out.mcap').topics
    ]


def test_topics_of_features_in_one_namespace_have_matches_each(match, features, tmp_path):
    recorded = [
        features_message(one, START + k, topic=topic)
        for k, one in enumerate(features[:3])
        for topic in ('/one', '/two')
    ]
    match(source=write_bag(tmp_path / 'features', recorded))
    names = [topic.name for topic in BagReader(tmp_path / 'out.mcap').topics]
    assert names == ['/one', '/one/matches', '/two', '/two/matches']
    made = sorted(images(3, '/a') + images(3, '/b'), key=lambda one: one.time)
    match(source=write_bag(tmp_path / 'bag', made))
    names = [topic.name for topic in BagReader(tmp_path / 'out.mcap').topics]
    assert names == ['/a/features', '/a/matches', '/b/features', '/b/matches']


def test_keyframes_change_where_the_scene_does(match, tmp_path):
    views = pictures(3) + pictures(3, seed=7)
    made = [
        Made('/left/image_raw', IMAGE, START + k * PERIOD, image(view, START + k * PERIOD))
        for k, view in enumerate(views)
    ]
    report = match(source=write_bag(tmp_path / 'bag', made), pairing=PairingConfig(keyframes=True))
    assert pairs_of(tmp_path / 'out.mcap') == [(0, 1), (0, 2), (2, 3), (3, 4), (3, 5)]
    assert (report.keyframes, report.pairs) == (3, 5)


@pytest.mark.parametrize('out', ['out.mcap', 'out.db3', 'folder'])
def test_the_same_input_and_options_give_the_same_bytes(match, tmp_path, out):
    match(out, copy=('*',))
    first = sha256(tmp_path / out)
    match(out, copy=('*',))
    assert sha256(tmp_path / out) == first


def test_rosbags_reads_what_is_written_by_its_own_definitions(match, tmp_path):
    match()
    with AnyReader([tmp_path / 'out.mcap']) as reader:
        chosen = [c for c in reader.connections if c.topic == '/left/matches']
        found = [reader.deserialize(d, c.msgtype) for c, _, d in reader.messages(chosen)]
        assert '# K: position of the keypoint' in chosen[0].msgdef.data
    for message, record in zip(found, read(tmp_path / 'out.mcap', '/left/matches'), strict=True):
        assert_equal_fields(message, decode(record), MATCHES)


def test_topics_of_the_input_are_copied_but_for_those_that_are_written(
    match, record_features, tmp_path
):
    both = record_features('both.mcap', copy=('*',))
    report = match(source=both, copy=('*',))
    everything = BagReader(tmp_path / 'out.mcap')
    counts = {topic.name: topic.count for topic in everything.topics}
    assert (counts['/left/image_raw'], counts['/text'], counts['/left/features']) == (6, 9, 6)
    assert report.copied == LEFT + RIGHT + 9
    times = [record.time for record in everything.records(everything.topics)]
    assert times == sorted(times)
    with pytest.raises(DataError, match="'/left/features' is written anew"):
        match(source=both, copy=('/left/features',))
    with pytest.raises(DataError, match="there is no topic '/imu'"):
        match(source=both, copy=('/imu',))


@pytest.mark.parametrize(
    'pairing', [PairingConfig(every=2), KEYFRAMES], ids=['every', 'keyframes']
)
@pytest.mark.parametrize('kind', ['made', 'recorded'])
def test_a_run_that_was_killed_goes_on_to_the_same_bytes(
    match, record_features, tmp_path, pairing, kind
):
    options = {'pairing': pairing, 'copy': ('*',)}
    if kind == 'made':
        options |= {'descriptor_type': 'int8', 'batch_size': 2}
    else:
        options |= {'features': record_features(descriptor_type='float16')}
    (tmp_path / 'whole').mkdir()
    whole = match('whole/out.mcap', **options)
    for count in (1, 4, 7, 9):
        with pytest.raises(Killed):
            match(on_image=kill_after(count), **options)
        assert not (tmp_path / 'out.mcap').exists()
    report = match(**options)
    assert sha256(tmp_path / 'out.mcap') == sha256(tmp_path / 'whole/out.mcap')
    assert report.resumed >= 8 and report.shares == whole.shares
    assert report.keyframes == whole.keyframes
    assert not (tmp_path / '.out.mcap.partial').exists()


def test_what_other_options_matched_is_not_taken_over(match):
    for options in (
        {'pairing': PairingConfig(every=2)},
        {'pairing': KEYFRAMES},
        {'matcher': MatcherConfig(geometry='none')},
        {'descriptor_type': 'float16'},
    ):
        with pytest.raises(Killed):
            match(on_image=kill_after(4))
        report = match(**options)
        assert report.resumed == 0 and report.discarded


def test_images_without_usable_features_are_skipped_and_counted(match, features, tmp_path):
    none = features[2].first(features[2].mask.sum(1) * 0)
    made = [
        features_message(one, START + k * PERIOD)
        for k, one in enumerate([*features[:2], none, *features[3:]])
    ]
    made[4].message.descriptor_size = 65
    source = write_bag(tmp_path / 'bag', made)
    for pairing in (PairingConfig(), PairingConfig(keyframes=True)):
        with pytest.raises(Killed):
            match(source=source, pairing=pairing, on_image=kill_after(5))
        report = match(source=source, pairing=pairing)
        assert report.resumed == 5 and not report.complete
        assert report.skipped == {'no_keypoints': 1, 'message': 1}
        assert (report.features, report.pairs) == (5, 3)
        expected = [(0, 1), (0, 3), (0, 5)] if pairing.keyframes else [(0, 1), (1, 3), (3, 5)]
        assert pairs_of(tmp_path / 'out.mcap') == expected


def test_images_that_cannot_be_used_are_skipped_and_counted(match, tmp_path):
    made = images(4)
    made[1].message.encoding = 'hologram'
    report = match(source=write_bag(tmp_path / 'bag', made))
    assert report.skipped == {'encoding': 1}
    assert pairs_of(tmp_path / 'out.mcap') == [(0, 2), (2, 3)]


def test_features_of_another_model_are_matched_among_themselves_only(match, features, tmp_path):
    models = ['a', 'a', 'b', 'b', 'b', 'a']
    pairs = enumerate(zip(models, features, strict=True))
    made = [features_message(one, START + k * PERIOD, model) for k, (model, one) in pairs]
    source = write_bag(tmp_path / 'bag', made)
    for pairing in (PairingConfig(), PairingConfig(keyframes=True)):
        with pytest.raises(Killed):
            match(source=source, pairing=pairing, on_image=kill_after(3))
        report = match(source=source, pairing=pairing)
        assert report.resumed == 3 and report.skipped == {'other_model': 2}
        assert "'b' with 64 numbers, those before of 'a'" in report.reasons['other_model']
        expected = [(0, 1), (2, 3), (2 if pairing.keyframes else 3, 4)]
        assert pairs_of(tmp_path / 'out.mcap') == expected
        assert report.features == LEFT


def test_where_nothing_can_be_matched_it_says_why_and_writes_nothing(match, features, tmp_path):
    bare = [replace(one, descriptors=one.descriptors[..., :0]) for one in features]
    made = [features_message(one, START + k, 'magicpoint') for k, one in enumerate(bare)]
    source = write_bag(tmp_path / 'bag', made)
    with pytest.raises(DataError, match="could be matched: .*'magicpoint', have no descriptors"):
        match(source=source)
    with pytest.raises(DataError, match='could be matched: images in this range: 1'):
        match(topics=('/left/image_raw',), end='0.1')
    assert [path.name for path in tmp_path.iterdir()] == ['bag']


def test_the_output_never_replaces_the_recording_of_features(match, record_features):
    features = record_features()
    with pytest.raises(DataError, match='which is the input'):
        match(features.name, features=features)


class Frame:
    """An image with 100 keypoints that show a scene from a place."""

    def __init__(self, place):
        self.place = place
        self.features = self

    def count(self):
        return 100


class Pair:
    def __init__(self, inliers):
        self.inliers = np.arange(100) < inliers


def match_places(frame0, frame1):
    """Lose 10 inliers with every step between two places."""
    return Pair(max(0, 100 - 10 * abs(frame0.place - frame1.place)))


def partners(places, **options):
    """Return the positions of the partners, and of the keyframes that were taken."""
    pairing = make_pairing(make_config(PairingConfig, options))
    frames = [Frame(place) for place in places]
    found = [pairing.match(frame, match_places) for frame in frames]
    assert all((one.partner is None) == (one.pair is None) for one in found)
    chosen = [one.partner and frames.index(one.partner) for one in found]
    return chosen, [k for k, one in enumerate(found) if one.new]


@pytest.mark.parametrize(
    ('every', 'expected'), [(1, [None, 0, 1, 2, 3]), (3, [None, None, None, 0, 1])]
)
def test_each_image_has_the_kth_before_it(every, expected):
    assert partners(range(5), every=every) == (expected, [])


def test_the_image_before_becomes_the_keyframe_where_too_few_are_left():
    chosen, new = partners(range(8), keyframes=True, keyframe_share=0.7)
    assert chosen == [None, 0, 0, 0, 3, 3, 3, 6]
    assert new == [0, 4, 7]  # the image at which it was seen
    assert partners(range(8), keyframes=True, keyframe_share=0.0)[1] == [0]


def test_one_image_of_another_place_does_not_become_a_keyframe():
    chosen, new = partners([0, 0, 50, 0, 0], keyframes=True)
    assert chosen == [None, 0, 1, 1, 1]
    assert new == [0, 2]


def test_after_a_cut_keyframes_are_of_the_new_place():
    chosen, _ = partners([0, 0, 50, 50, 50, 50], keyframes=True)
    assert chosen == [None, 0, 1, 2, 2, 2]


def test_keyframes_beside_every_kth_are_refused():
    with pytest.raises(ConfigError, match='expected one of the two'):
        make_config(PairingConfig, {'every': 2, 'keyframes': True})
    with pytest.raises(ConfigError, match='at least 1'):
        make_config(PairingConfig, {'every': 0})
