"""Images, depth images and features that wait for each other; free of ROS."""

from collections.abc import Collection
from typing import Any

from .frames import Frame
from .stamps import stamp_ns, StampBuffer


class Partners:
    """
    Brings together what belongs to the same time, in whatever order it comes.

    size: how many of each kind wait at most. second: whose images are image 1 of matches.
    """

    def __init__(self, size: int, second: str = 'image') -> None:
        self._second = second
        self._images = {name: StampBuffer(size) for name in ('image', second)}
        self._depths = StampBuffer(size)
        self._without_image, self._without_depth = StampBuffer(size), StampBuffer(size)

    def add_image(self, name: str, image: Any) -> Frame | None:
        """Keep an image; gives the features that waited for it."""
        stamp = stamp_ns(image.header)
        self._images[name].add(stamp, image)
        return self._without_image.take(stamp) if name == 'image' else None

    def image_of(self, features: Frame) -> Any | None:
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

    def add_depth(self, depth: Any, tolerance_ns: int) -> Frame | None:
        """Keep a depth image; gives the features that waited for it."""
        stamp = stamp_ns(depth.header)
        self._depths.add(stamp, depth)
        features = self._without_depth.nearest(stamp, tolerance_ns)
        if features is not None:
            self._without_depth.take(stamp_ns(features.header))
        return features

    def depth_of(self, features: Frame, tolerance_ns: int) -> Any | None:
        """Return the depth image of features, which wait if it is not here."""
        stamp = stamp_ns(features.header)
        depth = self._depths.nearest(stamp, tolerance_ns)
        if depth is None:
            self._without_depth.add(stamp, features)
        return depth

    @property
    def has_depth(self) -> bool:
        """Say whether a depth image came."""
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
