"""
Which nodes are started for which options, and processes that start and stop together.

Free of ROS, and quick to import: the launch file does.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
import importlib
import os
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import Any

from kpfeat_core.config import describe
from kpfeat_core.errors import ConfigError, KpfeatError

from .options import CHOSEN, LaunchOptions, split_names

# Ctrl-C, `kill`, and a terminal or ssh connection that is closed
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOP_TIMEOUT_S = 10.0  # on a busy machine a node may take more than five
USER_ERROR = 2  # the exit code of a node if the user asked for the impossible


@contextmanager
def interrupted_later() -> Iterator[None]:
    """
    Let signals that end a program wait: one inside Popen would lose the process it started.

    A process started meanwhile gets SIGINT even where this one ignores it, as the background
    jobs of a shell do: SIGINT is the signal that asks it to stop.
    """
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in ENDING}
    held = {
        number: handler
        for number, handler in before.items()
        if callable(handler) or (number, handler) == (signal.SIGINT, signal.SIG_IGN)
    }
    for number in held:
        signal.signal(number, lambda got, _: came.append(got))
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def start_process(command: Sequence[str], **streams: Any) -> subprocess.Popen:
    """
    Start a command from the main thread, in a session of its own.

    Ctrl-C reaches it once, from this program and not from the terminal, and in order.
    """
    with interrupted_later():
        return subprocess.Popen(command, start_new_session=True, **streams)


def run_processes(commands: Sequence[Sequence[str]]) -> int:
    """
    Run commands until a signal of ENDING, or until one of them ends; then stop the others.

    Gives 0 if all ended well, else the code of the one that ended first.
    """
    asked: list[int] = []  # signals that came; a second one must not cut the stopping short
    heeded = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]  # nohup
    before = {number: signal.signal(number, lambda got, _: asked.append(got)) for number in heeded}
    processes = [start_process(command) for command in commands]
    while not asked and all(process.poll() is None for process in processes):
        time.sleep(0.05)
    first = next((code for code in (p.poll() for p in processes) if code is not None), 0)
    codes = stop_processes(processes)
    for number, handler in before.items():
        signal.signal(number, handler)
    return first or next((code for code in codes if code), 0)


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


class NodeEndedError(KpfeatError):
    """A node process that ended although nobody stopped it; `code` is its exit code."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


class ProcessGroup:
    """Processes of nodes, each with a log; a context manager that stops those that run."""

    def __init__(self, log_folder: Path) -> None:
        self._folder = log_folder
        self._running: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> 'ProcessGroup':
        return self

    def __exit__(self, *error: object) -> None:
        stop_processes(list(self._running.values()))

    def start(self, plan: 'NodePlan') -> None:
        """Start the process of a node; from the main thread."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with self.log(plan.name).open('wb') as log, interrupted_later():  # until it is known
            self._running[plan.name] = start_process(
                plan.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def log(self, name: str) -> Path:
        """Return the file with all that a node wrote."""
        return self._folder / f'{name}.log'

    def check(self) -> None:
        """Raise NodeEndedError, with its last line, if a process has ended by itself."""
        for name, process in self._running.items():
            code = process.poll()
            if code is None:
                continue
            said = last_line(self.log(name))
            if code == USER_ERROR and said.startswith('error: '):
                raise NodeEndedError(f'the {name} node says: {said.removeprefix("error: ")}', code)
            how = f'was killed by signal {-code}' if code < 0 else f'ended with code {code}'
            raise NodeEndedError(
                f"the {name} node {how}; its last words: '{said}'; all of them: {self.log(name)}",
                code,
            )


def last_line(log: Path) -> str:
    """Return the last line of a log that is not empty; '' if there is none."""
    lines = log.read_text(errors='replace').splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), '')


@dataclass(frozen=True)
class NodePlan:
    """One node to be started; of what is said twice in its parameter files, the last counts."""

    name: str
    parameters: dict[str, Any]
    remappings: dict[str, str]
    params_files: Sequence[str] = ()
    namespace: str = '/'
    kind: str = ''  # extractor, matcher or overlay, where the name is another

    @property
    def module(self) -> str:
        """Return the Python module, which is also what the executable is called."""
        return f'kpfeat_ros.{self.executable}'

    @property
    def executable(self) -> str:
        """Return the name that `ros2 run kpfeat` knows it by."""
        return f'{self.kind or self.name}_node'

    @property
    def class_name(self) -> str:
        """Return the name of the class in the module."""
        return f'{(self.kind or self.name).capitalize()}Node'

    def ros_arguments(self) -> list[str]:
        """Return the arguments that make a node of this plan."""
        arguments = ['--ros-args', '-r', f'__node:={self.name}', '-r', f'__ns:={self.namespace}']
        for file in self.params_files:
            arguments += ['--params-file', file]
        for name, value in self.parameters.items():
            text = str(value).lower() if isinstance(value, bool) else value
            arguments += ['-p', f'{name}:={text}']
        for name, value in self.remappings.items():
            arguments += ['-r', f'{name}:={value}']
        return arguments

    def command(self, more: Sequence[str] = ()) -> list[str]:
        """Return the command line of a process of its own; more: further ROS arguments."""
        return [sys.executable, '-m', self.module, *self.ros_arguments(), *more]


def plan_nodes(options: LaunchOptions) -> list[NodePlan]:
    """Return the nodes of each camera, and those of each pair of cameras; raises ConfigError."""
    files = find_params_files(options.params_file)
    names = camera_names(options)
    image = {} if options.image == 'image' else {'image': options.image}
    depth = {} if options.depth == 'depth' else {'depth': options.depth}
    extractor, matcher, overlay = (_chosen(options, node) for node in CHOSEN)
    plans = []
    shared = options.one_extractor and options.cameras
    if shared:
        each = {f'{name}/image': f'{name}/{options.image}' for name in names if image}
        cameras = {'cameras': ','.join(names)}
        plans = [NodePlan('extractor', extractor | cameras, each, files, _absolute(options))]
    for name in names:
        namespace = _absolute(options, name)
        if not shared:
            plans.append(NodePlan('extractor', extractor, image, files, namespace))
        plans.append(NodePlan('matcher', matcher, {}, files, namespace))
        plans.append(NodePlan('overlay', overlay, image | depth, files, namespace))
    for first, second in _pairs(options, names):
        plans += _plan_pair(options, first, second, files)
    return plans


def _chosen(options: LaunchOptions, node: str) -> dict[str, Any]:
    return {name: value for name in CHOSEN[node] if (value := getattr(options, name))}


def _plan_pair(
    options: LaunchOptions, first: str, second: str, files: Sequence[str]
) -> list[NodePlan]:
    """Return matcher and overlay of two cameras, in a namespace of their own."""
    namespace = _absolute(options, f'{first}_{second}')
    side0, side1 = _absolute(options, first), _absolute(options, second)
    features = {'features0': f'{side0}/features', 'features1': f'{side1}/features'}
    images = {'image': f'{side0}/{options.image}', 'image1': f'{side1}/{options.image}'}
    matcher = {'mode': 'stereo'} | _chosen(options, 'matcher')
    overlay = {'stereo': True} | _chosen(options, 'overlay')
    return [
        NodePlan('stereo_matcher', matcher, features, files, namespace, 'matcher'),
        NodePlan('stereo_overlay', overlay, images, files, namespace, 'overlay'),
    ]


def _absolute(options: LaunchOptions, name: str = '') -> str:
    return f'/{_join(options.namespace, name)}'


def _join(*names: str) -> str:
    """Put one namespace into another; any may be empty."""
    return '/'.join(part for part in (name.strip('/') for name in names) if part)


def camera_names(options: LaunchOptions) -> list[str]:
    """Return the names of the cameras, one empty name for a single one; raises ConfigError."""
    names = split_names('cameras', options.cameras)
    for name, topic in (('image', options.image), ('depth', options.depth)):
        if options.cameras and topic.startswith('/'):
            last = topic.rpartition('/')[2]
            raise ConfigError(
                f"{name} is '{topic}' for all of {options.cameras}: give it without the / at the "
                f'start, such as {last} for /{names[0]}/{last}'
            )
    return names


def _pairs(options: LaunchOptions, names: Sequence[str]) -> list[tuple[str, str]]:
    pairs = [
        tuple(pair.strip() for pair in text.split('-'))
        for text in options.pairs.split(',')
        if options.pairs
    ]
    for pair in pairs:
        two = len(pair) == 2 and pair[0] != pair[1] and set(pair) <= set(names)
        if not two or pairs.count(pair) > 1:
            raise ConfigError(
                f"pairs is '{options.pairs}', expected two of the cameras in each, once, such "
                f"as left-right,left-rear; cameras is '{options.cameras}'"
            )
    return pairs


def find_params_files(given: str = '') -> tuple[str, ...]:
    """
    Return the parameter file of the installed package or of the source tree, then the given one.

    Raises ConfigError.
    """
    if given and not Path(given).is_file():
        raise ConfigError(f"there is no parameter file '{given}'")
    return tuple(file for file in (find_config('kpfeat.yaml'), given) if file)


def find_config(name: str) -> str:
    """Return a file of config/, installed or in the source tree; empty where there is none."""
    folders = [Path(prefix, 'share/kpfeat') for prefix in _prefixes()]
    folders.append(Path(__file__).resolve().parents[1])
    files = [folder / 'config' / name for folder in folders]
    return next((str(file) for file in files if file.is_file()), '')


def _prefixes() -> list[str]:
    return [path for path in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if path]


def composed_arguments(options: LaunchOptions) -> list[str]:
    """Return the arguments of `ros2 run kpfeat bringup` that run all nodes in one process."""
    given = [
        f'--{name.replace("_", "-")}' + ('' if value is True else f'={value}')
        for name, value in _changed(options).items()
    ]
    return ['--composed', *given]


def _changed(options: LaunchOptions) -> dict[str, Any]:
    values = vars(options).items()
    usual = vars(LaunchOptions())
    return {k: value for k, value in values if k != 'composed' and value != usual[k]}


def options_from_texts(texts: dict[str, str], around: str = '') -> LaunchOptions:
    """
    Make options from launch arguments, which are all texts; raises ConfigError.

    around: the namespace that all of it is in.
    """
    values: dict[str, Any] = {**texts, 'namespace': _join(around, texts.get('namespace', ''))}
    for field in fields(LaunchOptions):
        if isinstance(field.default, bool) and field.name in texts:
            text = texts[field.name].lower()
            if text not in ('true', 'false', '1', '0'):
                raise ConfigError(f"{field.name} is '{text}', expected true or false")
            values[field.name] = text in ('true', '1')
    return LaunchOptions(**values)


def launch_arguments() -> list[tuple[str, str, str]]:
    """Return name, default as text and description of each launch argument."""
    return [
        (option.name, str(option.default).lower(), option.help)
        for option in map(describe, fields(LaunchOptions))
    ]


def add_flags(parser: argparse.ArgumentParser, cls: type, **renamed: str) -> None:
    """Give a parser a flag for each option of a dataclass; renamed: of options, their flags."""
    for option in map(describe, fields(cls)):
        flag = renamed.get(option.name, f'--{option.name.replace("_", "-")}')
        kind: dict[str, Any] = {'type': option.kind, 'metavar': option.name.upper()}
        if option.kind is bool:
            kind = {'action': argparse.BooleanOptionalAction}
        shown = (
            ''
            if option.kind is bool or option.default in ('', -1)
            else f' (default {option.default})'
        )
        parser.add_argument(
            flag, dest=option.name, default=option.default, help=option.help + shown, **kind
        )


def run_composed(plans: Sequence[NodePlan], ros_arguments: Sequence[str] = ()) -> int:
    """Run all nodes in this process until SIGINT; gives the exit code."""
    from .node import run  # needs rclpy

    return run([_maker(plan, ros_arguments) for plan in plans], list(ros_arguments))


def _maker(plan: NodePlan, ros_arguments: Sequence[str]) -> Callable[[], Any]:
    module = importlib.import_module(plan.module)
    cls = getattr(module, plan.class_name)
    # a node's own arguments win over those of its process: what was typed comes last in both
    return lambda: cls(cli_args=[*plan.ros_arguments(), *ros_arguments])


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
    add_flags(parser, LaunchOptions)
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
    from .process import leave

    leave(main)
