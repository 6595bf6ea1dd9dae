r"""
Try changes of a training's options, one at a time, in short runs from the same random numbers.

    python training/search.py alike-t --data PHOTOGRAPHS --out runs/search --steps 300 \
        --set batch_size=4 --set view_size=160 \
        --try learning_rate=0.001 --try ema=0.99 --try any_rotation=0.6,rotation_deg=60

The run without a change comes first. All are validated on the same pairs of photographs held out,
those of the run without a change, whatever they trained on; seeds tell how much is chance. Results
are written to OUT/search.csv as they come, and the same command goes on where it was stopped.
"""

from collections.abc import Iterable, Mapping
import csv
import json
from pathlib import Path
from typing import Annotated, Any

from kpfeat_core.config import parse_options
from kpfeat_core.errors import ConfigError, KpfeatError
from kpfeat_core.io import replacing
from kpfeat_core.training import recipe_class, train
from kpfeat_core.training.recipe import COMMON_CLASSES
from kpfeat_core.training.run_folder import VALIDATION
from rich.console import Console
from rich.table import Table
import typer

UNCHANGED = 'unchanged'
SEARCH, SETTINGS = 'search.csv', 'search.json'
LEFT_OUT = ('step', 'seconds', 'score')  # columns of a validation that do not tell trials apart


def folder_name(trial: str) -> str:
    """Return a trial as the name of a folder."""
    return trial.replace('=', '_').replace(',', '_').replace('/', '_')


def run_trial(
    model: str, data: Path, out: Path, base: Mapping[str, Any], changes: Mapping[str, Any]
) -> dict[str, float]:
    """Train with base options and changes, and validate as without the changes."""
    steps = changes.get('steps', base['steps'])
    once = {'validate_every': max(1, steps)}
    weights = train(model, data, out / 'run', **{**base, **changes, **once})
    train(model, data, out / 'check', **{**base, 'steps': 0, 'start': str(weights)})
    with open(out / 'check' / VALIDATION, newline='', encoding='utf-8') as file:
        row = list(csv.DictReader(file))[-1]
    return {name: float(value) for name, value in row.items() if name not in LEFT_OUT}


def check_settings(out: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to put runs with other settings beside those of a folder."""
    path = out / SETTINGS
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings, indent=1), encoding='utf-8')
        return
    before = json.loads(path.read_text(encoding='utf-8'))
    names = sorted(before.keys() | settings.keys())
    changed = [
        f'{name} {before.get(name)!r} -> {settings.get(name)!r}'
        for name in names
        if before.get(name) != settings.get(name)
    ]
    if changed:
        raise ConfigError(
            f"'{out}' holds runs with other settings ({'; '.join(changed[:4])}): choose another "
            'folder, or repeat its settings to go on'
        )


def read_done(path: Path) -> dict[tuple[str, int], dict[str, float]]:
    """Return what was measured before, by trial and seed."""
    if not path.exists():
        return {}
    with open(path, newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    return {
        (row.pop('trial'), int(row.pop('seed'))): {k: float(v) for k, v in row.items()}
        for row in rows
    }


def write_done(path: Path, done: Mapping[tuple[str, int], Mapping[str, float]]) -> None:
    """Write all that was measured."""
    columns = ['trial', 'seed', *next(iter(done.values()))]
    with replacing(path) as new, open(new, 'w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for (trial, seed), numbers in done.items():
            writer.writerow({'trial': trial, 'seed': seed, **numbers})


def summarize(trials: Iterable[str], done: Mapping[tuple[str, int], Mapping[str, float]]) -> Table:
    """Return the mean of each trial over its seeds, with the lowest and the highest."""
    names = list(next(iter(done.values())))
    table = Table('trial', *names)
    for trial in trials:
        rows = [numbers for (name, _), numbers in done.items() if name == trial]
        cells = []
        for name in names:
            values = [row[name] for row in rows]
            span = f' ({min(values):.3f}–{max(values):.3f})' if len(values) > 1 else ''
            cells.append(f'{sum(values) / len(values):.3f}{span}')
        table.add_row(trial, *cells)
    return table


def search(
    model: Annotated[str, typer.Argument(help='Model to train, such as alike-t.')],
    data: Annotated[Path, typer.Option('--data', '-d', help='Photographs, as `kpfeat train`.')],
    out: Annotated[Path, typer.Option('--out', '-o', help='Folder of all runs.')],
    steps: Annotated[int, typer.Option(min=1, help='Steps of a run.')] = 300,
    settings: Annotated[
        list[str], typer.Option('--set', metavar='KEY=VALUE', help='Options of every run.')
    ] = [],  # noqa: B006 - typer copies it
    trials: Annotated[
        list[str], typer.Option('--try', metavar='KEY=VALUE[,…]', help='Changes to be tried.')
    ] = [],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help='Runs of each trial.')] = 1,
) -> None:
    """Compare short runs."""
    classes = (*COMMON_CLASSES, recipe_class(model).loss_class)
    base = {'steps': steps, **parse_options(settings, *classes)}
    changes = {trial: parse_options(trial.split(','), *classes) for trial in trials}
    seeded = [trial for trial, own in changes.items() if 'seed' in own]
    if seeded:
        raise ConfigError(f"'{seeded[0]}' changes the seed; give --seeds to try several")
    changes = {UNCHANGED: {}, **changes}
    check_settings(out, {'model': model, 'data': str(data), **base})
    done = read_done(out / SEARCH)
    for seed in range(seeds):
        for trial, own in changes.items():
            if (trial, seed) not in done:
                folder = out / folder_name(trial) / str(seed)
                print(f'— {trial}, seed {seed}', flush=True)
                done[trial, seed] = run_trial(model, data, folder, base, own | {'seed': seed})
                write_done(out / SEARCH, done)
    Console().print(summarize(changes, done))


if __name__ == '__main__':
    try:
        typer.run(search)
    except KpfeatError as error:
        raise SystemExit(f'search.py: {error}') from error
