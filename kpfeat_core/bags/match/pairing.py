"""Which earlier image of its topic an image is matched with: the k-th before it, or a keyframe."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable, TYPE_CHECKING

from ...config import option
from ...errors import ConfigError

if TYPE_CHECKING:
    from .steps import Frame
    from ...matching import PairMatches


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
