"""
The least that rclpy needs to bring an image to a node and features back: no kpfeat in between.

    python benchmarks/bare_transport.py
    python benchmarks/bare_transport.py --size 1280x720 --out benchmarks/results/latency.jsonl

One process sends images; another answers each with a features message of the usual size, made
before. What `latency.py` shows as transport is to be read beside this, from the same hour.
"""

import array
from contextlib import suppress
import json
import os
from pathlib import Path
import statistics
import subprocess
import sys
import time
from typing import Annotated

from common import provenance
from kpfeat_core.sources import parse_size
from kpfeat_ros.demo import large_images
from rich.console import Console
from rich.table import Table
import typer

WARM_UP = 10
KEYPOINTS, DIM = 1024, 64  # of alike-t
ANSWER = 'answer'  # argument of the process that answers


def answer() -> None:
    """Answer each image with features whose model is the time at which the image came."""
    from kpfeat.msg import Features
    import rclpy
    from rclpy.executors import ExternalShutdownException
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image

    rclpy.init()
    node = rclpy.create_node('bare_answer')
    publisher = node.create_publisher(Features, 'bare_features', 5)
    features = Features(
        keypoints=array.array('f', bytes(8 * KEYPOINTS)),
        scores=array.array('f', bytes(4 * KEYPOINTS)),
        descriptors=array.array('B', bytes(4 * KEYPOINTS * DIM)),
    )

    def on_image(image: Image) -> None:
        features.model, features.header = str(time.time_ns()), image.header
        publisher.publish(features)

    node.create_subscription(Image, 'bare_image', on_image, qos_profile_sensor_data)
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)


def measure(width: int, height: int, frames: int, rate_hz: float) -> dict[str, list[float]]:
    """Return milliseconds of each frame: publishing, to the other process, and back."""
    from kpfeat.msg import Features
    import rclpy
    from rclpy.qos import QoSProfile
    from sensor_msgs.msg import Image

    rclpy.init(args=[])
    node = rclpy.create_node('bare_camera')
    publisher = node.create_publisher(Image, 'bare_image', QoSProfile(depth=1))
    rows: dict[str, list[float]] = {'publish': [], 'image there': [], 'features back': []}

    def on_features(features: Features) -> None:
        now, came, stamp = time.time_ns(), int(features.model), features.header.stamp
        sent = stamp.sec * 10**9 + stamp.nanosec
        rows['image there'].append(1e-6 * (came - sent))
        rows['features back'].append(1e-6 * (now - came))

    node.create_subscription(Features, 'bare_features', on_features, 5)
    image = Image(width=width, height=height, step=3 * width, encoding='rgb8')
    image.data = array.array('B', bytes(3 * width * height))
    while not (publisher.get_subscription_count() and node.count_publishers('bare_features')):
        rclpy.spin_once(node, timeout_sec=0.1)
    for _ in range(frames + WARM_UP):
        sent = time.time_ns()
        image.header.stamp.sec, image.header.stamp.nanosec = divmod(sent, 10**9)
        publisher.publish(image)
        rows['publish'].append(1e-6 * (time.time_ns() - sent))
        end = time.monotonic() + 1 / rate_hz
        while (left := end - time.monotonic()) > 0:
            rclpy.spin_once(node, timeout_sec=left)
    rclpy.try_shutdown()
    return {name: values[WARM_UP:] for name, values in rows.items()}


def main(
    size: Annotated[str, typer.Option(help='WIDTHxHEIGHT of the images')] = '640x480',
    frames: Annotated[int, typer.Option(help='images', min=20)] = 200,
    rate: Annotated[float, typer.Option(help='images a second', min=0.1)] = 5.0,
    out: Annotated[Path | None, typer.Option(help='append a JSON line here')] = None,
) -> None:
    """Time an image to another process and features back, by rclpy alone."""
    os.environ.update(large_images(os.environ))
    width, height = parse_size(size)
    process = subprocess.Popen([sys.executable, __file__, ANSWER])
    try:
        rows = measure(width, height, frames, rate)
    finally:
        process.terminate()
        process.wait()
    came = len(rows['image there'])
    table = Table('', 'median ms', 'lowest tenth ms', title=f'{size}, {came} of {frames} came')
    results = {}
    for name, values in rows.items():
        tenth, median = statistics.quantiles(values, n=10)[0], statistics.median(values)
        results[name] = {'median_ms': median, 'tenth_ms': tenth}
        table.add_row(name, f'{median:.2f}', f'{tenth:.2f}')
    Console().print(table)
    if out is not None:
        record = {'benchmark': 'bare_transport', 'size': size, 'rate_hz': rate, 'came': came}
        with out.open('a') as file:
            file.write(json.dumps({**record, **provenance(), 'results': results}) + '\n')


if __name__ == '__main__':
    sys.exit(answer() if sys.argv[1:] == [ANSWER] else typer.run(main))
