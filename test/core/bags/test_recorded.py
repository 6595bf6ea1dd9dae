"""Recorded features find their images, whatever the stamps."""

import pytest

pytest.importorskip('rosbags', reason='recordings need rosbags')

from kpfeat_core.bags.extract import extract_recording
from kpfeat_core.bags.frames import open_frames
from kpfeat_core.bags.reader import BagReader, HELD, Recorded
from kpfeat_core.bags.request import ExtractRequest, FramesRequest
from kpfeat_core.features import Features
from kpfeat_core.messages.conversions import fill_features
from kpfeat_core.messages.definitions import empty_message, FEATURES, from_cdr, to_cdr
from made_bags import header, IMAGE, image, Made, PERIOD, pictures, START, write_bag
import numpy as np
import torch

TOPIC = '/left/features'


def all_of(request, extractor=None):
    frames = open_frames(request, extractor=extractor)
    return [frame for found in frames.lists() for frame in found]


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
    for some in ({}, {'stride': 2}, {'start': '0.3'}):
        made = all_of(FramesRequest(bag, **some), extractor)
        found = all_of(FramesRequest(bag, features=str(tmp_path / 'features.mcap'), **some))
        assert len(found) == len(made) > 2
        for one, other in zip(found, made, strict=True):
            assert torch.equal(one.features.keypoints, other.features.keypoints)


def test_without_stamps_an_image_never_gets_the_features_of_another(tmp_path, extractor):
    bag = image_bag(tmp_path / 'bag', [0] * 6)
    extract_recording(ExtractRequest(bag, tmp_path / 'features.mcap', stride=2), extractor)
    found = all_of(FramesRequest(bag, features=str(tmp_path / 'features.mcap')))
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
