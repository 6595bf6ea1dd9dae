"""
Nodes that a lifecycle manager or `ros2 lifecycle set` steers, or that start by themselves.

The one module that uses members of rclpy which are not public: PRIVATE lists them.
"""

from collections.abc import Callable
import traceback
from typing import Any

from kpfeat_core.errors import ConfigError, KpfeatError
from rclpy.exceptions import ParameterException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node

EXPECTED = (KpfeatError, ParameterException)  # whose text is enough for a user
# For these rclpy has no public way: to refuse a transition without ending the process (before
# Kilted), to read the state and to leave the graph at once, and to read values given at start.
PRIVATE = ('_service_change_state', '_state_machine', '_parameter_overrides')


def private(node: Node, name: str) -> Any:
    """Return a member of PRIVATE; raises ConfigError where this release of rclpy has none."""
    try:
        return getattr(node, name)
    except AttributeError:
        raise ConfigError(
            f'the rclpy of this ROS distribution has no {type(node).__name__}.{name}, which '
            'kpfeat uses; it is tested on Jazzy and Kilted: report it with the name of yours'
        ) from None


def explain(error: Exception) -> str:
    """Return the sentence of an expected error; of any other, which is ours, also its place."""
    return (
        str(error) if isinstance(error, EXPECTED) else ''.join(traceback.format_exception(error))
    )


def answer_to(node: Node, error: Exception) -> str:
    """Return the sentence for a caller; where an error of ours came from is in the log."""
    if isinstance(error, EXPECTED):
        return str(error)
    node.get_logger().error(explain(error))
    return f'{type(error).__name__}: {error}; the log says where'


class ManagedNode(LifecycleNode):
    """
    A managed node: a subclass extends the hooks, and the transitions call them.

    `configure` acquires, `activate` connects and works, `deactivate` undoes activate, `cleanup`
    undoes configure; the last two are safe to call twice. To change the state call
    `trigger_configure` and the like, never the hooks.

    A KpfeatError from configure or activate fails the transition: its sentence is logged, the
    hook is undone and the state stays. Any other error is ours: logged with where, everything
    is freed, and the node is unconfigured.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self.trouble = ''  # why the last transition failed
        self._starting, self._destroyed = False, False
        self._failure: Exception | None = None
        service = private(self, '_service_change_state')
        self._change_state, service.callback = service.callback, self._on_change_state

    @property
    def state(self) -> str:
        """Return the name of the state: unconfigured, inactive, active, finalized or between."""
        return private(self, '_state_machine').current_state[1]

    def start(self) -> None:
        """
        Declare parameters, then configure and activate if the node starts by itself.

        A failure of that is not logged: the node is destroyed and the error raised.
        """
        self._starting = True
        try:
            self.declare()
            if self.starts_itself():
                self._pass(self.trigger_configure)
                self._pass(self.trigger_activate)
            else:
                name = self.get_fully_qualified_name()
                self.get_logger().info(f'waiting for `ros2 lifecycle set {name} configure`')
        except BaseException:
            self.destroy_node()
            raise
        finally:
            self._starting = False

    def starts_itself(self) -> bool:
        """Return whether `start` configures and activates."""
        return True

    def declare(self) -> None:
        """Declare parameters, so that they can be set before configure."""

    def configure(self) -> None:
        """Read parameters and load what is needed."""

    def activate(self) -> None:
        """Connect to topics and start working."""

    def deactivate(self) -> None:
        """Stop working and disconnect from topics."""

    def cleanup(self) -> None:
        """Free what configure acquired; declared parameters stay."""

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Configure; where that fails, free what was acquired so far."""
        return self._attempt(self.configure, undo=self.cleanup)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Activate; where that fails, disconnect what was connected so far."""
        return self._attempt(self.activate, undo=self.deactivate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Deactivate."""
        return self._attempt(self.deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Clean up."""
        return self._attempt(self.cleanup)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Deactivate and clean up, from any state."""
        return self._attempt(self._free)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything, so that the node can be configured again; else it is finalized."""
        try:
            self._free()
        except Exception:
            self.get_logger().error(f'nothing but a restart helps: {traceback.format_exc()}')
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """Deactivate, clean up and destroy; the second time does nothing."""
        if self._destroyed:
            return
        self._destroyed = True
        try:
            self._free()
        finally:
            super().destroy_node()
            # rclpy leaves it to the garbage collector, and the node in the graph until then
            private(self, '_state_machine').destroy_when_not_in_use()

    def _free(self) -> None:
        try:
            self.deactivate()
        finally:
            self.cleanup()

    def _pass(self, trigger: Callable[[], TransitionCallbackReturn]) -> None:
        if trigger() != TransitionCallbackReturn.SUCCESS:
            failure, self._failure = self._failure, None
            raise failure

    def _attempt(
        self, step: Callable[[], None], undo: Callable[[], None] | None = None
    ) -> TransitionCallbackReturn:
        self.trouble = ''
        try:
            step()
            return TransitionCallbackReturn.SUCCESS
        except Exception as error:
            self._note_failure(error)
            expected = isinstance(error, EXPECTED)
        if not expected:
            return TransitionCallbackReturn.ERROR  # on_error frees everything
        if undo:
            undo()
        return TransitionCallbackReturn.FAILURE

    def _note_failure(self, error: Exception) -> None:
        expected = isinstance(error, EXPECTED)
        self.trouble = str(error) if expected else f'{type(error).__name__}: {error}'
        if self._starting:
            self._failure = error
        else:
            self.get_logger().error(explain(error))

    def _on_change_state(self, request: Any, response: Any) -> Any:
        """Refuse a transition that this state does not allow, which raises before Kilted."""
        try:
            return self._change_state(request, response)
        except RuntimeError:  # RCLError
            if not self.context.ok():
                raise
            wanted = request.transition.label or f'transition {request.transition.id}'
            self.get_logger().warning(f'{wanted} is not possible while the node is {self.state}')
            response.success = False
            return response
