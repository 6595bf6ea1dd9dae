"""The five systems. Importing this package registers every extractor."""

from . import alike, aslfeat, keynet, kp2d, superpoint  # noqa: F401
from .base import DenseMaps, Extractor

__all__ = ['DenseMaps', 'Extractor']
