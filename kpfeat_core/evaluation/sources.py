"""Which extractor is measured, as plain data: what to build it from, and what it depends on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
import functools
import hashlib
import json
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
import torch

from .baselines import BASELINES, OpencvExtractor
from ..config import parse_options
from ..errors import ConfigError, WeightsError
from ..features import Features
from ..registry import (
    build_extractor,
    check_device,
    create_extractor,
    extractor_config_class,
    extractor_names,
)
from ..weights import find_weights, import_checkpoint, sha256

CHECKPOINTS = ('.pth', '.pt', '.tar', '.ckpt', '.index')


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
        """Return what its features depend on, beside the image; raises KpfeatError."""
        if self.model in BASELINES:
            return {'model': self.model, 'opencv': cv2.__version__}
        path = find_weights(self.model, self.weights)
        files = {self.model: path}
        for companion, (_, file) in self._built().companions().items():
            files[companion] = find_weights(companion, file)
        return {
            'model': self.model,
            'weights': {name: sha256(file) for name, file in files.items()},
            'file': Path(self.checkpoint or path).name,
            'options': dict(self.options),
            'device': str(check_device(self.device)),
            'torch': torch.__version__,
            'opencv': cv2.__version__,  # which can describe, with SIFT
        }

    def _built(self) -> Any:
        return build_extractor(self.model, **self.options)

    def identity(self) -> str:
        """Return a digest of all that its features depend on, beside the image."""
        about = self.about() | {'code': _code_digest()}
        about.pop('file', None)
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


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
    shaping = build_extractor(name, **options).structure  # refuses unknown ones
    if not label:
        label = ' '.join([name, *([f'({Path(file).stem})'] if file else []), *settings])
    if not _is_checkpoint(file):
        return Source(label, name, file, device, options)
    structure = {key: value for key, value in options.items() if key in shaping}
    weights = _imported(file, name, structure, imported)
    return Source(label, name, str(weights), device, options, file)


def _is_checkpoint(file: str) -> bool:
    return Path(file).suffix in CHECKPOINTS


def _imported(file: str, model: str, structure: Mapping[str, str], folder: Path) -> Path:
    """Import a published checkpoint once; its content tells whether it is there already."""
    path = Path(file)
    if not path.is_file():
        raise WeightsError(f"there is no checkpoint '{file}'")
    words = [model, *structure.values(), sha256(path)[:16], _code_digest()[:8]]
    target = folder / f'{"-".join(words)}.safetensors'
    return target if target.exists() else import_checkpoint(path, model, target, None, structure)


@functools.cache
def _code_digest() -> str:
    """Digest the code that makes features: what another version cached does not count."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted([*root.glob('*.py'), *root.glob('models/*.py')]):
        digest.update(path.name.encode() + path.read_bytes())
    digest.update((root / 'evaluation' / 'baselines.py').read_bytes())
    return digest.hexdigest()
