"""Which earlier image of its topic an image is matched with: the k-th before it, or a keyframe."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, Protocol, runtime_checkable, TYPE_CHECKING

from .frames import Sight, Sights
from .reader import decode
from .recording import Channel, Record
from .steps import Step
from ..config import option
from ..errors import ConfigError
from ..matching import match_pair, MutualNearestNeighbor, PairMatches
from ..messages.conversions import fill_matches, message_to_features
from ..messages.definitions import empty_message, MATCHES, to_cdr

if TYPE_CHECKING:
    from ..features import Features


@dataclass(frozen=True)
class PairingConfig:
    """Which images are matched."""

    every: int = option(1, 'match each image with the k-th before it; 1: the one before', low=1)
    keyframes: bool = option(False, 'match each image with a keyframe instead')
    # With the bundled model about half of the matches or more still agree there with a homography
    # or a fundamental matrix, on a slow recording as on a fast one.
    keyframe_share: float = option(
        0.25,
        'a keyframe serves as long as this share of its keypoints are inliers of the match',
        low=0.0,
        high=1.0,
    )

    def __post_init__(self) -> None:
        if self.keyframes and self.every != 1:
            raise ConfigError(
                f'every is {self.every} beside keyframes, expected one of the two: an image is '
                'matched with a keyframe or with the k-th before it'
            )


class Matched(NamedTuple):
    """What became of an image: its partner and their matches, if there is one; a new keyframe."""

    partner: 'Frame | None'
    pair: 'PairMatches | None'
    new: bool = False


Match = Callable[['Frame', 'Frame'], 'PairMatches']


@runtime_checkable
class Pairing(Protocol):
    """What chooses the partners of the images of one topic."""

    def match(self, frame: 'Frame', match: Match) -> Matched:
        """Match an image with its partner, if it has one, and keep it."""

    def keep(self, frame: 'Frame', new: bool) -> None:
        """Keep an image that was matched before; new: what `Matched` said of it."""


def make_pairing(config: PairingConfig) -> Pairing:
    """Return what begins with no image known."""
    return Keyframes(config.keyframe_share) if config.keyframes else EveryKth(config.every)


class EveryKth:
    """The k-th image before each."""

    def __init__(self, k: int = 1) -> None:
        self._frames: deque[Frame] = deque(maxlen=k)

    def match(self, frame: 'Frame', match: Match) -> Matched:
        full = len(self._frames) == self._frames.maxlen
        partner = self._frames[0] if full else None
        self.keep(frame)
        return Matched(partner, match(partner, frame) if partner else None)

    def keep(self, frame: 'Frame', new: bool = False) -> None:
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
        self._keyframe: Frame | None = None
        self._before: Frame | None = None

    def match(self, frame: 'Frame', match: Match) -> Matched:
        partner, before, pair, new = self._keyframe, self._before, None, True
        if partner:
            pair = match(partner, frame)
            enough = self._share * partner.features.count()
            new = partner is not before and int(pair.inliers.sum()) < enough
            if new:
                partner, pair = before, match(before, frame)
        self.keep(frame, new)
        return Matched(partner, pair, new)

    def keep(self, frame: 'Frame', new: bool) -> None:
        if new:
            self._keyframe = self._before or frame
        self._before = frame


# Kinds of the problem of an image that is not matched though it has features.
NO_KEYPOINTS, NO_DESCRIPTORS, OTHER_KIND = 'no_keypoints', 'no_descriptors', 'other_model'


class Frame:
    """An image's Features message, unpacked when it is first needed."""

    def __init__(self, record: Record) -> None:
        self.record = record

    @property
    def topic(self) -> str:
        return self.record.channel.topic

    @cached_property
    def message(self) -> Any:
        return decode(self.record)

    @cached_property
    def features(self) -> 'Features':
        return message_to_features(self.message)

    @property
    def kind(self) -> tuple[str, int]:
        """Return the model and the size of descriptors; those of another kind never match."""
        return self.message.model, self.features.descriptor_dim


class MatchSteps:
    """
    Makes the steps of a matching: of each image its Features message and one of Matches.

    What is matched is always what the messages hold, so that going on after `replay` gives the
    same as going through. channels: of the topics of features; names: the topic of the matches
    for each of them.
    """

    def __init__(
        self,
        sights: Sights,
        channels: Mapping[str, Channel],
        names: Mapping[str, str],
        matcher: MutualNearestNeighbor,
        config: PairingConfig,
    ) -> None:
        self._sights, self._channels, self._names = sights, channels, names
        self._match, self._config = partial(_match, matcher), config
        self._pairings: dict[str, Pairing] = {}  # by topic of features, as is
        self._kinds: dict[str, tuple[str, int]] = {}

    def steps(self, first: int) -> Iterator[list[Step]]:
        """Yield the steps from index `first` on, in lists that belong together."""
        for sights in self._sights.lists(first):
            yield [self._step(sight) for sight in sights]

    def replay(self, step: Step) -> None:
        """Take in a step of an earlier run."""
        if step.records and _is_kept(step.problem):
            record = step.records[0]
            channel = self._channels[record.channel.topic]
            frame = Frame(record._replace(channel=channel))
            self._pairing_of(frame).keep(frame, bool(step.counts['keyframes']))

    def _step(self, sight: Sight) -> Step:
        if sight.features is None:
            return Step(sight.index, sight.time, problem=sight.problem)
        frame = Frame(self._sights.message(sight))
        records, counts = [frame.record], {'keypoints': frame.features.count()}
        problem = _unusable(frame) or self._change(frame)
        if _is_kept(problem):
            partner, pair, new = self._pairing_of(frame).match(frame, self._match)
            counts['keyframes'] = int(new)
            if pair is not None:
                counts |= {'matches': len(pair), 'inliers': int(pair.inliers.sum())}
                records.append(self._record(partner, frame, pair))
        return Step(sight.index, sight.time, tuple(records), problem, counts)

    def _record(self, partner: Frame, frame: Frame, pair: PairMatches) -> Record:
        headers = partner.message.header, frame.message.header
        data = to_cdr(fill_matches(empty_message(MATCHES), pair, *headers), MATCHES)
        return Record(Channel(self._names[frame.topic], MATCHES), frame.record.time, data)

    def _pairing_of(self, frame: Frame) -> Pairing:
        """Return that of the frame's topic; a new one for descriptors of another kind."""
        if self._kinds.get(frame.topic) != frame.kind:
            self._kinds[frame.topic] = frame.kind
            self._pairings[frame.topic] = make_pairing(self._config)
        return self._pairings[frame.topic]

    def _change(self, frame: Frame) -> tuple[str, str] | None:
        """Say that the frame begins anew, for those before have descriptors of another kind."""
        before = self._kinds.get(frame.topic)
        if before in (None, frame.kind):
            return None
        names = [f"'{model}' with {size} numbers" for model, size in (frame.kind, before)]
        sentence = f'its descriptors are of {names[0]}, those before of {names[1]}'
        return OTHER_KIND, f"{sentence}: '{frame.topic}' holds features of different models"


def _match(matcher: MutualNearestNeighbor, frame0: Frame, frame1: Frame) -> PairMatches:
    return match_pair(matcher, frame0.features, frame1.features)


def _unusable(frame: Frame) -> tuple[str, str] | None:
    """Say why nothing can be matched with a frame."""
    if not frame.features.count():
        return NO_KEYPOINTS, 'it has no keypoints'
    if not frame.features.descriptor_dim:
        return NO_DESCRIPTORS, f"its keypoints, of '{frame.message.model}', have no descriptors"
    return None


def _is_kept(problem: tuple[str, str] | None) -> bool:
    """Say whether a frame can be matched with those after it."""
    return problem is None or problem[0] == OTHER_KIND
