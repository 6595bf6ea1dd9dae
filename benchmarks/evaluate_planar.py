"""
Matching and homography accuracy on the Oxford sequences and on synthetic pairs.

    python benchmarks/evaluate_planar.py --extractors alike-t,sift,orb
    python benchmarks/evaluate_planar.py --extractors ours=alike-t:FILE,alike-t:alike-t.pth,sift

Protocol: 1024 keypoints, images reduced to a long side of 640 (smaller ones stay as they are),
mutual nearest neighbours without further filters, homography by OpenCV's USAC at 3 px. All
errors are in pixels of the reduced images.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
import json
from pathlib import Path
import sys
import tempfile
import time
from typing import Annotated

from common import provenance, ROOT
from kpfeat_core.errors import ConfigError, KpfeatError
from kpfeat_core.evaluation import (
    balanced_subset,
    BASELINES,
    evaluate,
    find_photographs,
    OpencvExtractor,
    planar_pairs,
    PlanarPair,
    PlanarProtocol,
    PlanarResults,
    SyntheticPairs,
)
from kpfeat_core.evaluation.metrics import bootstrap_ratio
from kpfeat_core.evaluation.planar import FeatureSource
from kpfeat_core.registry import create_extractor
from kpfeat_core.weights import import_checkpoint
from rich.console import Console
from rich.progress import track
from rich.table import Table
import torch
import typer

HEADLINES = ('MMA@3', 'HA@3')
CHECKPOINTS = ('.pth', '.pt', '.tar', '.ckpt')
console = Console()


@dataclass(frozen=True)
class Entry:
    """One extractor of the comparison and how it was asked for."""

    label: str
    model: str
    weights: str
    extractor: FeatureSource


def parse_entry(text: str) -> Entry:
    """Turn [LABEL=]NAME[:FILE] into an extractor; raises KpfeatError."""
    label, equals, rest = text.rpartition('=')
    name, _, file = rest.partition(':')
    if not equals:
        label = f'{name} ({Path(file).stem})' if file else name
    if name in BASELINES:
        return Entry(label, name, '', OpencvExtractor(name))
    weights = Path(file).name or 'bundled'
    if Path(file).suffix not in CHECKPOINTS:
        return Entry(label, name, weights, create_extractor(name, file))
    with tempfile.TemporaryDirectory() as folder:
        path = import_checkpoint(file, name, Path(folder) / 'imported.safetensors')
        return Entry(label, name, weights, create_extractor(name, str(path)))


def load_pairs(sets: str, shared: Path, count: int, limit: int) -> dict:
    """Return the pairs of each wanted data set by name; raises KpfeatError."""
    found = {}
    for name in sets.split(','):
        if name == 'oxford':
            found[name] = balanced_subset(planar_pairs(shared / 'data/eval/oxford'), limit)
        elif name == 'synthetic':
            photographs = find_photographs(shared / 'data/holdout/images')
            found[name] = SyntheticPairs(photographs, count if limit < 0 else min(limit, count))
        else:
            raise ConfigError(f"there is no data set '{name}'; expected oxford, synthetic")
    return found


def tracked(description: str):
    """Return a wrapper that shows how far an iteration is, with the time left."""

    def wrap(pairs: Iterable[PlanarPair]) -> Iterable[PlanarPair]:
        return track(pairs, description, console=console, transient=True)

    return wrap


def summary_table(name: str, results: dict[str, PlanarResults]) -> Table:
    """Means over all pairs; the headline numbers with their 95 % intervals."""
    first = next(iter(results.values()))
    rows = {label: (result.means(), result.intervals()) for label, result in results.items()}
    table = Table(title=f'{name}: {len(first.pairs)} pairs, mean (95 % interval)')
    table.add_column('')
    for label in results:
        table.add_column(label, justify='right')
    for column in first.means():
        cells = [_cell(column, means[column], spread[column]) for means, spread in rows.values()]
        table.add_row(column, *cells)
    return table


def _cell(column: str, mean: float, interval: tuple[float, float]) -> str:
    if column in ('keypoints', 'matches'):
        return f'{mean:.0f}'
    return f'{mean:.3f} ({interval[0]:.2f}-{interval[1]:.2f})'


def group_table(name: str, results: dict[str, PlanarResults]) -> Table:
    """MMA@3 and HA@3 of each sequence or level."""
    table = Table(title=f'{name}: MMA@3 / HA@3 of each group')
    table.add_column('')
    for label in results:
        table.add_column(label, justify='right')
    for group in next(iter(results.values())).groups:
        means = [result.means(group) for result in results.values()]
        table.add_row(group, *[f'{m["MMA@3"]:.3f} / {m["HA@3"]:.2f}' for m in means])
    return table


def ratios(
    results: dict[str, PlanarResults], reference: str
) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Return every extractor's headline numbers as a share of the reference's, with interval."""
    base = results[reference].values()
    return {
        label: {name: bootstrap_ratio(result.values()[name], base[name]) for name in HEADLINES}
        for label, result in results.items()
        if label != reference
    }


def _print_ratios(name: str, results: dict[str, PlanarResults], reference: str) -> None:
    for label, shares in ratios(results, reference).items():
        parts = [f'{key} {r:.1%} ({low:.0%}-{high:.0%})' for key, (r, low, high) in shares.items()]
        console.print(f'{name}: {label} reaches of {reference}: {", ".join(parts)}')


def record(data: str, entry: Entry, result: PlanarResults, wall: float) -> dict:
    """Return one JSON line: what was measured, how, and where."""
    intervals = result.intervals()
    return {
        'benchmark': 'planar',
        'data': data,
        'extractor': entry.label,
        'model': entry.model,
        'weights': entry.weights,
        'pairs': len(result.pairs),
        'protocol': asdict(result.protocol),
        'means': _rounded(result.means()),
        'intervals_95': {name: _rounded(intervals[name]) for name in intervals},
        'groups': {group: _rounded(result.means(group)) for group in result.groups},
        'extract_seconds': round(result.seconds, 2),
        'wall_seconds': round(wall, 2),
        **provenance(),
    }


def _rounded(values):
    if isinstance(values, dict):
        return {name: _rounded(value) for name, value in values.items()}
    if isinstance(values, (tuple, list)):
        return [_rounded(value) for value in values]
    return round(values, 4) if values == values else None  # NaN is not JSON


def main(
    extractors: Annotated[
        str, typer.Option(help='[LABEL=]NAME[:FILE],…: a model, with weights or .pth; sift, orb')
    ] = 'alike-t,sift,orb',
    shared: Annotated[
        Path, typer.Option(envvar='KPFEAT_SHARED', help='folder that holds data/')
    ] = ROOT.parent / 'shared',
    data: Annotated[str, typer.Option(help='oxford, synthetic or both')] = 'oxford,synthetic',
    synthetic_pairs: Annotated[int, typer.Option(min=1)] = 200,
    limit: Annotated[int, typer.Option(help='pairs of each set; -1 is all')] = -1,
    reference: Annotated[
        str, typer.Option(help='label of the extractor that shares are taken of')
    ] = '',
    out: Annotated[Path | None, typer.Option(help='append JSON lines to this file')] = None,
    threads: Annotated[int, typer.Option(min=1, help='threads of torch')] = 1,
) -> None:
    """Print accuracy tables of several extractors, measured in the same run."""
    torch.set_num_threads(threads)
    entries = [parse_entry(text) for text in extractors.split(',')]
    labels = [entry.label for entry in entries]
    if len(set(labels)) < len(labels):
        raise ConfigError(f'labels must differ, got {labels}; write LABEL=NAME:FILE')
    if reference and reference not in labels:
        raise ConfigError(f"reference is '{reference}', expected one of {', '.join(labels)}")
    for name, pairs in load_pairs(data, shared, synthetic_pairs, limit).items():
        results, lines = {}, []
        for entry in entries:
            start = time.perf_counter()
            result = evaluate(
                entry.extractor, pairs, PlanarProtocol(), tracked(f'{name}: {entry.label}')
            )
            results[entry.label] = result
            lines.append(record(name, entry, result, time.perf_counter() - start))
        console.print(summary_table(name, results), group_table(name, results))
        if reference:
            _print_ratios(name, results, reference)
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            with out.open('a', encoding='utf-8') as file:
                file.writelines(json.dumps(line) + '\n' for line in lines)
    console.print('Errors are in pixels of images with a long side of at most 640.')


if __name__ == '__main__':
    try:
        typer.run(main)
    except KpfeatError as error:
        Console(stderr=True).print(f'error: {error}', soft_wrap=True)
        sys.exit(2)
