"""Services that several nodes offer."""

from functools import partial
from typing import TYPE_CHECKING

from std_srvs.srv import Trigger

if TYPE_CHECKING:
    from .node import KpfeatNode


def offer_reset(node: 'KpfeatNode') -> None:
    """Offer `~/reset_statistics`, which sets all counts and times of diagnostics back."""
    node.offer(Trigger, '~/reset_statistics', partial(_reset, node))


def _reset(node: 'KpfeatNode', _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
    node.statistics.reset()
    response.success, response.message = True, 'all counts and times start again'
    return response
