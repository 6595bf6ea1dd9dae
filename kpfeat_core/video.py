"""Pictures with time stamps to a video file that plays at the speed of the stamps."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .errors import DataError
from .image import fit
from .io import replacing

CODEC = 'mp4v'  # MPEG-4 Part 2: in every OpenCV, without patents to license
LONGEST_PAUSE_S = 1.0  # a longer one between two pictures is cut short


class Film:
    """
    A video file (.mp4), written while pictures come; use as a context manager.

    All frames have the size of the first picture; others are reduced to fit, on black. Nothing is
    written before the first picture. Raises DataError where the file cannot be written.
    """

    def __init__(self, path: Path | str, rate_hz: float) -> None:
        # a lower rate would show a picture for longer than the longest pause
        self.path, self.rate_hz = Path(path), max(rate_hz, 1 / LONGEST_PAUSE_S)
        self.frames = 0
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._last: tuple[int, np.ndarray] | None = None

    def __enter__(self) -> 'Film':
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def add(self, stamp_ns: int, picture: np.ndarray) -> None:
        """Show the picture before until this stamp, then this one. (H, W, 3) uint8 RGB."""
        if self._last is not None:
            seconds = min(1e-9 * (stamp_ns - self._last[0]), LONGEST_PAUSE_S)
            self._write(self._last[1], max(1, round(seconds * self.rate_hz)))
        self._last = (stamp_ns, picture)

    def close(self) -> None:
        """Write the last picture and finish the file; safe to call twice."""
        if self._last is not None:
            self._write(self._last[1], 1)
            self._last = None
        if self._writer is not None:
            self._writer.release()
            self._writer = None

    def _write(self, picture: np.ndarray, times: int) -> None:
        if self._writer is None:
            self._open(picture.shape[1], picture.shape[0])
        bgr = cv2.cvtColor(_placed(picture, self._size), cv2.COLOR_RGB2BGR)
        for _ in range(times):
            self._writer.write(bgr)
        self.frames += times

    def _open(self, width: int, height: int) -> None:
        self._size = (width + width % 2, height + height % 2)  # codecs want even sides
        self.path.parent.mkdir(parents=True, exist_ok=True)
        code = cv2.VideoWriter_fourcc(*CODEC)
        self._writer = cv2.VideoWriter(str(self.path), code, self.rate_hz, self._size)
        if not self._writer.isOpened():
            raise DataError(
                f"cannot write the video '{self.path}'; expected a name ending in .mp4 in a "
                'folder that may be written to'
            )


def _placed(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if picture.shape[1::-1] == size:
        return picture
    picture = fit(picture, size)
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    canvas[: len(picture), : picture.shape[1]] = picture
    return canvas


CLOCK_HZ = 60_000  # ticks a second; MPEG-4 Part 2 can count up to 65,535
SHORTEST = CLOCK_HZ // 1000  # ticks that a picture is shown at least
LAST_HZ = 30  # the last picture, whose end nobody knows, is shown for one part of a second
BT709 = 1  # the colours of HD video, and the range of their values (ITU-T H.273)
H264 = ('libx264', 'libopenh264')
# Encoders by preference. One thread: the bytes do not depend on how many cores there are.
CODECS: dict[str, dict[str, str]] = {
    'libx264': {'preset': 'veryfast', 'crf': '21', 'bf': '0', 'g': '60'},
    'libopenh264': {'g': '60'},
    'mpeg4': {'qmin': '4', 'qmax': '4', 'g': '60'},  # MPEG-4 Part 2, which browsers do not play
}


class Video:
    """
    An .mp4 file, written while pictures come; use as a context manager.

    Each picture is shown from its own time to that of the next one, however long that is; a time
    that is not after the one before counts as 1 ms later. speed: how many times as fast. size:
    width and height; pictures of other sizes are reduced where needed and put on black.

    The file appears under its name when the block ends well. The same pictures give the same
    bytes. codec: the encoder that was found. Raises DataError.
    """

    def __init__(self, path: Path, size: tuple[int, int], speed: float = 1.0) -> None:
        self.path, self.speed = path, speed
        self.size = (size[0] + size[0] % 2, size[1] + size[1] % 2)  # colours have half the pixels
        self.codec = find_codec()
        self._first: int | None = None
        self._ticks = -SHORTEST

    def __enter__(self) -> 'Video':
        self._opened = _encoder(self.path, self.codec, self.size)
        self._encode = self._opened.__enter__()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._opened.__exit__(*error)

    def add(self, time: int, picture: np.ndarray) -> None:
        """Show a picture (H, W, 3) uint8 RGB from this time in nanoseconds on."""
        if self._first is None:
            self._first = time
        ticks = round((time - self._first) * CLOCK_HZ / (1e9 * self.speed))
        self._ticks = max(ticks, self._ticks + SHORTEST)
        self._encode(letterbox(picture, self.size), self._ticks)


def find_codec() -> str:
    """Return the best encoder that PyAV has; raises DataError where there is none."""
    try:
        import av
    except ImportError:
        raise DataError(
            "videos need PyAV (av), which is not installed; pip install 'kpfeat[video]'"
        ) from None
    for codec in CODECS:
        if codec in av.codecs_available:
            return codec
    raise DataError(
        f'PyAV has none of the encoders {", ".join(CODECS)}; pip install --force-reinstall av'
    )


def letterbox(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Put a picture in the middle of a black one of (width, height), reduced where it must be."""
    if picture.shape[1::-1] == size:
        return picture
    picture = fit(picture, size)
    right, below = size[0] - picture.shape[1], size[1] - picture.shape[0]
    edges = (below // 2, below - below // 2, right // 2, right - right // 2)
    return cv2.copyMakeBorder(picture, *edges, cv2.BORDER_CONSTANT, value=(0, 0, 0))


@contextmanager
def _encoder(
    path: Path, codec: str, size: tuple[int, int]
) -> Iterator[Callable[[np.ndarray, int], None]]:
    """Give a function that takes pictures and their times in ticks."""
    import av

    options = {'movflags': '+faststart'}  # plays while it is still being loaded
    try:
        with (
            replacing(path) as temporary,
            av.open(str(temporary), 'w', format='mp4', options=options) as container,
        ):
            stream = container.add_stream(codec, rate=LAST_HZ, options=CODECS[codec])
            _set_up(stream, size)

            def encode(picture: np.ndarray, ticks: int) -> None:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format='rgb24')
                frame = frame.reformat(format='yuv420p', dst_colorspace='ITU709')
                frame.pts, frame.time_base = ticks, Fraction(1, CLOCK_HZ)
                container.mux(stream.encode(frame))

            yield encode
            container.mux(stream.encode(None))  # what it still holds
    except av.error.FFmpegError as error:
        raise DataError(f"the video '{path}' cannot be written: {error}") from error


def _set_up(stream: Any, size: tuple[int, int]) -> None:
    context = stream.codec_context
    stream.width, stream.height = size
    stream.pix_fmt = 'yuv420p'
    stream.time_base = context.time_base = Fraction(1, CLOCK_HZ)
    context.thread_count = 1
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = BT709
