"""Nodes that a lifecycle manager or `ros2 lifecycle set` steers, or that start by themselves."""

from collections.abc import Callable
import traceback
from typing import Any

from kpfeat_core.errors import KpfeatError
from rclpy.exceptions import ParameterException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn


class ManagedNode(LifecycleNode):
    """
    A managed node: what a subclass does goes into hooks, and the transitions call them.

    `load` (configure) acquires, `begin` (activate) connects and works, `end` (deactivate) undoes
    begin, `unload` (cleanup) undoes load; end and unload are safe to call twice. To change the
    state call `trigger_configure` and the like, never the hooks.

    A KpfeatError from load or begin fails the transition: its sentence is logged, what was done
    is undone and the state stays. Any other error is ours: logged with where, everything is
    freed, and the node is unconfigured.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self.trouble = ''  # why the last transition failed
        self._starting, self._destroyed = False, False
        self._failure: Exception | None = None
        self._change_state = self._service_change_state.callback
        self._service_change_state.callback = self._on_change_state

    @property
    def state(self) -> str:
        """Return the name of the state: unconfigured, inactive, active, finalized or between."""
        return self._state_machine.current_state[1]

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
        """Say whether `start` configures and activates."""
        return True

    def declare(self) -> None:
        """Declare parameters, so that they can be set before configure."""

    def load(self) -> None:
        """Read parameters and load what is needed."""

    def begin(self) -> None:
        """Connect to topics and start working."""

    def end(self) -> None:
        """Stop working and disconnect from topics."""

    def unload(self) -> None:
        """Free what load acquired; declared parameters stay."""

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load; where that fails, free what was loaded so far."""
        return self._attempt(self.load, undo=self.unload)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin; where that fails, disconnect what was connected so far."""
        return self._attempt(self.begin, undo=self.end)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End."""
        return self._attempt(self.end)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unload."""
        return self._attempt(self.unload)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End and unload, from whatever state."""
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
        """End, unload and destroy; the second time does nothing."""
        if self._destroyed:
            return
        self._destroyed = True
        try:
            self._free()
        finally:
            super().destroy_node()
            # rclpy leaves it to the garbage collector, and the node in the graph until then
            self._state_machine.destroy_when_not_in_use()

    def _free(self) -> None:
        try:
            self.end()
        finally:
            self.unload()

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
            expected = isinstance(error, (KpfeatError, ParameterException))
            self._note_failure(error, expected)
        if not expected:
            return TransitionCallbackReturn.ERROR  # on_error frees everything
        if undo:
            undo()
        return TransitionCallbackReturn.FAILURE

    def _note_failure(self, error: Exception, expected: bool) -> None:
        self.trouble = str(error) if expected else f'{type(error).__name__}: {error}'
        if self._starting:
            self._failure = error
        elif expected:
            self.get_logger().error(self.trouble)
        else:
            self.get_logger().error(''.join(traceback.format_exception(error)))

    def _on_change_state(self, request: Any, response: Any) -> Any:
        """Refuse what this state does not allow: in rclpy before Kilted it ends the process."""
        try:
            return self._change_state(request, response)
        except RuntimeError:  # RCLError
            if not self.context.ok():
                raise
            wanted = request.transition.label or f'transition {request.transition.id}'
            self.get_logger().warning(f'{wanted} is not possible while the node is {self.state}')
            response.success = False
            return response
