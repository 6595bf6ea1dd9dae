"""Annotations beside features, which Foxglove shows over the images."""

import pytest

pytest.importorskip('rosbags', reason='recordings need rosbags')

from bag_runs import sha256
from kpfeat_core.bags.extract import extract_recording
from kpfeat_core.bags.request import ExtractRequest
from kpfeat_core.messages.conversions import image_annotations
from kpfeat_core.messages.definitions import constructors, IMAGE_ANNOTATIONS, to_cdr, typestore
from made_bags import header, images, LOG_DELAY, PERIOD, pictures, START, write_bag
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
import numpy as np

COUNT = 4
# What ROS 2 computes of foxglove_msgs/msg/ImageAnnotations 3.4.3 and all types within.
PUBLISHED = 'RIHS01_bc4e578b1ef80953415d6f966a4cab305c8a44c8b64fc405312b6f06a08fc45e'


@pytest.fixture
def extract(extractor, tmp_path):
    bag = write_bag(tmp_path / 'bag', images(COUNT))

    def extract(**options):
        wanted = ExtractRequest(bag, tmp_path / 'out.mcap', annotations=True, **options)
        return extract_recording(wanted, extractor)

    return extract


def read(path):
    """Return messages by topic as viewers read them: by the definitions in the file."""
    found = {}
    with path.open('rb') as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        for item in reader.iter_decoded_messages():
            found.setdefault(item.channel.topic, []).append(item)
    return found


def test_the_definition_is_the_published_one():
    assert typestore().hash_rihs01(IMAGE_ANNOTATIONS) == PUBLISHED


def test_annotations_stand_beside_features_and_on_their_pixels(extract, extractor, tmp_path):
    report = extract()
    assert (report.images, report.features, report.copied) == (COUNT, COUNT, 0)
    found = read(tmp_path / 'out.mcap')
    assert {topic: len(items) for topic, items in found.items()} == {
        '/left/features': COUNT,
        '/left/image_annotations': COUNT,
    }
    for k, item in enumerate(found['/left/image_annotations']):
        assert item.schema.name == IMAGE_ANNOTATIONS
        stamp = START + k * PERIOD
        assert item.message.log_time == stamp + LOG_DELAY
        message = item.decoded_message
        (points,) = message.points
        for time in (message.timestamp, points.timestamp):  # Foxglove pairs images by it
            assert time.sec * 10**9 + time.nanosec == stamp
        expected = extractor.extract(pictures(COUNT)[k]).keypoints[0].numpy() + 0.5
        assert points.type == 1 and points.thickness > 0
        assert np.array_equal([(p.x, p.y) for p in points.points], expected)
        colours = points.outline_colors
        assert len(colours) == len(expected) and {colour.a for colour in colours} == {1}
        assert colours[0].r > 0.7 > 0.4 > colours[0].b  # best first, and red


def test_they_are_those_that_the_overlay_node_publishes(extract, extractor, tmp_path):
    extract()
    with (tmp_path / 'out.mcap').open('rb') as file:
        records = make_reader(file).iter_messages(topics=['/left/image_annotations'])
        data = [message.data for _, _, message in records]
    arrays = extractor.extract(pictures(COUNT)[0]).numpy()
    # the node passes foxglove_msgs.msg and its own stamp to the same function
    node = image_annotations(
        constructors('foxglove_msgs'),
        arrays['keypoints'],
        arrays['keypoint_scores'],
        header(START).stamp,
    )
    assert data[0] == to_cdr(node, IMAGE_ANNOTATIONS)


def test_the_images_can_be_copied_beside_them_and_bytes_are_the_same(extract, tmp_path):
    report = extract(copy=('/left/image_raw',))
    assert report.copied == COUNT
    first = sha256(tmp_path / 'out.mcap')
    extract(copy=('*',))
    assert sha256(tmp_path / 'out.mcap') == first
