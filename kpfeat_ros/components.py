"""Node classes by the names that load requests use; free of ROS services and of our own nodes."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
import inspect
import threading
import traceback
from typing import Any, NamedTuple
import weakref

from kpfeat_core.errors import ConfigError
from rclpy.exceptions import NameValidationException
from rclpy.logging import LoggingSeverity, set_logger_level
from rclpy.node import Node
from rclpy.parameter import Parameter

from .exchange import Exchange, using
from .lifecycle import EXPECTED
from .model import release_memory
from .node import KpfeatNode

GROUP = 'rclpy_components'  # of entry points: 'package::Plugin' = 'module:Class'
OWN = {
    f'kpfeat::{name}Node': f'kpfeat_ros.{name.lower()}_node:{name}Node'
    for name in ('Camera', 'Extractor', 'Matcher', 'Overlay')
}


def find_node_class(package: str, plugin: str) -> type[Node]:
    """
    Import a node class.

    plugin: 'kpfeat::ExtractorNode', the name of an entry point in the group rclpy_components,
    with or without 'package::' before it; or 'module:Class' of any package.

    Raises ConfigError; whatever the module raises when it is imported passes through.
    """
    found = import_class(_path(package, plugin), plugin)
    if not (inspect.isclass(found) and issubclass(found, Node)):
        raise ConfigError(
            f"'{plugin}' is {found!r}, expected a class derived from rclpy.node.Node"
        )
    return found


def import_class(path: str, plugin: str) -> Any:
    """Return what 'module:name' stands for; raises ConfigError."""
    module_name, _, name = path.partition(':')
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f'{module_name}.'.startswith(f'{error.name}.'):
            raise  # the module is there, and lacks another
        raise ConfigError(
            f"there is no Python module '{module_name}' for '{plugin}': install or build its "
            'package, and source the workspace before the container starts'
        ) from error
    if not hasattr(module, name):
        raise ConfigError(f"the Python module '{module_name}' has no class '{name}'")
    return getattr(module, name)


def _path(package: str, plugin: str) -> str:
    if ':' in plugin and '::' not in plugin:
        return plugin
    known = {entry.name: entry.value for entry in entry_points(group=GROUP)} | OWN
    lower = {name.lower(): name for name in sorted(known)}  # as ros2cli shows them
    for name in (f'{package}::{plugin}', plugin):
        name = name if name in known else lower.get(name.lower())
        if name is not None:
            return known[name].partition('[')[0].strip()
    raise ConfigError(
        f"there is no component '{plugin}' in package '{package}'; known are "
        f'{", ".join(sorted(known))}. A Python package names its own in the entry points of the '
        f"group {GROUP}; any other class is 'module:Class'. Components in C++ go into the "
        'container of rclcpp_components'
    )


class _Adopted(Node):
    """Stands between a class whose constructor takes no options, and Node."""

    __options: dict[str, Any] = {}
    __reached = False

    def __init__(self, *args: Any, **options: Any) -> None:
        self.__reached = True
        super().__init__(*args, **{**options, **self.__options})

    @classmethod
    def around(cls, own: type[Node], options: dict[str, Any]) -> type[Node]:
        """Return a class like own, of which Node gets these options."""
        body = {'_Adopted__options': options, '__module__': own.__module__}
        return type(own.__name__, (own, cls), body)

    def check_reached(self) -> None:
        """Raise ConfigError if the constructor went past this class."""
        if not self.__reached:
            raise ConfigError(
                f'the options did not reach {type(self).__name__}, whose constructor takes none: '
                'let it take **options and hand them to Node'
            )


def construct(cls: type[Node], options: dict[str, Any]) -> Node:
    """
    Make a node with the options of rclpy.node.Node, even if its constructor takes none.

    Then they reach Node through the constructor's `super().__init__('name')`. A node that fails
    to start is destroyed. Raises ConfigError where options cannot reach it.
    """
    adopted = not _takes(cls, options)
    if adopted and not _takes(cls, {}):
        raise ConfigError(
            f'the constructor of {cls.__name__} needs arguments that a container does not know: '
            f'let it take **options and hand them to Node'
        )
    cls = _Adopted.around(cls, options) if adopted else cls
    node = cls.__new__(cls)
    try:
        node.__init__(**({} if adopted else options))
        if adopted:
            node.check_reached()
    except BaseException:
        discard(node)
        raise
    return node


def discard(node: Node) -> None:
    """Destroy a node of which perhaps only a part was made."""
    for destroy in (node.destroy_node, partial(Node.destroy_node, node)):
        with suppress(Exception):  # a part that was never made; the error before counts
            destroy()


def default_name(cls: type[Node]) -> str:
    """Return the name that a node has by itself, if its constructor shows it; else ''."""
    parameters = inspect.signature(cls).parameters
    shown = [parameters[key].default for key in ('name', 'node_name') if key in parameters]
    return next((name for name in shown if isinstance(name, str)), '')


def _takes(cls: type[Node], options: dict[str, Any]) -> bool:
    try:
        inspect.signature(cls).bind(**options)
    except TypeError:
        return False
    return True


FLAGS = (  # extra arguments that the container of rclcpp knows
    'enable_logger_service',
    'enable_rosout',
    'enable_topic_statistics',
    'forward_global_arguments',
    'start_parameter_event_publisher',
    'start_parameter_services',
    'use_clock_thread',
    'use_intra_process_comms',
)
OF_NODES = inspect.signature(Node).parameters  # those of this distribution


class LoadResult(NamedTuple):
    """What came of a request to load a node; the name and the id of one that failed are empty."""

    success: bool
    error: str = ''
    full_node_name: str = ''
    unique_id: int = 0


class ComponentManager:
    """
    Loads nodes into the executor of another node, the host, and unloads them.

    `load` may be called from any thread, and keeps it busy as long as it takes; `unload` and
    `close` are to be called from the executor's, so that no callback of the node is at work.
    """

    def __init__(self, host: Node) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._loading = threading.Lock()  # one after the other: names are checked against all
        self._nodes: dict[int, Node] = {}
        self._levels: set[str] = set()  # names of loggers with a level of their own
        self._last_id = 0
        self._closed = False

    def load(
        self,
        package: str,
        plugin: str,
        name: str = '',
        namespace: str = '',
        remap_rules: Sequence[str] = (),
        parameters: Sequence[Parameter] = (),
        log_level: int = 0,
        extra_arguments: Mapping[str, Any] | None = None,
        arguments: Sequence[str] = (),
    ) -> LoadResult:
        """
        Make a node and spin it; whatever goes wrong is said in the answer.

        Empty name and namespace: the node's own. remap_rules: 'from:=to'. log_level: as in
        rcl_interfaces/Log, 0 for the default. arguments: further ROS arguments, which count less
        than all of these.
        """
        own = ['--ros-args', *(word for rule in remap_rules for word in ('-r', rule))]
        own += ['-r', f'__node:={name}'] if name else []
        own += ['-r', f'__ns:={namespace}'] if namespace else []
        options = {
            'cli_args': [*own, *arguments],
            'parameter_overrides': list(parameters),
            'use_global_arguments': False,
        }
        levelled = ''
        with self._loading:
            try:
                place = self._read_flags(plugin, extra_arguments or {}, options)
                level = _severity(log_level)
                # others may rename it: then it is known when it is made
                renamed = any(rule.startswith('__') for rule in remap_rules)
                sure = not (renamed or arguments or options['use_global_arguments'])
                self._check_free(_full_name(name, namespace) if sure else '')
                cls = find_node_class(package, plugin)
                wanted = _full_name(name or default_name(cls), namespace) if sure else ''
                self._check_free(wanted)
                if wanted:  # before the node is made, which may have much to say
                    self._set_level(wanted, level)
                    levelled = wanted
                with place:
                    node = construct(cls, options)
                try:
                    return self._add(node, level)
                except BaseException:
                    discard(node)
                    raise
            except (Exception, SystemExit) as error:  # the node may be anybody's
                sentence = self._explain(error, plugin)
        node = None
        self._forget_level(levelled)
        release_memory()  # that was taken before it failed
        return LoadResult(False, sentence)

    def unload(self, unique_id: int) -> tuple[bool, str]:
        """Destroy a node; gives success, and what is wrong otherwise."""
        with self._lock:
            node = self._nodes.pop(unique_id, None)
        if node is None:
            ids = ', '.join(str(known) for known, _ in self.list()) or 'none'
            return False, f'there is no node with the id {unique_id}; loaded are: {ids}'
        self._destroy(node)
        return True, ''

    def stop_work(self, unique_id: int) -> Callable[[], Node | None]:
        """
        Let a node stop working, so that unloading it takes no time; from any thread.

        Gives a function that returns the node for as long as it is in memory.
        """
        with self._lock:
            node = self._nodes.get(unique_id)
        if node is None:
            return lambda: None
        if isinstance(node, KpfeatNode):
            node.stop_work()
        return weakref.ref(node)

    def list(self) -> list[tuple[int, str]]:
        """Return id and full name of all nodes, in the order in which they were loaded."""
        with self._lock:
            return [(k, node.get_fully_qualified_name()) for k, node in self._nodes.items()]

    def ask_to_stop(self) -> None:
        """Ask our nodes to stop working, so that they stop side by side."""
        with self._lock:
            nodes = list(self._nodes.values())
        for node in nodes:
            if isinstance(node, KpfeatNode):
                node.ask_to_stop()

    def close(self) -> None:
        """Destroy all nodes; one that is being loaded is destroyed as soon as it is there."""
        with self._lock:
            self._closed = True
        self.ask_to_stop()
        for unique_id, _ in reversed(self.list()):
            self.unload(unique_id)

    def _add(self, node: Node, level: LoggingSeverity) -> LoadResult:
        full_name = node.get_fully_qualified_name()
        self._check_free(full_name)
        self._set_level(full_name, level)
        executor = self._host.executor
        with self._lock:
            if self._closed or executor is None:
                raise ConfigError('the container has ended, or does not spin yet')
            self._last_id += 1
            self._nodes[self._last_id] = node
            executor.add_node(node)
            return LoadResult(True, '', full_name, self._last_id)

    def _check_free(self, full_name: str) -> None:
        taken = {known: unique_id for unique_id, known in self.list()}
        if full_name in taken:
            raise ConfigError(
                f"the name '{full_name}' is taken by the node with the id {taken[full_name]} of "
                'this container: choose another name or namespace, or unload that node first'
            )

    def _destroy(self, node: Node) -> None:
        name = node.get_fully_qualified_name()
        executor = self._host.executor
        if executor is not None:
            executor.remove_node(node)
        try:
            node.destroy_node()
        except Exception:  # anybody's: the others go on
            self._log('error', f"'{name}' failed in its end: {traceback.format_exc()}")
            discard(node)
        self._forget_level(name)

    def _read_flags(
        self, plugin: str, given: Mapping[str, Any], options: dict[str, Any]
    ) -> AbstractContextManager:
        """Put extra arguments into options; gives where the node is to be constructed."""
        for name, value in given.items():
            if name not in FLAGS:
                raise ConfigError(
                    f"extra argument '{name}' is not known; expected one of {', '.join(FLAGS)}"
                )
            if not isinstance(value, bool):
                raise ConfigError(f"extra argument '{name}' is {value!r}, expected true or false")
            if name == 'forward_global_arguments':
                options['use_global_arguments'] = value
                self._warn_if(value, f"'{plugin}' follows the arguments of the whole container")
            elif name in OF_NODES:
                options[name] = value
            elif name == 'use_intra_process_comms':
                self._warn_if(
                    value and not plugin.startswith('kpfeat'),
                    f"'{plugin}' has no use for use_intra_process_comms: nodes in Python have "
                    'none, but those of kpfeat hand features to each other in memory',
                )
            else:
                self._warn_if(
                    value, f"nodes in Python have no {name}: it is left out for '{plugin}'"
                )
        apart = given.get('use_intra_process_comms') is False
        return using(Exchange()) if apart else nullcontext()

    def _warn_if(self, condition: bool, sentence: str) -> None:
        if condition:
            self._log('warning', sentence)

    def _log(self, level: str, sentence: str) -> None:
        if self._host.context.ok():
            getattr(self._host.get_logger(), level)(sentence)

    def _explain(self, error: BaseException, plugin: str) -> str:
        """Return a sentence; where an error that is no mistake of use came from is in the log."""
        if isinstance(error, (*EXPECTED, NameValidationException)):
            return ' '.join(str(error).split())
        where = ''.join(traceback.format_exception(error))
        self._log('error', f"'{plugin}' failed to start: {where}")
        return f"'{plugin}' failed to start with {type(error).__name__}: {error}"

    def _set_level(self, full_name: str, level: LoggingSeverity) -> None:
        if level != LoggingSeverity.UNSET:
            set_logger_level(_logger_name(full_name), level)
            self._levels.add(full_name)

    def _forget_level(self, full_name: str) -> None:
        if full_name in self._levels:
            self._levels.discard(full_name)
            set_logger_level(_logger_name(full_name), LoggingSeverity.UNSET)


def _full_name(name: str, namespace: str) -> str:
    return f'/{namespace.strip("/")}/{name}'.replace('//', '/') if name else ''


def _logger_name(full_name: str) -> str:
    return full_name.strip('/').replace('/', '.')


def _severity(level: int) -> LoggingSeverity:
    try:
        return LoggingSeverity(level)
    except ValueError:
        known = ', '.join(f'{one.value} {one.name.lower()}' for one in LoggingSeverity)
        raise ConfigError(f'log level is {level}, expected one of: {known}') from None
