"""Features of images, extracted once: they are found again by what they depend on."""

import hashlib
import math
import os
from pathlib import Path
import time

import numpy as np
import torch

from .sources import FeatureSource, Source
from ..errors import DataError
from ..factory import check_device
from ..features import Features
from ..io import read_npz, write_npz
from ..provenance import device_name

SECONDS, TIMED_ON = 'seconds', 'timed_on'


def default_cache() -> Path:
    """Return where features are kept: $KPFEAT_CACHE, else the user's cache folder."""
    if given := os.environ.get('KPFEAT_CACHE'):
        return Path(given)
    base = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(base) / 'kpfeat' / 'evaluation'


def cache_bytes(folder: Path) -> int:
    """Return the size of all that a cache folder holds."""
    total = 0
    for path in folder.rglob('*'):
        try:
            total += path.stat().st_size
        except OSError:  # another run replaced it
            continue
    return total


class Extraction:
    """
    Extract images, or read what was extracted before.

    A file's name is the digest of the pixels, the extractor's weights, options and code, and the
    number of keypoints. The extractor is built when the first image needs it, and sees that image
    twice, so that times are those of a running one. A time that was kept is NaN where it was taken
    on another processor, with more or fewer threads or beside more or fewer workers.
    """

    def __init__(
        self,
        source: Source | FeatureSource,
        max_num_keypoints: int,
        folder: Path | None = None,
        workers: int = 1,
    ) -> None:
        self.source, self.count = source, max_num_keypoints
        device = source.device if isinstance(source, Source) else 'cpu'
        machine = device_name(check_device(device))
        self.timed_on = f'{machine}, {torch.get_num_threads()} threads, {workers} workers'
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
                seconds, timed_on = float(arrays.pop(SECONDS)), str(arrays.pop(TIMED_ON))
                self.hits += 1
                comparable = timed_on == self.timed_on
                return Features.from_numpy(arrays), seconds if comparable else math.nan
            except (DataError, KeyError):
                path.unlink(missing_ok=True)  # damaged: extract again
        self.misses += 1
        features, seconds = self._extract(image)
        if path is not None:
            self._keep(path, features, seconds)
        return features, seconds

    def _keep(self, path: Path, features: Features, seconds: float) -> None:
        notes = {SECONDS: np.float64(seconds), TIMED_ON: np.str_(self.timed_on)}
        try:
            write_npz(path, features.numpy() | notes)
        except OSError as error:
            raise DataError(
                f"cannot keep features in '{self.folder}': {error}; make room (all of it may be "
                'deleted), or choose another folder with --cache, or keep none with --no-cache'
            ) from error

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
