"""
Pairs of images of one plane with the true homography, in the HPatches layout, and the protocol.

A data set is a folder of sequences; a sequence holds `1.png` … `6.png` (or .ppm, .jpg) and text
files `H_1_2` … `H_1_6`, 3x3, that take pixels of image 1 to image k. The name's first letters say
what changes: `v_` viewpoint, `i_` light, `x_` something else.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
import time
from typing import Protocol as Interface
from typing import runtime_checkable

import numpy as np
import torch

from ..config import MatcherConfig, option
from ..errors import DataError
from ..features import Features
from ..image import image_to_tensor, read_image, resize, scaled_size
from ..matchers import find_geometry, MutualNearestNeighbour
from . import metrics

ENDINGS = ('.ppm', '.png', '.jpg', '.jpeg')


@runtime_checkable
class FeatureSource(Interface):
    """Anything with `extract`: our extractors and OpenCV's behind the same contract."""

    def extract(self, image: np.ndarray) -> Features:
        """Return the features of one (H, W, 3) uint8 RGB image."""

    def with_options(self, **options: object) -> 'FeatureSource':
        """Return the same with another max_num_keypoints."""


@dataclass(frozen=True)
class PlanarPair:
    """
    Two views of a plane.

    Each view is a file, read once an evaluation, or an array (H, W, 3) uint8 RGB. H_0to1 (3, 3)
    float64 takes pixels of view 0 to view 1. The group is a sequence or a level of difficulty.
    """

    group: str
    name: str
    view0: Path | np.ndarray
    view1: Path | np.ndarray
    H_0to1: np.ndarray


@dataclass(frozen=True)
class PlanarProtocol:
    """What is done with each pair; errors are in pixels of the resized images."""

    max_num_keypoints: int = option(1024, 'keypoints an image', low=1)
    long_side: int = option(640, 'larger images are resized to this; -1 keeps all', low=-1)
    thresholds: tuple[int, ...] = (1, 3, 5)
    repeatability_px: float = option(3.0, 'distance of a repeated keypoint', low=0.0)
    ransac_threshold_px: float = option(3.0, 'largest error of an inlier', low=0.01)


@dataclass(frozen=True)
class PairResult:
    """Numbers of one pair; accuracy and homography are given for each threshold in turn."""

    group: str
    name: str
    keypoints: float
    matches: int
    accuracy: tuple[float, ...]
    corner_error: float
    homography: tuple[float, ...]
    repeatability: float
    localization_px: float


@dataclass(frozen=True)
class PlanarResults:
    """Results of one extractor on all pairs."""

    protocol: PlanarProtocol
    pairs: tuple[PairResult, ...]
    seconds: float  # spent in `extract`, all images together

    @property
    def groups(self) -> list[str]:
        """Names of the groups, in the order of the pairs."""
        return list(dict.fromkeys(pair.group for pair in self.pairs))

    def values(self, group: str | None = None) -> dict[str, list[float]]:
        """Return every number under its column name, pair by pair, for one group or all."""
        chosen = [pair for pair in self.pairs if group in (None, pair.group)]
        columns: dict[str, list[float]] = {}
        for i, threshold in enumerate(self.protocol.thresholds):
            columns[f'MMA@{threshold}'] = [pair.accuracy[i] for pair in chosen]
        for i, threshold in enumerate(self.protocol.thresholds):
            columns[f'HA@{threshold}'] = [pair.homography[i] for pair in chosen]
        columns['repeatability'] = [pair.repeatability for pair in chosen]
        columns['localization_px'] = [
            pair.localization_px for pair in chosen if np.isfinite(pair.localization_px)
        ]
        columns['keypoints'] = [pair.keypoints for pair in chosen]
        columns['matches'] = [float(pair.matches) for pair in chosen]
        return columns

    def means(self, group: str | None = None) -> dict[str, float]:
        """Return the mean over pairs of every column, NaN where there is nothing to average."""
        return {
            name: float(np.mean(values)) if values else float('nan')
            for name, values in self.values(group).items()
        }

    def intervals(self, group: str | None = None) -> dict[str, tuple[float, float]]:
        """Return the bootstrapped 95 % interval of every mean."""
        return {
            name: metrics.bootstrap_interval(values) for name, values in self.values(group).items()
        }


def planar_pairs(folder: Path | str) -> list[PlanarPair]:
    """List the pairs (1, k) of all sequences of a folder in the HPatches layout; DataError."""
    folder = Path(folder)
    sequences = sorted(path.parent for path in folder.glob('*/H_1_2'))
    if not sequences:
        raise DataError(
            f"'{folder}' holds no sequences; expected folders with 1.png … 6.png and H_1_2 … "
            'H_1_6, as in HPatches'
        )
    return [pair for sequence in sequences for pair in _sequence_pairs(sequence)]


def _sequence_pairs(sequence: Path) -> list[PlanarPair]:
    pairs = []
    for path in sorted(sequence.glob('H_1_*'), key=lambda path: int(path.name[4:])):
        k = path.name[4:]
        pairs.append(
            PlanarPair(
                group=sequence.name,
                name=f'{sequence.name}/1-{k}',
                view0=_find_image(sequence, '1'),
                view1=_find_image(sequence, k),
                H_0to1=_read_homography(path),
            )
        )
    return pairs


def _find_image(sequence: Path, stem: str) -> Path:
    for ending in ENDINGS:
        path = sequence / (stem + ending)
        if path.is_file():
            return path
    raise DataError(f"'{sequence}' has no image {stem} ending in {', '.join(ENDINGS)}")


def _read_homography(path: Path) -> np.ndarray:
    try:
        matrix = np.loadtxt(path)
    except ValueError as error:
        raise DataError(f"'{path}' is not a table of numbers: {error}") from error
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        raise DataError(f"'{path}' has shape {matrix.shape}, expected 3x3 finite numbers")
    return matrix


def resized_pixels(height: int, width: int, new_height: int, new_width: int) -> np.ndarray:
    """Return the (3, 3) matrix that moves pixels with a resized image: x' = (x+.5) w'/w - .5."""
    sx, sy = new_width / width, new_height / height
    return np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])


class _Extraction:
    """Resize and extract each view; files only once."""

    def __init__(self, extractor: FeatureSource, protocol: PlanarProtocol) -> None:
        self.extractor = extractor.with_options(max_num_keypoints=protocol.max_num_keypoints)
        self.protocol = protocol
        self.cache: dict[Path, tuple[Features, np.ndarray]] = {}
        self.seconds = 0.0

    def __call__(self, view: Path | np.ndarray) -> tuple[Features, np.ndarray]:
        """Return the features and the matrix from source pixels to resized pixels."""
        if not isinstance(view, Path):
            return self._extract(view)
        if view not in self.cache:
            self.cache[view] = self._extract(read_image(view))
        return self.cache[view]

    def _extract(self, image: np.ndarray) -> tuple[Features, np.ndarray]:
        height, width = image.shape[:2]
        size = (height, width)
        if 0 < self.protocol.long_side < max(size):
            size = scaled_size(height, width, self.protocol.long_side)
            small = resize(image_to_tensor(image), size)[0].permute(1, 2, 0)
            image = (small * 255).round().clamp(0, 255).byte().numpy()
        start = time.perf_counter()
        features = self.extractor.extract(image).to('cpu')
        self.seconds += time.perf_counter() - start
        return features, resized_pixels(height, width, *size)


def evaluate(
    extractor: FeatureSource,
    pairs: Iterable[PlanarPair],
    protocol: PlanarProtocol | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> PlanarResults:
    """
    Measure an extractor on image pairs with known homographies.

    Images whose long side exceeds `protocol.long_side` are resized to it, the homography moves
    with them, and every error is in pixels of the resized image. Matches are mutual nearest
    neighbours without further filters; the homography is fitted to them with OpenCV's USAC.
    `progress` may wrap the pairs, to show how far it is.
    """
    protocol = protocol or PlanarProtocol()
    extraction = _Extraction(extractor, protocol)
    matcher = MutualNearestNeighbour(MatcherConfig(mutual=True))
    results, group = [], None
    for pair in progress(pairs):
        if pair.group != group:  # a sequence has its own images: let go of the last one's
            extraction.cache.clear()
            group = pair.group
        results.append(_evaluate_pair(pair, extraction, matcher, protocol))
    return PlanarResults(protocol, tuple(results), extraction.seconds)


def _evaluate_pair(
    pair: PlanarPair,
    extraction: _Extraction,
    matcher: MutualNearestNeighbour,
    protocol: PlanarProtocol,
) -> PairResult:
    features0, resized0 = extraction(pair.view0)
    features1, resized1 = extraction(pair.view1)
    truth = torch.from_numpy(resized1 @ pair.H_0to1 @ np.linalg.inv(resized0))
    points0 = features0.keypoints[0][features0.mask[0]]
    points1 = features1.keypoints[0][features1.mask[0]]
    index0, index1 = matcher.match(features0, features1).pairs().unbind(1)
    matched0, matched1 = points0[index0], points1[index1]
    errors = metrics.match_errors(matched0, matched1, truth)
    size0, size1 = features0.image_size[0].tolist(), features1.image_size[0].tolist()
    estimated, _ = find_geometry(matched0, matched1, 'homography', protocol.ransac_threshold_px)
    corner = metrics.corner_error(estimated, truth, size0)
    repeated = metrics.repeatability(
        points0, points1, truth, size0, size1, protocol.repeatability_px
    )
    return PairResult(
        group=pair.group,
        name=pair.name,
        keypoints=(len(points0) + len(points1)) / 2,
        matches=len(errors),
        accuracy=tuple(metrics.matching_accuracy(errors, protocol.thresholds)),
        corner_error=corner,
        homography=tuple(float(corner <= threshold) for threshold in protocol.thresholds),
        repeatability=repeated.share,
        localization_px=repeated.localization_px,
    )


def balanced_subset(pairs: Sequence[PlanarPair], count: int) -> list[PlanarPair]:
    """Take `count` pairs (-1: all), an equal share of every group as far as that goes."""
    if count < 0 or count >= len(pairs):
        return list(pairs)
    rank: dict[str, int] = {}
    order = []
    for i, pair in enumerate(pairs):
        rank[pair.group] = rank.get(pair.group, -1) + 1
        order.append((rank[pair.group], i))
    return [pairs[i] for i in sorted(i for _, i in sorted(order)[:count])]
