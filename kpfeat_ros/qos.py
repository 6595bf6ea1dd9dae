"""Quality of service: what the nodes use, what may be overridden, and why two ends do not meet."""

from collections.abc import Iterator, Sequence
from typing import Any

from rclpy.qos import (
    HistoryPolicy,
    QoSDurabilityPolicy,
    QoSLivelinessPolicy,
    QoSPolicyKind,
    QoSProfile,
    QoSReliabilityPolicy,
)
from rclpy.qos_overriding_options import QoSOverridingOptions

RELIABLE = QoSProfile(
    depth=5, history=HistoryPolicy.KEEP_LAST, reliability=QoSReliabilityPolicy.RELIABLE
)
OVERRIDABLE = (
    QoSPolicyKind.HISTORY,
    QoSPolicyKind.DEPTH,
    QoSPolicyKind.RELIABILITY,
    QoSPolicyKind.DURABILITY,
    QoSPolicyKind.DEADLINE,
)
LONGEST_NS = 2**62  # from here on a deadline is none; the middlewares do not agree on a number
PROMISES = {  # of a policy, from the weakest: who offers less than is asked for is not heard
    'reliability': (QoSReliabilityPolicy.BEST_EFFORT, QoSReliabilityPolicy.RELIABLE),
    'durability': (QoSDurabilityPolicy.VOLATILE, QoSDurabilityPolicy.TRANSIENT_LOCAL),
    'liveliness': (QoSLivelinessPolicy.AUTOMATIC, QoSLivelinessPolicy.MANUAL_BY_TOPIC),
}


def sensor_qos(depth: int = 1) -> QoSProfile:
    """Return what receives from every publisher: best effort, volatile, the newest only."""
    return QoSProfile(
        depth=depth,
        history=HistoryPolicy.KEEP_LAST,
        reliability=QoSReliabilityPolicy.BEST_EFFORT,
        durability=QoSDurabilityPolicy.VOLATILE,
    )


def overrides() -> QoSOverridingOptions:
    """Return what makes `qos_overrides.TOPIC.publisher.POLICY` a parameter of the node."""
    return QoSOverridingOptions(OVERRIDABLE)


def broken_promises(offered: QoSProfile, asked: QoSProfile) -> Iterator[tuple[str, str, str]]:
    """Yield policy, what is offered and what is asked for, where the first is not enough."""
    for policy, order in PROMISES.items():
        ends = getattr(offered, policy), getattr(asked, policy)
        if all(end in order for end in ends) and order.index(ends[0]) < order.index(ends[1]):
            yield policy, ends[0].name.lower(), ends[1].name.lower()
    periods = _period(offered), _period(asked)
    if periods[0] > periods[1]:
        yield 'deadline', _words(periods[0]), _words(periods[1])


def explain_mismatch(
    topic: str, own: QoSProfile, publishes: bool, others: Sequence[Any], node: str
) -> list[str]:
    """
    Return a sentence for each other end of a topic that ours does not meet: why, and the remedy.

    publishes: our end is the publisher; others: rclpy's TopicEndpointInfo of the other side;
    node: the full name of ours.
    """
    found = []
    for other in others:
        ends = (own, other.qos_profile) if publishes else (other.qos_profile, own)
        for policy, offered, asked in broken_promises(*ends):
            name = f'{other.node_namespace.rstrip("/")}/{other.node_name}'
            say = _say_unheard if publishes else _say_silent
            found.append(say(topic, name, policy, offered, asked, node))
    return found


def _say_silent(topic: str, name: str, policy: str, offered: str, asked: str, node: str) -> str:
    return (
        f"'{topic}' brings nothing from {name}: its publisher offers {policy} {offered}, and this "
        f'subscription asks for {asked}. '
        + _remedy(topic, 'subscription', policy, offered, node)
        + f'let {name} publish with {asked}'
    )


def _say_unheard(topic: str, name: str, policy: str, offered: str, asked: str, node: str) -> str:
    return (
        f"'{topic}' does not reach {name}: its subscription asks for {policy} {asked}, and this "
        f'publisher offers {offered}. '
        + _remedy(topic, 'publisher', policy, asked, node)
        + f'let {name} subscribe with {offered}'
    )


def _remedy(topic: str, entity: str, policy: str, value: str, node: str) -> str:
    if policy == 'liveliness':  # to promise more than automatic, a node must keep saying so
        return 'To change that, '
    return f'Start {node} with -p qos_overrides.{topic}.{entity}.{policy}:={value.split()[0]}, or '


def _period(profile: QoSProfile) -> int:
    length = profile.deadline.nanoseconds
    return length if 0 < length < LONGEST_NS else LONGEST_NS


def _words(period_ns: int) -> str:
    return '0 (none)' if period_ns == LONGEST_NS else f'{period_ns} ns'
