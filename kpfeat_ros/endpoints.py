"""Topics, services and timers of a node that live while it is active, and what they report."""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from functools import partial
import inspect
import threading
from typing import Any

from kpfeat.msg import Features
from kpfeat_core.errors import ConfigError, KpfeatError
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.qos import QoSProfile
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
from .frames import Frame, message_to_frame
from .lifecycle import ManagedNode
from .qos import explain_mismatch, overrides, RELIABLE, sensor_qos
from .worker import Handover

POLL_PERIOD_S = 0.2  # for listeners, where the middleware does not tell of them


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
    log says once what to change.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self.statistics = Statistics()
        self.exchange = current_exchange()
        self.input_topics = {'': ''}  # what this node's work starts with, by source
        # a simulated clock may stand still or jump, and nothing here waits for it
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._endpoints: dict[Any, Callable[[Any], Any]] = {}
        self._sources: dict[Any, str] = {}  # of subscriptions
        self._suspects: set[str] = set()  # topics with an end somewhere that does not meet ours
        self._told: set[str] = set()
        self._lazy: list[_Lazy] = []
        self._broken: list[str] = []  # what could not be connected
        self._review_lock = threading.RLock()
        self._hears_of_listeners = True  # the middleware tells when listeners come and go

    def end(self) -> None:
        """Disconnect from topics."""
        with self._review_lock:
            self._lazy.clear()
            self._broken.clear()
        for endpoint in reversed(list(self._endpoints)):
            self.disconnect(endpoint)
        super().end()

    def publish_on(self, kind: type, topic: str) -> Any:
        """Create a reliable publisher, with QoS overrides, that deactivate destroys."""
        publisher = self._make_publisher(kind, topic)
        self._endpoints[publisher] = self.destroy_publisher
        return publisher

    def listen_to(
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
        on. None for what the node need not wait for.
        """
        create = partial(self.create_subscription, kind, topic, callback)
        events = {'message_lost': self._note_lost}
        subscription = self._create(create, topic, qos, SubscriptionEventCallbacks, events)
        self._endpoints[subscription] = self.destroy_subscription
        if source is not None:
            self._sources[subscription] = source
            self.statistics.wait_for_input(source=source)
        return subscription

    def listen_to_images(
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
            topic, kind = f'{topic}/compressed', CompressedImage
        self.input_topics[source] = topic
        return self.listen_to(kind, topic, callback, sensor_qos(depth), source)

    def listen_to_features(
        self,
        topic: str,
        callback: Callable[[Frame], None],
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
        subscription = self.listen_to(
            Features, topic, lambda message: self._unpack(message, inbox, callback), source=source
        )
        # messages may wait at both ends
        kept = max(KEPT, 2 * subscription.qos_profile.depth)
        inbox = self.exchange.listen(name, on_frame, kept)
        self._endpoints[inbox] = Inbox.close
        made = (inbox, subscription)  # in the order in which they are to go
        return (*made, handover) if in_executor else made

    def _unpack(self, message: Features, inbox: Inbox, callback: Callable[[Frame], None]) -> None:
        if inbox.take(message) is not None:
            return  # it came in memory
        try:
            frame = message_to_frame(message)
        except KpfeatError as error:
            kind = type(error).__name__
            self.note_error(kind, error, self.statistics.fail(kind))
        else:
            callback(frame)

    def camera_info_topic(self, image: str = 'image', own: str = 'camera_info') -> str:
        """Return the topic `own` where it is remapped, else the camera_info beside `image`."""
        name = self.resolve_topic_name(own)
        if name != self.resolve_topic_name(own, only_expand=True):
            return name
        return f'{self.resolve_topic_name(image).rpartition("/")[0]}/camera_info'

    def offer(self, kind: Any, name: str, callback: Callable[[Any, Any], Any]) -> None:
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
            if not (self._lazy or self._hears_of_listeners):
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
        # a parameter; nobody but the executor would hear of it
        except (ConfigError, ParameterException) as error:
            self._lazy.remove(lazy)
            self._broken.append(str(error))
            return
        lazy.endpoints = made if isinstance(made, tuple) else (made,)

    @property
    def rests(self) -> bool:
        """Say whether no input is listened to, because nobody wants what would be made of it."""
        return not self._sources

    def mismatches(self) -> list[str]:
        """
        Say for each end of a topic that QoS keeps from ours, or from being made, what to change.

        The log has each sentence once.
        """
        found = self._broken.copy()
        for endpoint in list(self._endpoints):
            topic = getattr(endpoint, 'topic_name', None)
            if topic in self._suspects:
                found += self._mismatches_of(endpoint, topic)
        for sentence in found:
            if sentence not in self._told:
                self._told.add(sentence)
                self.get_logger().warning(sentence)
        return found

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
                self._hears_of_listeners = False
            # a copy: rclpy writes the overrides into the profile
            create_with = partial(create, copy(qos), qos_overriding_options=overrides())
            try:
                return create_with(event_callbacks=callbacks(**wanted))
            except UnsupportedEventTypeError:
                if not wanted:
                    raise
                wanted.popitem()
            except ParameterException:
                raise
            except (RuntimeError, ValueError, OverflowError) as error:
                if not self.context.ok():
                    raise
                raise ConfigError(
                    f"QoS of '{topic}' is not possible: {error}. Set the parameters "
                    f'qos_overrides.{topic}.* otherwise'
                ) from error

    def _note_lost(self, event: Any) -> None:
        self.statistics.count('lost', event.total_count_change)
