"""One camera of an extractor: its topics, its clock, its lens."""

from dataclasses import dataclass, field
from typing import Any

from kpfeat_core.camera import Calibration

from .exchange import Outlet
from .throttle import Throttle


@dataclass
class Stream:
    """
    What an extractor keeps for one camera.

    source: name of the camera, empty where there is one alone. publisher: of its features, and
    outlet: of the same in this process. frame_id: of what it sees.
    """

    source: str
    publisher: Any
    outlet: Outlet
    throttle: Throttle = field(default_factory=Throttle)
    calibration: Calibration | None = None
    frame_id: str = ''
    told_contrast: bool = False  # that its images use little of their range

    def wanted(self) -> int:
        """Return how many listen to its features."""
        return self.publisher.get_subscription_count()


def topic_of(source: str, name: str) -> str:
    """Return the name of a camera's topic: 'left/image', or 'image' for one alone."""
    return f'{source}/{name}' if source else name
