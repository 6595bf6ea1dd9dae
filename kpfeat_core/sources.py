"""Where a camera node's images come from: a virtual camera, a folder of images, or a video."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
import os
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import numpy as np

from .camera import Calibration
from .config import option
from .errors import ConfigError, DataError, ImageError
from .image import fit, read_image
from .io import find_images
from .virtual_camera import VirtualCamera

USUAL_RATE_HZ = 10.0
FULL = 'full'


@dataclass(frozen=True)
class SourceConfig:
    """Which images are sent, how large and how often; a virtual camera unless told otherwise."""

    images: str = option('', 'folder whose images are sent in the order of their names')
    video: str = option('', 'video file that is sent')
    photograph: str = option(
        '', 'picture that the virtual camera moves over; empty takes the one that is bundled'
    )
    size: str = option(
        '640x480',
        'WIDTHxHEIGHT of the virtual camera; larger images and videos are reduced to fit into '
        'it, and full leaves them as they are',
    )
    rate_hz: float = option(
        -1.0, "images a second; -1 takes the video's own rate, or 10", low=-1.0, high=1000.0
    )
    loop: bool = option(True, 'start images and videos again after the last one')


@runtime_checkable
class ImageSource(Protocol):
    """
    Gives one image after the other, as (H, W, 3) uint8 RGB.

    calibration: of the images; None where it is not known.
    """

    name: str
    rate_hz: float
    calibration: Calibration | None

    def next(self, stamp_ns: int) -> np.ndarray | None:
        """Return the image for a time, None after the last; a bad one raises ImageError."""


def create_source(config: SourceConfig) -> ImageSource:
    """Open the source of a configuration; raises ConfigError, DataError and ImageError."""
    chosen = [name for name in ('images', 'video', 'photograph') if getattr(config, name)]
    if len(chosen) > 1:
        raise ConfigError(f'got {" and ".join(chosen)}, expected one of them')
    size = parse_size(config.size)
    if config.images:
        source = FolderSource(config.images, size, config.loop)
    elif config.video:
        source = VideoSource(config.video, size, config.loop)
    else:
        source = VirtualSource(config.photograph, size)
    if config.rate_hz > 0:
        source.rate_hz = config.rate_hz
    return source


def parse_size(text: str) -> tuple[int, int] | None:
    """Return width and height of a text such as 640x480; None for full; raises ConfigError."""
    if text == FULL:
        return None
    width, _, height = text.lower().partition('x')
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise ConfigError(f"size is '{text}', expected WIDTHxHEIGHT such as 640x480, or full")
    if min(int(width), int(height)) < 32:
        raise ConfigError(f"size is '{text}', expected at least 32x32")
    return int(width), int(height)


class VirtualSource:
    """The images of a virtual camera over a photograph; without an end."""

    def __init__(self, photograph: str, size: tuple[int, int] | None) -> None:
        if size is None:
            raise ConfigError('size is full, expected WIDTHxHEIGHT for the virtual camera')
        picture = read_image(photograph) if photograph else None
        self.camera = VirtualCamera(picture, size)
        self.calibration = self.camera.calibration
        self.name, self.rate_hz = 'virtual camera', USUAL_RATE_HZ

    def next(self, stamp_ns: int) -> np.ndarray:
        """Return the frame of a time."""
        return self.camera.frame(stamp_ns)


class FolderSource:
    """The images below a folder by name; raises DataError if none of them can be read."""

    def __init__(self, folder: Path | str, size: tuple[int, int] | None, loop: bool) -> None:
        self.calibration = None
        self.paths = find_images(folder)
        self.name, self.rate_hz = f'images in {folder}', USUAL_RATE_HZ
        self._size, self._loop, self._position = size, loop, 0
        self._check()

    def next(self, stamp_ns: int) -> np.ndarray | None:
        """Return the next image; one that raises ImageError is passed over by the next call."""
        if self._position == len(self.paths):
            if not self._loop:
                return None
            self._position = 0
        path = self.paths[self._position]
        self._position += 1
        return fit(read_image(path), self._size)

    def _check(self) -> None:
        problems = []
        for path in self.paths:
            try:
                read_image(path)
                return
            except ImageError as error:
                problems.append(error)
        count = len(problems)
        raise DataError(f'none of the {count} {self.name} can be read: {problems[0]}')


class VideoSource:
    """The frames of a video file; raises DataError if it cannot be read."""

    def __init__(self, path: Path | str, size: tuple[int, int] | None, loop: bool) -> None:
        if not Path(path).is_file():
            raise DataError(f"there is no video '{path}'")
        self.name, self.calibration = f'video {path}', None
        self._path, self._size, self._loop = str(path), size, loop
        with _quiet():
            self._video = cv2.VideoCapture(self._path, cv2.CAP_FFMPEG)
        if self._read() is None:
            raise DataError(
                f"'{path}' is not a video that OpenCV can decode, or it is cut off; "
                'an .mp4 file with H.264 is a safe choice'
            )
        rate = self._video.get(cv2.CAP_PROP_FPS)
        self.rate_hz = rate if 0 < rate <= 1000 else USUAL_RATE_HZ
        self._rewind()

    def next(self, stamp_ns: int) -> np.ndarray | None:
        """Return the next frame."""
        frame = self._read()
        if frame is None and self._loop:
            self._rewind()
            frame = self._read()
        return None if frame is None else fit(frame, self._size)

    def _read(self) -> np.ndarray | None:
        found, frame = self._video.read()
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if found else None

    def _rewind(self) -> None:
        # opened again: not every format can seek
        self._video.release()
        self._video = cv2.VideoCapture(self._path, cv2.CAP_FFMPEG)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep OpenCV and FFmpeg from reporting a broken file on stderr in their own words."""
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
    logging = getattr(cv2.utils, 'logging', cv2)  # OpenCV 4.6, which Ubuntu 24.04 has: cv2
    before = logging.setLogLevel(0)
    try:
        yield
    finally:
        logging.setLogLevel(before)
