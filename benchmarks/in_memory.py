"""
Features from one node to another in the same process: through a message, and in memory.

    python benchmarks/in_memory.py
    python benchmarks/in_memory.py --keypoints 2048 --dim 256 --out results/in_memory.jsonl

Both nodes run in this process over real DDS, so this needs ROS 2 and a built package. Timed from
features that an extractor has just computed until the other node has them in hand, and the time
of all threads that it took. `beside` is in memory while the message is sent as well, for a
listener in another process: the node has its features at once, and the message's cost comes after.
"""

from collections.abc import Callable
import json
from pathlib import Path
import statistics
import sys
import time
from typing import Annotated, Any

from common import provenance
from kpfeat_core.features import Features
from kpfeat_core.messages.conversions import fill_features
from kpfeat_ros.exchange import Exchange
from kpfeat_ros.frames import Frame, message_to_frame
from message_fill import make_features
from rich.console import Console
from rich.table import Table
import torch
import typer

console = Console()
WARM_UP = 10
TOPIC = '/benchmark/features'


class Pair:
    """A publishing and a subscribing node, and both ways between them."""

    def __init__(self) -> None:
        from kpfeat.msg import Features as FeaturesMessage
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node

        self.kind = FeaturesMessage
        self.frames: list[tuple[float, Frame]] = []  # and when each came
        self.exchange = Exchange()
        self.nodes = [Node('benchmark_publisher'), Node('benchmark_subscriber')]
        self.executor = SingleThreadedExecutor()
        self.publisher = self.nodes[0].create_publisher(FeaturesMessage, TOPIC, 5)
        self.subscription: Any = None
        for node in self.nodes:
            self.executor.add_node(node)

    def connect(self, in_memory: bool, message: bool) -> None:
        """Choose how features come."""
        if self.subscription is not None:
            self.nodes[1].destroy_subscription(self.subscription)
            self.subscription = None
        self.inbox = self.exchange.listen(TOPIC, self.note) if in_memory else None
        if message:
            self.subscription = self.nodes[1].create_subscription(
                self.kind, TOPIC, self.on_message, 5
            )
        while self.publisher.get_subscription_count() != message:
            self.executor.spin_once(timeout_sec=0.05)
        self.received = 0

    def note(self, frame: Frame) -> None:
        """Take in a frame."""
        self.frames.append((time.perf_counter(), frame))

    def on_message(self, message: Any) -> None:
        """Take in a message, unless its features are known."""
        if self.inbox is None or self.inbox.take(message) is None:
            self.note(message_to_frame(message))
        self.received += 1

    def send(self, features: Features, header: Any, message: bool) -> None:
        """Hand over once, and wait until all has arrived."""
        self.exchange.offer(TOPIC, header, features, 'alike-t')
        if message:
            filled = fill_features(self.kind(), features, header, 'alike-t')
            before = self.received
            self.publisher.publish(filled)
            while self.received == before:
                self.executor.spin_once(timeout_sec=1.0)

    def time_ms(
        self, features: Features, in_memory: bool, message: bool, repeats: int
    ) -> dict[str, float]:
        """Return the time until the features are there, and that of all threads, per frame."""
        from std_msgs.msg import Header

        self.connect(in_memory, message)
        delays, work = [], 0.0
        for k in range(repeats + WARM_UP):
            header = Header(frame_id='camera')
            header.stamp.sec = k
            self.frames.clear()
            before, start = time.process_time(), time.perf_counter()
            self.send(features, header, message)
            if k >= WARM_UP:
                work += time.process_time() - before
                delays.append(1e3 * (self.frames[0][0] - start))
            if len(self.frames) != 1 or not _equal(self.frames[0][1].features, features):
                raise SystemExit('error: the features that came are not those that were sent')
            time.sleep(0.002)  # what DDS does afterwards does not count for the next
        delays.sort()
        return {
            'median_ms': statistics.median(delays),
            'p95_ms': delays[-1 - repeats // 20],
            'work_ms': 1e3 * work / repeats,
        }


def _equal(given: Features, other: Features) -> bool:
    return all(
        value is None or torch.equal(value, getattr(other, name))
        for name, value in vars(given).items()
    )


def main(
    keypoints: Annotated[int, typer.Option(help='keypoints of an image')] = 2048,
    dim: Annotated[int, typer.Option(help='numbers of a descriptor')] = 256,
    repeats: Annotated[int, typer.Option(help='timed repetitions')] = 200,
    out: Annotated[Path | None, typer.Option(help='append a JSON line here')] = None,
) -> None:
    """Time features through a message, in memory, and both."""
    try:
        import rclpy

        rclpy.init(args=[])
        pair = Pair()
    except ImportError as error:
        console.print(f'error: {error}; source ROS 2 and the built package (`make build`)')
        raise typer.Exit(2) from error
    features = make_features(keypoints, dim)
    ways: dict[str, Callable[[], dict[str, float]]] = {
        'message': lambda: pair.time_ms(features, False, True, repeats),
        'beside': lambda: pair.time_ms(features, True, True, repeats),
        'in memory': lambda: pair.time_ms(features, True, False, repeats),
    }
    results = {name: way() for name, way in ways.items()}
    rclpy.try_shutdown()
    title = f'{keypoints} keypoints x {dim}'
    table = Table('way', 'median ms', 'p95 ms', 'work of all threads, ms', title=title)
    for name, values in results.items():
        table.add_row(name, *(f'{value:.3f}' for value in values.values()))
    console.print(table)
    if out is not None:
        record = {'benchmark': 'in_memory', 'keypoints': keypoints, 'dim': dim, **provenance()}
        with out.open('a') as file:
            file.write(json.dumps({**record, 'results': results}) + '\n')


if __name__ == '__main__':
    sys.exit(typer.run(main))
