"""`kpfeat bench`: speed, memory and cost of every system, side by side."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
import json
from pathlib import Path
import sys
from typing import Annotated, Any, Optional, TextIO

import typer

from .common import (
    configured,
    examples,
    PathOrNone,
    SetOption,
    SOME_FAILED,
    table_console,
    tell,
    track,
)
from ..benchmarking import BenchmarkConfig
from ..config import make_config
from ..errors import ConfigError, KpfeatError

COLUMNS = (
    'model', 'weights', 'found', 'ms', '10-90 %', 'FPS', '/ SIFT', 'peak MB', 'params M', 'GMAC'
)  # fmt: skip

EPILOG = examples(
    'kpfeat bench',
    'kpfeat bench alike-t alike-n sift orb --threads 1 --out results.jsonl',
    'kpfeat bench --batch 1 --batch 8 --device cuda --precision float16',
    'kpfeat bench alike-n --weights alike-n=FILE --image photo.jpg',
    'Exit code 0: all was measured; 2: nothing was; 3: some systems failed, as their rows say.',
)


@configured({'max_num_keypoints': '--max-keypoints'}, measurement=BenchmarkConfig)
def bench(
    models: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer 0.9, which Ubuntu 24.04 has, knows no `|`
        typer.Argument(
            help="Models, and sift, orb and akaze for OpenCV's; none measures all there are.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[
        list[int], typer.Option('--batch', '-b', min=1, help='Pictures at once; may be repeated.')
    ] = [1, 8],  # noqa: B006 - typer copies it
    weights: Annotated[
        list[str],
        typer.Option(
            '--weights',
            '-w',
            metavar='MODEL=FILE',
            help='Weight file of a model; else $KPFEAT_WEIGHTS, the bundled one, or random ones.',
            show_default=False,
        ),
    ] = [],  # noqa: B006 - typer copies it
    settings: SetOption = [],  # noqa: B006 - typer copies it
    out: Annotated[
        PathOrNone,
        typer.Option('--out', '-o', help='Append a JSON line for each row here; - is stdout.'),
    ] = None,
    *,
    measurement: dict[str, Any],
) -> None:
    """
    Measure speed, memory and cost of every system, side by side.

    All systems take turns on the same pictures, from pictures in memory to features. Times are per
    picture: the median and the 10th to 90th percentile. A model without weights is measured with
    random ones and marked so. A system that fails is named, and the others go on.
    """
    from ..benchmarking.run import count_steps, measure
    from ..benchmarking.systems import choose_systems

    config = make_config(BenchmarkConfig, measurement)
    batches = list(dict.fromkeys(batch))
    specs = choose_systems(
        models or (), config.max_num_keypoints, weights, settings, config.device, config.precision
    )
    rows: list[dict[str, Any]] = []
    try:
        with (
            _progress(count_steps(len(specs), config, len(batches))) as tick,
            _lines(out) as write,
        ):
            for row in measure(specs, config, batches, tick):
                rows.append(write(row))
    finally:  # after an interruption as well
        _show(rows, sys.stderr if str(out) == '-' else sys.stdout)
    failed = list(dict.fromkeys(row['model'] for row in rows if row['error']))
    if all(row['error'] for row in rows):
        raise KpfeatError(f'nothing could be measured: {rows[0]["model"]}: {rows[0]["error"]}')
    if failed:
        tell(f'failed: {", ".join(failed)}')
        raise typer.Exit(SOME_FAILED)


@contextmanager
def _progress(steps: int) -> Iterator[Callable[[], object]]:
    """Yield a function that moves the progress bar on by one step."""
    with closing(track(range(steps + 1), steps, 'measuring')) as bar:
        next(bar)
        yield lambda: next(bar, None)


@contextmanager
def _lines(out: Path | None) -> Iterator[Callable[[dict], dict]]:
    """Yield a function that adds where a row came from, and writes it at once."""
    from ..provenance import provenance

    # of the start: the load is not our own then, and rows know the threads better
    where = provenance('kpfeat')

    def complete(row: dict[str, Any], file: TextIO | None) -> dict[str, Any]:
        row = where | row
        if file is not None:
            file.write(json.dumps(row) + '\n')
            file.flush()
        return row

    if out is None or str(out) == '-':
        yield lambda row: complete(row, sys.stdout if out else None)
        return
    if out.is_dir():
        raise ConfigError(f"--out is '{out}', which is a folder; expected a file")
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open('a', encoding='utf-8') as file:
        yield lambda row: complete(row, file)


def _show(rows: Sequence[dict[str, Any]], file: TextIO) -> None:
    """Print a table for each batch size, and under it the errors and remarks."""
    from rich.table import Table

    console = table_console(file)
    for batch in dict.fromkeys(row['batch'] for row in rows):
        group = [row for row in rows if row['batch'] == batch]
        table = Table(title=_title(group), title_justify='left', box=None, pad_edge=False)
        for column in COLUMNS:
            side = 'left' if column in COLUMNS[:2] else 'right'
            table.add_column(column, justify=side, overflow='fold')
        for row in group:
            table.add_row(*_cells(row))
        console.print(table)
        for line in _remarks(group):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def _remarks(group: Sequence[dict[str, Any]]) -> list[str]:
    """Return errors and remarks, each once with its models."""
    models: dict[str, list[str]] = {}
    for row in group:
        for text in filter(None, (row['error'], row['note'])):
            models.setdefault(text, []).append(row['model'])
    return [f'  {", ".join(names)}: {text}' for text, names in models.items()]


def _title(group: Sequence[dict[str, Any]]) -> str:
    """Return the settings that the rows share: those of networks, where there are some."""
    row = next((row for row in group if row['precision']), group[0])
    parts = [row['size'], f'batch {row["batch"]}', row['precision'] or 'OpenCV']
    return ', '.join([*parts, row['device_name'], f'{row["threads"]} threads'])


def _cells(row: dict[str, Any]) -> list[str]:
    spread = '-' if row['error'] else f'{_short(row["ms_p10"])}-{_short(row["ms_p90"])}'
    millions = None if row['parameters'] is None else row['parameters'] / 1e6
    return [
        row['model'],
        row['weights'] or '-',
        '-' if row['keypoints'] is None else f'{row["keypoints"]:.0f}',
        'failed' if row['error'] else _short(row['ms_median']),
        spread,
        _short(row['fps']),
        _short(row['time_over_sift']),
        _short(row['peak_mb']),
        '-' if millions is None else f'{millions:.3g}',  # keynet-tiny has 279
        _short(row['extract_gmac']),
    ]


def _short(value: float | None) -> str:
    """Write a number with three digits, or all of those before the point."""
    if value is None:
        return '-'
    return f'{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}'
