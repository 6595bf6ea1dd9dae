"""Videos and contact sheets of a recording: its images with what was found in them."""

from collections.abc import Callable, Sequence
from contextlib import closing, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TYPE_CHECKING

import cv2
import numpy as np
import torch

from .frames import BagReport, FeatureFrame, Frames, open_frames
from .plan import image_topics
from .reader import BagReader
from .request import (
    ExtractRequest,
    FramesRequest,
    KEYPOINTS,
    MATCHES,
    RenderConfig,
    TRACKS,
)
from .writers import check_target
from ..axes import Float
from ..config import AUTO, check_config, MatcherConfig
from ..errors import DataError
from ..image import fit, rescale_points, write_image
from ..io import replacing
from ..matching import match_pair, MutualNearestNeighbor, PairMatches
from ..tracks import Tracks, Trail
from ..video import find_codec, H264, letterbox, Video
from ..visualize import draw_features, draw_matches, draw_tracks, GAP, side_by_side, to_rgb8

if TYPE_CHECKING:
    from ..models.base import Extractor

FONT = cv2.FONT_HERSHEY_SIMPLEX
TEXT_SIZE = 0.45  # of capital letters about 10 pixels high
LINE_HEIGHT = 22  # pixels
MARGIN = 6  # pixels left and right of a line
LIGHT = (225, 225, 225)


class Matched(NamedTuple):
    """An earlier image of the same topic, and the matches with it."""

    before: FeatureFrame
    pair: PairMatches


class ConsecutiveMatcher:
    """
    Matches each image with the one before it in its topic.

    Images without features are passed over: the next one is matched with the one before them.
    Holds one image of each topic.
    """

    def __init__(self, matcher: MutualNearestNeighbor) -> None:
        self._matcher = matcher
        self._before: dict[str, FeatureFrame] = {}

    def match(self, frame: FeatureFrame) -> Matched | None:
        """
        Return what an image with features is matched with; None for a first one.

        Descriptors of another size are of another model, with which a topic begins anew. Raises
        DataError where there are no descriptors.
        """
        if frame.features.count() and not frame.features.descriptor_dim:
            raise DataError(f"features of '{frame.topic}' have no descriptors to be matched by")
        before = self._before.get(frame.topic)
        self._before[frame.topic] = frame
        if before is None or before.features.descriptor_dim != frame.features.descriptor_dim:
            return None
        return Matched(before, match_pair(self._matcher, before.features, frame.features))


def draw_keypoints(frame: FeatureFrame, width: int) -> np.ndarray:
    """Draw an image, reduced to at most `width` pixels, with its keypoints: (H, W, 3) RGB."""
    picture = _reduced(frame.image, width)
    sizes = frame.image.shape[:2], picture.shape[:2]
    keypoints = rescale_points(frame.features.keypoints, *sizes)
    return draw_features(picture, replace(frame.features, keypoints=keypoints))


def draw_trails(frame: FeatureFrame, trails: Sequence[Trail], width: int) -> np.ndarray:
    """Draw an image, reduced to at most `width` pixels, with its tracks: (H, W, 3) RGB."""
    picture = _reduced(frame.image, width)
    sizes = frame.image.shape[:2], picture.shape[:2]
    moved = [replace(trail, points=_rescaled(trail.points, *sizes)) for trail in trails]
    return draw_tracks(picture, moved)


def draw_pair(
    frame: FeatureFrame, matched: Matched | None, width: int, limit: int = -1
) -> np.ndarray:
    """Draw the image before beside this one and their best matches, at most `width` pixels."""
    half = (width - GAP) // 2
    picture = _reduced(frame.image, half)
    if matched is None:
        return side_by_side(np.zeros_like(picture), picture)[0]
    pair, before = matched.pair, matched.before.image
    picture0 = _reduced(before, half)
    return draw_matches(
        picture0,
        picture,
        _rescaled(pair.keypoints0, before.shape[:2], picture0.shape[:2]),
        _rescaled(pair.keypoints1, frame.image.shape[:2], picture.shape[:2]),
        correct=None if pair.geometry == 'none' else pair.inliers,
        scores=pair.scores,
        limit=limit,
    )


def with_line(picture: np.ndarray, text: str) -> np.ndarray:
    """Add a line of text below a picture, where it hides nothing; ASCII only."""
    line = np.zeros((LINE_HEIGHT, picture.shape[1], 3), np.uint8)
    wide = cv2.getTextSize(text, FONT, TEXT_SIZE, 1)[0][0]
    size = TEXT_SIZE * min(1.0, (line.shape[1] - 2 * MARGIN) / wide)
    cv2.putText(line, text, (MARGIN, LINE_HEIGHT - 7), FONT, size, LIGHT, 1, cv2.LINE_AA)
    return np.concatenate([picture, line])


def _reduced(image: np.ndarray, width: int) -> np.ndarray:
    return fit(to_rgb8(image), (width, image.shape[0]))


def _rescaled(
    points: Float[np.ndarray, 'n 2'], from_size: Sequence[int], to_size: Sequence[int]
) -> Float[np.ndarray, 'n 2']:
    if tuple(from_size) == tuple(to_size):  # mostly, and there are many tracks
        return points
    return rescale_points(torch.from_numpy(points), from_size, to_size).numpy()


TILE_WIDTH = 400  # pixels of a picture of a sheet
TILE_GAP = 6
FINENESS = 2  # a picture of a sheet is drawn so much larger: its circles then are smaller
SPARE = 3  # images looked at for each picture of a sheet, so that they lie about evenly


@dataclass
class RenderReport(BagReport):
    """
    What became of a recording; `BagReport` has the rest.

    files: what was written. codec: the encoder of the videos.
    """

    files: list[Path] = field(default_factory=list)
    codec: str = ''

    hidden = ('total', 'resumed', 'discarded', 'copied')

    def described(self) -> dict[str, Any]:
        return super().described() | {'files': [str(file) for file in self.files]}

    @property
    def is_h264(self) -> bool:
        """Return whether the videos are of the kind that browsers and phones play."""
        return self.codec in H264


def render_recording(
    request: FramesRequest,
    video: Path | None = None,
    sheet: Path | None = None,
    config: RenderConfig | None = None,
    matching: MatcherConfig | None = None,
    extractor: 'Extractor | None' = None,
    on_image: Callable[[RenderReport], None] = lambda report: None,
) -> RenderReport:
    """
    Draw the images of a recording with their features, to an .mp4 file, a sheet, or both.

    Of several image topics each has files of its own, NAME.CAMERA.mp4. extractor: the one that
    `request` describes, where it is loaded already. on_image is called at the start and after each
    image.

    Only a sheet of keypoints needs no more than about the images that it shows. Raises KpfeatError
    and OSError; the files are then as they were before.
    """
    config = config or RenderConfig()
    check_config(config)
    if config.show == AUTO:
        config = replace(config, show=TRACKS if video else KEYPOINTS)
    if request.view.undistort:
        raise DataError(
            'keypoints without distortion do not lie where the picture shows them; leave out '
            'undistort'
        )
    codec = find_codec() if video else ''
    reader = BagReader(request.source)
    if not video and config.show == KEYPOINTS:
        request = replace(request, stride=_stride_of_sheet(request, reader, config.tiles))
    frames = open_frames(request, extractor=extractor)
    for out in filter(None, (video, sheet)):
        inputs = [frames.reader.recording, frames.source.recording]
        check_target(out, inputs, recording=False)
    report = RenderReport(frames.reader.recording.path, total=frames.total, codec=codec)
    on_image(report)
    with ExitStack() as stack, closing(frames.lists()) as lists:
        show = _Show(stack, frames, config, MutualNearestNeighbor(matching), video, sheet)
        for found in lists:
            for frame in found:
                report.add(frame)
                if frame.features is not None:
                    show.add(frame)
                on_image(report)
        report.check(frames.damage)
        show.write_sheets()
    report.files, report.damage = show.files, frames.damage
    report.leave_out(frames.plan)
    return report


def check_extraction(request: FramesRequest) -> None:
    """Raise DataError where `render_extracted` could make no video of what will be written."""
    if request.view.undistort:
        raise DataError('a video shows images as they are; leave out undistort')
    find_codec()


def render_extracted(
    request: ExtractRequest,
    video: Path,
    on_image: Callable[[RenderReport], None] = lambda report: None,
) -> RenderReport:
    """Make a video of what `extract_recording` wrote as a recording; raises KpfeatError."""
    check_extraction(request)
    images = FramesRequest(
        request.source,
        features=str(request.out),
        topics=request.topics,
        start=request.start,
        end=request.end,
        stride=request.stride,
    )
    return render_recording(images, video, on_image=on_image)


class _Show:
    """The pictures of all topics; videos are opened with the first one, for its size."""

    def __init__(
        self,
        stack: ExitStack,
        frames: Frames,
        config: RenderConfig,
        matcher: MutualNearestNeighbor,
        video: Path | None,
        sheet: Path | None,
    ) -> None:
        self._stack, self._config = stack, config
        self._video, self._sheet = video, sheet
        self._matcher = ConsecutiveMatcher(matcher)
        self._tracks = {topic: Tracks() for topic in frames.topics}
        self._start = frames.reader.start
        self._sheets = {t: _Tiles(frames, config.tiles) for t in frames.topics if sheet}
        self._videos: dict[str, Video] = {}
        self.files: list[Path] = []

    def add(self, frame: FeatureFrame) -> None:
        """Draw an image that has features."""
        matched, trails = None, []
        if self._config.show != KEYPOINTS:
            matched = self._matcher.match(frame)
            trails = self._follow(frame, matched)
        line = self._line(frame, matched)
        if self._video:
            picture = with_line(self._draw(frame, matched, trails, self._config.max_width), line)
            self._video_of(frame.topic, picture).add(frame.time, picture)
        if self._sheet and self._sheets[frame.topic].wants(frame.time):
            picture = self._draw(frame, matched, trails, FINENESS * TILE_WIDTH)
            picture = fit(picture, (TILE_WIDTH, len(picture)))
            self._sheets[frame.topic].add(with_line(picture, f'{self._seconds(frame):.2f} s'))

    def write_sheets(self) -> None:
        """Write the sheets of all topics."""
        for topic, tiles in self._sheets.items():
            if tiles.pictures:
                path = self._path(self._sheet, topic)
                temporary = self._stack.enter_context(replacing(path))
                write_image(temporary, tiles.sheet())
                self.files.append(path)

    def _follow(self, frame: FeatureFrame, matched: Matched | None) -> list[Trail]:
        tracks = self._tracks[frame.topic]
        if matched is None:
            tracks.clear()
            return []
        tracks.add(matched.before.index, frame.index, matched.pair)
        return tracks.trails()

    def _draw(
        self, frame: FeatureFrame, matched: Matched | None, trails: list[Trail], width: int
    ) -> np.ndarray:
        if self._config.show == MATCHES:
            return draw_pair(frame, matched, width, self._config.max_matches)
        if self._config.show == TRACKS:
            return draw_trails(frame, trails, width)
        return draw_keypoints(frame, width)

    def _line(self, frame: FeatureFrame, matched: Matched | None) -> str:
        words = [f'{self._seconds(frame):.2f} s', f'#{frame.index}']
        words.append(f'{frame.features.count()} keypoints')
        if matched is not None:
            words.append(f'{len(matched.pair)} matches')
            if matched.pair.geometry != 'none':
                words.append(f'{matched.pair.inliers.sum()} inliers')
        return '   '.join(words)

    def _seconds(self, frame: FeatureFrame) -> float:
        return 1e-9 * (frame.time - self._start)

    def _video_of(self, topic: str, picture: np.ndarray) -> Video:
        if topic not in self._videos:
            path = self._path(self._video, topic)
            video = Video(path, picture.shape[1::-1], self._config.speed)
            self._videos[topic] = self._stack.enter_context(video)
            self.files.append(path)
        return self._videos[topic]

    def _path(self, path: Path, topic: str) -> Path:
        if len(self._tracks) == 1:
            return path
        # names of ROS have no hyphen: no two topics become one name
        camera = topic.removesuffix('/features').strip('/').replace('/', '-')
        return path.with_name('.'.join(filter(None, [path.stem, camera])) + path.suffix)


class _Tiles:
    """The pictures of a sheet: the first one of each of so many equal parts of the time."""

    def __init__(self, frames: Frames, count: int) -> None:
        start, stop = frames.reader.span(frames.request.start, frames.request.end)
        self._start = max(start, frames.reader.start)
        self._length = max(1, min(stop, frames.reader.end + 1) - self._start)
        self._count, self._part = count, -1
        self.pictures: list[np.ndarray] = []

    def wants(self, time: int) -> bool:
        """Return whether an image is the first one of its part."""
        part = (time - self._start) * self._count // self._length
        first, self._part = part > self._part, max(part, self._part)
        return first

    def add(self, picture: np.ndarray) -> None:
        """Take the picture of a part."""
        self.pictures.append(picture)

    def sheet(self) -> np.ndarray:
        """Return all pictures, row after row."""
        size = self.pictures[0].shape[1::-1]
        columns = int(np.ceil(np.sqrt(len(self.pictures))))
        cells = [_with_gap(letterbox(picture, size)) for picture in self.pictures]
        cells += [np.zeros_like(cells[0])] * (-len(cells) % columns)
        rows = [np.concatenate(cells[k : k + columns], 1) for k in range(0, len(cells), columns)]
        return np.concatenate(rows)[:-TILE_GAP, :-TILE_GAP]


def _with_gap(picture: np.ndarray) -> np.ndarray:
    edges = (0, TILE_GAP, 0, TILE_GAP)
    return cv2.copyMakeBorder(picture, *edges, cv2.BORDER_CONSTANT, value=(0, 0, 0))


def _stride_of_sheet(request: FramesRequest, reader: BagReader, tiles: int) -> int:
    """Return how many images may be passed over so that every part of the time still has one."""
    span = reader.span(request.start, request.end)
    counts = [reader.expected([topic], *span) for topic in image_topics(reader, request.topics)]
    return request.stride * max(1, min(counts) // request.stride // (SPARE * tiles))
