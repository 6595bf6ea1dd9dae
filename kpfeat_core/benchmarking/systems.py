"""What is measured: every registered extractor and OpenCV's baselines, and the pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from ..config import ExtractorConfig, parse_options
from ..errors import ConfigError
from ..evaluation.sources import available_baselines, BASELINES, OpencvExtractor
from ..factory import check_device, create_extractor
from ..image import read_image
from ..models.base import Extractor
from ..registry import build_extractor, extractor_config_class, extractor_names
from ..weights.files import BUNDLED, candidate_weights, find_weights

RANDOM = 'random'
RECTANGLES_PER_PIXEL = 500 / (640 * 480)
Inputs = list[np.ndarray] | np.ndarray | Tensor


@dataclass(frozen=True)
class SystemSpec:
    """
    What to build, as plain data.

    weights: a file, '' for the usual place.
    """

    name: str
    weights: str = ''
    device: str = 'cpu'
    precision: str = 'float32'
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class System:
    """
    One system, built.

    weights: 'bundled', the name of a file, 'random', or '' where there is nothing to learn.
    note: a remark for readers of its numbers.
    """

    spec: SystemSpec
    extractor: Extractor | OpencvExtractor
    weights: str = ''
    note: str = ''

    @property
    def network(self) -> Extractor | None:
        """Return the extractor where it is a network, None for OpenCV."""
        return self.extractor if isinstance(self.extractor, Extractor) else None

    @property
    def device(self) -> torch.device:
        """Where it runs; OpenCV runs on the CPU."""
        return self.network.device if self.network is not None else torch.device('cpu')

    def inputs(self, pictures: Sequence[np.ndarray]) -> Inputs:
        """Put pictures (H, W, 3) into the form that `run` takes: one array, or one batch."""
        if self.network is None:
            return list(pictures)
        if len(pictures) == 1:
            return pictures[0]
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)

    def run(self, inputs: Inputs) -> Any:
        """Go from pictures in memory to features; OpenCV takes them one after the other."""
        if self.network is None:
            return [self.extractor.detect_and_compute(picture) for picture in inputs]
        return self.network.extract(inputs)

    def mean_keypoints(self, result: Any) -> float:
        """Return the keypoints per picture in a result of `run`."""
        if self.network is None:
            return sum(len(found) for found, _ in result) / len(result)
        return float(result.mask.sum(1).float().mean())


def system_names() -> list[str]:
    """Return the names of everything that can be measured: extractors, then SIFT and ORB."""
    return [*extractor_names(), *available_baselines()]


def choose_systems(
    names: Sequence[str],
    max_num_keypoints: int,
    weights: Sequence[str] = (),
    settings: Sequence[str] = (),
    device: str = 'cpu',
    precision: str = 'float32',
) -> list[SystemSpec]:
    """
    Turn the words of a command line into systems; no names take all there are.

    weights: MODEL=FILE. settings: KEY=VALUE, for those of the systems that have such an option.
    Raises ConfigError and WeightsError.
    """
    known = system_names()
    names = list(dict.fromkeys(names)) or known
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no model '{name}'; expected one of {', '.join(known)}")
    files = _parse_weights(weights, names)
    options = _share_options(settings, names)
    target = str(check_device(device))
    specs = []
    for name in names:
        chosen = {'max_num_keypoints': max_num_keypoints} | options[name]
        if name not in BASELINES:
            build_extractor(name, **chosen)  # wrong values are mistakes, not failed measurements
        specs.append(SystemSpec(name, files.get(name, ''), target, precision, chosen))
    return specs


def _parse_weights(texts: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    files = {}
    for text in texts:
        name, equals, file = text.partition('=')
        if not (equals and file):
            raise ConfigError(f"weights is '{text}', expected MODEL=FILE")
        if name not in names or name in BASELINES:
            raise ConfigError(f"weights are given for '{name}', which is none of those measured")
        files[name] = str(find_weights(name, file))
    return files


def _share_options(settings: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Give each system the options that it has; raises ConfigError for one that none has."""
    shared: dict[str, dict[str, Any]] = {name: {} for name in names}
    unknown = {key: text for text in settings for key in parse_options([text])}
    for name in names:
        cls = ExtractorConfig if name in BASELINES else extractor_config_class(name)
        own = {'max_num_keypoints'} if name in BASELINES else {f.name for f in fields(cls)}
        shared[name] = parse_options([t for t in settings if t.partition('=')[0] in own], cls)
        unknown = {key: text for key, text in unknown.items() if key not in own}
    if unknown:
        raise ConfigError(f"none of {', '.join(names)} has the option '{next(iter(unknown))}'")
    return shared


def build_system(spec: SystemSpec) -> System:
    """
    Build a system; one without a weight file gets random weights, and `weights` says so.

    Random scores may all be low: such a system keeps every keypoint, unless the options set
    detection_threshold. Raises KpfeatError, also where weights are there and broken.
    """
    if spec.name in BASELINES:
        return System(spec, OpencvExtractor(spec.name, spec.options['max_num_keypoints']))
    dtype = getattr(torch, spec.precision)
    missing = [] if spec.weights else _missing_weights(spec)
    if not missing:
        extractor = create_extractor(spec.name, spec.weights, spec.device, **spec.options)
        path = find_weights(spec.name, spec.weights)
        origin = 'bundled' if path.parent == BUNDLED else path.name
        return System(spec, extractor.to(dtype), origin)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        extractor = build_extractor(spec.name, **{'detection_threshold': 0.0, **spec.options})
    note = '' if missing == [spec.name] else f'no weights for {" and ".join(missing)}'
    return System(spec, extractor.to(spec.device, dtype).eval(), RANDOM, note)


def _missing_weights(spec: SystemSpec) -> list[str]:
    """Name the networks of a system without a weight file: its own, and its submodules'."""
    extractor = build_extractor(spec.name, **spec.options)
    submodules = {name: file for name, (_, file) in extractor.submodules().items()}
    needed = {spec.name: '', **submodules}
    return [
        name
        for name, file in needed.items()
        if not file and not any(path.is_file() for _, path in candidate_weights(name))
    ]


def load_pictures(path: Path | str, size: tuple[int, int], count: int = 1) -> list[np.ndarray]:
    """
    Return `count` different pictures (H, W, 3) uint8 of (width, height).

    path: a file, resized; the further pictures are it, moved sideways around the border. '' draws
    pictures that are rich in corners, always the same ones. Raises ImageError.
    """
    if not str(path):
        return [_draw(size, seed) for seed in range(count)]
    picture = cv2.resize(read_image(path), size, interpolation=cv2.INTER_AREA)
    return [np.roll(picture, i * size[0] // count, axis=1) for i in range(count)]


def _draw(size: tuple[int, int], seed: int) -> np.ndarray:
    """Return overlapping rectangles of all sizes and colors, a little blurred and noisy."""
    rng = np.random.default_rng(seed)
    picture = np.full((size[1], size[0], 3), 110, np.uint8)
    for _ in range(round(RECTANGLES_PER_PIXEL * size[0] * size[1])):
        x, y = (int(v) for v in rng.integers(0, size))
        w, h = (int(v) for v in rng.integers(4, 80, 2))
        color = tuple(int(v) for v in rng.integers(0, 256, 3))
        cv2.rectangle(picture, (x, y), (x + w, y + h), color, -1)
    noise = rng.normal(0, 4, picture.shape)
    return (cv2.GaussianBlur(picture, (0, 0), 0.8) + noise).round().clip(0, 255).astype(np.uint8)
