"""Numbers of a recording: features, matches, sharpness, exposure and timing of its images."""

from array import array
from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
import math
from typing import Any, NamedTuple, TYPE_CHECKING

import cv2
import numpy as np

from .frames import BagReport, FeatureFrame, open_frames
from .reader import BagReader
from .render import ConsecutiveMatcher, draw_pair, Matched
from .request import FramesRequest
from ..axes import Float, Int
from ..config import MatcherConfig
from ..evaluation.metrics import match_coverage
from ..image import fit
from ..matching import MutualNearestNeighbor
from ..tracks import Tracks
from ..visualize import to_rgb8

if TYPE_CHECKING:
    from ..models.base import Extractor

LONG_SIDE = 640  # pixels to which larger images are reduced, so that cameras can be compared
BOX = 9  # pixels of the mean filter that blurs once more
LEVEL = 1  # of 0..255: differences that do not count
DARK, BRIGHT = 5, 250  # of 0..255: pixels that are at one of the ends of the range


class Exposure(NamedTuple):
    """Mean of an image, 0 black and 1 white, and the shares of its dark and bright pixels."""

    brightness: float
    dark: float
    bright: float


def blur(gray: np.ndarray) -> float:
    """
    Return how blurred an image (H, W) uint8 is: 0 sharp, 1 blurred; NaN where it is flat.

    It is the share of the differences between neighbours that are left when the image is blurred
    once more, which a blurred one hardly notices; of x and y the larger, as a camera mostly moves
    in one of them. Contrast and brightness cancel out. Noise counts as sharpness, but for single
    levels of 255, which may be rounding and would make a wholly blurred image look sharp.

    Source: Crete, Dolmiere, Ladret and Nicolas, The blur effect: perception and estimation with a
    new no-reference perceptual blur metric, Human Vision and Electronic Imaging 2007.
    """
    image = fit(gray, (LONG_SIDE, LONG_SIDE)).astype(np.float32)
    found = []
    for axis, size in ((0, (1, BOX)), (1, (BOX, 1))):
        blurred = cv2.blur(image, size, borderType=cv2.BORDER_REPLICATE)
        before = (np.abs(np.diff(image, axis=axis)) - LEVEL).clip(0)
        after = np.abs(np.diff(blurred, axis=axis))
        total = float(before.sum(dtype=np.float64))
        lost = float((before - after).clip(0).sum(dtype=np.float64))
        found.append((total - lost) / total if total else np.nan)
    return float(np.fmax(*found))


def exposure(gray: np.ndarray) -> Exposure:
    """Return how an image (H, W) uint8 is exposed."""
    return Exposure(
        float(gray.mean()) / 255, float((gray <= DARK).mean()), float((gray >= BRIGHT).mean())
    )


AFTER = (1, 2, 5, 10, 30)  # images


class Survival:
    """
    Tracks of one topic: which share of an image's keypoints is still followed, and their lengths.

    A keypoint that is never found again is a track of one image.
    """

    def __init__(self) -> None:
        self._tracks = Tracks(2)
        self._keypoints: deque[int] = deque(maxlen=max(AFTER))  # of the images before
        self._alive = np.zeros(2, np.int64)  # keypoints of the newest image, by age of their track
        self._ended = np.zeros(2, np.int64)  # tracks, by their length

    def add(self, index: int, keypoints: int, matched: Matched | None) -> list[float]:
        """
        Take in the next image, and return the shares of the keypoints after so many images.

        matched: None where nothing goes on. NaN where there was no image so long before, or none
        with keypoints.
        """
        if matched is None:
            self._tracks.clear()
            self._keypoints.clear()
            ages = []
        else:
            self._tracks.add(matched.before.index, index, matched.pair)
            ages = [trail.age for trail in self._tracks.trails()]
        alive = np.bincount(ages, minlength=2) if ages else np.zeros(2, np.int64)
        alive[1] = keypoints - alive.sum()
        self._end_others(alive)
        self._alive = alive
        shares = [self._share(images) for images in AFTER]
        self._keypoints.append(keypoints)
        return shares

    def lengths(self) -> Int[np.ndarray, ' n']:
        """Return how many tracks are of each length; those that still go on are so long so far."""
        size = max(len(self._ended), len(self._alive))
        return sum(np.pad(part, (0, size - len(part))) for part in (self._ended, self._alive))

    def _share(self, images: int) -> float:
        if len(self._keypoints) < images or not self._keypoints[-images]:
            return math.nan
        return float(self._alive[images + 1 :].sum()) / self._keypoints[-images]

    def _end_others(self, alive: Int[np.ndarray, ' n']) -> None:
        """Count the tracks that were there and have not grown by one image."""
        before = self._alive
        size = max(len(self._ended), len(before), len(alive))
        self._ended = np.pad(self._ended, (0, size - len(self._ended)))
        self._ended[: len(before)] += before
        self._ended[1 : len(alive) - 1] -= alive[2:]


KEPT = 4
DIGITS = 6  # after the point


class BadFrame(NamedTuple):
    """One image that is bad: how bad, its number, its log time, a picture; None without images."""

    badness: float
    index: int
    time: int
    picture: np.ndarray | None


class WorstFrames:
    """
    The worst frames of one kind; of those within `apart` nanoseconds only the worst.

    Memory is that of a few pictures.
    """

    def __init__(self, apart: int) -> None:
        self._apart = apart
        self.worst: list[BadFrame] = []  # the worst first

    def offer(
        self, badness: float, index: int, time: int, draw: Callable[[], np.ndarray | None]
    ) -> None:
        """Keep a frame if it is among the worst so far; NaN never is."""
        near = [frame for frame in self.worst if abs(frame.time - time) < self._apart]
        others = [frame for frame in self.worst if abs(frame.time - time) >= self._apart]
        if not all(badness > frame.badness for frame in near):
            return
        if np.isnan(badness) or (len(others) == KEPT and badness <= others[-1].badness):
            return
        kept = [*others, BadFrame(badness, index, time, draw())]
        self.worst = sorted(kept, key=lambda frame: (-frame.badness, frame.index))[:KEPT]


LATE = 1.5  # an image comes after a gap where its interval is longer than so many usual ones
APART = 10**9  # nanoseconds between two of the worst frames, less in a short recording
PICTURE_WIDTH = 640  # of two images side by side
SINGLE_WIDTH = 400
DRAWN_MATCHES = 100
OF_FEATURES = ('keypoints', 'mean_score', 'coverage')
OF_MATCHES = ('matches', 'inliers', 'inlier_share', *(f'survived_{k}' for k in AFTER))
OF_IMAGES = ('blur', 'brightness', 'dark', 'bright')
OF_TIME = ('interval_ms', 'delay_ms')
COLUMNS = (*OF_FEATURES, *OF_MATCHES, *OF_IMAGES, *OF_TIME)


class TopicStatistics:
    """
    The numbers of one topic, a column for each kind with a value for each image that was used.

    index, time, stamp: number, log time and stamp (0: none) in nanoseconds. columns: by the names
    of COLUMNS; NaN where there is no value. worst_frames: by what is bad. model: that made the
    features.
    """

    def __init__(self, start: int, duration: int) -> None:
        self.start, self.model = start, ''
        self.index, self.time, self.stamp = array('q'), array('q'), array('q')
        self.columns = {name: array('d') for name in COLUMNS}
        apart = min(APART, duration // 20)
        self.worst_frames = {kind: WorstFrames(apart) for kind in ('blur', 'lost', 'gap')}
        self._survival = Survival()
        self._before: FeatureFrame | None = None  # of whatever use

    def add(self, frame: FeatureFrame, matched: Matched | None) -> None:
        """Take in the next image; one without features only for its stamp."""
        interval = self._interval(frame)
        self._before = frame._replace(image=None, record=None) if frame.header else self._before
        if frame.features is None:
            return
        self.index.append(frame.index)
        self.time.append(frame.time)
        self.stamp.append(frame.stamp)
        self.model = self.model or frame.model
        values = dict(zip(OF_FEATURES, _of_features(frame), strict=True))
        values |= _of_matches(matched)
        shares = self._survival.add(frame.index, frame.features.count(), matched)
        values |= {f'survived_{k}': s for k, s in zip(AFTER, shares, strict=True)}
        values |= _of_image(frame)
        values['interval_ms'] = interval
        values['delay_ms'] = 1e-6 * (frame.time - frame.stamp) if frame.stamp else math.nan
        for name, column in self.columns.items():
            column.append(values.get(name, math.nan))
        self._offer(frame, matched, values)

    def column(self, name: str) -> Float[np.ndarray, ' n']:
        """Return one column."""
        return np.array(self.columns[name], np.float64)

    def seconds(self) -> Float[np.ndarray, ' n']:
        """Return log times as seconds from the first message of the recording."""
        return 1e-9 * (np.array(self.time, np.int64) - self.start)

    def track_lengths(self) -> np.ndarray:
        """Return how many tracks are of each length in images; see `Survival`."""
        return self._survival.lengths()

    def usual_interval_ms(self) -> float:
        """Return the median interval between images; NaN where there is none."""
        intervals = self.column('interval_ms')
        intervals = intervals[intervals > 0]
        return float(np.median(intervals)) if len(intervals) else math.nan

    def summary(self) -> dict[str, float]:
        """Return numbers of the whole topic; NaN for what is not known."""
        lengths = self.track_lengths()
        found = {'images': float(len(self.index)), **self._timing()}
        found |= {name: self._of(np.median, name) for name in ('keypoints', 'mean_score')}
        found |= {name: self._of(np.median, name) for name in ('coverage', 'inliers')}
        found['inlier_share'] = self._of(np.median, 'inlier_share')
        found |= {f'survived_{k}': self._of(np.mean, f'survived_{k}') for k in AFTER}
        tracks = lengths.sum()
        found['track_length'] = float(lengths @ np.arange(len(lengths)) / tracks if tracks else 0)
        found['blur'] = self._of(np.median, 'blur')
        found['blur_95'] = self._of(_highest, 'blur')
        found |= {name: self._of(np.mean, name) for name in ('brightness', 'dark', 'bright')}
        found['delay_ms'] = self._of(np.median, 'delay_ms')
        found['delay_95_ms'] = self._of(_highest, 'delay_ms')
        return found

    def _timing(self) -> dict[str, float]:
        intervals, usual = self.column('interval_ms'), self.usual_interval_ms()
        gaps = intervals[intervals > LATE * usual]
        known = math.isfinite(usual)
        return {
            'rate_hz': 1e3 / usual,
            'gaps': float(len(gaps)) if known else math.nan,
            'missing': float((np.round(gaps / usual) - 1).sum()) if known else math.nan,
            'longest_s': 1e-3 * float(np.nanmax(intervals)) if known else math.nan,
            'backward': float((intervals <= 0).sum()),
        }

    def _of(self, function: Callable[[np.ndarray], float], name: str) -> float:
        values = self.column(name)
        values = values[np.isfinite(values)]
        return float(function(values)) if len(values) else math.nan

    def _interval(self, frame: FeatureFrame) -> float:
        """Return milliseconds since the image before, by stamps where both have one."""
        if frame.header is None or self._before is None:
            return math.nan
        stamps = self._before.stamp, frame.stamp
        before, now = stamps if all(stamps) else (self._before.time, frame.time)
        return 1e-6 * (now - before)

    def _offer(
        self, frame: FeatureFrame, matched: Matched | None, values: dict[str, float]
    ) -> None:
        """Let an image be among the worst."""

        def alone() -> np.ndarray | None:
            if frame.image is None:
                return None
            return fit(to_rgb8(frame.image), (SINGLE_WIDTH, len(frame.image)))

        def beside_the_one_before() -> np.ndarray | None:
            if frame.image is None:
                return None
            return draw_pair(frame, matched, PICTURE_WIDTH, DRAWN_MATCHES)

        lost = 1 - values['survived_1']
        for kind, badness, draw in (
            ('blur', values.get('blur', math.nan), alone),
            ('lost', lost, beside_the_one_before),
            ('gap', values['interval_ms'], beside_the_one_before),
        ):
            self.worst_frames[kind].offer(badness, frame.index, frame.time, draw)


@dataclass
class StatsReport(BagReport):
    """
    What became of a recording; `BagReport` has the rest.

    topics: numbers, by topic of features. recorded: whether the features were. geometry: that
    matches were verified with. with_images: whether there are any.
    """

    topics: dict[str, TopicStatistics] = field(default_factory=dict)
    recorded: bool = False
    geometry: str = ''
    with_images: bool = True

    def summary(self) -> str:
        return f'{self.features} of {self.images} images'

    def described(self) -> dict[str, Any]:
        """Return what is known as plain values; None for what is not known."""
        return {
            'source': str(self.source),
            'images': self.images,
            'used': self.features,
            'features': 'recorded' if self.recorded else 'made',
            'geometry': self.geometry,
            'skipped': dict(self.skipped),
            'reasons': self.reasons,
            'damage': [str(damage) for damage in self.damage],
            'left_out': self.left_out,
            'doubled': self.doubled,
            'topics': {
                name: {
                    'model': topic.model,
                    'summary': {key: plain(value) for key, value in topic.summary().items()},
                    'track_lengths': topic.track_lengths()[1:].tolist(),
                }
                for name, topic in self.topics.items()
            },
        }


def measure_recording(
    request: FramesRequest,
    matching: MatcherConfig | None = None,
    extractor: 'Extractor | None' = None,
    on_image: Callable[[StatsReport], None] = lambda report: None,
) -> StatsReport:
    """
    Measure features, matches with the image before, sharpness, exposure and timing of all images.

    Without images what they are needed for is left out. extractor: the one that `request`
    describes, where it is loaded already. on_image is called at the start and after each image.

    Memory grows by some 150 bytes an image. Raises KpfeatError.
    """
    with_images = any(topic.count for topic in BagReader(request.source).image_topics())
    frames = open_frames(request, with_images, extractor)
    reader, consecutive = frames.reader, ConsecutiveMatcher(MutualNearestNeighbor(matching))
    report = StatsReport(reader.recording.path, total=frames.total)
    report.recorded, report.with_images = frames.recorded, with_images
    report.leave_out(frames.plan)
    report.geometry = (matching or MatcherConfig()).geometry
    start, duration = reader.start, reader.end - reader.start
    report.topics = {topic: TopicStatistics(start, duration) for topic in frames.topics}
    on_image(report)
    with closing(frames.lists()) as lists:
        for found in lists:
            for frame in found:
                report.add(frame)
                matched = None if frame.features is None else consecutive.match(frame)
                report.topics[frame.topic].add(frame, matched)
                on_image(report)
    report.damage = frames.damage
    report.check(report.damage)
    return report


def plain(value: float) -> float | int | None:
    """Return a number for JSON: whole or rounded; None for what is not finite."""
    if not math.isfinite(value):
        return None
    return int(value) if value == int(value) else round(value, DIGITS)


def _highest(values: Float[np.ndarray, ' n']) -> float:
    return float(np.percentile(values, 95))


def _of_features(frame: FeatureFrame) -> tuple[float, float, float]:
    features = frame.features
    count = features.count()
    if not count:
        return 0.0, math.nan, 0.0
    width, height = features.image_size[0].tolist()
    score = float(features.keypoint_scores[0].mean())
    return float(count), score, match_coverage(features.keypoints[0], (width, height))


def _of_matches(matched: Matched | None) -> dict[str, float]:
    if matched is None:
        return {}
    matches, inliers = len(matched.pair), int(matched.pair.inliers.sum())
    share = inliers / matches if matches else 0.0
    return {'matches': float(matches), 'inliers': float(inliers), 'inlier_share': share}


def _of_image(frame: FeatureFrame) -> dict[str, float]:
    if frame.image is None:
        return {}
    gray = cv2.cvtColor(to_rgb8(frame.image), cv2.COLOR_RGB2GRAY)
    return {'blur': blur(gray), **exposure(gray)._asdict()}
