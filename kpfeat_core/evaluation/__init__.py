"""Measuring extractors: pairs of views with known truth, protocols, metrics."""

from .baselines import BASELINES, OpencvExtractor
from .planar import (
    PlanarPair,
    PlanarProtocol,
    PlanarResults,
    balanced_subset,
    evaluate,
    planar_pairs,
)
from .synthetic import LEVELS, Level, SyntheticPairs, find_photographs

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
