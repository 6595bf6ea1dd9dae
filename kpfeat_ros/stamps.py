"""Messages by the stamp of their image, so that those that belong together meet; free of ROS."""

from collections import deque, OrderedDict
import threading
from typing import Any


def stamp_ns(header: Any) -> int:
    """Return the stamp of a header as whole nanoseconds: exact, and usable as a key."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


class StampBuffer:
    """
    The latest `size` messages by stamp, oldest forgotten first, besides one that is pinned.

    A second message of the same stamp replaces the first. Stamps may jump back, as when a bag
    starts again: age is the order of arrival.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: OrderedDict[int, Any] = OrderedDict()
        self._pinned: tuple[int, Any] | None = None

    def __len__(self) -> int:
        return len(self._items)

    def add(self, stamp: int, item: Any) -> None:
        """Keep an item; forgets the oldest where there are too many."""
        self._items.pop(stamp, None)
        self._items[stamp] = item
        while len(self._items) > self._size:
            self._items.popitem(last=False)

    def get(self, stamp: int) -> Any | None:
        """Return the item of exactly this stamp; None if it never came or is forgotten."""
        if self._pinned is not None and self._pinned[0] == stamp:
            return self._pinned[1]
        return self._items.get(stamp)

    def nearest(self, stamp: int, tolerance_ns: int) -> Any | None:
        """Return the item whose stamp differs least; None if by more than the tolerance."""
        near = min(self._items, key=lambda other: abs(other - stamp), default=None)
        if near is None or abs(near - stamp) > tolerance_ns:
            return None
        return self._items[near]

    def take(self, stamp: int) -> Any | None:
        """Return the item of exactly this stamp and forget it; None if there is none."""
        return self._items.pop(stamp, None)

    def pin(self, stamp: int) -> None:
        """Keep the item of this stamp until another is pinned, such as a reference image."""
        item = self.get(stamp)
        if item is not None:
            self._pinned = (stamp, item)

    def clear(self) -> None:
        """Forget everything."""
        self._items.clear()
        self._pinned = None


class StampPairs:
    """
    Pairs what two streams bring at the same time; safe to use from several threads.

    size: how many of each stream wait for their partner at most.
    """

    def __init__(self, size: int) -> None:
        self._lock = threading.Lock()
        self._size = size
        self._waiting: tuple[deque, deque] = deque(), deque()

    def add(
        self, stream: int, stamp: int, item: Any, tolerance_ns: int
    ) -> tuple[tuple[Any, Any] | None, int]:
        """
        Take in an item of stream 0 or 1; gives (item0, item1) if both are here, else None.

        The partner is the one that waits whose stamp differs least, by no more than the
        tolerance. What came before the two can have no partner any more: the second value says
        how many were forgotten because of that, or because too many wait.
        """
        with self._lock:
            own, others = self._waiting[stream], self._waiting[1 - stream]
            near = min(range(len(others)), key=lambda k: abs(others[k][0] - stamp), default=None)
            if near is None or abs(others[near][0] - stamp) > tolerance_ns:
                own.append((stamp, item))
                lost = max(0, len(own) - self._size)
                for _ in range(lost):
                    own.popleft()
                return None, lost
            lost = len(own) + near
            own.clear()
            for _ in range(near):
                others.popleft()
            partner = others.popleft()[1]
            return ((partner, item) if stream else (item, partner)), lost

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            for waiting in self._waiting:
                waiting.clear()
