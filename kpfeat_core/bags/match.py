"""Matches between the images of a recording: what is asked for, and what became of it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, TYPE_CHECKING

import cv2
import torch

from .copying import Copies
from .extract import Extraction, Report
from .flow import in_background, run
from .frames import Sights
from .match_steps import MatchSteps, PairingConfig
from .recording import Channel, Damage, sibling
from .steps import Journal, Step
from .writers import BagSink, check_target
from .. import __version__
from ..config import MatcherConfig
from ..errors import DataError
from ..matching import MutualNearestNeighbor
from ..messages.definitions import FEATURES, MATCHES

if TYPE_CHECKING:
    from ..models.base import Extractor

AHEAD = 2  # lists of images that are matched before they are written


@dataclass(frozen=True)
class Matching:
    """
    What is asked for; all that the output depends on.

    images: of which recording, how much of it, what makes the features and where matches go.
    Its model '': the recorded features, and those of the default model where there are none.
    features: the recording that holds them, if it is another one.
    """

    images: Extraction
    features: Path | None = None
    pairing: PairingConfig = field(default_factory=PairingConfig)
    matcher: MatcherConfig = field(default_factory=MatcherConfig)


@dataclass
class MatchReport(Report):
    """
    What became of a recording; `Report` has the rest.

    keyframes: how many there were, if they were asked for. shares: of each pair, how many of its
    matches are inliers; 0 without matches. recorded: whether features were.
    """

    recorded: bool = False
    pairs: int = 0
    matches: int = 0
    inliers: int = 0
    keyframes: int = 0
    shares: list[float] = field(default_factory=list)

    def add(self, step: Step) -> None:
        """Count one image."""
        super().add(step)
        matches, inliers = step.counts.get('matches', 0), step.counts.get('inliers', 0)
        self.keyframes += step.counts.get('keyframes', 0)
        if len(step.records) > 1:
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


def match_recording(
    wanted: Matching,
    extractor: 'Extractor | None' = None,
    on_step: Callable[[MatchReport], None] = lambda report: None,
) -> MatchReport:
    """
    Match the images of a recording, and write their features and matches in order of log time.

    Features come from where `Sights` takes them. extractor: the one that `wanted` describes, where
    it is loaded already. on_step is called at the start and after each image.

    Raises KpfeatError; at `out` there is nothing then, or what was there before.
    """
    images = wanted.images
    sights = Sights(images, wanted.features, images=False, extractor=extractor)
    check_target(images.out, [sights.reader.recording, sights.source.recording])
    names = matches_topics(sights.topics)
    copies = Copies(sights.reader, images.copy, {*sights.topics, *names.values()})
    report = MatchReport(sights.reader.recording.path, images.out, sights.total)
    report.recorded, report.left_out = sights.recorded, sights.left_out
    channels = _channels_of_features(sights)
    matcher = MutualNearestNeighbor(wanted.matcher)
    maker = MatchSteps(sights, channels, names, matcher, wanted.pairing)
    earlier = True  # whether steps are those of an earlier run

    def count(step: Step) -> None:
        if earlier:
            maker.replay(step)
        report.add(step)
        report.copied = copies.count
        on_step(report)

    def live(first: int) -> Iterator[list[Step]]:
        nonlocal earlier
        report.resumed, earlier = first, False
        return in_background(maker.steps(first), AHEAD)

    written = [*channels.values(), *(Channel(name, MATCHES) for name in names.values())]
    written += [topic.channel for topic in copies.topics]
    with Journal(images.out, _settings(wanted, sights)) as journal:
        report.discarded = journal.discarded
        on_step(report)
        sink = BagSink(images.out, images.storage, journal.folder, written)
        copied = copies.records(*sights.reader.span(images.start, images.end))
        run(journal, live, sink, copied, count, lambda: report.check(sights.damage))
    report.copied = copies.count
    report.damage = sights.damage + copies.left_out
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


def _channels_of_features(sights: Sights) -> dict[str, Channel]:
    """Return the channel of each topic of features; a recorded one with its own definition."""
    made = {name: Channel(name, FEATURES) for name in sights.topics}
    there = sights.source.topics if sights.recorded else []
    return made | {t.name: t.channel for t in there if t.name in made and t.msgtype == FEATURES}


def _settings(wanted: Matching, sights: Sights) -> dict[str, Any]:
    return {
        **sights.settings(),
        'versions': [__version__, torch.__version__, cv2.__version__],
        'matcher': asdict(wanted.matcher),
        'pairing': asdict(wanted.pairing),
    }
