"""What all nodes share: parameters, statistics on /diagnostics, errors in the log, a clean end."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
import signal
import sys
import traceback
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from kpfeat_core.errors import ConfigError, KpfeatError
import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import (
    HistoryPolicy,
    QoSDurabilityPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CompressedImage, Image

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # ROS 2 Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

from .parameters import NodeParameters
from .stamps import stamp_ns
from .stats import Report, Statistics

DIAGNOSTICS_PERIOD_S = 1.0
HELP = """

All arguments are ROS arguments, after --ros-args:
  -p NAME:=VALUE      set a parameter; config/kpfeat.yaml describes them all
  -r FROM:=TO         rename a topic, such as image:=/camera/image_raw
  --params-file FILE  read parameters from a file"""
RELIABLE = QoSProfile(
    depth=5, history=HistoryPolicy.KEEP_LAST, reliability=QoSReliabilityPolicy.RELIABLE
)


def sensor_qos(depth: int = 1) -> QoSProfile:
    """Return what receives from every publisher: best effort, volatile, the newest only."""
    return QoSProfile(
        depth=depth,
        history=HistoryPolicy.KEEP_LAST,
        reliability=QoSReliabilityPolicy.BEST_EFFORT,
        durability=QoSDurabilityPolicy.VOLATILE,
    )


class KpfeatNode(Node):
    """
    Base of the nodes.

    `configure` declares parameters and loads, `activate` connects to topics and starts work,
    `deactivate` and `cleanup` undo them, each safe to call twice. A subclass extends all four.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self.statistics = Statistics()
        self.parameters = NodeParameters(self)
        self.input_topic = ''  # what this node's work starts with
        self._endpoints: dict[Any, Callable[[Any], bool]] = {}
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', RELIABLE)
        self._timer = self.create_timer(DIAGNOSTICS_PERIOD_S, self._publish_diagnostics)

    def start(self) -> None:
        """Configure and activate; where that fails, free everything and raise the error."""
        try:
            self.configure()
            self.activate()
        except BaseException:
            self.destroy_node()
            raise

    def configure(self) -> None:
        """Declare parameters and load what is needed; raises KpfeatError."""

    def activate(self) -> None:
        """Connect to topics and start working."""

    def deactivate(self) -> None:
        """Stop working and disconnect from topics."""
        for endpoint in list(self._endpoints):
            self.disconnect(endpoint)

    def cleanup(self) -> None:
        """Free what configure loaded; declared parameters stay."""
        self.parameters.forget()

    def destroy_node(self) -> None:
        """Stop, free and destroy."""
        self.deactivate()
        self.cleanup()
        super().destroy_node()

    def publish_on(self, kind: type, topic: str) -> Any:
        """Create a reliable publisher, with QoS overrides, that deactivate destroys."""
        publisher = self.create_publisher(
            kind,
            topic,
            RELIABLE,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self._endpoints[publisher] = self.destroy_publisher
        return publisher

    def listen_to(
        self, kind: type, topic: str, callback: Callable[[Any], None], qos: QoSProfile = RELIABLE
    ) -> Any:
        """Create a subscription, with QoS overrides, that deactivate destroys."""
        overrides = QoSOverridingOptions.with_default_policies()
        events = {'event_callbacks': SubscriptionEventCallbacks(message_lost=self._note_lost)}
        create = partial(self.create_subscription, kind, topic, callback, qos)
        try:
            subscription = create(qos_overriding_options=overrides, **events)
        except UnsupportedEventTypeError:  # this middleware does not tell what it loses
            subscription = create(qos_overriding_options=overrides)
        self._endpoints[subscription] = self.destroy_subscription
        return subscription

    def listen_to_images(
        self, transport: str, callback: Callable[[Any], None], depth: int = 1
    ) -> Any:
        """Subscribe to 'image', remapped or not, or to the compressed topic below it."""
        self.input_topic = self.resolve_topic_name('image')
        kind = Image
        if transport == 'compressed':
            self.input_topic, kind = f'{self.input_topic}/compressed', CompressedImage
        return self.listen_to(kind, self.input_topic, callback, sensor_qos(depth))

    def offer(self, kind: Any, name: str, callback: Callable[[Any, Any], Any]) -> None:
        """Create a service that deactivate destroys."""
        self._endpoints[self.create_service(kind, name, callback)] = self.destroy_service

    def poll(self, period_s: float, callback: Callable[[], None]) -> None:
        """Call back regularly until deactivate."""
        self._endpoints[self.create_timer(period_s, callback)] = self.destroy_timer

    def disconnect(self, endpoint: Any) -> None:
        """Destroy one publisher, subscription, service or timer made by the methods above."""
        self._endpoints.pop(endpoint)(endpoint)

    def _note_lost(self, event: Any) -> None:
        self.statistics.count('lost', event.total_count_change)

    def on_error(self, kind: str, error: Exception, first: bool) -> None:
        """Log the first failure of each kind; all of them are counted in diagnostics."""
        if not first or not self.context.ok():  # interrupted: nothing can be published any more
            return
        what = str(error)
        if not isinstance(error, KpfeatError):  # ours, not the user's: say where
            what = ''.join(traceback.format_exception(type(error), error, error.__traceback__))
        self.get_logger().error(f'{kind}: {what} (further ones are only counted: /diagnostics)')

    def note_age(self, header: Any) -> None:
        """Note the time from the stamp of an image until now, where its clock is this node's."""
        age_ns = self.get_clock().now().nanoseconds - stamp_ns(header)
        if 0 <= age_ns < 60_000_000_000:
            self.statistics.add_duration('stamp_to_publish', 1e-9 * age_ns)

    def settings(self) -> dict[str, str]:
        """Return what diagnostics say besides statistics, such as the model."""
        return {}

    def _publish_diagnostics(self) -> None:
        report = self.statistics.report()
        level, sentence = judge(report, self.input_topic)
        status = DiagnosticStatus(
            level=level,
            name=f'kpfeat: {self.get_fully_qualified_name()}',
            message=sentence,
            values=[
                KeyValue(key=key, value=value)
                for key, value in [*self.settings().items(), *report.values()]
            ],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def judge(report: Report, topic: str) -> tuple[bytes, str]:
    """Return level and sentence of a node's diagnostics."""
    if report.failures:
        kinds = ', '.join(f'{count} {kind}' for kind, count in report.failures.items())
        return DiagnosticStatus.WARN, f'failed since the last report: {kinds}'
    if not report.totals['received']:
        return (
            DiagnosticStatus.WARN,
            f"nothing received on '{topic}' yet: compare with `ros2 topic info -v {topic}`",
        )
    if not report.rates['received']:
        return DiagnosticStatus.WARN, f"nothing received on '{topic}' since the last report"
    if report.rates.get('unpaired') and not report.rates['processed']:
        return (
            DiagnosticStatus.WARN,
            f"no image on '{topic}' has the stamp of the features or matches: listen to the same "
            'topic as the extractor, raise buffer_size, or set the reference again',
        )
    if report.rates.get('lost'):
        return (
            DiagnosticStatus.WARN,
            f'{report.rates["lost"]:.1f} messages a second were lost on their way here: with Fast '
            'DDS and large images, use config/fastdds_large_images.xml',
        )
    if report.rates.get('idle'):
        return DiagnosticStatus.OK, 'idle: nobody listens to the results'
    return DiagnosticStatus.OK, f'{report.rates["processed"]:.1f} Hz'


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
        return _spin(makers)


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
        if not isinstance(error, (KpfeatError, ParameterException)):
            raise
        print(f'error: {error}', file=sys.stderr)
        return 2
    finally:
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
