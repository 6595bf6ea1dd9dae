"""What an evaluation found: numbers of every pair, their means, intervals and comparisons."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
import math
from typing import Any, NamedTuple

import numpy as np

from . import metrics
from .protocols import Protocol
from ..errors import DataError

# Five units differ in the same direction by chance once in 16 times, six once in 32.
FEWEST_UNITS = 6
NOT_AVERAGED = ('corner_error', 'pose_error')


@dataclass(frozen=True)
class PairResult:
    """
    Numbers of one pair, by column.

    group: its sequence or level of difficulty. A number is NaN where there is nothing to measure,
    such as the localisation of keypoints of which none is repeated; means leave it out. origin:
    what the pair shows, a sequence or a photograph; '' is the group.
    """

    group: str
    name: str
    values: Mapping[str, float]
    origin: str = ''


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
        """Return what each pair shows: pairs of one origin resemble each other."""
        return np.array([pair.origin or pair.group for pair in self.pairs])

    def column(self, name: str) -> np.ndarray:
        """Return a number of every pair (K,), NaN where it has none."""
        return np.array([pair.values.get(name, math.nan) for pair in self.pairs])

    def mean(self, name: str) -> float:
        """Return the mean over pairs, NaN where there is nothing to average."""
        values = self.column(name)
        finite = values[np.isfinite(values)]
        return float(finite.mean()) if len(finite) else math.nan

    def interval(self, name: str) -> tuple[float, float]:
        """Return the 95 % interval of a mean, bootstrapped over what the pairs show."""
        values = self.column(name)
        finite = np.isfinite(values)
        return metrics.bootstrap_interval(values[finite], origins=self.origins[finite])

    def averaged(self) -> list[str]:
        """Return the columns whose mean means something: errors are infinite where all failed."""
        return [
            name
            for name in self.columns
            if name not in NOT_AVERAGED and np.isfinite(self.column(name)).any()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: pairs as rows under `columns`, five digits, NaN as None."""
        columns = self.columns
        rows = [
            [pair.group, pair.name, *(_json(pair.values.get(name, math.nan)) for name in columns)]
            for pair in self.pairs
        ]
        some, origins = self.averaged(), [pair.origin for pair in self.pairs]
        return {
            'extractor': self.label,
            'data': self.data,
            'protocol': asdict(self.protocol),
            'about': dict(self.about),
            'means': {name: _json(self.mean(name)) for name in some},
            'intervals_95': {name: [_json(v) for v in self.interval(name)] for name in some},
            'columns': ['group', 'name', *columns],
            'pairs': rows,
            **({'origins': origins} if any(origins) else {}),
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> 'Results':
        """Read what `to_dict` gave; raises DataError."""
        try:
            protocol = {name: _tuple(value) for name, value in values['protocol'].items()}
            names, rows = values['columns'][2:], values['pairs']
            origins = values.get('origins', [''] * len(rows))
            pairs = tuple(_pair(names, o, *row) for o, row in zip(origins, rows, strict=True))
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

    units: what was drawn, origins or pairs. is_noise: the interval contains 0, so that other pairs
    of the kind might turn it round, or there are too few units to tell.
    """

    difference: float
    low: float
    high: float
    units: int

    @property
    def is_noise(self) -> bool:
        """Tell whether the difference may be chance."""
        return self.units < FEWEST_UNITS or not (self.low > 0 or self.high < 0)


def compare(results: Results, reference: Results, name: str) -> Comparison:
    """
    Compare a number of two extractors, pair by pair; raises DataError for different pairs.

    A paired bootstrap over what the pairs show, drawn for both at once, so that what makes a pair
    easy or hard for everybody cancels out. Pairs where either has no number are left out.
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
    origins = results.origins[finite]
    drawn = len(set(origins))
    units = drawn if drawn > 1 else len(first)
    return Comparison(*metrics.bootstrap_difference(first, second, origins=origins), units)


def _json(value: float) -> float | None:
    return float(f'{value:.5g}') if math.isfinite(value) else None


def _pair(
    names: Sequence[str], origin: str, group: str, name: str, *numbers: float | None
) -> PairResult:
    values = (math.nan if number is None else float(number) for number in numbers)
    return PairResult(group, name, dict(zip(names, values, strict=True)), origin)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
