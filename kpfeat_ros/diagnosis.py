"""What a node's diagnostics say: level and sentence."""

from collections.abc import Sequence

from diagnostic_msgs.msg import DiagnosticStatus

from .stats import Report

IDLE = 'idle: nobody listens to the results'
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
    report: Report, topic: str, mismatches: Sequence[str] = (), rests: bool = False
) -> tuple[bytes, str]:
    """
    Return level and sentence of an active node that works on what arrives on a topic.

    mismatches: what is wrong with the QoS of its topics; rests: it does not listen at present.
    """
    if report.failures:
        kinds = ', '.join(f'{count} {kind}' for kind, count in report.failures.items())
        return DiagnosticStatus.WARN, f'failed since the last report: {kinds}'
    if mismatches:
        return DiagnosticStatus.WARN, mismatches[0]
    if rests and not report.rates['received']:
        return DiagnosticStatus.OK, IDLE
    if not report.totals['received']:
        return (
            DiagnosticStatus.WARN,
            f"nothing received on '{topic}' yet: compare with `ros2 topic info -v {topic}`",
        )
    if not report.rates['received']:
        return DiagnosticStatus.WARN, f"nothing received on '{topic}' since the last report"
    if report.rates.get('unpaired') and not report.rates['processed']:
        return (
            DiagnosticStatus.WARN,
            f"no image on '{topic}' has the stamp of the features or matches: listen to the same "
            'topic as the extractor, raise buffer_size, or set the reference again',
        )
    if report.rates.get('lost'):
        return (
            DiagnosticStatus.WARN,
            f'{report.rates["lost"]:.1f} messages a second were lost on their way here: with Fast '
            'DDS and large images, use config/fastdds_large_images.xml',
        )
    if report.rates.get('idle'):
        return DiagnosticStatus.OK, IDLE
    return DiagnosticStatus.OK, f'{report.rates["processed"]:.1f} Hz'
