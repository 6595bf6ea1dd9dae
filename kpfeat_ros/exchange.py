"""
Features from node to node inside one process, as tensors in memory; free of ROS.

A publishing node has an outlet, a subscribing node an inbox:

    outlet.offer(header, features, model)  # all inboxes of the topic have it now
    frame = inbox.take(message)  # None: it came from another process, and must be unpacked

With a callback the inbox does not wait for the message, which then need not be published at all
if `outlet.others_listen` says that nobody else would receive it. Topics are fully resolved names.
The tensors are shared, not copied: nobody may change them.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
import threading
from typing import Any
import weakref

from kpfeat_core.errors import ConfigError, ShapeError
from kpfeat_core.features import Features
import numpy as np

from .frames import Frame, stamp_ns

KEPT = 10  # frames that an inbox keeps, and so how late the message of one may come


class Inbox:
    """
    The newest frames offered on one topic, until they are taken; safe to use from several threads.

    Made by `Exchange.listen`. One that its node forgets to close goes with the node.
    """

    def __init__(
        self, exchange: 'Exchange', topic: str, on_frame: Callable[[Frame], None] | None, kept: int
    ) -> None:
        self.topic = topic
        self._exchange = exchange
        self._on_frame = on_frame
        self._lock = threading.RLock()  # the callback may take
        self._frames: deque[tuple[Frame, Outlet | None]] = deque(maxlen=kept)

    def __len__(self) -> int:
        return len(self._frames)

    def take(self, message: Any) -> Frame | None:
        """
        Return the frame that was offered with this message, once; None if there was none.

        A frame is the message's own if stamp, frame, model and all keypoints and scores are
        equal: stamps alone are not, where a camera sends zeros or two nodes share a topic.
        """
        with self._lock:
            for position, (frame, outlet) in enumerate(self._frames):
                if _belongs(frame, message):
                    del self._frames[position]
                    if outlet is not None:
                        outlet._note_reached(self)
                    return frame
        return None

    def close(self) -> None:
        """
        Receive nothing more and forget what waits; the second time does nothing.

        A callback that is at work in another thread is waited for: it is the last.
        """
        self._exchange._forget(self)
        with self._lock:
            self._on_frame = None
            self._frames.clear()

    def _put(self, frame: Frame, outlet: 'Outlet | None') -> None:
        with self._lock:
            self._frames.append((frame, outlet))
            if self._on_frame is not None:
                self._on_frame(frame)


class Outlet:
    """
    What one publisher offers to the inboxes of its topic; safe to use from several threads.

    Made by `Exchange.outlet`.
    """

    def __init__(self, exchange: 'Exchange', topic: str) -> None:
        self.topic = topic
        self._exchange = exchange
        self._lock = threading.Lock()
        self._reached: weakref.WeakSet[Inbox] = weakref.WeakSet()  # by a message

    def offer(self, header: Any, features: Features, model: str = '') -> int:
        """Hand the features of one image over, as `Exchange.offer` does."""
        return self._exchange.offer(self.topic, header, features, model, self)

    def others_listen(self, subscriptions: int) -> bool:
        """
        Say whether a message would reach anybody beside the inboxes.

        subscriptions: what the publisher's `get_subscription_count` says. That of an inbox is
        known to be among them once it took a message of this publisher: before, DDS may not have
        brought the two together yet, and with QoS that do not meet it never will.
        """
        with self._lock:
            reached = sum(inbox in self._reached for inbox in self._exchange.inboxes(self.topic))
        return subscriptions > reached

    def _note_reached(self, inbox: Inbox) -> None:
        with self._lock:
            self._reached.add(inbox)


class Exchange:
    """Where the nodes of one process meet; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inboxes: dict[str, weakref.WeakSet[Inbox]] = {}

    def listen(
        self, topic: str, on_frame: Callable[[Frame], None] | None = None, kept: int = KEPT
    ) -> Inbox:
        """
        Make an inbox for a topic; subscribe to the topic first, so that no message is missed.

        on_frame: called with each frame at once, in the thread of the node that offers it; it
        must not block. The message may follow: then `take` gives the frame that is known already.
        kept: how many frames wait for their messages at most.

        Raises ConfigError where the topic is not a resolved name.
        """
        _check_resolved(topic)
        inbox = Inbox(self, topic, on_frame, kept)
        with self._lock:
            # without the topics of nodes that went without closing
            self._inboxes = {name: there for name, there in self._inboxes.items() if there}
            self._inboxes.setdefault(topic, weakref.WeakSet()).add(inbox)
        return inbox

    def outlet(self, topic: str) -> Outlet:
        """Make an outlet for a publisher; raises ConfigError where its topic is not resolved."""
        _check_resolved(topic)
        return Outlet(self, topic)

    def offer(
        self,
        topic: str,
        header: Any,
        features: Features,
        model: str = '',
        outlet: Outlet | None = None,
    ) -> int:
        """
        Hand the features of one image to all inboxes of the topic; returns how many there are.

        Costs nothing where there is none. Offer before publishing. Raises ConfigError where the
        topic is not a resolved name, and ShapeError for a batch of several images.
        """
        _check_resolved(topic)
        if features.batch_size != 1:
            raise ShapeError(
                f'features of {features.batch_size} images, expected 1: offer those of each '
                'image with its own header'
            )
        inboxes = self.inboxes(topic)
        if inboxes:
            # without padding, as a message has it
            frame = Frame(header, model, features.select(0))
            for inbox in inboxes:
                inbox._put(frame, outlet)
        return len(inboxes)

    def inboxes(self, topic: str) -> list[Inbox]:
        """Return the inboxes of a topic."""
        with self._lock:
            return list(self._inboxes.get(topic, ()))

    def _forget(self, inbox: Inbox) -> None:
        with self._lock:
            inboxes = self._inboxes.get(inbox.topic, weakref.WeakSet())
            inboxes.discard(inbox)
            if not inboxes:
                self._inboxes.pop(inbox.topic, None)


_SHARED = Exchange()
_CURRENT: ContextVar[Exchange] = ContextVar('kpfeat exchange', default=_SHARED)


def current_exchange() -> Exchange:
    """Return the exchange for a node that is being constructed: that of the process, mostly."""
    return _CURRENT.get()


@contextmanager
def using(exchange: Exchange) -> Iterator[Exchange]:
    """Let nodes that this thread constructs meet elsewhere: in an Exchange of their own, alone."""
    token = _CURRENT.set(exchange)
    try:
        yield exchange
    finally:
        _CURRENT.reset(token)


def _check_resolved(topic: str) -> None:
    if not topic.startswith('/'):
        raise ConfigError(
            f"topic '{topic}' is not a resolved name, which starts with '/': pass what the node's "
            'resolve_topic_name returns'
        )


def _belongs(frame: Frame, message: Any) -> bool:
    """Say whether a frame is what a message was made from; the cheap differences come first."""
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
