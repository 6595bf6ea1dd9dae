"""Results that nobody measured: two extractors whose difference is known."""

import math

from kpfeat_core.evaluation.results import PairResult, Protocol, PROTOCOLS, Results
import numpy as np

GROUPS = ('v_wall', 'v_wallpaper', 'i_lamp')


def made_results(
    label: str,
    level: float = 0.5,
    groups: tuple[str, ...] = GROUPS,
    count: int = 8,
    data: str = 'made',
    protocol: Protocol = PROTOCOLS['default'],
    about: dict | None = None,
) -> Results:
    """Return results with count pairs a group, whose accuracy is around level."""
    rng = np.random.default_rng(5)
    pairs = []
    for group in groups:
        for k in range(count):
            share = float(np.clip(level + rng.normal(0, 0.02), 0, 1))
            values = {
                **{f'MMA@{t}': share * t / (t + 1) for t in (1, 3, 5)},
                'HA@3': float(share > 0.5),
                'AUC@3': share / 3,
                'repeatability': 0.25,
                'localization_px': math.nan if k == 0 else 2 - share,
                'corner_error': math.inf if k == 0 else 1.0,
                'matches': 100.0,
                'ms': 100 * share,
            }
            pairs.append(PairResult(group, f'{group}/1-{k + 2}', values))
    return Results(label, data, protocol, tuple(pairs), about or {})
