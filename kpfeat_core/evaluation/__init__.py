"""Measuring extractors: pairs of views with known truth, protocols, metrics."""

from .pairs import (
    balanced_subset,
    find_scenes,
    motion_pairs,
    MotionPair,
    planar_pairs,
    PlanarPair,
    pose_pairs,
    PosePair,
)
from .results import compare, find_protocol, Protocol, PROTOCOLS, Results
from .run import evaluate, Evaluator
from .sources import BASELINES, OpencvExtractor, parse_source, Source
from .synthetic import find_photographs, Level, LEVELS, SyntheticPairs

__all__ = [
    'BASELINES',
    'LEVELS',
    'PROTOCOLS',
    'Evaluator',
    'Level',
    'MotionPair',
    'OpencvExtractor',
    'PlanarPair',
    'PosePair',
    'Protocol',
    'Results',
    'Source',
    'SyntheticPairs',
    'balanced_subset',
    'compare',
    'evaluate',
    'find_photographs',
    'find_protocol',
    'find_scenes',
    'motion_pairs',
    'parse_source',
    'planar_pairs',
    'pose_pairs',
]
