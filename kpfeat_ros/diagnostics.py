"""What a node counts and times, and the level and sentence of diagnostics that follow."""

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
import statistics
import sys
import threading
import time

from diagnostic_msgs.msg import DiagnosticStatus
from kpfeat_core.errors import KpfeatError

from .options import DiagnosticsOptions

MAIN_COUNTS = ('received', 'processed', 'dropped', 'failed')
MOST_REASONS = 10  # of one kind that the log has
RECENT = 100  # durations kept of each stage
USUAL_LIMITS = DiagnosticsOptions()
IDLE = 'idle: nobody listens to the results'
Judgement = tuple[bytes, str]  # level and sentence
NEXT_STEP = {
    'inactive': ('inactive', 'activate'),
    'unconfigured': ('inactive, not configured', 'configure'),
}


@dataclass(frozen=True)
class NodeReport:
    """Totals since the start, events a second since the last report, and recent durations."""

    totals: dict[str, int]
    rates: dict[str, float]
    durations_ms: dict[str, tuple[float, float]]  # stage: median and largest of the recent ones
    failures: dict[str, int]  # since the last report, by kind
    ages_s: dict[str, float] = field(default_factory=dict)  # of the newest input, by source
    reason: str = ''  # sentence of the last failure, where nothing has succeeded since or in it
    fails: int = 0  # failures since the last success
    sources: dict[str, 'NodeReport'] = field(default_factory=dict)  # the same of each alone

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

    A source is one of several cameras; counts of a source are counts of the node as well.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._newest: dict[str, float] = {}  # by source: when input came, or began to be awaited
        self._told: dict[str, set[str]] = {}  # by kind of failure: its sentences
        self.reset()

    def reset(self) -> None:
        """Forget everything, as if it began now."""
        with self._lock:
            self._totals: Counter[str] = Counter(dict.fromkeys(MAIN_COUNTS, 0))
            self._sources: set[str] = set()
            self._durations: dict[str, deque[float]] = {}
            self._last = self._totals.copy()
            self._last_time = self._clock()
            self._newest = dict.fromkeys(self._newest, self._clock())
            self._reasons: dict[str, str] = {}  # by source: of its last failure
            self._failing: Counter[str] = Counter()  # by source: failures since the last success
            self._told.clear()

    def count(self, name: str, more: int = 1, source: str = '') -> int:
        """Add one, or more, to a name and return its new total."""
        with self._lock:
            self._sources.add(source)
            for counted in {name, _of_source(name, source)}:
                self._totals[counted] += more
            if name == 'processed':
                for each in {'', source}:
                    self._failing.pop(each, None)
            if name == 'received' and source in self._newest:  # else it is the last of its source
                self._newest[source] = self._clock()
            return self._totals[name]

    def wait_for_input(self, waits: bool = True, source: str | None = '') -> None:
        """Start the age of the newest input at zero; with waits=False it has no age."""
        with self._lock:
            if waits:
                self._newest[source] = self._clock()
            else:
                self._newest.pop(source, None)

    def fail(self, kind: str, source: str = '', reason: str = '') -> bool:
        """
        Count a failure of a kind; true if the log has not had its reason.

        Of each kind that is so for a few reasons: they may hold numbers that never repeat.
        """
        self.count('failed', source=source)
        self.count(f'failed.{kind}', source=source)
        with self._lock:
            for each in {'', source}:
                self._reasons[each] = reason
                self._failing[each] += 1
            told = self._told.setdefault(kind, set())
            if reason in told or len(told) >= MOST_REASONS:
                return False
            told.add(reason)
            return True

    def add_duration(self, stage: str, seconds: float) -> None:
        """Note how long a stage took."""
        with self._lock:
            self._durations.setdefault(stage, deque(maxlen=RECENT)).append(1e3 * seconds)

    def total(self, name: str) -> int:
        """Return a total; 0 for a name never counted."""
        with self._lock:
            return self._totals.get(name, 0)

    def total_of(self, name: str, source: str) -> int:
        """Return the total of one source."""
        return self.total(_of_source(name, source))

    def report(self) -> NodeReport:
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
            reasons, failing = self._reasons.copy(), self._failing.copy()

        def part(source: str, ages_s: dict[str, float], stages: dict) -> NodeReport:
            own, fresh = _part_of(totals, source), _part_of(new, source)
            failures = {
                name.removeprefix('failed.'): count
                for name, count in sorted(fresh.items())
                if name.startswith('failed.')
            }
            fails = failing[source]
            return NodeReport(
                totals=own,
                rates={name: fresh.get(name, 0) / elapsed for name in own if '.' not in name},
                durations_ms=stages,
                failures=failures,
                ages_s=ages_s,
                reason=reasons.get(source, '') if failures or fails else '',
                fails=fails,
            )

        sources = {
            name: part(name, {'': ages[name]} if name in ages else {}, {})
            for name in {source for source in (*ages, *self._sources) if source}
        }
        return replace(part('', ages, durations), sources=sources)


def _part_of(counts: Mapping[str, int], source: str) -> dict[str, int]:
    """Return the counts of one source by their own names; those of all sources for ''."""
    if not source:
        return dict(counts)
    own = {
        name.removeprefix(f'{source}.'): count
        for name, count in counts.items()
        if name.startswith(f'{source}.')
    }
    return dict.fromkeys(MAIN_COUNTS, 0) | own


def reason_of(error: Exception) -> str:
    """Return one sentence about an error."""
    expected = isinstance(error, KpfeatError)
    return ' '.join((str(error) if expected else f'{type(error).__name__}: {error}').split())


def judge_rest(state: str, node: str, trouble: str = '') -> Judgement:
    """
    Return level and sentence of a node that is not active.

    state: of its lifecycle; node: its full name; trouble: why its last transition failed.
    """
    if trouble:
        return DiagnosticStatus.ERROR, f'{state}: {trouble}'
    if state not in NEXT_STEP:
        return DiagnosticStatus.OK, f'inactive, {state}'
    words, step = NEXT_STEP[state]
    return DiagnosticStatus.OK, f'{words}: `ros2 lifecycle set {node} {step}` is the next step'


def judge(
    report: NodeReport,
    topic: str,
    mismatches: Sequence[str] = (),
    rests: bool = False,
    limits: DiagnosticsOptions = USUAL_LIMITS,
) -> Judgement:
    """
    Return level and sentence of an active node that works on the messages of a topic.

    topic: that of the source that has been silent longest, where there are several; mismatches:
    sentences about the QoS of its topics; rests: it has no subscription at present.
    """
    return (
        _judge_failures(report, mismatches, rests)
        or _judge_input(report, topic, rests, limits)
        or _judge_last_failure(report)
        or _judge_work(report, topic, limits)
        or (DiagnosticStatus.OK, f'{report.rates["processed"]:.1f} Hz')
    )


def _judge_failures(
    report: NodeReport, mismatches: Sequence[str], rests: bool
) -> Judgement | None:
    if report.failures:
        kinds = ', '.join(f'{count} {kind}' for kind, count in report.failures.items())
        level = DiagnosticStatus.WARN if rests else _level_of_failure(report)
        reason = f'; the last: {report.reason}' if report.reason else ''
        return level, f'failed since the last report: {kinds}{reason}'
    if mismatches:
        return DiagnosticStatus.WARN, mismatches[0]
    return None


def _judge_last_failure(report: NodeReport) -> Judgement | None:
    """Judge a stream that is slower than reports, and whose images all fail."""
    if not report.fails or report.rates['processed']:
        return None
    sentence = f'nothing has succeeded since the last failure: {report.reason}'
    return _level_of_failure(report), sentence


def _level_of_failure(report: NodeReport) -> bytes:
    """Return error where nothing succeeds: never so far, or not in the last two tries."""
    none = report.fails > 1 or (report.fails and not report.totals['processed'])
    failed = none and not report.rates['processed']
    return DiagnosticStatus.ERROR if failed else DiagnosticStatus.WARN


def _judge_input(
    report: NodeReport, topic: str, rests: bool, limits: DiagnosticsOptions
) -> Judgement | None:
    if rests and not report.rates['received']:
        return DiagnosticStatus.OK, IDLE
    age_s = report.age_s or 0.0
    level = _level(age_s, limits.max_age_warn_s, limits.max_age_error_s)
    if not report.received_from(report.quietest):
        return (
            level or DiagnosticStatus.WARN,
            f"nothing received on '{topic}' yet: compare with `ros2 topic info -v {topic}`",
        )
    if level:
        return (
            level,
            f"nothing received on '{topic}' for {age_s:.1f} s: is its publisher still there? See "
            f'`ros2 topic info -v {topic}`',
        )
    return None


def _judge_work(report: NodeReport, topic: str, limits: DiagnosticsOptions) -> Judgement | None:
    rates, share = report.rates, report.drop_share
    if rates.get('unstamped'):
        return (
            DiagnosticStatus.WARN,
            f'{rates["unstamped"]:.1f} messages a second have stamp 0, which means that it is not '
            'set, and are not joined with others: let their publisher set it',
        )
    reasons = {  # of which each alone explains why nothing is worked on
        'boundary': f"no frame on '{topic}' fits the one before: time jumps back, or frame_id or "
        'publisher change; the counts boundary.* tell which',
        'unpaired': f"no image on '{topic}' has the stamp of the features or matches: listen to "
        'the same topic as the extractor, raise buffer_size, or set the reference again',
        'without_partner': f"no frame on '{topic}' was taken at the time of one of the other "
        'camera: let both cameras be triggered together, or raise stamp_tolerance_ms',
    }
    for name, reason in reasons.items():
        if rates.get(name) and not rates['processed']:
            return DiagnosticStatus.WARN, reason
    if rates.get('lost'):
        return (
            DiagnosticStatus.WARN,
            f'{rates["lost"]:.1f} messages a second were lost on their way here: with Fast '
            'DDS and large images, use config/fastdds_large_images.xml',
        )
    if rates.get('idle'):
        return DiagnosticStatus.OK, IDLE
    level = _level(share, limits.max_drop_share_warn, limits.max_drop_share_error)
    if level:
        return level, f'{100 * share:.0f} % of the input was dropped: the work takes too long'
    rate = rates['processed']
    level = _level(-rate, -limits.min_rate_warn_hz, -limits.min_rate_error_hz)
    if level:
        return level, f'{rate:.1f} Hz, which is less than asked for'
    return None


def _level(value: float, warn: float, error: float) -> bytes | None:
    if value > error:
        return DiagnosticStatus.ERROR
    return DiagnosticStatus.WARN if value > warn else None


def gpu_memory() -> list[tuple[str, str]]:
    """Return what this process holds on each GPU that it uses, in MiB; nothing without one."""
    torch = sys.modules.get('torch')
    if torch is None or not torch.cuda.is_initialized():
        return []
    rows = []
    for index in range(torch.cuda.device_count()):
        reserved = torch.cuda.memory_reserved(index)
        if reserved:
            used = torch.cuda.memory_allocated(index)
            rows.append((f'gpu{index}_memory_mib', f'{used / 2**20:.0f}'))
            rows.append((f'gpu{index}_memory_reserved_mib', f'{reserved / 2**20:.0f}'))
    return rows
