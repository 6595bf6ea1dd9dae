"""
Time to turn features into a message, and to read them back: overhead of every frame.

    python benchmarks/message_fill.py
    python benchmarks/message_fill.py --keypoints 2048 --dim 256 --out results/message_fill.jsonl

The message is the real, compiled one, so this needs ROS 2 and a built package. `send` is filling
and serialising, all that happens before the network; it is timed in the naive way as well, with
bytes and lists instead of array.array, which ROS takes number by number.
"""

from collections.abc import Callable
import json
from pathlib import Path
import statistics
import sys
import time
from typing import Annotated

from common import provenance
from kpfeat_core.features import Features
from kpfeat_core.messages.conversions import DescriptorType, fill_features, message_to_features
import numpy as np
from rich.console import Console
from rich.table import Table
import typer

console = Console()


def make_features(count: int, dim: int) -> Features:
    """Return random features of one image of 640x480."""
    rng = np.random.default_rng(0)
    descriptors = rng.normal(size=(count, dim)).astype(np.float32)
    arrays = {
        'keypoints': rng.random((count, 2), np.float32) * 479,
        'keypoint_scores': rng.random(count, np.float32),
        'descriptors': descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True),
        'image_size': np.array([640, 480], np.float32),
    }
    return Features.from_numpy(arrays)


def time_ms(call: Callable[[], object], repeats: int) -> list[float]:
    """Return sorted milliseconds of a call, without the first ones."""
    times = []
    for _ in range(repeats + 5):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return sorted(times[5:])


def fill_naively(message: object, arrays: dict[str, np.ndarray]) -> object:
    """Fill the sequences as one would at first."""
    message.keypoints = arrays['keypoints'].ravel().tolist()
    message.scores = arrays['keypoint_scores'].tolist()
    message.descriptors = arrays['descriptors'].tobytes()
    return message


def main(
    keypoints: Annotated[int, typer.Option(help='keypoints of a message')] = 2048,
    dim: Annotated[int, typer.Option(help='numbers of a descriptor')] = 256,
    repeats: Annotated[int, typer.Option(help='timed repetitions')] = 100,
    out: Annotated[Path | None, typer.Option(help='append a JSON line here')] = None,
) -> None:
    """Time messages of each descriptor type."""
    try:
        from kpfeat.msg import Features as FeaturesMessage
        from rclpy.serialization import serialize_message
        from std_msgs.msg import Header
    except ImportError as error:
        console.print(f'error: {error}; source ROS 2 and the built package (`make build`)')
        raise typer.Exit(2) from error
    features, header = make_features(keypoints, dim), Header(frame_id='camera')
    arrays = features.numpy()
    calls: dict[str, Callable[[], object]] = {}

    def fill(kind: DescriptorType) -> object:
        return fill_features(FeaturesMessage(), features, header, 'alike-t', kind)

    for kind in DescriptorType:
        calls[f'fill {kind.name}'] = lambda kind=kind: fill(kind)
        calls[f'send {kind.name}'] = lambda kind=kind: serialize_message(fill(kind))
        message = fill(kind)
        calls[f'read {kind.name}'] = lambda message=message: message_to_features(message)
    calls['send naively'] = lambda: serialize_message(fill_naively(FeaturesMessage(), arrays))
    table = Table('what', 'median ms', 'p95 ms', title=f'{keypoints} keypoints x {dim}')
    results = {}
    for name, call in calls.items():
        count = 5 if 'naively' in name else repeats
        times = time_ms(call, count)
        results[name] = {'median_ms': statistics.median(times), 'p95_ms': times[-1 - count // 20]}
        table.add_row(name, *(f'{value:.3f}' for value in results[name].values()))
    console.print(table)
    if out is not None:
        record = {'benchmark': 'message_fill', 'keypoints': keypoints, 'dim': dim, **provenance()}
        with out.open('a') as file:
            file.write(json.dumps({**record, 'results': results}) + '\n')


if __name__ == '__main__':
    sys.exit(typer.run(main))
