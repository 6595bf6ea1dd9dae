"""Which topics are taken where none is named."""

from pathlib import Path

import pytest

pytest.importorskip('rosbags', reason='recordings need rosbags')

from kpfeat_core.bags.extract import extract_recording, Extraction
from kpfeat_core.bags.frames import Sights
from kpfeat_core.errors import DataError
from made_bags import IMAGE, image, images, Made, pictures, START, write_bag
import numpy as np


def all_of(sights):
    return [sight for found in sights.lists() for sight in found]


def wanted(source, **options):
    return Extraction(source, Path('nowhere'), **{'model': '', **options})


def test_features_that_may_be_of_several_topics_are_not_guessed(tmp_path, extractor):
    cameras = [images(3, '/cam/image_raw'), images(3, '/cam/image_rect')]
    bag = write_bag(tmp_path / 'bag', sorted(sum(cameras, []), key=lambda m: m.time))
    rect, features = ('/cam/image_rect',), tmp_path / 'features.mcap'
    extract_recording(Extraction(bag, features, topics=rect), extractor)
    with pytest.raises(DataError, match=r"'/cam/features' may hold .*; name that topic"):
        Sights(wanted(bag), features=features)
    assert len(all_of(Sights(wanted(bag, topics=rect), features=features))) == 3


def test_depth_is_left_out_unless_it_is_named_or_alone(tmp_path, extractor):
    pixels = pictures(3)
    depth = [image(one.astype(np.uint16), START, '16UC1') for one in pixels]
    floats = [image(one.astype(np.float32) / 300, START, '32FC1') for one in pixels]
    made = [Made('/cam/depth', IMAGE, START, one) for one in depth]
    made += [Made('/cam/distance', IMAGE, START, one) for one in floats]
    alone = write_bag(tmp_path / 'alone', made)
    bag = write_bag(tmp_path / 'bag', [*made, *images(3, '/cam/image_raw')])
    report = extract_recording(Extraction(bag, tmp_path / 'f.mcap'), extractor)
    assert report.images == 3 and report.left_out == ['/cam/depth', '/cam/distance']
    for sights in (
        Sights(wanted(bag), extractor=extractor),
        Sights(wanted(bag), features=tmp_path / 'f.mcap'),
    ):
        assert sights.left_out == report.left_out
        assert [(s.topic, s.problem) for s in all_of(sights)] == [('/cam/features', None)] * 3
    wanted_depth = Extraction(bag, tmp_path / 'r.mcap', format='rtabmap', depth='/cam/depth')
    assert extract_recording(wanted_depth, extractor).left_out == ['/cam/distance']
    named = Sights(wanted(bag, topics=('/cam/depth',)), extractor=extractor)
    assert len(all_of(named)) == 3 and named.left_out == []
    assert Sights(wanted(alone), extractor=extractor).total == 6
