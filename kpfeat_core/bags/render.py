"""Options of pictures of a recording."""

from collections.abc import Callable, Sequence
from contextlib import closing, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from .extract import Extraction, Report
from .frames import count_sight, Followed, Following, Sight, Sights
from .plan import image_topics
from .reader import BagReader
from .writers import check_target
from ..axes import Float
from ..config import AUTO, check_config, MatcherConfig, option
from ..errors import DataError
from ..image import fit, rescale_points, write_image
from ..io import replacing
from ..matching import MutualNearestNeighbor
from ..tracks import Tracks, Trail
from ..video import find_codec, H264, letterbox, Video
from ..visualize import draw_features, draw_matches, draw_tracks, GAP, side_by_side, to_rgb8

if TYPE_CHECKING:
    from ..models.base import Extractor

KEYPOINTS, TRACKS, MATCHES = SHOWN = ('keypoints', 'tracks', 'matches')


@dataclass(frozen=True)
class RenderConfig:
    """What pictures of a recording show."""

    show: str = option(
        AUTO,
        'what is drawn; matches stand beside the image before; auto: tracks, and keypoints where '
        'only a sheet is made',
        choices=(AUTO, *SHOWN),
    )
    speed: float = option(1.0, 'how many times as fast a video plays', low=0.01, high=1000.0)
    max_width: int = option(
        1280, 'reduce wider pictures of a video to this many pixels', low=64, high=16384
    )
    tiles: int = option(12, 'pictures of a sheet, spread evenly over time', low=1, high=1000)
    max_matches: int = option(200, 'draw the best N matches of a pair; -1 draws all', low=-1)


FONT = cv2.FONT_HERSHEY_SIMPLEX
TEXT_SIZE = 0.45  # of capital letters about 10 pixels high
LINE_HEIGHT = 22  # pixels
MARGIN = 6  # pixels left and right of a line
LIGHT = (225, 225, 225)


def draw_keypoints(sight: Sight, width: int) -> np.ndarray:
    """Draw an image, reduced to at most `width` pixels, with its keypoints: (H, W, 3) RGB."""
    picture = _reduced(sight.image, width)
    sizes = sight.image.shape[:2], picture.shape[:2]
    keypoints = rescale_points(sight.features.keypoints, *sizes)
    return draw_features(picture, replace(sight.features, keypoints=keypoints))


def draw_trails(sight: Sight, trails: Sequence[Trail], width: int) -> np.ndarray:
    """Draw an image, reduced to at most `width` pixels, with its tracks: (H, W, 3) RGB."""
    picture = _reduced(sight.image, width)
    sizes = sight.image.shape[:2], picture.shape[:2]
    moved = [replace(trail, points=_rescaled(trail.points, *sizes)) for trail in trails]
    return draw_tracks(picture, moved)


def draw_pair(sight: Sight, followed: Followed | None, width: int, limit: int = -1) -> np.ndarray:
    """Draw the image before beside this one and their best matches, at most `width` pixels."""
    half = (width - GAP) // 2
    picture = _reduced(sight.image, half)
    if followed is None:
        return side_by_side(np.zeros_like(picture), picture)[0]
    pair, before = followed.pair, followed.before.image
    picture0 = _reduced(before, half)
    return draw_matches(
        picture0,
        picture,
        _rescaled(pair.keypoints0, before.shape[:2], picture0.shape[:2]),
        _rescaled(pair.keypoints1, sight.image.shape[:2], picture.shape[:2]),
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
class RenderReport(Report):
    """
    What became of a recording; `Report` has the rest.

    files: what was written. codec: the encoder of the videos.
    """

    files: list[Path] = field(default_factory=list)
    codec: str = ''

    @property
    def is_h264(self) -> bool:
        """Say whether the videos are of the kind that browsers and phones play."""
        return self.codec in H264


def render_recording(
    wanted: Extraction,
    video: Path | None = None,
    sheet: Path | None = None,
    features: Path | None = None,
    config: RenderConfig | None = None,
    matching: MatcherConfig | None = None,
    extractor: 'Extractor | None' = None,
    on_image: Callable[[RenderReport], None] = lambda report: None,
) -> RenderReport:
    """
    Draw the images of a recording with their features, to an .mp4 file, a sheet, or both.

    wanted: which images, and what makes the features where they are not recorded, as `Sights`
    reads it; its `out` does not count. features: the recording that holds them. Of several image
    topics each has files of its own, NAME.CAMERA.mp4. extractor: the one that `wanted` describes,
    where it is loaded already. on_image is called at the start and after each image.

    Only a sheet of keypoints needs no more than about the images that it shows. Raises KpfeatError
    and OSError; the files are then as they were before.
    """
    config = config or RenderConfig()
    check_config(config)
    if config.show == AUTO:
        config = replace(config, show=TRACKS if video else KEYPOINTS)
    if wanted.view.undistort:
        raise DataError(
            'keypoints without distortion do not lie where the picture shows them; leave out '
            'undistort'
        )
    codec = find_codec() if video else ''
    reader = BagReader(wanted.source)
    if not video and config.show == KEYPOINTS:
        wanted = replace(wanted, stride=_stride_of_sheet(wanted, reader, config.tiles))
    sights = Sights(wanted, features, extractor=extractor)
    for out in filter(None, (video, sheet)):
        inputs = [sights.reader.recording, sights.source.recording]
        check_target(out, inputs, recording=False)
    report = RenderReport(sights.reader.recording.path, Path(), sights.total, codec=codec)
    on_image(report)
    with ExitStack() as stack, closing(sights.lists()) as lists:
        show = _Show(stack, sights, config, MutualNearestNeighbor(matching), video, sheet)
        for found in lists:
            for sight in found:
                count_sight(report, sight)
                if sight.features is not None:
                    show.add(sight)
                on_image(report)
        report.check(sights.damage)
        show.write_sheets()
    report.files, report.damage, report.left_out = show.files, sights.damage, sights.left_out
    return report


def check_extraction(wanted: Extraction) -> None:
    """Raise DataError where `render_extracted` could make no video of what will be written."""
    if wanted.view.undistort:
        raise DataError('a video shows images as they are; leave out undistort')
    find_codec()


def render_extracted(
    wanted: Extraction,
    video: Path,
    on_image: Callable[[RenderReport], None] = lambda report: None,
) -> RenderReport:
    """Make a video of what `extract_recording` wrote as a recording; raises KpfeatError."""
    check_extraction(wanted)
    images = Extraction(
        wanted.source, Path(), wanted.topics, wanted.start, wanted.end, wanted.stride, model=''
    )
    return render_recording(images, video, features=wanted.out, on_image=on_image)


class _Show:
    """The pictures of all topics; videos are opened with the first one, for its size."""

    def __init__(
        self,
        stack: ExitStack,
        sights: Sights,
        config: RenderConfig,
        matcher: MutualNearestNeighbor,
        video: Path | None,
        sheet: Path | None,
    ) -> None:
        self._stack, self._config = stack, config
        self._video, self._sheet = video, sheet
        self._following = Following(matcher)
        self._tracks = {topic: Tracks() for topic in sights.topics}
        self._start = sights.reader.start
        self._sheets = {t: _Tiles(sights, config.tiles) for t in sights.topics if sheet}
        self._videos: dict[str, Video] = {}
        self.files: list[Path] = []

    def add(self, sight: Sight) -> None:
        """Draw an image that has features."""
        followed, trails = None, []
        if self._config.show != KEYPOINTS:
            followed = self._following.follow(sight)
            trails = self._follow(sight, followed)
        line = self._line(sight, followed)
        if self._video:
            picture = with_line(self._draw(sight, followed, trails, self._config.max_width), line)
            self._video_of(sight.topic, picture).add(sight.time, picture)
        if self._sheet and self._sheets[sight.topic].wants(sight.time):
            picture = self._draw(sight, followed, trails, FINENESS * TILE_WIDTH)
            picture = fit(picture, (TILE_WIDTH, len(picture)))
            self._sheets[sight.topic].add(with_line(picture, f'{self._seconds(sight):.2f} s'))

    def write_sheets(self) -> None:
        """Write the sheets of all topics."""
        for topic, tiles in self._sheets.items():
            if tiles.pictures:
                path = self._path(self._sheet, topic)
                temporary = self._stack.enter_context(replacing(path))
                write_image(temporary, tiles.sheet())
                self.files.append(path)

    def _follow(self, sight: Sight, followed: Followed | None) -> list[Trail]:
        tracks = self._tracks[sight.topic]
        if followed is None:
            tracks.clear()
            return []
        tracks.add(followed.before.index, sight.index, followed.pair)
        return tracks.trails()

    def _draw(
        self, sight: Sight, followed: Followed | None, trails: list[Trail], width: int
    ) -> np.ndarray:
        if self._config.show == MATCHES:
            return draw_pair(sight, followed, width, self._config.max_matches)
        if self._config.show == TRACKS:
            return draw_trails(sight, trails, width)
        return draw_keypoints(sight, width)

    def _line(self, sight: Sight, followed: Followed | None) -> str:
        words = [f'{self._seconds(sight):.2f} s', f'#{sight.index}']
        words.append(f'{sight.features.count()} keypoints')
        if followed is not None:
            words.append(f'{len(followed.pair)} matches')
            if followed.pair.geometry != 'none':
                words.append(f'{followed.pair.inliers.sum()} inliers')
        return '   '.join(words)

    def _seconds(self, sight: Sight) -> float:
        return 1e-9 * (sight.time - self._start)

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

    def __init__(self, sights: Sights, count: int) -> None:
        start, stop = sights.reader.span(sights.wanted.start, sights.wanted.end)
        self._start = max(start, sights.reader.start)
        self._length = max(1, min(stop, sights.reader.end + 1) - self._start)
        self._count, self._part = count, -1
        self.pictures: list[np.ndarray] = []

    def wants(self, time: int) -> bool:
        """Say whether an image is the first one of its part."""
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


def _stride_of_sheet(wanted: Extraction, reader: BagReader, tiles: int) -> int:
    """Return how many images may be passed over so that every part of the time still has one."""
    span = reader.span(wanted.start, wanted.end)
    counts = [reader.expected([topic], *span) for topic in image_topics(reader, wanted.topics)]
    return wanted.stride * max(1, min(counts) // wanted.stride // (SPARE * tiles))
