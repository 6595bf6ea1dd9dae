"""What a node counts and times, and how that becomes a line of diagnostics; free of ROS."""

from collections import Counter, deque
from dataclasses import dataclass, field
import statistics
import threading
import time

RECENT = 100  # durations kept of each stage


@dataclass(frozen=True)
class Report:
    """Totals since the start, events a second since the last report, and recent durations."""

    totals: dict[str, int]
    rates: dict[str, float]
    durations_ms: dict[str, tuple[float, float]]  # stage: median and largest of the recent ones
    failures: dict[str, int]  # since the last report, by kind
    ages_s: dict[str, float] = field(default_factory=dict)  # of the newest input, by source

    @property
    def quietest(self) -> str:
        """Return the source that has been silent longest; '' where none is waited for."""
        return max(self.ages_s, key=self.ages_s.__getitem__, default='')

    @property
    def age_s(self) -> float | None:
        """Return how long the quietest source has been silent; None where none is waited for."""
        return self.ages_s.get(self.quietest)

    def received_from(self, source: str) -> int:
        """Return how many inputs came from a source since the start."""
        return self.totals.get(_of_source('received', source), 0)

    @property
    def drop_share(self) -> float:
        """Return how much of the input was dropped since the last report, 0..1."""
        return min(1.0, self.rates['dropped'] / (self.rates['received'] or 1.0))

    def values(self) -> list[tuple[str, str]]:
        """Return names and values in the form of diagnostics, in a steady order."""
        rows = [(name, str(count)) for name, count in sorted(self.totals.items())]
        rows += [(f'{name}_hz', f'{rate:.1f}') for name, rate in sorted(self.rates.items())]
        rows += [
            (_of_source('age_s', source), f'{age:.1f}') for source, age in self.ages_s.items()
        ]
        rows.append(('drop_share', f'{self.drop_share:.2f}'))
        for stage, (median, largest) in self.durations_ms.items():
            rows += [(f'{stage}_ms', f'{median:.2f}'), (f'{stage}_max_ms', f'{largest:.2f}')]
        return rows


def _of_source(name: str, source: str) -> str:
    return f'{source}.{name}' if source else name


class Statistics:
    """
    Counts by name, failures by kind, durations by stage; safe to use from several threads.

    A source is a camera, where there are several: what is counted for it counts for all as well.
    """

    def __init__(self, clock=time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._newest: dict[str, float] = {}  # by source: when input came, or began to be awaited
        self.reset()

    def reset(self) -> None:
        """Forget everything, as if it began now."""
        with self._lock:
            self._totals: Counter[str] = Counter(received=0, processed=0, dropped=0, failed=0)
            self._durations: dict[str, deque[float]] = {}
            self._last = self._totals.copy()
            self._last_time = self._clock()
            self._newest = dict.fromkeys(self._newest, self._clock())

    def count(self, name: str, more: int = 1, source: str = '') -> int:
        """Add one, or more, to a name and return its new total."""
        with self._lock:
            for counted in {name, _of_source(name, source)}:
                self._totals[counted] += more
            if name == 'received' and source in self._newest:  # else it is the last of its source
                self._newest[source] = self._clock()
            return self._totals[name]

    def wait_for_input(self, waits: bool = True, source: str | None = '') -> None:
        """Let the age of the newest input begin anew; with waits=False let it have none."""
        with self._lock:
            if waits:
                self._newest[source] = self._clock()
            else:
                self._newest.pop(source, None)

    def fail(self, kind: str, source: str = '') -> bool:
        """Count a failure of a kind; true if it is the first of its kind."""
        self.count('failed', source=source)
        return self.count(f'failed.{kind}') == 1

    def add_duration(self, stage: str, seconds: float) -> None:
        """Note how long a stage took."""
        with self._lock:
            self._durations.setdefault(stage, deque(maxlen=RECENT)).append(1e3 * seconds)

    def total(self, name: str) -> int:
        """Return a total; 0 for a name never counted."""
        with self._lock:
            return self._totals.get(name, 0)

    def report(self) -> Report:
        """Sum up, and start the next interval."""
        with self._lock:
            now, totals = self._clock(), self._totals.copy()
            new = totals - self._last
            elapsed = max(now - self._last_time, 1e-9)
            self._last, self._last_time = totals, now
            ages = {source: now - then for source, then in self._newest.items()}
            durations = {
                stage: (statistics.median(values), max(values))
                for stage, values in self._durations.items()
            }
        return Report(
            totals=dict(totals),
            rates={name: new[name] / elapsed for name in totals if '.' not in name},
            durations_ms=durations,
            ages_s=ages,
            failures={
                name.removeprefix('failed.'): count
                for name, count in sorted(new.items())
                if name.startswith('failed.')
            },
        )
