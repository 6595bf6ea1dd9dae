"""Node classes by the names that load requests use; free of ROS services and of our own nodes."""

from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
import inspect
from typing import Any

from kpfeat_core.errors import ConfigError
from rclpy.node import Node

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
    for name in (f'{package}::{plugin}', plugin):
        if name in known:
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
        with suppress(Exception):  # what is missing for its end; the error before counts
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
