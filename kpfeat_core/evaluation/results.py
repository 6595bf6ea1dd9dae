"""
Protocols, which say how image pairs are evaluated, and results of an evaluation.

Results hold the numbers of every pair; their means come with bootstrapped intervals, and two
extractors are compared on the same pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import ConfigError, DataError
from ..io import replacing

# Sequences of HPatches that are too large for some extractors, left out since D2-Net.
TOO_LARGE = (
    *('i_contruction', 'i_crownnight', 'i_dc', 'i_pencils', 'i_whitebuilding'),
    *('v_artisans', 'v_astronautis', 'v_talent'),
)
SPARE = 4  # so many times the keypoints wanted are extracted where some of them will not count
DISTANCE, OVERLAP = 'distance', 'overlap'
USAC, RANSAC = 'usac', 'ransac'
POSE, MOTION = 'pose', 'motion'
# Five units differ in the same direction by chance once in 16 times, six once in 32.
FEWEST_UNITS = 6
# Errors of whole pairs, infinite where the estimate failed: a mean would leave the failures out.
NOT_AVERAGED = ('corner_error', 'pose_error')


@dataclass(frozen=True)
class Protocol:
    """
    How each pair is treated; every error is in pixels of the resized images.

    source: where it is published. max_num_keypoints: the best of each image. long_side: larger
    images are reduced to it; size: (height, width) to which all are stretched or, with crop,
    resized until they fill it and cut to their middle; the truth moves with the images. nms_px:
    keypoints with a better one within this many pixels in x and y are dropped, whatever the
    extractor. shared_region: only keypoints that the other image can see count, the best
    max_num_keypoints of them; border_px: nor do those this close to the border of their own image
    or, under a shared region, of the other one. estimator: OpenCV's USAC (MAGSAC) or its plain
    RANSAC, with errors of inliers up to ransac_px. repeatability: of keypoints within repeated_px
    of each other, or of regions whose overlap error is at most 0.4. left_out: groups that do not
    count. scenes_alike: means are over the means of groups, and intervals draw groups and pairs of
    each. headlines: the columns that tables show first.
    """

    name: str
    source: str
    max_num_keypoints: int = 1024
    long_side: int = -1
    size: tuple[int, int] | None = None
    crop: bool = False
    nms_px: int = 0
    shared_region: bool = False
    border_px: int = 0
    estimator: str = USAC
    ransac_px: float = 3.0
    repeatability: str = DISTANCE
    repeated_px: float = 3.0
    left_out: tuple[str, ...] = ()
    scenes_alike: bool = False
    headlines: tuple[str, ...] = ('MMA@3', 'HA@3', 'AUC@3', 'repeatability')

    @property
    def extracted(self) -> int:
        """Keypoints that an extractor is asked for, of which some may not count."""
        spare = SPARE if self.shared_region or self.nms_px or self.border_px else 1
        return spare * self.max_num_keypoints


_SUPERPOINT, _KP2D = 'DeTone et al. 2018 (SuperPoint)', 'Tang et al. 2020 (KP2D)'
_D2NET = 'Dusmanu et al. 2019 (D2-Net), also Luo et al. 2020 (ASLFeat), Zhao et al. 2022 (ALIKE)'
_OWN = ('repeatability', 'localization_px', 'HA@1', 'HA@3', 'HA@5', 'matching_score')
_POSE = ('pose_AUC@5', 'pose_AUC@10', 'pose_AUC@20')
_SMALL = {'max_num_keypoints': 300, 'size': (240, 320)}
_LARGE = {'max_num_keypoints': 1000, 'size': (480, 640)}
_SHARED = {'shared_region': True, 'estimator': RANSAC}

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol('default', 'kpfeat', long_side=640),
        Protocol('superpoint-detector', _SUPERPOINT, **_SMALL, **_SHARED, crop=True, nms_px=4,
                 headlines=_OWN[:2]),
        Protocol('superpoint', _SUPERPOINT, **_LARGE, **_SHARED, crop=True, nms_px=8,
                 headlines=_OWN),
        Protocol('kp2d-300', _KP2D, **_SMALL, **_SHARED, headlines=_OWN),
        Protocol('kp2d-1000', _KP2D, **_LARGE, **_SHARED, headlines=_OWN),
        Protocol('d2net', _D2NET, 5000, long_side=2000, estimator=RANSAC, left_out=TOO_LARGE,
                 headlines=('MMA@1', 'MMA@3', 'MMA@5', 'MMA@10', 'HA@3', 'matches')),
        Protocol('keynet', 'Barroso-Laguna et al. 2019 (Key.Net)', 1000, shared_region=True,
                 border_px=15, repeatability=OVERLAP,
                 headlines=('repeatability', 'repeatability_scale', 'localization_px')),
        Protocol(POSE, 'Sarlin et al. 2020 (SuperGlue), with the sizes of glue-factory', 2048,
                 long_side=1600, ransac_px=1.0, headlines=(*_POSE, 'precision')),
        Protocol(MOTION, 'kpfeat', long_side=640, estimator=RANSAC, ransac_px=1.0,
                 repeated_px=5.0, scenes_alike=True, headlines=(
                     *_POSE, 'epipolar@1', 'epipolar@2', 'MMA@3', 'MMA@5', 'repeatability')),
    )
}  # fmt: skip


def find_protocol(name: str) -> Protocol:
    """Return the protocol of a name; raises ConfigError."""
    if name not in PROTOCOLS:
        raise ConfigError(f"there is no protocol '{name}'; expected one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


@dataclass(frozen=True)
class PairResult:
    """
    Numbers of one pair, by column.

    group: its sequence or level of difficulty. A number is NaN where there is nothing to measure,
    such as the localization of keypoints of which none is repeated; means leave it out. origin:
    the thing that the pair shows, a sequence or a photograph; '' is the group. part: its kind
    among several, such as a short baseline; '' for none.
    """

    group: str
    name: str
    values: Mapping[str, float]
    origin: str = ''
    part: str = ''


@dataclass(frozen=True)
class Results:
    """
    One extractor on all pairs of a data set, under a protocol.

    label: how tables call the extractor; data: the data set; about: model, weights and options of
    the extractor, the machine and versions, whatever is needed to measure it again.
    """

    label: str
    data: str
    protocol: Protocol
    pairs: tuple[PairResult, ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def groups(self) -> list[str]:
        """Names of the groups, in the order of the pairs."""
        return list(dict.fromkeys(pair.group for pair in self.pairs))

    @property
    def columns(self) -> list[str]:
        """Names of the numbers."""
        return list(self.pairs[0].values) if self.pairs else []

    @property
    def origins(self) -> np.ndarray:
        """Return the origin of each pair: pairs of one origin resemble each other."""
        return np.array([pair.origin or pair.group for pair in self.pairs])

    def column(self, name: str) -> np.ndarray:
        """Return a number of every pair (K,), NaN where it has none."""
        return np.array([pair.values.get(name, math.nan) for pair in self.pairs])

    def mean(self, name: str) -> float:
        """Return the mean over pairs, or scenes, NaN where there is nothing to average."""
        return weighted_mean(**self._finite(name))

    def interval(self, name: str) -> tuple[float, float]:
        """Return the 95 % interval of a mean, bootstrapped over origins."""
        return bootstrap_interval(**self._finite(name))

    def _finite(self, name: str) -> dict[str, Any]:
        values, alike = self.column(name), self.protocol.scenes_alike
        finite = np.isfinite(values)
        return {'values': values[finite], 'origins': self.origins[finite], 'alike': alike}

    def averaged(self) -> list[str]:
        """Return the columns whose mean means something: errors are infinite where all failed."""
        return [
            name
            for name in self.columns
            if name not in NOT_AVERAGED and np.isfinite(self.column(name)).any()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values: pairs as rows under `columns`, five digits, NaN as None."""
        columns = self.columns
        rows = [
            [pair.group, pair.name, *(_json(pair.values.get(name, math.nan)) for name in columns)]
            for pair in self.pairs
        ]
        some = self.averaged()
        told = {f'{name}s': [getattr(p, name) for p in self.pairs] for name in ('origin', 'part')}
        return {
            'extractor': self.label,
            'data': self.data,
            'protocol': asdict(self.protocol),
            'about': dict(self.about),
            'means': {name: _json(self.mean(name)) for name in some},
            'intervals_95': {name: [_json(v) for v in self.interval(name)] for name in some},
            'columns': ['group', 'name', *columns],
            'pairs': rows,
            **{name: values for name, values in told.items() if any(values)},
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> 'Results':
        """Read the result of `to_dict`; raises DataError."""
        try:
            protocol = {name: _tuple(value) for name, value in values['protocol'].items()}
            names, rows = values['columns'][2:], values['pairs']
            none = [''] * len(rows)
            told = zip(values.get('origins', none), values.get('parts', none), rows, strict=True)
            pairs = tuple(_pair(names, origin, part, *row) for origin, part, row in told)
            return Results(
                values['extractor'], values['data'], Protocol(**protocol), pairs, values['about']
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(
                f'these are no results of an evaluation ({type(error).__name__}: {error}); '
                'expected a .json file that `kpfeat evaluate` wrote'
            ) from error


class Comparison(NamedTuple):
    """
    One extractor's mean minus another's on the same pairs, with its 95 % interval.

    units: the number of drawn origins or pairs; pairs where both were drawn. is_noise: the
    interval contains 0, so that other pairs of the kind might reverse the difference, or there are
    too few units.
    """

    difference: float
    low: float
    high: float
    units: int

    @property
    def is_noise(self) -> bool:
        """Return whether the difference may be chance."""
        return self.units < FEWEST_UNITS or not (self.low > 0 or self.high < 0)


def compare(results: Results, reference: Results, name: str) -> Comparison:
    """
    Compare a number of two extractors, pair by pair; raises DataError for different pairs.

    A paired bootstrap over origins, drawn for both at once, so that the difficulty of a pair
    cancels out. Pairs where either has no number are left out.
    """
    names = [[pair.name for pair in r.pairs] for r in (results, reference)]
    if names[0] != names[1] or results.protocol != reference.protocol:
        raise DataError(
            f"'{results.label}' and '{reference.label}' were measured on different pairs or under "
            'different protocols; measure both in one run to compare them'
        )
    table = np.stack([results.column(name), reference.column(name)], 1)
    finite = np.isfinite(table).all(1)
    first, second = table[finite].T
    origins, alike = results.origins[finite], results.protocol.scenes_alike
    drawn = len(set(origins))
    units = drawn if drawn > 1 and not alike else len(first)
    return Comparison(*bootstrap_difference(first, second, origins=origins, alike=alike), units)


def write_json(path: Path | str, results: Sequence[Results]) -> None:
    """Write results of several extractors, one a line, all of it or nothing."""
    lines = ',\n'.join(json.dumps(r.to_dict(), default=str, allow_nan=False) for r in results)
    with replacing(path) as temporary:
        temporary.write_text(f'{{"results": [\n{lines}\n]}}\n', encoding='utf-8')


def read_json(path: Path | str) -> list[Results]:
    """Read a file that `write_json` wrote; raises DataError."""
    try:
        values = json.loads(Path(path).read_text(encoding='utf-8'))
        found = list(values['results'])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"'{path}' holds no results of an evaluation ({type(error).__name__}: {error}); "
            'expected a .json file that `kpfeat evaluate` wrote'
        ) from error
    return [Results.from_dict(item) for item in found]


def weighted_mean(
    values: np.ndarray, origins: Sequence[str] | np.ndarray | None, alike: bool = False
) -> float:
    """Return the mean over pairs, or with `alike` over the means of their origins; NaN of none."""
    if len(values) == 0:
        return math.nan
    if not alike or origins is None:
        return float(values.mean())
    index = np.unique(origins, return_inverse=True)[1]
    return float((np.bincount(index, values) / np.bincount(index)).mean())


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    share: float = 0.95,
    rounds: int = 2000,
    seed: int = 0,
    origins: Sequence[str] | np.ndarray | None = None,
    alike: bool = False,
) -> tuple[float, float]:
    """
    Return the interval that holds the mean with this confidence, from resampled image pairs.

    The percentile bootstrap (Efron 1979): the means that other pairs of the same kind would have
    given. origins: the thing that each pair shows, such as a sequence. Pairs of one origin
    resemble each other, so origins are drawn, with all their pairs (the cluster bootstrap: Davison
    and Hinkley 1997, section 3.8); else intervals are too narrow. Of a single origin, and without
    origins, pairs are drawn. With few origins intervals are still too narrow. alike: every origin
    counts as much as the others, however many pairs it has, and of each drawn origin pairs are
    drawn too (two levels). NaN without pairs.
    """
    values = np.asarray(values, float)
    if len(values) == 0:
        return math.nan, math.nan
    of_row = np.arange(len(values))
    if origins is not None and (alike or len(set(origins)) > 1):
        of_row = np.unique(origins, return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    sums, sizes = np.bincount(of_row, values), np.bincount(of_row)
    draws = rng.integers(0, len(sums), (rounds, len(sums)))
    if alike:
        of_draws = np.empty(draws.shape)
        for origin, size in enumerate(sizes):
            drawn, own = draws == origin, values[of_row == origin]
            of_draws[drawn] = own[rng.integers(0, size, (drawn.sum(), size))].mean(1)
        means = of_draws.mean(1)
    else:
        means = sums[draws].sum(1) / sizes[draws].sum(1)
    low, high = np.percentile(means, [50 * (1 - share), 50 * (1 + share)])
    return float(low), float(high)


def bootstrap_difference(
    values: Sequence[float] | np.ndarray, others: Sequence[float] | np.ndarray, **options: Any
) -> tuple[float, float, float]:
    """
    Return mean(values) - mean(others) and its interval; both measured on the same pairs.

    Pairs, or origins, are drawn for both at once, so that the difficulty of a pair cancels out
    (Efron 1979). An interval on one side of 0 means more than chance; NaN without pairs. options:
    those of `bootstrap_interval`.
    """
    gain = np.subtract(*np.stack([np.asarray(values, float), np.asarray(others, float)]))
    mean = weighted_mean(gain, options.get('origins'), options.get('alike', False))
    return mean, *bootstrap_interval(gain, **options)


def _json(value: float) -> float | None:
    return float(f'{value:.5g}') if math.isfinite(value) else None


def _pair(
    names: Sequence[str], origin: str, part: str, group: str, name: str, *numbers: float | None
) -> PairResult:
    values = (math.nan if number is None else float(number) for number in numbers)
    return PairResult(group, name, dict(zip(names, values, strict=True)), origin, part)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
