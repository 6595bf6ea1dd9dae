"""
Start the nodes together: `python -m kpfeat_ros.bringup --model alike-t --image /camera/image_raw`.

All that a launch file decides is decided here, in plain functions; `launch` is not needed. The
defaults of the nodes' parameters are in their dataclasses, and in config/kpfeat.yaml the same.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
import importlib
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import time
from typing import Any

from kpfeat_core.config import option
from kpfeat_core.errors import ConfigError

STOP_TIMEOUT_S = 5.0
CAMERA_NAME = re.compile(r'[A-Za-z][A-Za-z0-9_]*')


@dataclass(frozen=True)
class LaunchOptions:
    """What can be chosen at start; an empty text leaves it to the parameter file."""

    model: str = option('', 'name of the extractor, such as alike-t')
    image: str = option('image', 'topic with the images of the camera')
    cameras: str = option(
        '',
        'names of several cameras, such as left,right: each gets its nodes and topics in a '
        'namespace of its name, where image is looked for too',
    )
    params_file: str = option('', 'parameter file; empty takes the one that kpfeat installs')
    composed: bool = option(False, 'all nodes in one process')
    device: str = option('', 'where the network runs: cpu, cuda, cuda:1 or auto')
    namespace: str = option('', 'namespace of nodes and topics')


@dataclass(frozen=True)
class NodePlan:
    """One node to be started."""

    name: str
    parameters: dict[str, str]
    remappings: dict[str, str]
    params_file: str = ''
    namespace: str = ''

    @property
    def module(self) -> str:
        """Return the Python module, which is also what the executable is called."""
        return f'kpfeat_ros.{self.executable}'

    @property
    def executable(self) -> str:
        """Return the name that `ros2 run kpfeat` knows it by."""
        return f'{self.name}_node'

    def ros_arguments(self) -> list[str]:
        """Return the arguments that make a node of this plan."""
        arguments = ['--ros-args', '-r', f'__node:={self.name}']
        if self.namespace:
            arguments += ['-r', f'__ns:=/{self.namespace.strip("/")}']
        if self.params_file:
            arguments += ['--params-file', self.params_file]
        for name, value in self.parameters.items():
            arguments += ['-p', f'{name}:={value}']
        for name, value in self.remappings.items():
            arguments += ['-r', f'{name}:={value}']
        return arguments

    def command(self, more: Sequence[str] = ()) -> list[str]:
        """Return the command line of a process of its own; more: further ROS arguments."""
        return [sys.executable, '-m', self.module, *self.ros_arguments(), *more]


def plan_nodes(options: LaunchOptions) -> list[NodePlan]:
    """Return extractor, matcher and overlay node of each camera; raises ConfigError."""
    file = find_params_file(options.params_file)
    image = {} if options.image == 'image' else {'image': options.image}
    chosen = {'model': options.model, 'device': options.device}
    given = {name: value for name, value in chosen.items() if value}
    plans = []
    for camera in camera_names(options):
        namespace = '/'.join(part for part in (options.namespace.strip('/'), camera) if part)
        plans += [
            NodePlan('extractor', given, image, file, namespace),
            NodePlan('matcher', {}, {}, file, namespace),
            NodePlan('overlay', {}, image, file, namespace),
        ]
    return plans


def camera_names(options: LaunchOptions) -> list[str]:
    """Return the names of the cameras, one empty name for a single one; raises ConfigError."""
    if not options.cameras:
        return ['']
    names = [name.strip() for name in options.cameras.split(',')]
    for name in names:
        if not CAMERA_NAME.fullmatch(name) or names.count(name) > 1:
            raise ConfigError(
                f"cameras is '{options.cameras}', expected different names between commas, such "
                'as left,right'
            )
    if options.image.startswith('/'):
        raise ConfigError(
            f"image is '{options.image}' for all of {options.cameras}: give it without the / at "
            f'the start, such as image_raw for /{names[0]}/image_raw'
        )
    return names


def find_params_file(given: str = '') -> str:
    """
    Return the given parameter file, or the one of the installed package or of the source tree.

    Empty where there is none: the nodes' own defaults are the same. Raises ConfigError.
    """
    if given:
        if not Path(given).is_file():
            raise ConfigError(f"there is no parameter file '{given}'")
        return given
    return find_config('kpfeat.yaml')


def find_config(name: str) -> str:
    """Return a file of config/, installed or in the source tree; empty where there is none."""
    folders = [Path(prefix, 'share/kpfeat') for prefix in _prefixes()]
    folders.append(Path(__file__).resolve().parents[1])
    files = [folder / 'config' / name for folder in folders]
    return next((str(file) for file in files if file.is_file()), '')


def _prefixes() -> list[str]:
    return [path for path in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if path]


def composed_command(options: LaunchOptions, more: Sequence[str] = ()) -> list[str]:
    """Return the command line of one process with all nodes."""
    given = [f'--{name.replace("_", "-")}={value}' for name, value in _changed(options).items()]
    return [sys.executable, '-m', 'kpfeat_ros.bringup', '--composed', *given, *more]


def _changed(options: LaunchOptions) -> dict[str, Any]:
    values = {f.name: getattr(options, f.name) for f in fields(options) if f.name != 'composed'}
    return {name: value for name, value in values.items() if value != _default(name)}


def _default(name: str) -> Any:
    return next(field.default for field in fields(LaunchOptions) if field.name == name)


def options_from_texts(texts: dict[str, str]) -> LaunchOptions:
    """Make options from launch arguments, which are all texts; raises ConfigError."""
    composed = texts.get('composed', 'false').lower()
    if composed not in ('true', 'false', '1', '0'):
        raise ConfigError(f"composed is '{composed}', expected true or false")
    return LaunchOptions(**{**texts, 'composed': composed in ('true', '1')})


def launch_arguments() -> list[tuple[str, str, str]]:
    """Return name, default as text and description of each launch argument."""
    return [
        (field.name, str(field.default).lower(), field.metadata['help'])
        for field in fields(LaunchOptions)
    ]


def run_composed(plans: Sequence[NodePlan], ros_arguments: Sequence[str] = ()) -> int:
    """Run all nodes in this process until SIGINT; gives the exit code."""
    from .node import run  # needs rclpy

    return run([_maker(plan, ros_arguments) for plan in plans], list(ros_arguments))


def _maker(plan: NodePlan, ros_arguments: Sequence[str]) -> Callable[[], Any]:
    module = importlib.import_module(plan.module)
    cls = getattr(module, f'{plan.name.capitalize()}Node')
    # a node's own arguments win over those of its process: what was typed comes last in both
    return lambda: cls(cli_args=[*plan.ros_arguments(), *ros_arguments])


def run_processes(commands: Sequence[Sequence[str]]) -> int:
    """
    Run commands until SIGINT or SIGTERM, or until one of them ends; then stop the others.

    Gives 0 if all ended well, else the code of the one that ended first.
    """
    before = signal.signal(signal.SIGTERM, _interrupt)
    # each in a session of its own: Ctrl-C reaches them once, from here, not twice
    processes = [subprocess.Popen(command, start_new_session=True) for command in commands]
    first = 0
    try:
        while all(process.poll() is None for process in processes):
            time.sleep(0.05)
        first = next(code for code in (p.poll() for p in processes) if code is not None)
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
        codes = stop_processes(processes)
    return first or next((code for code in codes if code), 0)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def stop_processes(processes: Sequence[subprocess.Popen]) -> list[int]:
    """Interrupt, then kill what has not ended in time; gives the exit codes."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.send_signal(signal.SIGINT)
    for process in running:
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
    return [process.wait() for process in processes]


def parse_arguments(arguments: Sequence[str]) -> tuple[LaunchOptions, list[str]]:
    """Split a command line into our options and what follows --ros-args."""
    own, ros = list(arguments), []
    if '--ros-args' in own:
        start = own.index('--ros-args')
        own, ros = own[:start], own[start:]
    parser = argparse.ArgumentParser(
        prog='python -m kpfeat_ros.bringup',
        description='Start extractor, matcher and overlay node, for each camera.',
        epilog='example: python -m kpfeat_ros.bringup --composed --image /camera/image_raw',
    )
    for field in fields(LaunchOptions):
        flag = f'--{field.name.replace("_", "-")}'
        if isinstance(field.default, bool):
            parser.add_argument(flag, action='store_true', help=field.metadata['help'])
        else:
            parser.add_argument(flag, default=field.default, help=field.metadata['help'])
    return LaunchOptions(**vars(parser.parse_args(own))), ros


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the nodes and wait; gives the exit code."""
    options, ros = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    try:
        plans = plan_nodes(options)
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    if options.composed:
        return run_composed(plans, ros)
    return run_processes([plan.command(ros) for plan in plans])


if __name__ == '__main__':
    sys.exit(main())
