"""Training: one engine, one small recipe for each system."""

from typing import Any

from .options import TrainConfig

__all__ = ['TrainConfig', 'train']


def __getattr__(name: str) -> Any:
    """Import the engine, and torch with it, on first use: help texts need only options."""
    if name == 'train':
        from .engine import train

        return train
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
