"""Recordings that words stand for, and names of topics and outputs."""

import pytest

pytest.importorskip('rosbags', reason='recordings need rosbags')

from kpfeat_core.bags.recording import features_topics, find_bag_files, sibling, single_recording
from kpfeat_core.errors import DataError


def test_features_lie_beside_the_images():
    names = features_topics(['/left/image_raw', '/right/image_raw/compressed', '/image'])
    assert names == {
        '/left/image_raw': '/left/features',
        '/right/image_raw/compressed': '/right/features',
        '/image': '/features',
    }


def test_two_images_in_one_namespace_get_features_of_their_own():
    names = features_topics(['/cam/image_raw', '/cam/image_raw/compressed', '/other/image'])
    assert names == {
        '/cam/image_raw': '/cam/image_raw/features',
        '/cam/image_raw/compressed': '/cam/image_raw/compressed/features',
        '/other/image': '/other/features',
    }


def test_camera_info_lies_beside_the_image_and_not_below_it():
    assert sibling('/cam/image_raw/compressed', 'camera_info') == '/cam/camera_info'


def names(words, out):
    return [part.name for part in find_bag_files(words, out)]


def test_names_are_paths_below_what_all_words_have_in_common(fleet, tmp_path, monkeypatch):
    out = tmp_path / 'out'
    drive = [f'site/drive/drive_{k}' for k in range(3)]
    assert names([fleet], out) == ['old/old', *drive]
    assert names([fleet / 'site/drive', fleet / 'old.bag'], out) == ['old/old', *drive]
    assert names([fleet / '*/drive'], out) == drive
    assert names([fleet / 'site/drive'], out) == [name[5:] for name in drive]
    monkeypatch.chdir(fleet)
    assert names([type(out)('*.bag'), fleet / 'site'], out) == ['old/old', *drive]


def test_recordings_of_one_name_get_different_folders(tmp_path):
    for name in ('a.bag', 'a.mcap', 'a_7.db3'):
        (tmp_path / 'in').mkdir(exist_ok=True)
        (tmp_path / 'in' / name).write_bytes(b'')
    found = names([tmp_path / 'in'], tmp_path / 'out')
    assert found == ['a/a', 'a.mcap/a', 'a_7.db3/a_7']


@pytest.mark.parametrize(
    ('out', 'sentence'),
    [('out.mcap', 'expected a folder'), ('fleet/site/drive/out', 'in the recording')],
)
def test_a_place_that_cannot_hold_outputs_is_refused(fleet, tmp_path, out, sentence):
    with pytest.raises(DataError, match=sentence):
        find_bag_files([fleet], tmp_path / out)


def test_one_recording_is_what_is_named_alone(fleet, tmp_path):
    out = tmp_path / 'out'
    assert single_recording([fleet / 'old.bag'], out)
    assert single_recording([fleet / 'site/drive'], out)
    assert single_recording([fleet / 'site'], out.with_suffix('.mcap'))
    assert not single_recording([fleet / 'site'], out)
    assert not single_recording([fleet], out.with_suffix('.mcap'))
    assert not single_recording([fleet / 'old.bag', fleet / 'site/drive'], out)
