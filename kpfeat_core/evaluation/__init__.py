"""Measuring extractors: pairs of views with known truth, protocols, metrics."""

from .baselines import BASELINES, OpencvExtractor
from .planar import (
    balanced_subset,
    evaluate,
    planar_pairs,
    PlanarPair,
    PlanarProtocol,
    PlanarResults,
)
from .synthetic import find_photographs, Level, LEVELS, SyntheticPairs

__all__ = [
    'BASELINES',
    'LEVELS',
    'Level',
    'OpencvExtractor',
    'PlanarPair',
    'PlanarProtocol',
    'PlanarResults',
    'SyntheticPairs',
    'balanced_subset',
    'evaluate',
    'find_photographs',
    'planar_pairs',
]
