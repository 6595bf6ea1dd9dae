"""
Which extractor is measured, as plain data, and its features, extracted once.

Features are kept under the digest of what they depend on, and found again by it.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
import hashlib
import math
import os
from pathlib import Path
import time
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
import torch

from ..config import parse_options
from ..errors import ConfigError, DataError, WeightsError
from ..factory import check_device, create_extractor
from ..features import Features
from ..io import read_npz, write_npz
from ..provenance import code_digest, device_name, digest
from ..registry import (
    build_extractor,
    extractor_config_class,
    extractor_names,
    EXTRACTORS,
)
from ..weights.files import find_weights, sha256
from ..weights.importing import import_checkpoint

CHECKPOINTS = ('.pth', '.pt', '.tar', '.ckpt', '.index')
BASELINES = ('sift', 'orb', 'akaze')
BITS = {'orb': 256, 'akaze': 488}  # of 61 bytes, the last two are always 0
SECONDS, TIMED_ON = 'seconds', 'timed_on'  # in a file of the cache, beside the features


@runtime_checkable
class FeatureSource(Protocol):
    """Anything with `extract`: our extractors and OpenCV's behind the same contract."""

    def extract(self, image: np.ndarray) -> Features:
        """Return the features of one (H, W, 3) uint8 RGB image."""

    def with_options(self, **options: object) -> 'FeatureSource':
        """Return the same with another max_num_keypoints."""


@dataclass(frozen=True)
class Source:
    """
    An extractor and the name that tables give it.

    weights: a file of ours; '' is the usual place. checkpoint: the published file that it was
    imported from, if it was.
    """

    label: str
    model: str
    weights: str = ''
    device: str = 'cpu'
    options: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str = ''

    def create(self, max_num_keypoints: int) -> FeatureSource:
        """Build it; raises KpfeatError."""
        if self.model in BASELINES:
            return OpencvExtractor(self.model, max_num_keypoints)
        options = {**self.options, 'max_num_keypoints': max_num_keypoints}
        return create_extractor(self.model, self.weights, self.device, **options)

    def about(self) -> dict[str, Any]:
        """Return all that its features depend on, beside the image; raises KpfeatError."""
        if self.model in BASELINES:
            return {'model': self.model, 'opencv': cv2.__version__}
        path = find_weights(self.model, self.weights)
        beside = build_extractor(self.model, **self.options).submodules()
        files = {name: find_weights(name, file) for name, (_, file) in beside.items()}
        files[self.model] = path
        return {
            'model': self.model,
            'weights': {name: sha256(file) for name, file in files.items()},
            'file': Path(self.checkpoint or path).name,
            'options': dict(self.options),
            'device': str(check_device(self.device)),
            'torch': torch.__version__,
            'opencv': cv2.__version__,  # which can describe, with SIFT
        }

    def identity(self) -> str:
        """Return a digest of all that its features depend on, beside the image."""
        about = self.about()
        about.pop('file', None)
        if self.model in BASELINES:
            return digest(about | {'code': sha256(__file__)})
        return digest(about | {'code': code_digest(f'models/{EXTRACTORS[self.model].module}')})


def parse_source(text: str, device: str, imported: Path) -> Source:
    """
    Read `[LABEL=]NAME[:FILE][,OPTION=VALUE…]`.

    FILE is a weight file of ours or a published checkpoint, which is imported into the folder
    `imported`; only commas cannot be in its name. Raises ConfigError and WeightsError.
    """
    head, *settings = text.split(',')
    first, _, file = head.partition(':')
    label, _, name = first.rpartition('=')
    if name in BASELINES:
        if file or settings:
            raise ConfigError(f"'{text}': {name} is OpenCV's with its own settings, and has none")
        return Source(label or name, name)
    if name not in extractor_names():
        known = ', '.join([*extractor_names(), *BASELINES])
        raise ConfigError(f"there is no model '{name}' in '{text}'; expected one of {known}")
    options = parse_options(settings, extractor_config_class(name))
    if 'max_num_keypoints' in options:
        raise ConfigError(f"'{text}': the protocol says how many keypoints, not the extractor")
    shaping = build_extractor(name, **options).architecture  # refuses unknown ones
    if not label:
        label = ' '.join([name, *([f'({Path(file).stem})'] if file else []), *settings])
    if Path(file).suffix not in CHECKPOINTS:
        return Source(label, name, file, device, options)
    architecture = {key: value for key, value in options.items() if key in shaping}
    weights = _imported(file, name, architecture, imported)
    return Source(label, name, str(weights), device, options, file)


def _imported(file: str, model: str, architecture: Mapping[str, str], folder: Path) -> Path:
    """Import a published checkpoint once for each content of the file."""
    path = Path(file)
    if not path.is_file():
        raise WeightsError(f"there is no checkpoint '{file}'")
    code = code_digest('weights/importing')[:8]
    words = [model, *architecture.values(), sha256(path)[:16], code]
    target = folder / f'{"-".join(words)}.safetensors'
    if target.exists():
        return target
    return import_checkpoint(path, model, target, None, architecture)


@dataclass(frozen=True)
class OpencvExtractor:
    """
    SIFT, ORB or AKAZE with OpenCV's own settings and at most max_num_keypoints keypoints.

    SIFT's descriptors are scaled to unit length and otherwise as they are (no RootSIFT). The n
    bits of the others become +-1/sqrt(n), so that the cosine similarity is 1 - 2 Hamming distance
    / n and nearest neighbours are the same.
    """

    name: str = 'sift'
    max_num_keypoints: int = 1024

    def __post_init__(self) -> None:
        if self.name not in BASELINES:
            raise ConfigError(
                f"there is no baseline '{self.name}'; expected one of {', '.join(BASELINES)}"
            )
        if self.name not in available_baselines():
            raise ConfigError(
                f'OpenCV {cv2.__version__} has no AKAZE: install opencv-contrib-python, or an '
                'OpenCV before 5'
            )

    def with_options(self, max_num_keypoints: int) -> 'OpencvExtractor':
        """Return the same method with another number of keypoints; -1 keeps all."""
        return replace(self, max_num_keypoints=max_num_keypoints)

    def detect_and_compute(self, image: np.ndarray) -> tuple[tuple, np.ndarray | None]:
        """Run OpenCV alone on a (H, W, 3) uint8 RGB or (H, W) image; for timing."""
        gray = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        return _create(self.name, self.max_num_keypoints).detectAndCompute(gray, None)

    def extract(self, image: np.ndarray) -> Features:
        """Return the features of one image, best first; `scales` is OpenCV's diameter."""
        found, descriptors = self.detect_and_compute(image)
        count = len(found) if self.max_num_keypoints < 0 else self.max_num_keypoints
        order = np.argsort([-point.response for point in found], kind='stable')[:count]
        found = [found[i] for i in order]
        return Features.from_numpy(
            {
                'keypoints': np.array([p.pt for p in found], np.float32).reshape(-1, 2),
                'keypoint_scores': np.array([p.response for p in found], np.float32),
                'descriptors': _unit_rows(self.name, descriptors, order),
                'image_size': np.array(image.shape[1::-1], np.float32),
                'scales': np.array([p.size for p in found], np.float32),
                'orientations': np.array([math.radians(p.angle) for p in found], np.float32),
            }
        )


def _create(name: str, count: int) -> cv2.Feature2D:
    if name == 'sift':
        return cv2.SIFT_create(nfeatures=max(count, 0))
    if name == 'akaze':
        return _akaze()()  # which keeps all; the best are chosen afterwards
    return cv2.ORB_create(nfeatures=count if count >= 0 else 1_000_000)


def _akaze() -> Callable[[], cv2.Feature2D] | None:
    """Find AKAZE, which moved to the contributed modules with OpenCV 5."""
    contributed = getattr(cv2, 'xfeatures2d', None)
    return getattr(cv2, 'AKAZE_create', None) or getattr(contributed, 'AKAZE_create', None)


def available_baselines() -> list[str]:
    """Return the baselines that the installed OpenCV has."""
    return [name for name in BASELINES if name != 'akaze' or _akaze() is not None]


def _unit_rows(name: str, descriptors: np.ndarray | None, order: np.ndarray) -> np.ndarray:
    if descriptors is None:
        return np.zeros((0, BITS.get(name, 128)), np.float32)
    rows = descriptors[order]
    if name in BITS:
        bits = np.unpackbits(rows, axis=1).astype(np.float32)
        return (bits * 2 - 1) / np.float32(math.sqrt(BITS[name]))
    return torch.nn.functional.normalize(torch.from_numpy(rows).float(), dim=1).numpy()


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
        with suppress(OSError):  # another run replaced it
            total += path.stat().st_size
    return total


class FeatureCache:
    """
    Extract images, or read the features of an earlier run.

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
            self.identity = source.identity()
            self.folder = folder / f'{source.model}-{self.identity[:16]}'
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
        total = hashlib.sha256(f'{self.identity} {self.count} {image.shape}'.encode())
        total.update(np.ascontiguousarray(image))
        return self.folder / f'{total.hexdigest()[:40]}.npz'

    def _extract(self, image: np.ndarray) -> tuple[Features, float]:
        if self.extractor is None:
            if isinstance(self.source, Source):
                self.extractor = self.source.create(self.count)
            else:
                self.extractor = self.source.with_options(max_num_keypoints=self.count)
            self.extractor.extract(image)
        start = time.perf_counter()
        features = self.extractor.extract(image).to('cpu')
        return features, time.perf_counter() - start
