"""The images of a recording one after another: counted, and matched with the one before."""

from typing import NamedTuple

from .extraction import Report
from .sights import Sight
from .steps import Step
from ..errors import DataError
from ..matching import match_pair, MutualNearestNeighbour, PairMatches


class Followed(NamedTuple):
    """An image before another one of the same topic, and their matches."""

    before: Sight
    pair: PairMatches


class Following:
    """
    Matches each image with the one before it in its topic.

    Images without features are passed over: the next one is matched with the one before them.
    Holds one image of each topic.
    """

    def __init__(self, matcher: MutualNearestNeighbour) -> None:
        self._matcher = matcher
        self._before: dict[str, Sight] = {}

    def follow(self, sight: Sight) -> Followed | None:
        """
        Return what an image with features follows; None for a first one.

        Descriptors of another size are of another model, with which a topic begins anew. Raises
        DataError where there are no descriptors.
        """
        if sight.features.count() and not sight.features.descriptor_dim:
            raise DataError(f"features of '{sight.topic}' have no descriptors to be matched by")
        before = self._before.get(sight.topic)
        self._before[sight.topic] = sight
        if before is None or before.features.descriptor_dim != sight.features.descriptor_dim:
            return None
        return Followed(before, match_pair(self._matcher, before.features, sight.features))


def count_sight(report: Report, sight: Sight) -> None:
    """Count one image in a report."""
    if sight.features is None:
        report.add(Step(sight.index, sight.time, problem=sight.problem))
        return
    report.add(Step(sight.index, sight.time, counts={'keypoints': sight.features.count()}))
    report.features += 1
