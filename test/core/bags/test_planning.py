"""Which topics are taken where none is named."""

import pytest

pytest.importorskip('rosbags', reason='recordings need rosbags')

from kpfeat_core.bags.extract import extract_recording
from kpfeat_core.bags.frames import open_frames
from kpfeat_core.bags.request import ExtractRequest, FramesRequest
from kpfeat_core.errors import DataError
from made_bags import IMAGE, image, images, Made, pictures, START, write_bag
import numpy as np


def all_of(frames):
    return [frame for found in frames.lists() for frame in found]


def wanted(source, **options):
    return FramesRequest(source, **options)


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
