"""
Features from node to node inside one process, as tensors in memory; free of ROS.

A publishing node has an outlet, a subscribing node an inbox:

    outlet.offer(StampedFeatures(header, model, features))  # called back at every inbox by now
    if inbox.knows(message): ...  # it came in memory; else unpack it

The message need not be published at all unless `outlet.others_listen`. The tensors are shared, not
copied: nobody may change them.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
import threading
from typing import Any
import weakref

from kpfeat_core.errors import ConfigError, ShapeError
from kpfeat_core.messages.definitions import stamp_ns
import numpy as np

from .frames import StampedFeatures

KEPT = 10  # frames that an inbox remembers, and so how late the message of one may come


class Inbox:
    """
    Where the frames offered on one topic arrive; safe to use from several threads.

    Made by `Exchange.inbox`. One that its node forgets to close goes with the node.
    """

    def __init__(
        self, exchange: 'Exchange', topic: str, on_frame: Callable[[Any], None], kept: int
    ) -> None:
        self.topic = topic
        self._exchange = exchange
        self._on_frame = on_frame
        self._lock = threading.RLock()  # the callback may use the inbox
        self._closed = False
        self._frames: deque[tuple[StampedFeatures, Outlet]] = deque(maxlen=kept)

    def __len__(self) -> int:
        return len(self._frames)

    def knows(self, message: Any) -> bool:
        """
        Return whether the frame of a message came in memory; true once for each frame.

        A frame is the message's own if stamp, frame, model and all keypoints and scores are
        equal: stamps alone are not, where a camera sends zeros or two nodes share a topic.
        """
        with self._lock:
            for position, (frame, outlet) in enumerate(self._frames):
                if _belongs(frame, message):
                    del self._frames[position]
                    outlet._reached.add(self)
                    return True
        return False

    def close(self) -> None:
        """
        Receive nothing more and forget the frames; the second time does nothing.

        A callback that is at work in another thread is waited for: it is the last.
        """
        self._exchange._forget(self)
        with self._lock:
            self._closed = True
            self._frames.clear()

    def _put(self, frame: StampedFeatures, outlet: 'Outlet') -> None:
        with self._lock:
            if not self._closed:
                self._frames.append((frame, outlet))
                self._on_frame(frame)


class Outlet:
    """
    What one publisher offers to the inboxes of its topic; safe to use from several threads.

    Made by `Exchange.outlet`.
    """

    def __init__(self, exchange: 'Exchange', topic: str) -> None:
        self.topic = topic
        self._exchange = exchange
        self._reached: weakref.WeakSet[Inbox] = weakref.WeakSet()  # by a message

    def offer(self, frame: StampedFeatures) -> int:
        """
        Hand the features of one image to all inboxes of the topic; returns how many there are.

        Offer before publishing. Raises ShapeError for a batch of several images.
        """
        if frame.features.batch_size != 1:
            raise ShapeError(
                f'features of {frame.features.batch_size} images, expected 1: offer those of each '
                'image with its own header'
            )
        inboxes = self._exchange.inboxes(self.topic)
        if inboxes:
            # without padding, as a message has it
            frame = replace(frame, features=frame.features.select(0))
        for inbox in inboxes:
            inbox._put(frame, self)
        return len(inboxes)

    def others_listen(self, subscriptions: int) -> bool:
        """
        Return whether a message would reach anybody beside the inboxes.

        subscriptions: the publisher's `get_subscription_count`. The subscription of an inbox is
        known to be among them once it knew a message of this publisher: before, DDS may not have
        brought the two together yet, and with QoS that do not meet it never will.
        """
        return subscriptions > sum(
            inbox in self._reached for inbox in self._exchange.inboxes(self.topic)
        )


class Exchange:
    """Where the nodes of one process meet, by resolved topic; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inboxes: weakref.WeakSet[Inbox] = weakref.WeakSet()

    def inbox(
        self, topic: str, on_frame: Callable[[StampedFeatures], None], kept: int = KEPT
    ) -> Inbox:
        """
        Make an inbox for a topic; subscribe to the topic first, so that no message is missed.

        on_frame: called with each frame at once, in the thread of the node that offers it; it
        must not block. kept: how many frames are remembered until their messages come.

        Raises ConfigError where the topic is not a resolved name.
        """
        inbox = Inbox(self, _resolved(topic), on_frame, kept)
        with self._lock:
            self._inboxes.add(inbox)
        return inbox

    def outlet(self, topic: str) -> Outlet:
        """Make an outlet for a publisher; raises ConfigError where its topic is not resolved."""
        return Outlet(self, _resolved(topic))

    def inboxes(self, topic: str) -> list[Inbox]:
        """Return the inboxes of a topic."""
        with self._lock:
            return [inbox for inbox in self._inboxes if inbox.topic == topic]

    def _forget(self, inbox: Inbox) -> None:
        with self._lock:
            self._inboxes.discard(inbox)


_SHARED = Exchange()
_CURRENT: ContextVar[Exchange] = ContextVar('kpfeat exchange', default=_SHARED)


def current_exchange() -> Exchange:
    """Return the exchange for a node that is being constructed: that of the process, mostly."""
    return _CURRENT.get()


@contextmanager
def using(exchange: Exchange) -> Iterator[Exchange]:
    """Give nodes that this thread constructs an Exchange of their own, apart from all others."""
    token = _CURRENT.set(exchange)
    try:
        yield exchange
    finally:
        _CURRENT.reset(token)


def _resolved(topic: str) -> str:
    if not topic.startswith('/'):
        raise ConfigError(
            f"topic '{topic}' is not a resolved name, which starts with '/': pass what the node's "
            'resolve_topic_name returns'
        )
    return topic


def _belongs(frame: StampedFeatures, message: Any) -> bool:
    """Return whether a frame is what a message was made from; cheap differences come first."""
    ours, theirs = frame.header, message.header
    if stamp_ns(ours) != stamp_ns(theirs) or ours.frame_id != theirs.frame_id:
        return False
    features = frame.features
    if frame.model != message.model or features.descriptor_dim != message.descriptor_size:
        return False
    pairs = ((features.keypoint_scores, message.scores), (features.keypoints, message.keypoints))
    return all(
        np.array_equal(tensor.detach().cpu().numpy().ravel(), np.asarray(values, np.float32))
        for tensor, values in pairs
    )
