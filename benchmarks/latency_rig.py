"""
What `latency.py` measures with: a camera and a plain loop in processes of their own, a receiver.

The camera is not the node of kpfeat, whose stamp is older than the picture it then renders: it
sends messages that were made before, stamped the moment they are handed to rclpy, so that it takes
nothing from the cores that are measured.

    python benchmarks/latency_rig.py
    python benchmarks/latency_rig.py --size 1280x720 --out benchmarks/results/latency.jsonl

measure the least that rclpy needs to bring an image to a node and features back, no kpfeat in
between: one process sends images, another answers each with a features message of the usual size,
made before. What `latency.py` shows as transport is to be read beside this, from the same hour.
"""

import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, ExitStack, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
import json
from multiprocessing import get_context
from multiprocessing.connection import Connection
import os
from pathlib import Path
import signal
import statistics
import sys
import time
from typing import Annotated, Any

from common import provenance
from diagnostic_msgs.msg import DiagnosticArray
from kpfeat.msg import Features, Matches
from kpfeat_core.benchmarking.run import synchronize
from kpfeat_core.errors import ConfigError, KpfeatError
from kpfeat_core.factory import create_extractor
from kpfeat_core.messages.conversions import fill_image
from kpfeat_core.messages.definitions import stamp_ns
from kpfeat_core.sources import parse_size
from kpfeat_core.virtual_camera import VirtualCamera
from kpfeat_ros.bringup import composed_arguments, plan_nodes, ProcessGroup
from kpfeat_ros.demo import large_images
from kpfeat_ros.endpoints import RELIABLE
from kpfeat_ros.options import LaunchOptions
import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data, QoSProfile
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.table import Table
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from std_srvs.srv import Trigger
import typer

ARRANGEMENTS = ('separate', 'composed')
START_TIMEOUT_S = 120.0  # until the nodes have loaded, on a slow machine with cold files
ANSWER_TIMEOUT_S = 30.0
LATE_S = 1.0  # for messages on their way when the camera is done
PICTURES = 10
PERIOD_NS = 100_000_000  # between two pictures, as the virtual camera moves

BARE_WARM_UP = 10
BARE_KEYPOINTS, BARE_DIM = 1024, 64  # of alike-t

Size = tuple[int, int]


class LatencyError(KpfeatError):
    """The nodes run, and yet nothing can be measured."""


@dataclass(frozen=True)
class Setting:
    """What runs: the extractor with its options, and how many images a second it gets."""

    model: str
    weights: str
    device: str
    keypoints: int
    rate_hz: float


@dataclass(frozen=True)
class Round:
    """What a few images in a row took; medians of the nodes' own stages, in milliseconds."""

    features_ms: list[float]
    matches_ms: list[float]
    keypoints: list[int]
    stages_ms: dict[str, float]


@dataclass(frozen=True)
class Composed:
    """All nodes in one process, as a child to be started."""

    name: str
    words: list[str]

    def command(self) -> list[str]:
        """Return the command line."""
        return self.words


def commands(arrangement: str, setting: Setting) -> list[Any]:
    """
    Return what is started: the nodes of the launch file, in a namespace of their own.

    Raises ConfigError for an arrangement that there is none of.
    """
    if arrangement not in ARRANGEMENTS:
        raise ConfigError(f"arrangement is '{arrangement}', expected {' or '.join(ARRANGEMENTS)}")
    options = LaunchOptions(
        model=setting.model, device=setting.device, namespace=arrangement, composed=True
    )
    chosen = {'weights': json.dumps(setting.weights), 'max_num_keypoints': str(setting.keypoints)}
    if arrangement == 'composed':
        words = [word for item in chosen.items() for word in ('-p', ':='.join(item))]
        command = [sys.executable, '-m', 'kpfeat_ros.bringup', *composed_arguments(options)]
        return [Composed('composed', [*command, '--ros-args', *words])]
    plans = plan_nodes(options)
    return [replace(plans[0], parameters=plans[0].parameters | chosen), *plans[1:]]


@cache
def pictures(size: Size) -> list[np.ndarray]:
    """Return what a camera sees that moves over a photograph, (H, W, 3) uint8 RGB."""
    camera = VirtualCamera(size=size)
    return [camera.frame(k * PERIOD_NS) for k in range(PICTURES)]


def paced(count: int, rate_hz: float) -> Iterator[int]:
    """Yield 0, 1, ... at a rate."""
    start = time.monotonic()
    for k in range(count):
        time.sleep(max(0.0, start + k / rate_hz - time.monotonic()))
        yield k


def play_camera(orders: Connection) -> None:
    """Send `count` images of a size on a topic at a rate, whenever told; answer with None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end of the pipe ends it
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = Node('camera')
    publisher_on = cache(lambda topic: node.create_publisher(Image, topic, RELIABLE))
    fill = partial(fill_image, header=Header(frame_id='camera'))
    messages_of = cache(lambda size: [fill(Image(), pixels) for pixels in pictures(size)])
    with suppress(EOFError, OSError):
        while True:
            topic, size, count, rate_hz = orders.recv()
            publisher, messages = publisher_on(topic), messages_of(size)
            while not publisher.get_subscription_count() and not orders.poll(0.05):
                pass
            for k in paced(count, rate_hz):
                message = messages[k % PICTURES]
                message.header.stamp = node.get_clock().now().to_msg()
                publisher.publish(message)
            orders.send(None)
    rclpy.try_shutdown()


def extract_alone(orders: Connection, setting: Setting) -> None:
    """Extract `count` images of a size at a rate, whenever told; answer with milliseconds."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    extractor = create_extractor(
        setting.model, setting.weights, setting.device, max_num_keypoints=setting.keypoints
    )
    with suppress(EOFError, OSError):
        while True:
            size, count, rate_hz = orders.recv()
            times_ms, images = [], pictures(size)
            for k in paced(count, rate_hz):
                start = time.perf_counter()
                extractor.extract(images[k % PICTURES])
                synchronize(extractor.device)
                times_ms.append(1e3 * (time.perf_counter() - start))
            orders.send(times_ms)


class Helper:
    """A function that runs in a process of its own and answers orders."""

    def __init__(self, work: Callable[..., None], *arguments: Any) -> None:
        context = get_context('spawn')
        self._ours, theirs = context.Pipe()
        self._name = work.__name__
        self._process = context.Process(target=work, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()

    def order(self, *order: Any) -> None:
        """Let it work."""
        self._ours.send(order)

    def answers(self) -> bool:
        """Say whether it is done; raises LatencyError where it has ended instead."""
        if not self._process.is_alive():
            raise LatencyError(f'the process of {self._name} has ended; its words are above')
        return self._ours.poll()

    def answer(self) -> Any:
        """Return what came of the order."""
        return self._ours.recv()

    def close(self) -> None:
        """End it, whatever it does."""
        self._ours.close()
        self._process.terminate()
        self._process.join()


class Receiver(Node):
    """Notes when features and matches arrive, and what the extractors say of their stages."""

    def __init__(self, arrangements: Sequence[str]) -> None:
        super().__init__('receiver')
        self.latencies_ms: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.keypoints: list[int] = []
        self.stages_ms: dict[str, dict[str, float]] = {}
        self._resets = {}
        for name in arrangements:
            on_features, on_matches = (
                partial(self._on_features, name),
                partial(self._on_matches, name),
            )
            self.create_subscription(Features, f'/{name}/features', on_features, RELIABLE)
            self.create_subscription(Matches, f'/{name}/matches', on_matches, RELIABLE)
            service = f'/{name}/extractor/reset_statistics'
            self._resets[name] = self.create_client(Trigger, service)
        self.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)

    def ask_to_reset(self, arrangement: str) -> Any:
        """Let the extractor's times begin anew; returns the future of its answer."""
        return self._resets[arrangement].call_async(Trigger.Request())

    def _on_features(self, arrangement: str, message: Features) -> None:
        self._note(arrangement, 'features', message.header)
        self.keypoints.append(len(message.scores))

    def _on_matches(self, arrangement: str, message: Matches) -> None:
        self._note(arrangement, 'matches', message.header)

    def _note(self, arrangement: str, topic: str, header: Header) -> None:
        age_ns = self.get_clock().now().nanoseconds - stamp_ns(header)
        self.latencies_ms[arrangement, topic].append(1e-6 * age_ns)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            _, arrangement, node = status.name.split('/')
            if node == 'extractor':
                self.stages_ms[arrangement] = {
                    item.key.removesuffix('_ms'): float(item.value)
                    for item in status.values
                    if item.key.endswith('_ms') and not item.key.endswith('_max_ms')
                }


class Rig:
    """Nodes of all arrangements, camera and plain loop; a context manager that stops them."""

    def __init__(self, setting: Setting, arrangements: Sequence[str], logs: Path) -> None:
        self._setting = setting
        self._arrangements = arrangements
        self._processes = ProcessGroup(logs)

    def __enter__(self) -> 'Rig':
        with ExitStack() as stack:  # what has started is stopped whatever fails, or is interrupted
            stack.enter_context(self._processes)
            for arrangement in self._arrangements:
                for command in commands(arrangement, self._setting):
                    self._processes.start(command)
            self._camera = stack.enter_context(closing(Helper(play_camera)))
            self._loop = stack.enter_context(closing(Helper(extract_alone, self._setting)))
            self._receiver = Receiver(self._arrangements)
            self._executor = SingleThreadedExecutor()
            self._executor.add_node(self._receiver)
            self._running = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._running.close()

    def warm_up(self, arrangement: str, size: Size, count: int) -> None:
        """Send images until matches come of them; raises LatencyError if none do."""
        end = time.monotonic() + START_TIMEOUT_S
        while True:
            self._send(arrangement, size, count, end - time.monotonic())
            if self._receiver.latencies_ms[arrangement, 'matches']:
                return
            if time.monotonic() > end:
                raise LatencyError(f'no matches come from the nodes: {arrangement}')

    def measure(self, arrangement: str, size: Size, count: int) -> Round:
        """Send images and return what they took; raises LatencyError."""
        receiver = self._receiver
        reset = receiver.ask_to_reset(arrangement)
        self._until(reset.done, ANSWER_TIMEOUT_S, 'an answer of reset_statistics')
        self._send(arrangement, size, count, count / self._setting.rate_hz + ANSWER_TIMEOUT_S)
        receiver.stages_ms.pop(arrangement, None)  # what is said from now on has all images
        self._until(lambda: arrangement in receiver.stages_ms, ANSWER_TIMEOUT_S, 'diagnostics')
        return Round(
            receiver.latencies_ms[arrangement, 'features'],
            receiver.latencies_ms[arrangement, 'matches'],
            receiver.keypoints,
            receiver.stages_ms[arrangement],
        )

    def extract_alone(self, size: Size, count: int) -> list[float]:
        """Return what `extract` alone takes for the same images, in milliseconds."""
        self._loop.order(size, count, self._setting.rate_hz)
        self._until(self._loop.answers, START_TIMEOUT_S, 'the plain loop')
        return self._loop.answer()

    def _send(self, arrangement: str, size: Size, count: int, timeout_s: float) -> None:
        receiver = self._receiver
        receiver.latencies_ms, receiver.keypoints = defaultdict(list), []
        self._camera.order(f'/{arrangement}/image', size, count, self._setting.rate_hz)
        self._until(self._camera.answers, timeout_s, f'the nodes to listen: {arrangement}')
        self._camera.answer()
        self._wait(lambda: len(receiver.latencies_ms[arrangement, 'matches']) >= count, LATE_S)

    def _until(self, condition: Callable[[], Any], timeout_s: float, what: str) -> None:
        if not self._wait(condition, timeout_s):
            raise LatencyError(f'waited {timeout_s:.0f} s in vain for {what}')

    def _wait(self, condition: Callable[[], Any], timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                return False
            self._executor.spin_once(timeout_sec=0.05)
            self._processes.check()
        return True


def answer_bare() -> None:
    """Answer each image with features whose model is the time at which the image came."""
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = Node('bare_answer')
    publisher = node.create_publisher(Features, 'bare_features', 5)
    features = Features(
        keypoints=array.array('f', bytes(8 * BARE_KEYPOINTS)),
        scores=array.array('f', bytes(4 * BARE_KEYPOINTS)),
        descriptors=array.array('B', bytes(4 * BARE_KEYPOINTS * BARE_DIM)),
    )

    def on_image(image: Image) -> None:
        features.model, features.header = str(time.time_ns()), image.header
        publisher.publish(features)

    node.create_subscription(Image, 'bare_image', on_image, qos_profile_sensor_data)
    with suppress(KeyboardInterrupt):
        rclpy.spin(node)


def measure_bare(size: Size, frames: int, rate_hz: float) -> dict[str, list[float]]:
    """Return milliseconds of each frame: publishing, to the other process, and back."""
    rclpy.init(args=[])
    node = Node('bare_camera')
    publisher = node.create_publisher(Image, 'bare_image', QoSProfile(depth=1))
    rows: dict[str, list[float]] = {'publish': [], 'image there': [], 'features back': []}

    def on_features(features: Features) -> None:
        now, came, sent = time.time_ns(), int(features.model), stamp_ns(features.header)
        rows['image there'].append(1e-6 * (came - sent))
        rows['features back'].append(1e-6 * (now - came))

    node.create_subscription(Features, 'bare_features', on_features, 5)
    image = Image(width=size[0], height=size[1], step=3 * size[0], encoding='rgb8')
    image.data = array.array('B', bytes(3 * size[0] * size[1]))
    while not (publisher.get_subscription_count() and node.count_publishers('bare_features')):
        rclpy.spin_once(node, timeout_sec=0.1)
    for _ in range(frames + BARE_WARM_UP):
        sent = time.time_ns()
        image.header.stamp.sec, image.header.stamp.nanosec = divmod(sent, 10**9)
        publisher.publish(image)
        rows['publish'].append(1e-6 * (time.time_ns() - sent))
        end = time.monotonic() + 1 / rate_hz
        while (left := end - time.monotonic()) > 0:
            rclpy.spin_once(node, timeout_sec=left)
    rclpy.try_shutdown()
    return {name: values[BARE_WARM_UP:] for name, values in rows.items()}


def main(
    size: Annotated[str, typer.Option(help='WIDTHxHEIGHT of the images')] = '640x480',
    frames: Annotated[int, typer.Option(help='images', min=20)] = 200,
    rate: Annotated[float, typer.Option(help='images a second', min=0.1)] = 5.0,
    out: Annotated[Path | None, typer.Option(help='append a JSON line here')] = None,
) -> None:
    """Time an image to another process and features back, by rclpy alone."""
    os.environ.update(large_images(os.environ))
    process = get_context('spawn').Process(target=answer_bare, daemon=True)
    process.start()
    try:
        rows = measure_bare(parse_size(size), frames, rate)
    finally:
        process.terminate()
        process.join()
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
    typer.run(main)
