"""
Recordings and what works on them.

kpfeat_core is imported where it is needed: before pytest is configured its annotations could not
be checked.
"""

import pytest


@pytest.fixture(scope='session')
def extractor(weights):
    """Return an extractor with random weights."""
    from kpfeat_core.factory import create_extractor

    return create_extractor('alike-t', str(weights), max_num_keypoints=40)


@pytest.fixture(scope='session')
def bag(tmp_path_factory):
    """Write a recording of one camera, and of texts."""
    from bag_runs import COUNT
    from made_bags import images, texts, write_bag

    made = sorted(images(COUNT) + texts(), key=lambda one: one.time)
    return write_bag(tmp_path_factory.mktemp('bags') / 'bag', made)


@pytest.fixture(scope='session')
def stereo(tmp_path_factory):
    """Write a recording of two cameras, one of which ends early, and of texts."""
    from bag_runs import LEFT, RIGHT
    from made_bags import images, texts, write_bag

    made = images(LEFT) + images(RIGHT, '/right/image_raw') + texts()
    folder = tmp_path_factory.mktemp('bags') / 'stereo'
    return write_bag(folder, sorted(made, key=lambda one: one.time))


@pytest.fixture
def extract(extractor, bag, tmp_path):
    """Return a function that extracts, by default from `bag` to out.mcap, and reports."""
    from kpfeat_core.bags.extract import extract_recording
    from kpfeat_core.bags.request import ExtractRequest

    def extract(out='out.mcap', source=bag, on_image=lambda report: None, **options):
        wanted = ExtractRequest(source, tmp_path / out, **options)
        return extract_recording(wanted, extractor, on_image)

    return extract


@pytest.fixture
def record_features(extract, stereo, tmp_path):
    """Return a function that records features of `stereo`, and returns where they are."""

    def record_features(out='features.mcap', source=stereo, **options):
        extract(out, source, **options)
        return tmp_path / out

    return record_features


@pytest.fixture
def fleet(tmp_path):
    """Return a folder with a recording of three parts, and one of ROS 1."""
    from bag_runs import write_drive
    from made_bags import write_ros1_bag

    folder = tmp_path / 'fleet'
    write_drive(folder / 'site/drive')
    write_ros1_bag(folder / 'old.bag', 3)
    return folder
