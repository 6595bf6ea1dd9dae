"""The demo: camera, extractor, matcher and overlay as processes, and what they achieve."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
import json
import os
from pathlib import Path
import signal
import sys
import time
from typing import Any, TYPE_CHECKING

from kpfeat_core.config import check_config, DEFAULT_MODEL, option
from kpfeat_core.errors import ConfigError, KpfeatError
from kpfeat_core.runtime import what_nodes_miss
from kpfeat_core.sources import create_source, ImageSource, SourceConfig
from rich.console import Console
from rich.table import Table

from .bringup import (
    add_flags,
    find_config,
    NodeEndedError,
    NodePlan,
    plan_nodes,
    ProcessGroup,
    USER_ERROR,
)
from .options import LaunchOptions

if TYPE_CHECKING:
    from .observer import Observer

TOPIC = '/camera/image_raw'
READY_TIMEOUT_S = 120.0  # until all nodes have loaded, on a slow machine with cold files
FIRST_MATCHES_TIMEOUT_S = 60.0
FIRST_PICTURES_TIMEOUT_S = 30.0
LAST_DIAGNOSTICS_S = 1.5  # nodes report once a second
FILM_RATE_HZ = 30.0  # at most
DRAWN_MATCHES = 120  # the best ones: more hide the picture
EXAMPLES = """
examples:
  python -m kpfeat_ros.demo
  python -m kpfeat_ros.demo --images drive/ --seconds 30
  python -m kpfeat_ros.demo --video drive.mp4 --size full --out drive_output
  python -m kpfeat_ros.demo --photograph wall.jpg --size 1280x720 --max-keypoints 2048
"""


class DemoError(KpfeatError):
    """The nodes run, and yet nothing comes of it."""


@dataclass(frozen=True)
class DemoOptions:
    """How the demo runs, beside where its images come from."""

    seconds: float = option(10.0, 'how long to measure, from the first matches on', low=0.5)
    out: str = option('demo_output', 'folder for pictures, video and logs')
    model: str = option(DEFAULT_MODEL, 'name of the extractor')
    weights: str = option('', 'weight file; else $KPFEAT_WEIGHTS, else the bundled one')
    max_keypoints: int = option(1024, 'keypoints of an image at most; -1 keeps all', low=-1)
    device: str = option('auto', 'where the network runs: cpu, cuda, cuda:1, or auto')
    domain_id: int = option(-1, 'ROS_DOMAIN_ID; -1 takes a private one', low=-1, high=232)


def parse(arguments: Sequence[str] | None) -> tuple[DemoOptions, SourceConfig]:
    """Read the command line; raises ConfigError."""
    parser = argparse.ArgumentParser(
        prog='python -m kpfeat_ros.demo',
        description='Run camera, extractor, matcher and overlay as ROS 2 nodes and measure them.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for cls in (SourceConfig, DemoOptions):
        add_flags(parser, cls, rate_hz='--rate')
    given = vars(parser.parse_args(arguments))
    options = DemoOptions(**{f.name: given[f.name] for f in fields(DemoOptions)})
    source = SourceConfig(**{f.name: given[f.name] for f in fields(SourceConfig)})
    check_config(options)
    check_config(source)
    return options, source


def plan_demo(options: DemoOptions, source: SourceConfig) -> tuple[NodePlan, list[NodePlan]]:
    """Return the camera, and the nodes that must be ready before it starts."""
    chosen = {
        'model': options.model,
        'weights': options.weights,
        'device': options.device,
        'max_num_keypoints': options.max_keypoints,
    }
    parameters = {'extractor': chosen, 'overlay': {'max_drawn_matches': DRAWN_MATCHES}}
    nodes = [
        replace(plan, parameters=_as_yaml(parameters.get(plan.name, {})))
        for plan in plan_nodes(LaunchOptions(image=TOPIC))
    ]
    return NodePlan('camera', _as_yaml(vars(source)), {}), nodes


def _as_yaml(values: dict[str, Any]) -> dict[str, str]:
    """Quote texts, so that a folder called 2024 stays one; leave empty ones out."""
    return {name: json.dumps(value) for name, value in values.items() if value != ''}


def run_demo(options: DemoOptions, source_config: SourceConfig, console: Console) -> None:
    """Start, measure, stop and print; raises KpfeatError."""
    check_ros()
    from kpfeat_core.video import Video
    from kpfeat_core.virtual_camera import StreamReport
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from .observer import Observer  # needs the compiled messages

    check_model(options)
    source = create_source(source_config)  # a mistake shows before anything starts
    out = Path(options.out)
    domain = options.domain_id if options.domain_id >= 0 else 1 + os.getpid() % 100
    environment = {'ROS_DOMAIN_ID': str(domain), 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
    os.environ.update(environment | large_images(os.environ))
    settings = ' '.join(f'{name}={value}' for name, value in environment.items())
    console.print(f'{source.name} → {TOPIC} → extractor ({options.model}) → matcher → overlay')
    console.print(f'to watch it: {settings} rviz2', soft_wrap=True)
    film = Video(out / 'matches.mp4', rate_hz=min(source.rate_hz, FILM_RATE_HZ))
    report = StreamReport(getattr(source, 'camera', None))
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: never leave nodes behind
        signal.signal(number, _interrupt)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        with ProcessGroup(out / 'logs') as processes, closing(film):
            observer = Observer(report, film)
            _measure(options, source_config, processes, observer, console)
            files = observer.write_pictures(out)
    finally:
        rclpy.try_shutdown()
    if observer.problem is not None:
        raise DemoError(f'no video: {observer.problem}')
    if len(files) < 3:
        raise DemoError(f"the overlay node sent no pictures; see '{processes.log('overlay')}'")
    show(observer, source, files, console)


def large_images(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what lets Fast DDS carry whole images, unless the user has a setting of their own."""
    names = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
    file = find_config('fastdds_large_images.xml')
    if not file or any(name in environment for name in names):
        return {}
    old = environment.get('ROS_DISTRO', 'jazzy') in ('humble', 'iron', 'jazzy')
    return {names[0] if old else names[1]: file}


def check_ros() -> None:
    """Raise ConfigError where ROS or the compiled messages are missing."""
    missing = what_nodes_miss()
    if missing:
        raise ConfigError(missing)


def check_model(options: DemoOptions) -> None:
    """Raise ConfigError or WeightsError for a model that the extractor could not load."""
    from kpfeat_core.registry import extractor_config_class
    from kpfeat_core.weights.files import find_weights

    extractor_config_class(options.model)
    find_weights(options.model, options.weights)


def _measure(
    options: DemoOptions,
    source: SourceConfig,
    processes: ProcessGroup,
    observer: 'Observer',
    console: Console,
) -> None:
    camera, nodes = plan_demo(options, source)
    spin = _Spinner(observer, processes)
    for plan in nodes:
        processes.start(plan)
    with console.status('starting the nodes …'):
        spin.until(lambda: not observer.missing(), READY_TIMEOUT_S, observer.why_not_ready)
        processes.start(camera)
        spin.until(
            lambda: observer.report.matches, FIRST_MATCHES_TIMEOUT_S, observer.why_no_matches
        )
        # the overlay begins to listen when it is listened to, which may take longer than a demo
        spin.until(observer.has_pictures, FIRST_PICTURES_TIMEOUT_S, observer.why_no_pictures)
    with console.status(f'measuring for {options.seconds:g} s …'):
        spin.during(options.seconds)
        observer.pause_camera()
        spin.during(LAST_DIAGNOSTICS_S)


class _Spinner:
    """Lets messages in while time passes and the nodes are alive."""

    def __init__(self, observer: 'Observer', processes: ProcessGroup) -> None:
        from rclpy.executors import SingleThreadedExecutor

        self._executor = SingleThreadedExecutor()
        self._executor.add_node(observer)
        self._processes = processes

    def until(
        self, condition: Callable[[], Any], timeout_s: float, sentence: Callable[[], str]
    ) -> None:
        """Spin until the condition holds; raises DemoError with the sentence after a while."""
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                raise DemoError(f'waited {timeout_s:.0f} s in vain: {sentence()}')
            self._spin_once()

    def during(self, seconds: float) -> None:
        """Spin for a time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._spin_once()

    def _spin_once(self) -> None:
        self._executor.spin_once(timeout_sec=0.05)
        self._processes.check()


def show(
    observer: 'Observer', source: ImageSource, files: Sequence[Path], console: Console
) -> None:
    """Print what was measured, and where pictures are."""
    sent = round(observer.number('camera', 'processed'))
    received = round(observer.number('extractor', 'received'))
    dropped = round(sum(observer.number(node, 'dropped') for node in ('extractor', 'matcher')))
    table = Table(title=f'kpfeat on {source.name}, {source.rate_hz:g} Hz', title_justify='left')
    table.add_column('measured over DDS')
    table.add_column('', justify='right')
    for name, value in observer.report.rows(sent, received, dropped):
        table.add_row(name, value)
    for node, stage in (('extractor', 'extract'), ('matcher', 'match')):
        milliseconds = observer.number(node, f'{stage}_ms')
        table.add_row(f'{stage} alone, in the {node} node', f'median {milliseconds:.0f} ms')
    failed = round(observer.number('extractor', 'failed') + observer.number('camera', 'failed'))
    if failed:
        table.add_row('images that could not be used', f'{failed}')
    console.print(table)
    for file in files:
        console.print(f'wrote {file}', highlight=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the demo; gives the exit code.

    0: done; 1: the nodes failed; 2: a mistake of the user; 130: interrupted.
    """
    try:
        options, source = parse(arguments)
        run_demo(options, source, Console(highlight=False))
    except KeyboardInterrupt:
        print('interrupted; all nodes are stopped', file=sys.stderr)
        return 130
    except (KpfeatError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        failed = isinstance(error, DemoError)
        failed = failed or (isinstance(error, NodeEndedError) and error.code != USER_ERROR)
        return 1 if failed else USER_ERROR
    return 0


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


if __name__ == '__main__':
    from .process import leave

    leave(main)
