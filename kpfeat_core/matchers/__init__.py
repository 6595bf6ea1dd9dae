"""Matchers: two `Features` in, `Matches` out; and the geometric verification of matches."""

from .mutual_nn import MutualNearestNeighbour
from .verify import find_geometry

__all__ = ['MutualNearestNeighbour', 'find_geometry']
