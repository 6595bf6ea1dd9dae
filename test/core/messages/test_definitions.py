"""Messages of this package without ROS: the same definitions, and the same bytes."""

import json
from pathlib import Path

import pytest

pytest.importorskip('rosbags', reason='recordings need rosbags')

import kpfeat_core
from kpfeat_core.bags.reader import decode
from kpfeat_core.bags.recording import Channel, Record
from kpfeat_core.messages import definitions
from kpfeat_core.messages.conversions import (
    fill_features,
    fill_matches,
    message_to_features,
    message_to_matches,
)
from kpfeat_core.messages.definitions import definition_of, empty_message, FEATURES, MATCHES
from made_bags import header
from made_frames import pair_of, shifted
import numpy as np
from rosbags.typesys import get_types_from_msg, get_typestore, Stores

ROOT = Path(kpfeat_core.__file__).parents[1]


@pytest.mark.parametrize('name', ['Features', 'Matches'])
def test_the_definitions_that_are_installed_are_those_of_ros(name):
    source = ROOT / 'msg' / f'{name}.msg'
    if not source.is_file():
        pytest.skip('this is an installation, not the repository')
    copy = Path(definitions.__file__).with_name(f'{name}.msg')
    assert copy.read_text() == source.read_text()


@pytest.mark.parametrize('name', [FEATURES, MATCHES])
def test_an_embedded_definition_has_its_comments_and_the_header_first(name):
    text = definition_of(name)
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg(text, name))
    assert store.hash_rihs01(name) == definitions.typestore().hash_rihs01(name)
    assert 'MSG: std_msgs/Header' in text and '# ' in text
    field, (_, kind) = definitions.typestore().fielddefs[name][1][0]
    assert (field, kind) == ('header', 'std_msgs/msg/Header')  # first, for synchronisers


@pytest.mark.parametrize('name', ['Features', 'Matches'])
def test_the_hash_is_the_one_that_ros_computes(name):
    described = ROOT / f'install/kpfeat/share/kpfeat/msg/{name}.json'
    if not described.is_file():
        pytest.skip(f'the messages are not compiled: no {described}')
    hashes = json.loads(described.read_text())['type_hashes']
    known = {entry['type_name']: entry['hash_string'] for entry in hashes}
    full = f'kpfeat/msg/{name}'
    assert definitions.typestore().hash_rihs01(full) == known[full]


def test_features_come_through_bytes_unchanged():
    features = shifted(50)
    message = fill_features(empty_message(FEATURES), features, header(123), 'superpoint')
    back = definitions.from_cdr(definitions.to_cdr(message, FEATURES), FEATURES)
    assert (back.model, back.header.frame_id) == ('superpoint', 'camera')
    assert back.header.stamp.nanosec == 123
    found = message_to_features(back).numpy()
    assert all(np.array_equal(found[name], v) for name, v in features.numpy().items())


def test_matches_of_recordings_in_which_header_was_header1_are_read():
    pair = pair_of((1, 2), (3, 4))
    message = fill_matches(empty_message(MATCHES), pair, header(1), header(2))
    message.header, message.header0 = message.header0, message.header  # as they came then
    text = definition_of(MATCHES).replace('Header header0 ', 'Header header1 ')
    text = text.replace('Header header ', 'Header header0 ')
    channel = Channel('/matches', MATCHES, text, 'ros2msg')
    found = decode(Record(channel, 2, definitions.to_cdr(message, MATCHES)))
    assert (found.header0.stamp.nanosec, found.header1.stamp.nanosec) == (1, 2)
    assert np.array_equal(message_to_matches(found).keypoints1, pair.keypoints1)
