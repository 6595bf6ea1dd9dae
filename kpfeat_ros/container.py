"""
A process for several nodes in Python: `ros2 run kpfeat component_container [NODE ...]`.

`ros2 component` and launch files load nodes into it and unload them, as with the containers of
rclcpp_components. A NODE, on the command line or in the parameter `components`, is there from
the start: `[NAME=]kpfeat::ExtractorNode`, or `[NAME=]module:Class` of any package. These follow
the remappings and parameter files of the command line.
"""

from collections.abc import Sequence
from functools import partial
import sys
from typing import Any

from kpfeat_core.errors import ConfigError
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.parameter import Parameter

from .components import ComponentManager, LoadResult
from .model import release_memory
from .node import run
from .worker import Requests

try:
    from composition_interfaces.srv import ListNodes, LoadNode, UnloadNode
except ImportError:  # a small installation of ROS
    LoadNode = None

WAKE_S = 1.0
STOP_TIMEOUT_S = 1.0  # a node that takes longer to load is not waited for
NO_SERVICES = (
    'nodes cannot be loaded and unloaded while the container runs: for that it needs the package '
    'composition_interfaces (apt-get install ros-$ROS_DISTRO-composition-interfaces)'
)


class ComponentContainer(Node):
    """
    Hosts nodes; the services have the names that launch_ros and `ros2 component` expect.

    Nodes are loaded in a thread of their own, one after the other, so that the executor and with
    it the nodes that run already never wait. They are destroyed in the executor's thread.
    """

    def __init__(
        self, components: Sequence[str] = (), arguments: Sequence[str] = (), **options: Any
    ) -> None:
        """Take nodes to start with, and the ROS arguments that they follow."""
        super().__init__('ComponentManager', **options)
        self.manager = ComponentManager(self)
        self._loading = Requests(self, lambda call: call())
        self._arguments = without_names(arguments)
        about = 'nodes to start with, each [NAME=]PLUGIN, such as kpfeat::ExtractorNode'
        descriptor = ParameterDescriptor(description=about, read_only=True)
        named = self.declare_parameter('components', [''], descriptor).value
        self._components = [*components, *filter(None, named)]
        # several at a time: nodes are listed while another is loaded
        self._group = ReentrantCallbackGroup()
        self._offer_services()
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._first = self.create_timer(
            0.0, self._load_first, callback_group=self._group, clock=clock
        )
        # On an interrupt rclpy wakes the executor and then ends ROS. An executor that falls asleep
        # in between would sleep for good, were it not woken again.
        self.create_timer(WAKE_S, lambda: None, clock=clock)

    def _offer_services(self) -> None:
        if LoadNode is None:
            if not self._components:
                self.destroy_node()
                raise ConfigError(f'no node is given to start with, and {NO_SERVICES}')
            self.get_logger().warning(NO_SERVICES)
            return
        for kind, name, callback in (
            (LoadNode, 'load_node', self.on_load),
            (UnloadNode, 'unload_node', self.on_unload),
            (ListNodes, 'list_nodes', self.on_list),
        ):
            self.create_service(kind, f'~/_container/{name}', callback, callback_group=self._group)

    async def on_load(self, request: Any, response: Any) -> Any:
        """Load a node, off the executor's thread."""
        loaded = await self._loading.answer(
            partial(
                self.manager.load,
                request.package_name,
                request.plugin_name,
                name=request.node_name,
                namespace=request.node_namespace,
                remap_rules=request.remap_rules,
                parameters=[Parameter.from_parameter_msg(given) for given in request.parameters],
                log_level=request.log_level,
                extra_arguments={
                    given.name: Parameter.from_parameter_msg(given).value
                    for given in request.extra_arguments
                },
            )
        )
        self._note(loaded)
        response.success, response.error_message = loaded.success, loaded.error
        response.full_node_name, response.unique_id = loaded.full_node_name, loaded.unique_id
        return response

    async def on_unload(self, request: Any, response: Any) -> Any:
        """Destroy a node, once what it works on is done."""
        there = await self._loading.answer(partial(self.manager.stop_work, request.unique_id))
        response.success, response.error_message = self.manager.unload(request.unique_id)
        if response.success:
            self.get_logger().info(f'unloaded node {request.unique_id}')
            self.executor.create_task(self._loading.answer, partial(release_memory, there))
        else:
            self.get_logger().warning(response.error_message)
        return response

    def on_list(self, _: Any, response: Any) -> Any:
        """List nodes."""
        for unique_id, name in self.manager.list():
            response.unique_ids.append(unique_id)
            response.full_node_names.append(name)
        return response

    async def _load_first(self) -> None:
        """Load what was there from the start; raises ConfigError, which ends the container."""
        self.destroy_timer(self._first)
        for component in self._components:
            name, _, plugin = component.rpartition('=')
            load = partial(self.manager.load, package_of(plugin), plugin, name)
            loaded = await self._loading.answer(partial(load, arguments=self._arguments))
            if not loaded.success:
                raise ConfigError(loaded.error)
            self._note(loaded)

    def _note(self, loaded: LoadResult) -> None:
        if loaded.success:
            what = f"loaded '{loaded.full_node_name}' as node {loaded.unique_id}"
            self.get_logger().info(what)
        else:
            self.get_logger().error(loaded.error)

    def ask_to_stop(self) -> None:
        """Ask all nodes to stop, so that they stop side by side."""
        self.manager.ask_to_stop()

    def destroy_node(self) -> None:
        """Destroy all nodes, then this one."""
        self.manager.close()
        self._loading.close(timeout_s=STOP_TIMEOUT_S)
        super().destroy_node()


def package_of(plugin: str) -> str:
    """Return the package that a plugin's name begins with."""
    return plugin.partition('::')[0] if '::' in plugin else plugin.partition('.')[0]


def without_names(arguments: Sequence[str]) -> list[str]:
    """Leave out what would give all nodes the name of the container."""
    kept: list[str] = []
    for word in arguments:
        if word.startswith(('__node:=', '__name:=')):
            kept.pop()  # -r or --remap
        else:
            kept.append(word)
    return kept


def main(args: list[str] | None = None) -> int:
    """Run the container until it is interrupted; gives the exit code."""
    args = sys.argv[1:] if args is None else args
    start = args.index('--ros-args') if '--ros-args' in args else len(args)
    components, ros = args[:start], args[start:]
    flags = [word for word in components if word.startswith('-')]
    if flags:  # --help, or one that there is not
        return run([], flags, __doc__)
    return run([partial(ComponentContainer, components, ros)], ros, __doc__)


if __name__ == '__main__':
    from .process import leave

    leave(main)
