"""Training: one engine, one small recipe for each system."""

from .options import TrainConfig
from ..runtime import lazy_face

__all__ = ['TrainConfig', 'train']
__getattr__ = lazy_face(__name__, {'train': 'engine'})
