"""Matches between the images of a recording: of each with the k-th before it, or a keyframe."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from statistics import median
from typing import Any, NamedTuple, TYPE_CHECKING

from .extract import write_frames
from .formats import features_encoder
from .frames import BagReport, earlier, FeatureFrame, Frames, from_message, open_frames
from .plan import Copies
from .recording import Channel, Damage, Record, sibling
from .request import MatchRequest, PairingConfig
from .writers import BagSink, check_target
from ..errors import DataError
from ..matching import match_pair, MutualNearestNeighbor, PairMatches
from ..messages.conversions import fill_matches
from ..messages.definitions import empty_message, FEATURES, MATCHES, to_cdr
from ..runtime import in_background

if TYPE_CHECKING:
    from ..models.base import Extractor

AHEAD = 2  # lists of images that are matched before they are written
# Kinds of the problem of an image that is not matched though it has features.
NO_KEYPOINTS, NO_DESCRIPTORS, OTHER_KIND = 'no_keypoints', 'no_descriptors', 'other_model'


@dataclass
class MatchReport(BagReport):
    """
    What became of a recording; `BagReport` has the rest.

    keyframes: how many there were, if they were asked for. shares: of each pair, how many of its
    matches are inliers; 0 without matches. recorded: whether features were. geometry: that matches
    were verified with.
    """

    recorded: bool = False
    pairs: int = 0
    matches: int = 0
    inliers: int = 0
    keyframes: int = 0
    shares: list[float] = field(default_factory=list)
    geometry: str = 'none'

    hidden = ('total', 'shares', 'geometry')

    def add(self, frame: FeatureFrame) -> None:
        super().add(frame)
        self.keyframes += frame.counts.get('keyframes', 0)
        if 'matches' in frame.counts:
            matches, inliers = frame.counts['matches'], frame.counts['inliers']
            self.pairs += 1
            self.matches += matches
            self.inliers += inliers
            self.shares.append(inliers / max(matches, 1))

    def check(self, damage: Iterable[Damage]) -> None:
        """Raise DataError where not one pair could be matched; damage: of what was read."""
        if not self.pairs:
            why = self.first_reason(damage) or f'images in this range: {self.images}'
            raise DataError(f"no two images of '{self.source}' could be matched: {why}")

    @property
    def inlier_share(self) -> float:
        """Return the median share of inliers of a pair's matches."""
        return median(self.shares) if self.shares else 0.0

    def summary(self) -> str:
        words = [
            f'{self.pairs} pairs of {self.images} images{earlier(self.resumed)}',
            f'{self.matches} matches',
        ]
        if self.geometry != 'none':
            share = f'median {100 * self.inlier_share:.0f} % of a pair'
            words.append(f'{self.inliers} inliers ({share})')
        if self.keyframes:
            words.append(f'{self.keyframes} keyframe{"s" if self.keyframes > 1 else ""}')
        return ', '.join(words)

    def described(self) -> dict[str, Any]:
        return super().described() | {'inlier_share': round(self.inlier_share, 4)}


def match_recording(
    request: MatchRequest,
    extractor: 'Extractor | None' = None,
    on_image: Callable[[MatchReport], None] = lambda report: None,
) -> MatchReport:
    """
    Match the images of a recording, and write their features and matches in order of log time.

    Features come from where `open_frames` takes them. extractor: the one that `request` describes,
    where it is loaded already. on_image is called at the start and after each image.

    Raises KpfeatError; at `out` there is nothing then, or what was there before.
    """
    frames = open_frames(request, images=False, extractor=extractor)
    check_target(request.out, [frames.reader.recording, frames.source.recording])
    plan, names = frames.plan, matches_topics(frames.topics)
    made = {*frames.topics, *names.values()}
    copies = Copies(plan.reader, request.copy, made, plan.start, plan.stop)
    report = MatchReport(plan.reader.recording.path, request.out, frames.total)
    report.recorded = frames.recorded
    report.leave_out(plan)
    report.geometry = request.matcher.geometry
    maker = PairMaker(names, MutualNearestNeighbor(request.matcher), request.pairing)
    encode = features_encoder(frames.request)

    def lists(first: int) -> Generator[list[FeatureFrame], None, None]:
        found = frames.lists(first)
        return in_background(([maker.matched(f, encode) for f in one] for one in found), AHEAD)

    copied = [topic.channel for topic in copies.topics]
    channels = [*_channels_of_features(frames), *(Channel(n, MATCHES) for n in names.values())]
    sink = BagSink(request.out, request.storage, [*channels, *copied], copied)
    settings = frames.describe(
        matcher=asdict(request.matcher),
        pairing=asdict(request.pairing),
        output=[request.storage, request.copy],
    )

    def check() -> None:
        report.check(frames.damage)

    write_frames(request.out, settings, sink, lists, copies, report, on_image, check, maker.recall)
    report.damage = frames.damage + copies.left_out
    return report


def matches_topics(features: Sequence[str]) -> dict[str, str]:
    """
    Return the topic of matches for each topic of features.

    It is the sibling `matches`, as the nodes have it; where several topics of features share a
    namespace it is `matches` below each of them.
    """
    names = {name: sibling(name, 'matches') for name in features}
    if len(set(names.values())) == len(names):
        return names
    return {name: f'{name}/matches' for name in features}


def _channels_of_features(frames: Frames) -> list[Channel]:
    """Return the channel of each topic of features; a recorded one with its own definition."""
    made = {name: Channel(name, FEATURES) for name in frames.topics}
    there = frames.source.topics if frames.recorded else []
    made |= {t.name: t.channel for t in there if t.name in made and t.msgtype == FEATURES}
    return list(made.values())


class Paired(NamedTuple):
    """What became of an image: its partner and their matches, if it has one; a new keyframe."""

    partner: FeatureFrame | None
    pair: PairMatches | None
    new: bool = False


Match = Callable[[FeatureFrame, FeatureFrame], PairMatches]


class EveryKth:
    """
    The k-th image before each.

    `match` matches an image with its partner, if it has one, and keeps it; `keep` only keeps one
    that was matched before.
    """

    def __init__(self, k: int = 1) -> None:
        self._frames: deque[FeatureFrame] = deque(maxlen=k)

    def match(self, frame: FeatureFrame, match: Match) -> Paired:
        full = len(self._frames) == self._frames.maxlen
        partner = self._frames[0] if full else None
        self.keep(frame)
        return Paired(partner, match(partner, frame) if partner else None)

    def keep(self, frame: FeatureFrame, new: bool = False) -> None:
        self._frames.append(frame)


class Keyframes:
    """
    The newest keyframe, which is the first image to begin with.

    Where too few keypoints of the keyframe are found again, the image before becomes the keyframe
    and is the partner of this one. As it matched the last keyframe well, keyframes hang together;
    and one blurred image does not become a keyframe, for the one after it fits the one before.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._keyframe: FeatureFrame | None = None
        self._before: FeatureFrame | None = None

    def match(self, frame: FeatureFrame, match: Match) -> Paired:
        partner, before, pair, new = self._keyframe, self._before, None, True
        if partner:
            pair = match(partner, frame)
            enough = self._share * partner.features.count()
            new = partner is not before and int(pair.inliers.sum()) < enough
            if new:
                partner, pair = before, match(before, frame)
        self.keep(frame, new)
        return Paired(partner, pair, new)

    def keep(self, frame: FeatureFrame, new: bool) -> None:
        if new:
            self._keyframe = self._before or frame
        self._before = frame


Pairing = EveryKth | Keyframes  # a choice of the partners of the images of one topic


def make_pairing(config: PairingConfig) -> Pairing:
    """Return a pairing that begins with no image known."""
    return Keyframes(config.keyframe_share) if config.keyframes else EveryKth(config.every)


class PairMaker:
    """
    Matches frames with their partners.

    What is matched is always what the messages hold, so that going on after `recall` gives the
    same as going through. names: the topic of the matches for each topic of features.
    """

    def __init__(
        self, names: Mapping[str, str], matcher: MutualNearestNeighbor, config: PairingConfig
    ) -> None:
        self._names, self._config = names, config
        self._match = partial(_match, matcher)
        self._pairings: dict[str, Pairing] = {}  # by topic of features
        self._kinds: dict[str, tuple[str, int]] = {}

    def matched(
        self, frame: FeatureFrame, encode: Callable[[FeatureFrame], list[Record]]
    ) -> FeatureFrame:
        """Return a frame with its message of features, and one of matches if it has a partner."""
        if frame.features is None:
            return frame
        if not frame.messages:
            frame = from_message(frame, *encode(frame))
        frame = frame._replace(record=None, image=None)  # partners are kept
        counts, records = dict(frame.counts), list(frame.messages)
        problem = _unusable(frame) or self._change(frame)
        if _is_kept(problem):
            partner, pair, new = self._pairing_of(frame).match(frame, self._match)
            counts['keyframes'] = int(new)
            if pair is not None:
                counts |= {'matches': len(pair), 'inliers': int(pair.inliers.sum())}
                records.append(self._record(partner, frame, pair))
        return frame._replace(messages=tuple(records), counts=counts, problem=problem)

    def recall(self, frame: FeatureFrame) -> None:
        """Take in a frame that an earlier run matched."""
        if frame.messages and _is_kept(frame.problem):
            new = bool(frame.counts.get('keyframes'))
            frame = from_message(frame, frame.messages[0])
            self._pairing_of(frame).keep(frame, new)

    def _record(self, partner: FeatureFrame, frame: FeatureFrame, pair: PairMatches) -> Record:
        data = to_cdr(
            fill_matches(empty_message(MATCHES), pair, partner.header, frame.header), MATCHES
        )
        return Record(Channel(self._names[frame.topic], MATCHES), frame.time, data)

    def _pairing_of(self, frame: FeatureFrame) -> Pairing:
        """Return that of the frame's topic; a new one for descriptors of another kind."""
        if self._kinds.get(frame.topic) != _kind(frame):
            self._kinds[frame.topic] = _kind(frame)
            self._pairings[frame.topic] = make_pairing(self._config)
        return self._pairings[frame.topic]

    def _change(self, frame: FeatureFrame) -> tuple[str, str] | None:
        """Return the problem that those before have descriptors of another kind, if they have."""
        before = self._kinds.get(frame.topic)
        if before in (None, _kind(frame)):
            return None
        names = [f"'{model}' with {size} numbers" for model, size in (_kind(frame), before)]
        sentence = f'its descriptors are of {names[0]}, those before of {names[1]}'
        return OTHER_KIND, f"{sentence}: '{frame.topic}' holds features of different models"


def _kind(frame: FeatureFrame) -> tuple[str, int]:
    """Return the model and the size of descriptors; those of another kind never match."""
    return frame.model, frame.features.descriptor_dim


def _match(
    matcher: MutualNearestNeighbor, frame0: FeatureFrame, frame1: FeatureFrame
) -> PairMatches:
    return match_pair(matcher, frame0.features, frame1.features)


def _unusable(frame: FeatureFrame) -> tuple[str, str] | None:
    """Return why nothing can be matched with a frame, if so."""
    if not frame.features.count():
        return NO_KEYPOINTS, 'it has no keypoints'
    if not frame.features.descriptor_dim:
        return NO_DESCRIPTORS, f"its keypoints, of '{frame.model}', have no descriptors"
    return None


def _is_kept(problem: tuple[str, str] | None) -> bool:
    """Return whether a frame can be matched with those after it."""
    return problem is None or problem[0] == OTHER_KIND
