"""
Which nodes are started for which options, and processes that start and stop together.

Free of ROS, and quick to import: the launch file does.
"""

import argparse
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
import importlib
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple, TypeVar

from kpfeat_core.config import describe
from kpfeat_core.errors import ConfigError, KpfeatError

from .options import CHOSEN, LaunchFileOptions, LaunchOptions, split_names

Options = TypeVar('Options')

# Ctrl-C, `kill`, and a terminal or ssh connection that is closed
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOP_TIMEOUT_S = 10.0  # on a busy machine a node may take more than five
# of the matcher of two cameras, which see a scene with depth from two places
PAIR_DEFAULTS = {'geometry': 'fundamental'}
VIEWED = ('image_keypoints', 'image_tracks', 'image_matches', 'keypoint_cloud', 'keypoint_markers')
TRUE, FALSE = ('true', '1'), ('false', '0')
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
    """
    One node to be started.

    defaults: what suits it better than the node's own defaults, and counts less than whatever is
    given; of what is said twice in its parameter files, the last counts; parameters count most.
    """

    name: str
    parameters: dict[str, Any]
    remappings: dict[str, str]
    params_files: Sequence[str] = ()
    namespace: str = '/'
    kind: str = ''  # extractor, matcher or overlay, where the name is another
    defaults: Mapping[str, Any] = field(default_factory=dict)

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

    @property
    def full_name(self) -> str:
        """Return namespace and name."""
        return f'{self.namespace.rstrip("/")}/{self.name}'

    def default_arguments(self) -> list[str]:
        """Return the ROS arguments that are to come before all others."""
        return ['--ros-args', *_rules(self.defaults)] if self.defaults else []

    def ros_arguments(self, more: Sequence[str] = ()) -> list[str]:
        """Return the arguments that make a node of this plan; more: further ones from outside."""
        arguments = [*self._first_arguments(), *more, *(['--ros-args'] if more else [])]
        return [*arguments, *_rules(self.parameters), *self._remapping_arguments()]

    def node_options(self, more: Sequence[str] = ()) -> dict[str, Any]:
        """Return options of rclpy.node.Node for this plan in this process; needs rclpy."""
        from rclpy.parameter import Parameter

        chosen = [Parameter(name, value=value) for name, value in self.parameters.items()]
        arguments = [*self._first_arguments(), *more, *(['--ros-args'] if more else [])]
        # as rules among the arguments they would count less than names of nodes in a file
        return {
            'cli_args': [*arguments, *self._remapping_arguments()],
            'parameter_overrides': chosen,
        }

    def _first_arguments(self) -> list[str]:
        names = ['-r', f'__node:={self.name}', '-r', f'__ns:={self.namespace}']
        files = [word for file in self.params_files for word in ('--params-file', file)]
        return [*self.default_arguments(), '--ros-args', *names, *files]

    def _remapping_arguments(self) -> list[str]:
        return [w for old, new in self.remappings.items() for w in ('-r', f'{old}:={new}')]

    def command(self, more: Sequence[str] = ()) -> list[str]:
        """Return the command line of a process of its own; more: further ROS arguments."""
        return [sys.executable, '-m', self.module, *self.ros_arguments(more)]


def _rules(parameters: Mapping[str, Any]) -> list[str]:
    words = []
    for name, value in parameters.items():
        words += ['-p', f'{name}:={_text(value)}']
    return words


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
    """Return the parameters of a node that differ from the usual."""
    usual = vars(LaunchOptions())
    chosen = {k: v for k in CHOSEN[node] if (v := getattr(options, k)) != usual[k]}
    if 'max_num_keypoints' in chosen:
        chosen['max_num_keypoints'] = _whole(options.max_num_keypoints, 'max_num_keypoints')
    return chosen


def _whole(text: str, name: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{name} is '{text}', expected a whole number") from None


def _plan_pair(
    options: LaunchOptions, first: str, second: str, files: Sequence[str]
) -> list[NodePlan]:
    """Return matcher and overlay of two cameras, in a namespace of their own."""
    namespace = _absolute(options, f'{first}_{second}')
    side0, side1 = _absolute(options, first), _absolute(options, second)
    features = {'features0': f'{side0}/features', 'features1': f'{side1}/features'}
    images = {'image': f'{side0}/{options.image}', 'image1': f'{side1}/{options.image}'}
    matcher = _chosen(options, 'matcher') | {'mode': 'stereo'}
    overlay = {'stereo': True} | _chosen(options, 'overlay')
    return [
        NodePlan('stereo_matcher', matcher, features, files, namespace, 'matcher', PAIR_DEFAULTS),
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
    Return the parameter file that is given, if one is; raises ConfigError.

    The nodes' defaults are in no file: what stands in one counts more than the parameters that a
    launch file sets for all nodes in it.
    """
    if given and not Path(given).is_file():
        raise ConfigError(f"there is no parameter file '{given}'")
    return (given,) if given else ()


def parameters_in(file: str, full_name: str) -> dict[str, Any]:
    """
    Return the parameters of a node in a parameter file, as a process of its own reads them.

    Names of nodes may hold * for one part and ** for any number; of what is said twice, the last
    counts. Raises ConfigError.
    """
    import yaml  # comes with launch

    try:
        content = yaml.safe_load(Path(file).read_text(encoding='utf-8')) or {}
        found: dict[str, Any] = {}
        for pattern, group in content.items():
            own = group['ros__parameters'] or {}
            parts = (re.escape(part) for part in f'/{pattern.strip("/")}'.split('/')[1:])
            kinds = {r'\*': r'/\w+', r'\*\*': r'(/\w+)*'}
            if re.fullmatch(''.join(kinds.get(part, f'/{part}') for part in parts), full_name):
                found |= _flat(own)
    except (AttributeError, KeyError, OSError, TypeError, UnicodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"'{file}' is no parameter file, expected node names with ros__parameters below them: "
            f'{type(error).__name__}: {error}'
        ) from error
    return found


def _flat(values: Mapping[str, Any], before: str = '') -> dict[str, Any]:
    """Return nested parameters by names with dots."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= (
            _flat(value, f'{before}{name}.')
            if isinstance(value, Mapping)
            else {before + name: value}
        )
    return flat


def find_config(name: str, folder: str = 'config') -> str:
    """Return a file of ours, installed or in the source tree; empty where there is none."""
    places = [Path(prefix, 'share/kpfeat') for prefix in _prefixes()]
    places.append(Path(__file__).resolve().parents[1])
    files = [place / folder / name for place in places]
    return next((str(file) for file in files if file.is_file()), '')


def _prefixes() -> list[str]:
    return [path for path in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if path]


def composed_arguments(options: LaunchOptions) -> list[str]:
    """Return the arguments of `ros2 run kpfeat bringup` that run all nodes in one process."""
    given = []
    for name, value in _changed(options).items():
        flag = name.replace('_', '-')
        flag = f'no-{flag}' if value is False else flag
        given.append(f'--{flag}' if isinstance(value, bool) else f'--{flag}={value}')
    return ['--composed', *given]


def composed_parts(options: LaunchOptions) -> tuple[list[str], list[str]]:
    """Return parameter files, and the arguments of `ros2 run kpfeat bringup` beside them."""
    files = list(find_params_files(options.params_file))
    return files, composed_arguments(replace(options, params_file=''))


def parameters_of(plan: NodePlan, known: Collection[str] = ()) -> dict[str, Any]:
    """
    Return all parameters of a node that a container loads; raises ConfigError.

    known: names of those that are set for all nodes, which count more than the plan's defaults.
    """
    found = {name: value for name, value in plan.defaults.items() if name not in known}
    for file in plan.params_files:
        found |= parameters_in(file, plan.full_name)
    return found | plan.parameters


def viewer(options: LaunchOptions) -> tuple[str, list[tuple[str, str]]]:
    """Return the layout for rviz2, and the remappings to the topics of the first camera."""
    first = _absolute(options, camera_names(options)[0])
    topics = [(f'/{topic}', f'{first}/{topic}') for topic in VIEWED if first != '/']
    return find_config('kpfeat.rviz', 'rviz'), topics


def _changed(options: LaunchOptions) -> dict[str, Any]:
    values = vars(options).items()
    usual = vars(LaunchOptions())
    return {k: value for k, value in values if k != 'composed' and value != usual[k]}


def options_from_texts(texts: Mapping[str, str], around: str = '') -> LaunchOptions:
    """
    Make options from launch arguments, which are all texts; raises ConfigError.

    around: the namespace that all of it is in.
    """
    namespace = _join(around, texts.get('namespace', ''))
    return _from_texts(LaunchOptions, {**texts, 'namespace': namespace})


def file_options_from_texts(texts: Mapping[str, str]) -> LaunchFileOptions:
    """Make the options of the launch file alone; raises ConfigError."""
    options = _from_texts(LaunchFileOptions, texts)
    if options.container and texts.get('composed', '').lower() in TRUE:
        raise ConfigError(
            'both composed and container are given: composed starts a process for all nodes, '
            'container loads them into one that runs; leave one of them out'
        )
    return options


def _from_texts(cls: type[Options], texts: Mapping[str, str]) -> Options:
    values: dict[str, Any] = {}
    for option in map(describe, fields(cls)):
        if option.name in texts:
            values[option.name] = text = texts[option.name]
            if option.kind is bool:
                if text.lower() not in (*TRUE, *FALSE):
                    raise ConfigError(f"{option.name} is '{text}', expected true or false")
                values[option.name] = text.lower() in TRUE
    return cls(**values)


class LaunchArgument(NamedTuple):
    """An argument of the launch file; choices: () for any text."""

    name: str
    default: str
    help: str
    choices: tuple[str, ...] = ()


def launch_arguments() -> list[LaunchArgument]:
    """Return the arguments of the launch file."""
    return [
        LaunchArgument(option.name, _text(option.default), option.help, option.choices)
        for option in map(describe, [*fields(LaunchOptions), *fields(LaunchFileOptions)])
    ]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def add_flags(parser: argparse.ArgumentParser, cls: type, **renamed: str) -> None:
    """Give a parser a flag for each option of a dataclass; renamed: of options, their flags."""
    for option in map(describe, fields(cls)):
        flag = renamed.get(option.name, f'--{option.name.replace("_", "-")}')
        kind: dict[str, Any] = {'type': option.kind, 'metavar': option.name.upper()}
        if option.choices:
            kind = {'choices': option.choices, 'metavar': option.name.upper()}
        if option.kind is bool:
            kind = {'action': argparse.BooleanOptionalAction}
        choices = ', '.join(filter(None, option.choices))
        words = f'{option.help} ({choices})' if choices else option.help
        shown = (
            ''
            if option.kind is bool or option.default in ('', -1)
            else f' (default {option.default})'
        )
        parser.add_argument(
            flag, dest=option.name, default=option.default, help=words + shown, **kind
        )


def run_composed(plans: Sequence[NodePlan], ros_arguments: Sequence[str] = ()) -> int:
    """Run all nodes in this process until SIGINT; gives the exit code."""
    from .node import run  # needs rclpy

    return run([_maker(plan, ros_arguments) for plan in plans], list(ros_arguments))


def _maker(plan: NodePlan, ros_arguments: Sequence[str]) -> Callable[[], Any]:
    module = importlib.import_module(plan.module)
    cls = getattr(module, plan.class_name)
    # a node's own arguments win over those of its process, so that these come again
    return lambda: cls(**plan.node_options(ros_arguments))


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
