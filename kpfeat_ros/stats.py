"""What a node counts and times, and how that becomes a line of diagnostics; free of ROS."""

from collections import Counter, deque
from dataclasses import dataclass
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
    age_s: float | None = None  # of the newest input; None where none is waited for

    @property
    def drop_share(self) -> float:
        """Return how much of the input was dropped since the last report, 0..1."""
        return min(1.0, self.rates['dropped'] / (self.rates['received'] or 1.0))

    def values(self) -> list[tuple[str, str]]:
        """Return names and values in the form of diagnostics, in a steady order."""
        rows = [(name, str(count)) for name, count in sorted(self.totals.items())]
        rows += [(f'{name}_hz', f'{rate:.1f}') for name, rate in sorted(self.rates.items())]
        if self.age_s is not None:
            rows.append(('age_s', f'{self.age_s:.1f}'))
        rows.append(('drop_share', f'{self.drop_share:.2f}'))
        for stage, (median, largest) in self.durations_ms.items():
            rows += [(f'{stage}_ms', f'{median:.2f}'), (f'{stage}_max_ms', f'{largest:.2f}')]
        return rows


class Statistics:
    """Counts by name, failures by kind, durations by stage; safe to use from several threads."""

    def __init__(self, clock=time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Forget everything, as if it began now."""
        with self._lock:
            self._totals: Counter[str] = Counter(received=0, processed=0, dropped=0, failed=0)
            self._durations: dict[str, deque[float]] = {}
            self._last = self._totals.copy()
            self._last_time = self._clock()
            self._newest: float | None = None  # when input came, or began to be waited for

    def count(self, name: str, more: int = 1) -> int:
        """Add one, or more, to a name and return its new total."""
        with self._lock:
            self._totals[name] += more
            if name == 'received':
                self._newest = self._clock()
            return self._totals[name]

    def wait_for_input(self, waits: bool = True) -> None:
        """Let the age of the newest input begin anew; with waits=False let it have none."""
        with self._lock:
            self._newest = self._clock() if waits else None

    def fail(self, kind: str) -> bool:
        """Count a failure of a kind; true if it is the first of its kind."""
        self.count('failed')
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
            age_s = None if self._newest is None else now - self._newest
            durations = {
                stage: (statistics.median(values), max(values))
                for stage, values in self._durations.items()
            }
        return Report(
            totals=dict(totals),
            rates={name: new[name] / elapsed for name in totals if '.' not in name},
            durations_ms=durations,
            age_s=age_s,
            failures={
                name.removeprefix('failed.'): count
                for name, count in sorted(new.items())
                if name.startswith('failed.')
            },
        )
