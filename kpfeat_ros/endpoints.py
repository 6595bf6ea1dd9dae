"""
Topics, services and timers of a node that live while it is active, and their quality of service.

The QoS profiles of the nodes, their overrides, and why two ends of a topic do not meet.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
import inspect
import threading
from typing import Any

from kpfeat.msg import Features
from kpfeat_core.errors import ConfigError, KpfeatError
from kpfeat_core.messages.definitions import stamp_ns
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.qos import (
    HistoryPolicy,
    QoSDurabilityPolicy,
    QoSLivelinessPolicy,
    QoSPolicyKind,
    QoSProfile,
    QoSReliabilityPolicy,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

try:
    from rclpy.event_handler import (
        PublisherEventCallbacks,
        SubscriptionEventCallbacks,
        UnsupportedEventTypeError,
    )
except ImportError:  # ROS 2 Humble
    from rclpy.qos_event import (
        PublisherEventCallbacks,
        SubscriptionEventCallbacks,
        UnsupportedEventTypeError,
    )

from .diagnostics import Statistics
from .exchange import current_exchange, Inbox, KEPT
from .frames import message_to_frame, StampedFeatures
from .lifecycle import ManagedNode
from .worker import Handover

COMPRESSED = '/compressed'
POLL_PERIOD_S = 0.2  # for listeners, where the middleware does not tell of them
RELIABLE = QoSProfile(
    depth=5, history=HistoryPolicy.KEEP_LAST, reliability=QoSReliabilityPolicy.RELIABLE
)
OVERRIDABLE = (
    QoSPolicyKind.HISTORY,
    QoSPolicyKind.DEPTH,
    QoSPolicyKind.RELIABILITY,
    QoSPolicyKind.DURABILITY,
    QoSPolicyKind.DEADLINE,
)
IMAGES = {'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'}
LONGEST_NS = 2**62  # from here on a deadline is none; the middlewares do not agree on a number
PROMISES = {  # of a policy, from the weakest; an offer below what is asked for reaches nobody
    'reliability': (QoSReliabilityPolicy.BEST_EFFORT, QoSReliabilityPolicy.RELIABLE),
    'durability': (QoSDurabilityPolicy.VOLATILE, QoSDurabilityPolicy.TRANSIENT_LOCAL),
    'liveliness': (QoSLivelinessPolicy.AUTOMATIC, QoSLivelinessPolicy.MANUAL_BY_TOPIC),
}


def sensor_qos(depth: int = 1) -> QoSProfile:
    """Return what receives from every publisher: best effort, volatile, the newest only."""
    return QoSProfile(
        depth=depth,
        history=HistoryPolicy.KEEP_LAST,
        reliability=QoSReliabilityPolicy.BEST_EFFORT,
        durability=QoSDurabilityPolicy.VOLATILE,
    )


@dataclass
class _Lazy:
    wanted: Callable[[], Any]
    connect: Callable[[], Any]
    endpoints: tuple[Any, ...] = ()


class ConnectedNode(ManagedNode):
    """
    A managed node whose endpoints, made by the methods here, go when it is deactivated.

    `connect_while` makes inputs that are there only while somebody listens to the outputs.
    Each topic's QoS can be overridden by parameter; where two ends do not meet because of it, the
    remedy is logged once.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self.statistics = Statistics()
        self.exchange = current_exchange()
        self.input_topics = {'': ''}  # topics that this node's work starts with, by source
        # a simulated clock may stand still or jump, and nothing here waits for it
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._endpoints: dict[Any, Callable[[Any], Any]] = {}
        self._sources: dict[Any, str] = {}  # of subscriptions
        self._suspects: set[str] = set()  # topics with an end somewhere that does not meet ours
        self._told: set[str] = set()
        self._unstamped: set[str] = set()  # topics that were told of
        self._lazy: list[_Lazy] = []
        self._broken: list[str] = []  # sentences about endpoints that could not be made
        self._review_lock = threading.RLock()
        self._listeners_reported = True  # by the middleware, when they come and go

    def deactivate(self) -> None:
        """Disconnect from topics."""
        with self._review_lock:
            self._lazy.clear()
            self._broken.clear()
        for endpoint in reversed(list(self._endpoints)):
            self.disconnect(endpoint)
        super().deactivate()

    def advertise(self, kind: type, topic: str) -> Any:
        """Create a reliable publisher, with QoS overrides, that deactivate destroys."""
        publisher = self._make_publisher(kind, topic)
        self._endpoints[publisher] = self.destroy_publisher
        return publisher

    def subscribe(
        self,
        kind: type,
        topic: str,
        callback: Callable[[Any], None],
        qos: QoSProfile = RELIABLE,
        source: str | None = None,
    ) -> Any:
        """
        Create a subscription, with QoS overrides, that deactivate destroys.

        source: camera whose input this is, '' where there is one alone: its age counts from now
        on. None for inputs that the node need not wait for.
        """
        create = partial(self.create_subscription, kind, topic, callback)
        events = {'message_lost': self._note_lost}
        subscription = self._create(create, topic, qos, SubscriptionEventCallbacks, events)
        self._endpoints[subscription] = self.destroy_subscription
        if source is not None:
            self._sources[subscription] = source
            self.statistics.wait_for_input(source=source)
        return subscription

    def subscribe_images(
        self,
        transport: str,
        callback: Callable[[Any], None],
        depth: int = 1,
        topic: str = 'image',
        source: str = '',
    ) -> Any:
        """Subscribe to a topic, remapped or not, or to the compressed one below it."""
        topic, kind = self.resolve_topic_name(topic), Image
        if transport == 'compressed':
            topic, kind = f'{topic}{COMPRESSED}', CompressedImage
        self.input_topics[source] = topic
        return self.subscribe(kind, topic, callback, sensor_qos(depth), source)

    def subscribe_features(
        self,
        topic: str,
        callback: Callable[[StampedFeatures], None],
        in_executor: bool = False,
        source: str | None = '',
    ) -> tuple[Any, ...]:
        """
        Subscribe to features; gives the endpoints that this takes.

        Those of nodes in this process come as tensors in memory, and at once: in their thread, if
        not in_executor. The callback must not block.
        """
        name = self.resolve_topic_name(topic)
        if source is not None:
            self.input_topics[source] = name
        on_frame = callback
        if in_executor:
            handover = Handover(self, callback, KEPT)
            self._endpoints[handover] = Handover.close
            on_frame = handover.put
        subscription = self.subscribe(
            Features, topic, lambda message: self._unpack(message, inbox, callback), source=source
        )
        # messages may wait at both ends
        kept = max(KEPT, 2 * subscription.qos_profile.depth)
        inbox = self.exchange.inbox(name, on_frame, kept)
        self._endpoints[inbox] = Inbox.close
        made = (inbox, subscription)  # in the order in which they are to go
        return (*made, handover) if in_executor else made

    def _unpack(
        self, message: Features, inbox: Inbox, callback: Callable[[StampedFeatures], None]
    ) -> None:
        if inbox.knows(message):
            return
        try:
            frame = message_to_frame(message)
        except KpfeatError as error:
            self.count_failure(type(error).__name__, error)
        else:
            callback(frame)

    def has_stamp(self, header: Any, topic: str) -> bool:
        """Return whether a message has a stamp; 0 is none, which is counted and warned of once."""
        if stamp_ns(header):
            return True
        self.statistics.count('unstamped')
        name = self.resolve_topic_name(topic)
        if name not in self._unstamped:
            self._unstamped.add(name)
            self.get_logger().warning(
                f"messages on '{name}' have stamp 0, which means that it is not set: let their "
                'publisher set it. They are not joined with others by it (further ones are only '
                'counted: unstamped in /diagnostics)'
            )
        return False

    def camera_info_topic(self, image: str = 'image', own: str = 'camera_info') -> str:
        """Return the topic `own` where it is remapped, else the camera_info beside `image`."""
        name = self.resolve_topic_name(own)
        if name != self.resolve_topic_name(own, only_expand=True):
            return name
        return f'{self.resolve_topic_name(image).rpartition("/")[0]}/camera_info'

    def advertise_service(self, kind: Any, name: str, callback: Callable[[Any, Any], Any]) -> None:
        """Create a service that deactivate destroys."""
        self._endpoints[self.create_service(kind, name, callback)] = self.destroy_service

    def poll(self, period_s: float, callback: Callable[[], None]) -> None:
        """Call back regularly until deactivate, whatever the ROS clock does."""
        timer = self.create_timer(period_s, callback, clock=self._steady)
        self._endpoints[timer] = self.destroy_timer

    def disconnect(self, endpoint: Any) -> None:
        """Destroy one publisher, subscription, service or timer made by the methods above."""
        self._endpoints.pop(endpoint)(endpoint)
        source = self._sources.pop(endpoint, None)
        if source not in self._sources.values():
            self.statistics.wait_for_input(False, source)

    def connect_while(self, wanted: Callable[[], Any], connect: Callable[[], Any]) -> None:
        """
        Keep what `connect` returns, one endpoint or a tuple, for as long as `wanted` holds.

        wanted: asked whenever listeners of a publisher of this node come or go, and once a
        second besides; such as `publisher.get_subscription_count`.
        """
        with self._review_lock:
            if not (self._lazy or self._listeners_reported):
                self.poll(POLL_PERIOD_S, self.review)
            self._lazy.append(_Lazy(wanted, connect))
        self.review()

    def review(self) -> None:
        """Connect and disconnect what `connect_while` was told of, as it is wanted now."""
        with self._review_lock:
            for lazy in list(self._lazy):
                if bool(lazy.wanted()) == bool(lazy.endpoints):
                    continue
                if lazy.endpoints:
                    for endpoint in lazy.endpoints:
                        self.disconnect(endpoint)
                    lazy.endpoints = ()
                else:
                    self._connect(lazy)

    def _connect(self, lazy: _Lazy) -> None:
        try:
            made = lazy.connect()
        except (ConfigError, ParameterException) as error:  # told in diagnostics and in the log
            self._lazy.remove(lazy)
            self._broken.append(str(error))
            return
        lazy.endpoints = made if isinstance(made, tuple) else (made,)

    @property
    def rests(self) -> bool:
        """Return whether no input is listened to, because nobody wants the results."""
        return not self._sources

    def mismatches(self) -> list[str]:
        """
        Return a sentence for each end that does not meet ours, or was not made: the remedy.

        Because of QoS, or of another type, or as nobody publishes under this name but beside it.

        The log has each sentence once.
        """
        found = self._broken.copy()
        for endpoint in list(self._endpoints):
            topic = getattr(endpoint, 'topic_name', None)
            if topic in self._suspects:
                found += self._mismatches_of(endpoint, topic)
            if self._sources.get(endpoint) is not None and self.count_publishers(topic) > 1:
                found.append(self._shared_topic(topic))
            if isinstance(endpoint, Subscription) and self._is_silent(endpoint):
                found += self._wrong_names_of(endpoint)
        for sentence in found:
            if sentence not in self._told:
                self._told.add(sentence)
                self.get_logger().warning(sentence)
        return found

    def _shared_topic(self, topic: str) -> str:
        others = self.get_publishers_info_by_topic(topic)
        names = sorted(f'{o.node_namespace.rstrip("/")}/{o.node_name}' for o in others)
        return (
            f"'{topic}' has {len(names)} publishers ({', '.join(names)}), whose messages cannot "
            'be told apart: give each a topic of its own, or end all but one'
        )

    def _is_silent(self, subscription: Subscription) -> bool:
        """Return whether nothing has come; not known of inputs that the node need not wait for."""
        source = self._sources.get(subscription)
        return source is None or not self.statistics.total_of('received', source)

    def _wrong_names_of(self, subscription: Subscription) -> list[str]:
        """Return why nothing can come, by what is published on this topic or beside it."""
        name, topic, own = self.get_fully_qualified_name(), subscription.topic_name, subscription
        kinds = self._kinds_on(topic)
        if kinds and type_name(own.msg_type) not in kinds:
            return [explain_type(name, topic, type_name(own.msg_type), kinds)]
        if kinds or own.msg_type not in (Image, CompressedImage):
            return []
        beside = [topic.removesuffix(COMPRESSED), f'{topic}{COMPRESSED}']
        found = {other: self._kinds_on(other) for other in beside if other != topic}
        return explain_transport(name, topic, own.msg_type is CompressedImage, found)

    def _kinds_on(self, topic: str) -> set[str]:
        return {other.topic_type for other in self.get_publishers_info_by_topic(topic)}

    def _mismatches_of(self, endpoint: Any, topic: str) -> list[str]:
        listens = isinstance(endpoint, Subscription)
        look = 'publishers' if listens else 'subscriptions'
        others = getattr(self, f'get_{look}_info_by_topic')(topic)
        name = self.get_fully_qualified_name()
        return explain_mismatch(topic, endpoint.qos_profile, not listens, others, name)

    def _make_publisher(self, kind: type, topic: str) -> Any:
        create = partial(self.create_publisher, kind, topic)
        events = {'matched': lambda _: self.review()}
        return self._create(create, topic, RELIABLE, PublisherEventCallbacks, events)

    def _create(
        self,
        create: Callable[..., Any],
        topic: str,
        qos: QoSProfile,
        callbacks: type,
        events: Mapping[str, Callable[[Any], None]],
    ) -> Any:
        """Create a publisher or subscription with those events that the middleware knows."""
        topic = self.resolve_topic_name(topic)
        known = inspect.signature(callbacks.__init__).parameters
        wanted = {'incompatible_qos': lambda _: self._suspects.add(topic), **events}
        wanted = {name: callback for name, callback in wanted.items() if name in known}
        while True:
            if 'matched' in events and 'matched' not in wanted:
                self._listeners_reported = False
            try:
                return create(
                    copy(qos),  # rclpy writes the overrides into it
                    qos_overriding_options=QoSOverridingOptions(OVERRIDABLE),
                    event_callbacks=callbacks(**wanted),
                )
            except UnsupportedEventTypeError:
                if not wanted:
                    raise
                wanted.popitem()
            except ParameterException:
                raise
            except (RuntimeError, ValueError, OverflowError) as error:
                if not self.context.ok():
                    raise
                kinds, own = self._kinds_on(topic), type_name(create.args[0])
                if kinds and own not in kinds:  # of this process: DDS refuses a second type there
                    name = self.get_fully_qualified_name()
                    raise ConfigError(explain_type(name, topic, own, kinds)) from error
                raise ConfigError(
                    f"QoS of '{topic}' is not possible: {error}. Set the parameters "
                    f'qos_overrides.{topic}.* otherwise'
                ) from error

    def _note_lost(self, event: Any) -> None:
        self.statistics.count('lost', event.total_count_change)


def broken_promises(offered: QoSProfile, asked: QoSProfile) -> Iterator[tuple[str, str, str]]:
    """Yield policy, what is offered and what is asked for, where the first is not enough."""
    for policy, order in PROMISES.items():
        ends = getattr(offered, policy), getattr(asked, policy)
        if all(end in order for end in ends) and order.index(ends[0]) < order.index(ends[1]):
            yield policy, ends[0].name.lower(), ends[1].name.lower()
    periods = _period(offered), _period(asked)
    if periods[0] > periods[1]:
        yield 'deadline', _words(periods[0]), _words(periods[1])


def type_name(kind: type) -> str:
    """Return the name of a message class as the graph has it, such as sensor_msgs/msg/Image."""
    return f'{kind.__module__.partition(".")[0]}/msg/{kind.__name__}'


def explain_type(node: str, topic: str, wanted: str, kinds: Collection[str]) -> str:
    """Return the sentence for a topic whose publishers send messages of another type."""
    sentence = f"'{topic}' is {' and '.join(sorted(kinds))}, and {node} expects {wanted} there: "
    if {wanted, *kinds} >= IMAGES and wanted.endswith('/Image'):
        shown = topic.removesuffix(COMPRESSED)
        if shown != topic:
            return f'{sentence}give image as {shown} and set image_transport to compressed'
        return f'{sentence}remap it to {topic}{COMPRESSED}, and set image_transport to compressed'
    if {wanted, *kinds} >= IMAGES:
        return f'{sentence}set image_transport to raw, and give image as {topic}'
    return f'{sentence}remap the topic to one of this type'


def explain_transport(
    node: str, topic: str, compressed: bool, beside: Mapping[str, Collection[str]]
) -> list[str]:
    """
    Return the sentence for a topic of images that nobody publishes, if one beside it is there.

    compressed: whether compressed images are wanted; beside: types by topic, of those around it.
    """
    for other, kinds in beside.items():
        if not IMAGES & set(kinds):
            continue
        there = f"nobody publishes '{topic}', but '{other}' is there: "
        if not compressed:
            return [f'{there}set image_transport of {node} to compressed']
        if other.endswith(COMPRESSED):  # the transport added it once more
            shown = other.removesuffix(COMPRESSED)
            return [f"{there}give image as {shown}, to which compressed adds '{COMPRESSED}'"]
        return [f'{there}set image_transport of {node} to raw']
    return []


def explain_mismatch(
    topic: str, own: QoSProfile, publishes: bool, others: Sequence[Any], node: str
) -> list[str]:
    """
    Return a sentence for each other end of a topic that ours does not meet: why, and the remedy.

    publishes: our end is the publisher; others: rclpy's TopicEndpointInfo of the other side;
    node: the full name of ours.
    """
    found = []
    for other in others:
        ends = (own, other.qos_profile) if publishes else (other.qos_profile, own)
        name = f'{other.node_namespace.rstrip("/")}/{other.node_name}'
        for policy, offered, asked in broken_promises(*ends):
            if publishes:
                found.append(
                    f"'{topic}' does not reach {name}: its subscription asks for {policy} "
                    f'{asked}, and this publisher offers {offered}. '
                    + _remedy(topic, 'publisher', policy, asked, node)
                    + f'let {name} subscribe with {offered}'
                )
            else:
                found.append(
                    f"'{topic}' brings nothing from {name}: its publisher offers {policy} "
                    f'{offered}, and this subscription asks for {asked}. '
                    + _remedy(topic, 'subscription', policy, offered, node)
                    + f'let {name} publish with {asked}'
                )
    return found


def _remedy(topic: str, entity: str, policy: str, value: str, node: str) -> str:
    if policy == 'liveliness':  # to promise more than automatic, a node must keep saying so
        return 'To change that, '
    return f'Start {node} with -p qos_overrides.{topic}.{entity}.{policy}:={value.split()[0]}, or '


def _period(profile: QoSProfile) -> int:
    length = profile.deadline.nanoseconds
    return length if 0 < length < LONGEST_NS else LONGEST_NS


def _words(period_ns: int) -> str:
    return '0 (none)' if period_ns == LONGEST_NS else f'{period_ns} ns'
