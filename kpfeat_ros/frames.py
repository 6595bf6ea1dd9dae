"""
Features with their header, and which of them, of images and of matches belong together.

By stamp, or as the pair of a frame and the one before it or a reference; free of ROS.
"""

from collections import deque, OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
import threading
from typing import Any

from kpfeat_core.features import Features
from kpfeat_core.messages.conversions import message_to_features
from kpfeat_core.messages.definitions import stamp_ns


@dataclass(frozen=True)
class StampedFeatures:
    """The features of one image, a batch of one, with the header of the image."""

    header: Any
    model: str
    features: Features

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height of the image."""
        width, height = self.features.image_size[0].tolist()
        return round(width), round(height)


def message_to_frame(message: Any) -> StampedFeatures:
    """Unpack a Features message; raises ShapeError."""
    return StampedFeatures(message.header, message.model, message_to_features(message))


class FramePairs:
    """
    Remembers the frame that the next one is matched with; safe to use from several threads.

    In mode 'reference' the first frame is the reference until `set_reference` takes the newest.
    A frame of another model cannot be matched with the one that is kept, and replaces it.

    Frames are apart, and no pair, where they are of another frame_id or perhaps of another
    publisher, and consecutive ones where time jumps back, as when a bag starts again: `apart` is
    why that was so for the last frame. A reference stays what it is.
    """

    apart = ''

    def __init__(self, mode: str = 'consecutive') -> None:
        self._lock = threading.Lock()
        self._mode = mode
        self._kept: StampedFeatures | None = None
        self._newest: StampedFeatures | None = None

    def set_mode(self, mode: str) -> None:
        """Change to 'consecutive' or 'reference'; the newest frame becomes the reference."""
        with self._lock:
            if mode != self._mode:
                self._mode, self._kept = mode, self._newest

    def set_reference(self) -> StampedFeatures | None:
        """Keep the newest frame as the reference and return it; None if none came so far."""
        with self._lock:
            self._kept = self._newest
            return self._kept

    def clear_reference(self) -> bool:
        """Forget the reference, so that the next frame becomes it; false if there was none."""
        with self._lock:
            kept, self._kept = self._kept, None
            return kept is not None

    def push(
        self, frame: StampedFeatures, mixed: bool = False
    ) -> tuple[StampedFeatures, StampedFeatures] | None:
        """
        Take in the newest frame; gives it after the frame to match it with, if there is one.

        mixed: several publishers share the topic, so that the two may be of different cameras.
        """
        with self._lock:
            self._newest, kept = frame, self._kept
            fits = kept is not None and kept.model == frame.model
            consecutive = self._mode == 'consecutive'
            self.apart = _why_apart(kept.header, frame.header, mixed, consecutive) if fits else ''
            if not fits or consecutive:
                self._kept = frame
            return (kept, frame) if fits and not self.apart else None


def _why_apart(before: Any, after: Any, mixed: bool, consecutive: bool) -> str:
    """Return what is between the headers of two frames, as diagnostics count it; '' if nothing."""
    if mixed:
        return 'publisher'
    if before.frame_id != after.frame_id:
        return 'frame_id'
    stamps = stamp_ns(before), stamp_ns(after)
    return 'time_jump' if consecutive and all(stamps) and stamps[1] < stamps[0] else ''


class StampBuffer:
    """
    The latest `size` messages by stamp, oldest forgotten first, besides one that is pinned.

    A second message of the same stamp replaces the first. Stamps may jump back, as when a bag
    starts again: age is the order of arrival. A stamp of 0 is none: what has it is not kept.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: OrderedDict[int, Any] = OrderedDict()
        self._pinned: tuple[int, Any] | None = None

    def __len__(self) -> int:
        return len(self._items)

    def add(self, stamp: int, item: Any) -> None:
        """Keep an item; forgets the oldest where there are too many."""
        if not stamp:
            return
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


class ApproximateTimeSync:
    """
    Pairs items of two streams by nearest stamp; safe to use from several threads.

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
        tolerance. Items before the two can have no partner any more: the second value is
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


class OverlayInputs:
    """
    Images, depth images and features until those of the same stamp arrive, in any order.

    size: how many of each kind are kept at most. second: whose images are image 1 of matches.
    """

    def __init__(self, size: int, second: str = 'image') -> None:
        self._second = second
        self._images = {name: StampBuffer(size) for name in ('image', second)}
        self._depths = StampBuffer(size)
        self._without_image, self._without_depth = StampBuffer(size), StampBuffer(size)

    def add_image(self, name: str, image: Any) -> StampedFeatures | None:
        """Keep an image; gives the features that waited for it."""
        stamp = stamp_ns(image.header)
        self._images[name].add(stamp, image)
        return self._without_image.take(stamp) if name == 'image' else None

    def image_of(self, features: StampedFeatures) -> Any | None:
        """Return the image of features, which wait if it is not here."""
        stamp = stamp_ns(features.header)
        image = self._images['image'].get(stamp)
        if image is None:
            self._without_image.add(stamp, features)
        return image

    def images_of(self, matches: Any) -> tuple[Any | None, Any | None]:
        """Return both images of matches; image 0 is kept, for it may be a reference."""
        first, stamp = self._images['image'], stamp_ns(matches.header0)
        first.pin(stamp)
        return first.get(stamp), self.image1_of(matches)

    def image1_of(self, matches: Any) -> Any | None:
        """Return the newer image of matches, or that of the second camera."""
        return self._images[self._second].get(stamp_ns(matches.header))

    def add_depth(self, depth: Any, tolerance_ns: int) -> StampedFeatures | None:
        """Keep a depth image; gives the features that waited for it."""
        stamp = stamp_ns(depth.header)
        self._depths.add(stamp, depth)
        features = self._without_depth.nearest(stamp, tolerance_ns)
        if features is not None:
            self._without_depth.take(stamp_ns(features.header))
        return features

    def depth_of(self, features: StampedFeatures, tolerance_ns: int) -> Any | None:
        """Return the depth image of features, which wait if it is not here."""
        stamp = stamp_ns(features.header)
        depth = self._depths.nearest(stamp, tolerance_ns)
        if depth is None:
            self._without_depth.add(stamp, features)
        return depth

    @property
    def has_depth(self) -> bool:
        """Return whether a depth image came."""
        return len(self._depths) > 0

    def keep_only(self, inputs: Collection[str], outputs: Collection[str]) -> None:
        """Forget what these outputs, from these inputs, have no use for."""
        for name, buffer in self._images.items():
            if name not in inputs:
                buffer.clear()
        if 'keypoints' not in outputs:
            self._without_image.clear()
        if 'keypoint_cloud' not in outputs:
            self._depths.clear()
            self._without_depth.clear()
