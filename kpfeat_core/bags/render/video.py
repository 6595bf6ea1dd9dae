"""Pictures with their times to a video that browsers and phones play."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...errors import DataError
from ...image import fit
from ...io import replacing

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
