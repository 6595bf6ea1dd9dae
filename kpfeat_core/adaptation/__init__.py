"""Homographic adaptation: labels from a detector that is asked about many views of an image."""

import importlib
from typing import Any

# Loaded on first use, and torch with them: help texts need only options.
_PLACES = {
    'AdaptConfig': 'config',
    'Adapted': 'aggregate',
    'adapt': 'aggregate',
    'dense_scores': 'aggregate',
    'select_keypoints': 'aggregate',
    'Labelled': 'labels',
    'label_image': 'labels',
    'make_labels': 'labels',
    'read_labels': 'labels',
}

__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f'.{_PLACES[name]}', __name__), name)
