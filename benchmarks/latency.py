"""
Latency from an image's stamp to its features in another process, split by stage.

    python benchmarks/latency.py
    python benchmarks/latency.py --sizes 640x480 --arrangements separate --frames 400
    python benchmarks/latency.py --out benchmarks/results/latency.jsonl --markdown

The nodes of the launch file run over real DDS, each in its own process and all in one, so this
needs ROS 2 and a built package. A camera and a receiver of features and matches are processes of
their own. Images come so slowly that none waits for another; after a few of each arrangement the
same images go to `extract` alone, in a loop of the same rate in yet another process. All take such
turns, so that a busy machine slows them alike.

The stages are what the extractor says on /diagnostics; what they leave of the whole is transport:
`image to the worker` is all from the stamp over camera, DDS and executor to the worker's thread.
There are two overheads: of the whole over `extract` alone, and of the whole over network,
detection and description of the same images, which depends less on what else the machine does.
Parts and overheads are differences within a round, and medians over rounds: on idle cores the
parts add up to the median of the whole, on a busy machine they need not.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
import json
import math
import os
from pathlib import Path
import shutil
import signal
from statistics import median
import tempfile
from typing import Annotated, Any, TYPE_CHECKING

from common import provenance
from kpfeat_core.config import DEFAULT_MODEL
from kpfeat_core.errors import ConfigError, KpfeatError
from kpfeat_core.factory import check_device
from kpfeat_core.registry import extractor_config_class
from kpfeat_core.sources import parse_size
from kpfeat_core.weights.files import find_weights
from kpfeat_ros.demo import check_ros, large_images
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
import typer

if TYPE_CHECKING:
    from latency_rig import Rig, Round, Setting, Size

ROUND = 10  # images in a row; fewer than the nodes keep the times of
WARM_UP = 10
INFERENCE = ('network', 'detect', 'describe')
console = Console(highlight=False)


@dataclass
class Samples:
    """All that was measured of one size in one arrangement, round by round."""

    rounds: list['Round'] = field(default_factory=list)
    alone_ms: list[list[float]] = field(default_factory=list)

    def result(self) -> dict[str, Any]:
        """Return what is to be known of it, in milliseconds."""
        splits = [parts(part.stages_ms, median(part.features_ms)) for part in self.rounds]
        over_alone, over_stages = [], []
        for part, alone_ms in zip(self.rounds, self.alone_ms, strict=True):
            total = median(part.features_ms)
            over_alone.append(total - median(alone_ms))
            over_stages.append(total - sum(part.stages_ms[name] for name in INFERENCE))
        return {
            'received': sum(len(part.features_ms) for part in self.rounds),
            'keypoints': round(median(n for part in self.rounds for n in part.keypoints)),
            'features_ms': spread(part.features_ms for part in self.rounds),
            'matches_ms': spread(part.matches_ms for part in self.rounds),
            'extract_alone_ms': spread(self.alone_ms),
            'parts_ms': {name: median(split[name] for split in splits) for name in splits[0]},
            'overhead_ms': median(over_alone),
            'overhead_of_same_images_ms': median(over_stages),
        }


def parts(stages: dict[str, float], total: float) -> dict[str, float]:
    """Split the time until features arrive; what no stage accounts for is transport."""
    inside = {name: stages[name] for name in ('transfer', *INFERENCE)}
    known = stages['decode'] + stages['extract'] + stages['publish']
    return {
        'image to the worker': stages['stamp_to_publish'] - known,
        'decode': stages['decode'],
        **inside,
        'rest of extract': stages['extract'] - sum(inside.values()),
        'fill and publish': stages['publish'],
        'features to the receiver': total - stages['stamp_to_publish'],
    }


def spread(rounds: Iterable[list[float]]) -> dict[str, float]:
    """Return median and 95th percentile of the numbers of all rounds."""
    values = list(chain.from_iterable(rounds))
    return {'median': median(values), 'p95': float(np.percentile(values, 95))}


def measure(
    rig: 'Rig', sizes: Sequence['Size'], arrangements: Sequence[str], frames: int
) -> dict[tuple['Size', str], Samples]:
    """Let all arrangements and the plain loop take turns, size after size."""
    rounds = math.ceil(frames / ROUND)
    count = math.ceil(frames / rounds)
    samples = {(size, name): Samples() for size in sizes for name in arrangements}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task('nodes start', total=len(sizes) * (rounds + 1))
        for size in sizes:
            for name in arrangements:
                rig.warm_up(name, size, WARM_UP)
            rig.extract_alone(size, WARM_UP)
            progress.update(task, advance=1, description='x'.join(map(str, size)))
            for _ in range(rounds):
                for name in arrangements:
                    samples[size, name].rounds.append(rig.measure(name, size, count))
                alone_ms = rig.extract_alone(size, count)
                for name in arrangements:
                    samples[size, name].alone_ms.append(alone_ms)
                progress.advance(task)
    return samples


def rows(results: Sequence[dict]) -> Iterator[list[str]]:
    """Yield the rows of the table, the names first, then a column for each result."""
    yield ['milliseconds', *(f'{r["size"]}, {r["arrangement"]}' for r in results)]
    for name in results[0]['parts_ms']:
        yield [name, *(f'{r["parts_ms"][name]:.2f}' for r in results)]
    names = {
        'features_ms': 'stamp to features',
        'extract_alone_ms': '`extract` alone',
        'matches_ms': 'stamp to matches',
    }
    for key, name in names.items():
        yield [f'{name}: median', *(f'{r[key]["median"]:.1f}' for r in results)]
        yield [f'{name}: 95 %', *(f'{r[key]["p95"]:.1f}' for r in results)]
    yield ['overhead over `extract` alone', *(f'{r["overhead_ms"]:.1f}' for r in results)]
    yield [
        'overhead over network, detect, describe',
        *(f'{r["overhead_of_same_images_ms"]:.1f}' for r in results),
    ]


def show(results: Sequence[dict], markdown: bool) -> None:
    """Print the table, to be read or to be put into documentation."""
    head, *others = rows(results)
    if markdown:
        lines = [head, ['---', *(['---:'] * len(results))], *others]
        for line in lines:
            print(f'| {" | ".join(line)} |')
        return
    table = Table(*head)
    for row in others:
        table.add_row(*row)
    console.print(table)


def check(model: str, weights: str, device: str) -> None:
    """Raise ConfigError or WeightsError for what no node could load, before any starts."""
    extractor_config_class(model)
    find_weights(model, weights)
    check_device(device)


def read_sizes(text: str) -> list['Size']:
    """Return widths and heights of a text such as 640x480,1280x720; raises ConfigError."""
    sizes = [parse_size(size) for size in text.split(',')]
    if None in sizes:
        raise ConfigError(f"sizes are '{text}', expected WIDTHxHEIGHT, such as 640x480,1280x720")
    return sizes


def run(
    setting: 'Setting', sizes: Sequence['Size'], arrangements: Sequence[str], frames: int
) -> list[dict]:
    """Start everything, measure and stop; raises KpfeatError."""
    from latency_rig import Rig
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    logs = Path(tempfile.mkdtemp(prefix='kpfeat_latency_'))  # stays where something fails
    try:
        with Rig(setting, arrangements, logs) as rig:
            samples = measure(rig, sizes, arrangements, frames)
    finally:
        rclpy.try_shutdown()
    shutil.rmtree(logs)
    shared = {
        **vars(setting),
        'ros': os.environ.get('ROS_DISTRO', ''),
        'rmw': rclpy.get_rmw_implementation_identifier(),
    }
    return [
        {'size': 'x'.join(map(str, size)), 'arrangement': name, **shared, **taken.result()}
        for (size, name), taken in samples.items()
    ]


def main(
    sizes: Annotated[str, typer.Option(help='WIDTHxHEIGHT of the images')] = '640x480,1280x720',
    arrangements: Annotated[
        str, typer.Option(help='separate: a process for each node; composed: one for all')
    ] = 'separate,composed',
    frames: Annotated[int, typer.Option(min=1, help='images that count, or a few more')] = 200,
    rate: Annotated[float, typer.Option(min=0.1, help='images a second')] = 5.0,
    model: Annotated[str, typer.Option(help='name of the extractor')] = DEFAULT_MODEL,
    weights: Annotated[str, typer.Option(help='weight file; else as the nodes find it')] = '',
    device: Annotated[str, typer.Option(help='cpu, cuda or auto')] = 'auto',
    keypoints: Annotated[int, typer.Option(help='keypoints of an image at most')] = 1024,
    markdown: Annotated[bool, typer.Option(help='print the table in Markdown')] = False,
    out: Annotated[Path | None, typer.Option(help='append JSON lines to this file')] = None,
) -> None:
    """Measure the latency from stamp to features, and where it comes from."""
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))  # as Ctrl-C: leave no nodes
    os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 100)  # nobody else's nodes
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    os.environ.update(large_images(os.environ))
    try:
        check_ros()
        from latency_rig import Setting

        check(model, weights, device)
        setting = Setting(model, weights, device, keypoints, rate)
        results = run(setting, read_sizes(sizes), arrangements.split(','), frames)
    except ImportError as error:
        console.print(f'error: {error}; source ROS 2 and the built package', soft_wrap=True)
        raise typer.Exit(2) from error
    except KpfeatError as error:
        console.print(f'error: {error}', soft_wrap=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        console.print('interrupted; all nodes are stopped')
        raise typer.Exit(130) from None
    show(results, markdown)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open('a', encoding='utf-8') as file:
            for result in results:
                file.write(json.dumps({'benchmark': 'latency', **result, **provenance()}) + '\n')


if __name__ == '__main__':
    typer.run(main)
