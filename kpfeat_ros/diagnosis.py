"""What a node's diagnostics say: level and sentence."""

from collections.abc import Sequence
import sys

from diagnostic_msgs.msg import DiagnosticStatus

from .limits import DiagnosticsOptions, USUAL_LIMITS
from .stats import Report

IDLE = 'idle: nobody listens to the results'
Verdict = tuple[bytes, str]  # level and sentence
NEXT_STEP = {
    'inactive': ('inactive', 'activate'),
    'unconfigured': ('inactive, not configured', 'configure'),
}


def judge_rest(state: str, node: str, trouble: str = '') -> tuple[bytes, str]:
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
    report: Report,
    topic: str,
    mismatches: Sequence[str] = (),
    rests: bool = False,
    limits: DiagnosticsOptions = USUAL_LIMITS,
) -> tuple[bytes, str]:
    """
    Return level and sentence of an active node that works on what arrives on a topic.

    topic: that of the source that has been silent longest, where there are several; mismatches:
    what is wrong with the QoS of its topics; rests: it does not listen at present.
    """
    return (
        _judge_failures(report, mismatches)
        or _judge_input(report, topic, rests, limits)
        or _judge_work(report, topic, limits)
        or (DiagnosticStatus.OK, f'{report.rates["processed"]:.1f} Hz')
    )


def _judge_failures(report: Report, mismatches: Sequence[str]) -> Verdict | None:
    if report.failures:
        kinds = ', '.join(f'{count} {kind}' for kind, count in report.failures.items())
        return DiagnosticStatus.WARN, f'failed since the last report: {kinds}'
    if mismatches:
        return DiagnosticStatus.WARN, mismatches[0]
    return None


def _judge_input(
    report: Report, topic: str, rests: bool, limits: DiagnosticsOptions
) -> Verdict | None:
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


def _judge_work(report: Report, topic: str, limits: DiagnosticsOptions) -> Verdict | None:
    rates, share = report.rates, report.drop_share
    if rates.get('unpaired') and not rates['processed']:
        return (
            DiagnosticStatus.WARN,
            f"no image on '{topic}' has the stamp of the features or matches: listen to the same "
            'topic as the extractor, raise buffer_size, or set the reference again',
        )
    if rates.get('without_partner') and not rates['processed']:
        return (
            DiagnosticStatus.WARN,
            f"no frame on '{topic}' was taken at the time of one of the other camera: let both "
            'cameras be triggered together, or raise stamp_tolerance_ms',
        )
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
