"""
Learned local image features: keypoints, descriptors, matches.

Keypoints are (x, y) in pixels of the source image; the centre of the top-left pixel is (0, 0).
"""

import importlib
from typing import Any

__version__ = '0.1.0'

# Loaded on first use: torch takes seconds to import, and `kpfeat --help` needs none of it.
_PLACES = {
    'Features': 'features',
    'Matches': 'features',
    'Extractor': 'models.base',
    'KpfeatError': 'errors',
    'create_extractor': 'registry',
    'create_matcher': 'registry',
    'extractor_names': 'registry',
    'read_image': 'image',
    'write_image': 'image',
    'find_geometry': 'matchers.verify',
    'match_pair': 'matchers.pair',
    'draw_features': 'visualize',
    'draw_matches': 'visualize',
}

__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f'.{_PLACES[name]}', __name__), name)


def __dir__() -> list[str]:
    return __all__
