"""What became of the parts of many recordings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
import itertools

from .manifest import Entry
from .parts import Part
from .work import Result


@dataclass
class FleetReport:
    """
    What came of parts, by name, as it comes.

    images_now: images that were done now, rather than by an earlier run.
    """

    parts: Sequence[Part]
    results: dict[str, Result] = field(default_factory=dict)
    images_now: int = 0

    def add(self, result: Result) -> None:
        """Note what came of a part."""
        self.results[result.part.name] = result
        self.images_now += result.images

    @property
    def entries(self) -> dict[str, Entry]:
        """Return what the manifest tells of these parts."""
        return {name: self.results[name].entry for name in sorted(self.results)}

    @property
    def seconds(self) -> dict[str, float]:
        """Return the seconds of the parts that were done now, rather than found as they should."""
        results = self.results.items()
        return {name: one.seconds for name, one in results if one.fresh and one.entry.done}

    @property
    def failed(self) -> dict[str, str]:
        """Return the errors of the parts that failed."""
        return {name: entry.error for name, entry in self.entries.items() if entry.error}

    @property
    def done(self) -> int:
        """Return how many parts are done, now or before."""
        return sum(one.entry.done for one in self.results.values())

    @property
    def skipped(self) -> int:
        """Return how many images could not be used."""
        return sum(sum(one.entry.skipped.values()) for one in self.results.values())

    @property
    def damaged(self) -> int:
        """Return how many parts could not be read as a whole."""
        return sum(bool(one.entry.all_damage) for one in self.results.values())

    @property
    def complete(self) -> bool:
        """Say whether all parts are done, everything was read and every image used."""
        return all(one.entry.complete for one in self.results.values())

    def total(self, name: str) -> int:
        """Return the sum of a count, such as images."""
        return sum(one.entry.counts.get(name, 0) for one in self.results.values())

    def by_recording(self) -> Iterator[tuple[str, 'FleetReport']]:
        """Yield the name of each recording and what came of its parts."""
        for group, members in itertools.groupby(self.parts, key=lambda part: part.group):
            one = FleetReport(list(members))
            for part in one.parts:
                if part.name in self.results:
                    one.add(self.results[part.name])
            yield group, one
