"""Features of images, extracted once: they are found again by what they depend on."""

import hashlib
import os
from pathlib import Path
import time

import numpy as np

from ..errors import DataError
from ..features import Features
from ..io import read_npz, write_npz
from .sources import FeatureSource, Source

SECONDS = 'seconds'


def default_cache() -> Path:
    """Return where features are kept: $KPFEAT_CACHE, else the user's cache folder."""
    if given := os.environ.get('KPFEAT_CACHE'):
        return Path(given)
    base = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(base) / 'kpfeat' / 'evaluation'


class Extraction:
    """
    Extract images, or read what was extracted before.

    A file's name is the digest of the pixels, the extractor's weights, options and code, and the
    number of keypoints. The extractor is built when the first image needs it, and sees that image
    twice, so that times are those of a running one.
    """

    def __init__(
        self, source: Source | FeatureSource, max_num_keypoints: int, folder: Path | None = None
    ) -> None:
        self.source, self.count = source, max_num_keypoints
        self.extractor: FeatureSource | None = None
        self.folder = None
        if folder is not None and isinstance(source, Source):
            identity = source.identity()
            self.folder = folder / f'{source.model}-{identity[:16]}'
            self.identity = identity
        self.hits = self.misses = 0

    def __call__(self, image: np.ndarray) -> tuple[Features, float]:
        """Return the features of a (H, W, 3) uint8 RGB image, and the seconds that they took."""
        path = self._path(image)
        if path is not None and path.exists():
            try:
                arrays = read_npz(path)
                seconds = float(arrays.pop(SECONDS))
                self.hits += 1
                return Features.from_numpy(arrays), seconds
            except (DataError, KeyError):
                path.unlink(missing_ok=True)  # cut off by a full disk: extract again
        self.misses += 1
        features, seconds = self._extract(image)
        if path is not None:
            write_npz(path, features.numpy() | {SECONDS: np.float64(seconds)})
        return features, seconds

    def _path(self, image: np.ndarray) -> Path | None:
        if self.folder is None:
            return None
        digest = hashlib.sha256(f'{self.identity} {self.count} {image.shape}'.encode())
        digest.update(np.ascontiguousarray(image))
        return self.folder / f'{digest.hexdigest()[:40]}.npz'

    def _extract(self, image: np.ndarray) -> tuple[Features, float]:
        if self.extractor is None:
            self.extractor = self._build()
            self.extractor.extract(image)
        start = time.perf_counter()
        features = self.extractor.extract(image).to('cpu')
        return features, time.perf_counter() - start

    def _build(self) -> FeatureSource:
        if isinstance(self.source, Source):
            return self.source.create(self.count)
        return self.source.with_options(max_num_keypoints=self.count)
