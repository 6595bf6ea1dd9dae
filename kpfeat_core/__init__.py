"""
Learned local image features: keypoints, descriptors, matches.

Keypoints are (x, y) in pixels of the source image; the centre of the top-left pixel is (0, 0).
"""

from .runtime import lazy_face

__version__ = '0.1.0'

# Loaded on first use: torch takes seconds to import, and `kpfeat --help` needs none of it.
_PLACES = {
    'Features': 'features',
    'Matches': 'features',
    'Extractor': 'models.base',
    'KpfeatError': 'errors',
    'create_extractor': 'factory',
    'create_matcher': 'factory',
    'extractor_names': 'registry',
    'read_image': 'image',
    'write_image': 'image',
    'find_geometry': 'matching',
    'match_pair': 'matching',
    'draw_features': 'visualize',
    'draw_matches': 'visualize',
}

__all__ = list(_PLACES)
__getattr__ = lazy_face(__name__, _PLACES)


def __dir__() -> list[str]:
    return __all__
