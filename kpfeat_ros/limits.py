"""When diagnostics warn; imports neither ROS nor torch."""

from dataclasses import dataclass

from kpfeat_core.config import option


@dataclass(frozen=True)
class DiagnosticsOptions:
    """Limits beyond which a node's diagnostics are a warning or an error."""

    min_rate_warn_hz: float = option(
        0.0, 'fewer results a second are a warning; 0 never is', low=0.0, high=1000.0, live=True
    )
    min_rate_error_hz: float = option(
        0.0, 'fewer results a second are an error; 0 never is', low=0.0, high=1000.0, live=True
    )
    max_age_warn_s: float = option(
        2.0, 'a newest input older than this is a warning', low=0.0, high=1e6, live=True
    )
    max_age_error_s: float = option(
        10.0, 'a newest input older than this is an error', low=0.0, high=1e6, live=True
    )
    max_drop_share_warn: float = option(
        1.0, 'dropping a larger share of the input is a warning', low=0.0, high=1.0, live=True
    )
    max_drop_share_error: float = option(
        1.0, 'dropping a larger share of the input is an error', low=0.0, high=1.0, live=True
    )


USUAL_LIMITS = DiagnosticsOptions()
