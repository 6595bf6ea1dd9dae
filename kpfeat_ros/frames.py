"""Which frame a new one is matched with: the one before, or a kept reference; free of ROS."""

from dataclasses import dataclass
import threading
from typing import Any

from kpfeat_core.features import Features
from kpfeat_core.messages.conversions import message_to_features


@dataclass(frozen=True)
class Frame:
    """Features of one image as they arrived."""

    header: Any
    model: str
    features: Features

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height of the image."""
        width, height = self.features.image_size[0].tolist()
        return round(width), round(height)


def message_to_frame(message: Any) -> Frame:
    """Unpack a Features message; raises ShapeError."""
    return Frame(message.header, message.model, message_to_features(message))


class FramePairs:
    """
    Remembers the frame that the next one is matched with; safe to use from several threads.

    In mode 'reference' the first frame is the reference until `set_reference` takes the newest.
    A frame of another model cannot be matched with what is kept, and replaces it.
    """

    def __init__(self, mode: str = 'consecutive') -> None:
        self._lock = threading.Lock()
        self._mode = mode
        self._kept: Frame | None = None
        self._newest: Frame | None = None

    def set_mode(self, mode: str) -> None:
        """Change to 'consecutive' or 'reference'; the newest frame becomes the reference."""
        with self._lock:
            if mode != self._mode:
                self._mode, self._kept = mode, self._newest

    def set_reference(self) -> Frame | None:
        """Keep the newest frame as the reference and return it; None if none came so far."""
        with self._lock:
            self._kept = self._newest
            return self._kept

    def clear_reference(self) -> bool:
        """Let the next frame become the reference; false if there was none."""
        with self._lock:
            kept, self._kept = self._kept, None
            return kept is not None

    def push(self, frame: Frame) -> tuple[Frame, Frame] | None:
        """Take in the newest frame; gives it after the frame to match it with, if there is one."""
        with self._lock:
            self._newest, kept = frame, self._kept
            fits = kept is not None and kept.model == frame.model
            if not fits or self._mode == 'consecutive':
                self._kept = frame
            return (kept, frame) if fits else None
