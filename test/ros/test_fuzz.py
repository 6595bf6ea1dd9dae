"""
Random malformed images through the image callback: no crash, no leak, every one counted.

KPFEAT_FUZZ=10000 sends that many of each kind; a thousand are sent otherwise.
"""

import os

import cv2
from made_messages import malformed_compressed, malformed_images
import pytest

pytest.importorskip('kpfeat.msg', reason='no ROS 2 or no messages: `make test` brings them')

from kpfeat.msg import Features
from kpfeat_ros.extractor_node import ExtractorNode

COUNT = int(os.environ.get('KPFEAT_FUZZ', '1000'))
CHUNK = 250
OURS = {'failed.ImageError'}  # too small for the model
ENDINGS = ('processed', 'failed', 'skipped', 'dropped')


def resident_mib() -> float:
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2**20


@pytest.fixture(params=['raw', 'compressed'])
def rig(request, ros, photo):
    """Start an extractor for one kind of images; gives it and a maker of malformed ones."""
    node = ros.start(
        ExtractorNode,
        image_transport=request.param,
        max_num_keypoints=16,
    )
    features = ros.listen(Features, 'features')
    ros.until(lambda: not node.rests, 'subscribing')
    good = cv2.imencode('.jpg', photo)[1].tobytes()

    def make(count: int, seed: int):
        if request.param == 'raw':
            return malformed_images(count, seed)
        return malformed_compressed(count, seed, good)

    return node, features, make


def feed(ros, node, images) -> int:
    """Hand over one image after another, each when the one before is done; gives their number."""
    total = node.statistics.total
    count = 0
    for image in images:
        before = sum(map(total, ENDINGS))
        node.on_image(node.streams[''], image)
        while sum(map(total, ENDINGS)) == before:
            ros.executor.spin_once(timeout_sec=0.0005)
        count += 1
    return count


def test_malformed_images_are_survived_and_every_one_is_counted(ros, rig, photo) -> None:
    node, features, make = rig
    fed = feed(ros, node, make(CHUNK, seed=0))  # what is allocated once and stays
    before, peak = resident_mib(), 0.0
    for seed in range(1, max(2, COUNT // CHUNK)):
        fed += feed(ros, node, make(CHUNK, seed))
        peak = max(peak, resident_mib())
        features.clear()
    total = node.statistics.total
    assert total('received') == fed == sum(map(total, ENDINGS))
    assert total('dropped') == total('skipped') == 0
    assert total('failed') > fed / 2
    kinds = node.statistics.report().totals
    # errors in words of ours only: whatever else is raised is a fault in the decoder
    foreign = {name for name in kinds if name.startswith('failed.') and name[7].isupper()} - OURS
    assert not foreign
    assert peak < before + 40
    message = ros.image(photo)
    if node.options.image_transport == 'raw':  # and it still works
        node.on_image(node.streams[''], message)
        ros.until(lambda: any(f.header == message.header for f in features), 'features')


def test_malformed_images_arrive_over_dds_as_well(ros, rig) -> None:
    node, _, make = rig
    images = list(make(60, seed=99))
    kind = type(images[0])
    publisher = ros.probe.create_publisher(kind, node.input_topics[''], 1)
    ros.until(publisher.get_subscription_count, 'the extractor')
    ros.spin(0.3)  # until both ends know of each other
    total = node.statistics.total
    for image in images:
        before = sum(map(total, ENDINGS))
        publisher.publish(image)
        ros.until(lambda: sum(map(total, ENDINGS)) > before, 'its end')  # noqa: B023
    assert total('received') == len(images)
