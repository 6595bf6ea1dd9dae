"""What all nodes share: parameters, statistics on /diagnostics, errors in the log, a clean end."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
import platform
import signal
import sys
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from kpfeat_core.errors import ConfigError, KpfeatError
from kpfeat_core.messages.definitions import stamp_ns
from kpfeat_core.runtime import timed_stages
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.utilities import remove_ros_args
from std_srvs.srv import Trigger

from .diagnostics import gpu_memory, judge, judge_rest, NodeReport, reason_of, Statistics
from .endpoints import ConnectedNode
from .lifecycle import EXPECTED, explain
from .options import DiagnosticsOptions, LifecycleOptions
from .parameters import NodeParameters
from .process import leave
from .worker import abandoned_work, Stage, Worker

DIAGNOSTICS_PERIOD_S = 1.0
HOST = platform.node() or 'this machine'
NO_REPORT = Statistics().report()
HELP = """

All arguments are ROS arguments, after --ros-args:
  -p NAME:=VALUE      set a parameter; config/kpfeat.yaml describes them all
  -r FROM:=TO         rename a topic, such as image:=/camera/image_raw
  --params-file FILE  read parameters from a file"""


class KpfeatNode(ConnectedNode):
    """
    Base of the nodes: parameters, workers that live while the node is active, and diagnostics.

    A subclass calls `start` at the end of its constructor, and extends the hooks of ManagedNode.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self.parameters = NodeParameters(self)
        self._workers: list[Worker] = []
        self._unknown: list[str] = []  # names given at start that were told of
        self._diagnostics = self._make_publisher(DiagnosticArray, '/diagnostics')
        self.create_timer(DIAGNOSTICS_PERIOD_S, self._publish_diagnostics, clock=self._steady)

    def declare(self) -> None:
        """Declare what all nodes have; a subclass declares its own parameters as well."""
        super().declare()
        self.parameters.declare(LifecycleOptions, fixed=True)
        self.parameters.declare(DiagnosticsOptions)

    def starts_itself(self) -> bool:
        """Return whether `start` configures and activates; raises ConfigError."""
        return self.parameters.read(LifecycleOptions).autostart

    def configure(self) -> None:
        """Read what all nodes have."""
        super().configure()
        self._limits = self.parameters.read(DiagnosticsOptions, self._use_limits)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Configure, and name what was given at start and is no parameter."""
        result = super().on_configure(state)
        unknown = self.parameters.unknown()
        if result == TransitionCallbackReturn.SUCCESS and unknown and unknown != self._unknown:
            self.get_logger().warning(
                f'given, but no parameter of {self.parameters_of()}: {", ".join(unknown)}'
            )
            self._unknown = unknown
        return result

    def parameters_of(self) -> str:
        """Return what the parameters belong to, in words."""
        return 'this node'

    def _use_limits(self, limits: DiagnosticsOptions) -> None:
        self._limits = limits

    def activate(self) -> None:
        """Offer `~/reset_statistics`."""
        super().activate()
        self.advertise_service(Trigger, '~/reset_statistics', self._on_reset)

    def _on_reset(self, _: Any, response: Trigger.Response) -> Trigger.Response:
        self.statistics.reset()
        response.success, response.message = True, 'all counts and times start again'
        return response

    def deactivate(self) -> None:
        """Stop working and disconnect from topics."""
        self.stop_work()
        self._workers.clear()
        super().deactivate()

    def cleanup(self) -> None:
        """Free what was acquired; declared parameters stay."""
        self.parameters.forget()
        super().cleanup()

    def ask_to_stop(self) -> None:
        """Make the items at work the last, and do not wait for them."""
        for worker in self._workers:
            worker.ask_to_stop()

    def stop_work(self) -> None:
        """Wait for the items at work, not long; from any thread."""
        self.ask_to_stop()
        for worker in list(self._workers):
            worker.stop()

    def work_through(self, stages: Sequence[Stage]) -> Worker:
        """Start a worker that stops with deactivate."""
        timed = [stage._replace(call=self._timed(stage.call)) for stage in stages]
        worker = Worker(timed, self.statistics, self.note_error)
        worker.start()
        self._workers.append(worker)
        return worker

    def _timed(self, stage: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def run(item: Any) -> Any:
            with timed_stages(self.statistics.add_duration):
                return stage(item)

        return run

    def note_error(self, kind: str, error: Exception, first: bool) -> None:
        """Log each reason once; all failures are counted in diagnostics, with the last reason."""
        if not first or not self.context.ok():  # interrupted: nothing can be published any more
            return
        self.get_logger().error(
            f'{kind}: {explain(error)} (the same is only counted from now on: /diagnostics)'
        )

    def count_failure(self, kind: str, error: Exception, source: str = '') -> None:
        """Count what failed outside of a worker, and log its reason once."""
        self.note_error(kind, error, self.statistics.fail(kind, source, reason_of(error)))

    def note_age(self, header: Any) -> None:
        """Note the time from the stamp of an image until now, where its clock is this node's."""
        age_ns = self.get_clock().now().nanoseconds - stamp_ns(header)
        if 0 <= age_ns < 60_000_000_000:
            self.statistics.add_duration('stamp_to_publish', 1e-9 * age_ns)

    def settings(self) -> dict[str, str]:
        """Return values for diagnostics of a configured node besides statistics: the model, ..."""
        return {}

    def reported_sources(self) -> Mapping[str, str]:
        """Return the cameras that have a status of their own, each with the name of its topic."""
        return {}

    def _publish_diagnostics(self) -> None:
        self.review()
        report, name = self.statistics.report(), f'kpfeat: {self.get_fully_qualified_name()}'
        found = self.mismatches()
        topic = self.input_topics.get(report.quietest, '')
        values = self._values(report)
        status = [self._status(name, HOST, report, topic, found, self.rests, values)]
        for source, topic in self.reported_sources().items():
            own = report.sources.get(source) or NO_REPORT
            about = [sentence for sentence in found if f"'{topic}'" in sentence]
            rests = self.rests or not own.ages_s
            values = [('state', self.state), *own.values()]
            name_of_source = f'{name}: {source}'
            status.append(self._status(name_of_source, topic, own, topic, about, rests, values))
        message = DiagnosticArray(status=status)
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _status(
        self,
        name: str,
        hardware_id: str,
        report: NodeReport,
        topic: str,
        mismatches: Sequence[str],
        rests: bool,
        values: Sequence[tuple[str, str]],
    ) -> DiagnosticStatus:
        if self.state == 'active':
            level, sentence = judge(report, topic, mismatches, rests, self._limits)
        else:
            level, sentence = judge_rest(self.state, self.get_fully_qualified_name(), self.trouble)
        return DiagnosticStatus(
            level=level,
            name=name,
            message=sentence,
            hardware_id=hardware_id,
            values=[KeyValue(key=key, value=value) for key, value in values],
        )

    def _values(self, report: NodeReport) -> list[tuple[str, str]]:
        settings = self.settings() if self.state in ('inactive', 'active') else {}
        return [('state', self.state), *settings.items(), *report.values(), *gpu_memory()]


def run(
    makers: Sequence[Callable[[], KpfeatNode]], args: list[str] | None = None, about: str = ''
) -> int:
    """
    Run nodes in this process until SIGINT or SIGTERM; gives the exit code.

    args: without the program's name; None takes those of the process. about: the text of --help.
    A mistake of the user, such as an unknown model, is printed as one sentence and gives 2.
    """
    args = sys.argv[1:] if args is None else args
    with _interrupts_end_ros():
        try:
            others = remove_ros_args(args)
            if {'-h', '--help'} & set(others):
                print(about.strip() + HELP)
                return 0
            if others:
                raise ConfigError(f"got '{others[0]}', expected --ros-args before all arguments")
            rclpy.init(args=['kpfeat', *args])
        except (KpfeatError, RuntimeError) as error:  # RCLError: a rule or a file is not right
            print(f'error: {error}', file=sys.stderr)
            return 2
        code = _spin(makers)
    if abandoned_work():
        # C++ code of the network would be torn down under its own thread: leave at once instead
        leave(lambda: code)
    return code


def _spin(makers: Sequence[Callable[[], KpfeatNode]]) -> int:
    nodes: list[KpfeatNode] = []
    try:
        executor = SingleThreadedExecutor()
        for make in makers:
            nodes.append(make())
            executor.add_node(nodes[-1])
        executor.spin()
    except ExternalShutdownException:
        pass
    except Exception as error:
        if not rclpy.ok():  # interrupted while starting: whatever failed, failed because of that
            return 0
        if not isinstance(error, EXPECTED):
            raise
        print(f'error: {error}', file=sys.stderr)
        return 2
    finally:
        for node in nodes:
            node.ask_to_stop()  # all of them first, so that they stop side by side
        for node in nodes:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


@contextmanager
def _interrupts_end_ros() -> Iterator[None]:
    """
    Leave SIGINT to rclpy, which shuts ROS down.

    Python would raise KeyboardInterrupt besides, anywhere: in mid-start or in mid-cleanup.
    """
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
