"""Pictures with time stamps to an .mp4 file that plays at the speed of the stamps."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .errors import DataError
from .image import fit
from .io import replacing

CLOCK_HZ = 60_000  # ticks a second; MPEG-4 Part 2 can count up to 65,535
SHORTEST = CLOCK_HZ // 1000  # ticks that a picture is shown at least
LAST_HZ = 30  # the last picture, whose end nobody knows, is shown for one part of a second
BT709 = 1  # the colours of HD video, and the range of their values (ITU-T H.273)
OPENCV_CODEC = 'mp4v'  # MPEG-4 Part 2: in every OpenCV, without patents to license
LONGEST_PAUSE_S = 1.0  # at a fixed rate a longer one between two pictures is cut short
H264 = ('libx264', 'libopenh264')
# Encoders by preference. One thread: the bytes do not depend on how many cores there are.
CODECS: dict[str, dict[str, str]] = {
    'libx264': {'preset': 'veryfast', 'crf': '21', 'bf': '0', 'g': '60'},
    'libopenh264': {'g': '60'},
    'mpeg4': {'qmin': '4', 'qmax': '4', 'g': '60'},  # MPEG-4 Part 2, which browsers do not play
}

# Takes pictures of the size of the video, and their times in ticks.
Encode = Callable[[np.ndarray, int], None]


class Video:
    """
    An .mp4 file, written while pictures come; use as a context manager, or `close` it.

    Each picture is shown from its own time to that of the next one, however long that is; a time
    that is not after the one before counts as 1 ms later. speed: how many times as fast. size:
    width and height, by default those of the first picture; pictures of other sizes are reduced
    where needed and put on black.

    rate_hz: of frames, if it is fixed: such a video needs no PyAV, and pauses of more than a
    second are cut short. Otherwise the same pictures give the same bytes.

    The file appears under its name when the block ends well, if there were pictures. codec: the
    encoder that was found. Raises DataError.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int] | None = None,
        speed: float = 1.0,
        rate_hz: float = 0.0,
    ) -> None:
        # a lower rate would show a picture for longer than the longest pause
        self._rate_hz = max(rate_hz, 1 / LONGEST_PAUSE_S) if rate_hz else 0.0
        self.path, self.speed, self.size = Path(path), speed, size
        self.codec = OPENCV_CODEC if rate_hz else find_codec()
        self._stack, self._encode = ExitStack(), None
        self._first: int | None = None
        self._ticks = -SHORTEST

    def __enter__(self) -> 'Video':
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    def close(self) -> None:
        """Finish the file; safe to call twice."""
        self._stack.close()

    def add(self, time: int, picture: np.ndarray) -> None:
        """Show a picture (H, W, 3) uint8 RGB from this time in nanoseconds on."""
        if self._first is None:
            self._open(picture, time)
        ticks = round((time - self._first) * CLOCK_HZ / (1e9 * self.speed))
        self._ticks = max(ticks, self._ticks + SHORTEST)
        self._encode(letterbox(picture, self.size), self._ticks)

    def _open(self, picture: np.ndarray, time: int) -> None:
        width, height = self.size or picture.shape[1::-1]
        self.size = (width + width % 2, height + height % 2)  # colours have half the pixels
        if self._rate_hz:
            encoder = _opencv_encoder(self.path, self.size, self._rate_hz)
        else:
            encoder = _av_encoder(self.path, self.size, self.codec)
        self._encode, self._first = self._stack.enter_context(encoder), time


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
def _opencv_encoder(path: Path, size: tuple[int, int], rate_hz: float) -> Iterator[Encode]:
    """Encode frames at a fixed rate; a picture is written when the next one tells its end."""
    last: tuple[np.ndarray, int] | None = None

    with replacing(path) as temporary:
        code = cv2.VideoWriter_fourcc(*OPENCV_CODEC)
        writer = cv2.VideoWriter(str(temporary), code, rate_hz, size)
        if not writer.isOpened():
            raise DataError(
                f"cannot write the video '{path}'; expected a name ending in .mp4 in a folder "
                'that may be written to'
            )

        def encode(picture: np.ndarray, ticks: int) -> None:
            nonlocal last
            if last:
                seconds = min((ticks - last[1]) / CLOCK_HZ, LONGEST_PAUSE_S)
                for _ in range(max(1, round(seconds * rate_hz))):
                    writer.write(last[0])
            last = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), ticks

        yield encode
        writer.write(last[0])
        writer.release()


@contextmanager
def _av_encoder(path: Path, size: tuple[int, int], codec: str) -> Iterator[Encode]:
    """Encode pictures with their own times."""
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
