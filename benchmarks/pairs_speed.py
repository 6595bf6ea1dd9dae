"""
How fast training pairs are made, and what share of a training step that is.

    python benchmarks/pairs_speed.py PHOTOGRAPHS --out benchmarks/results/pairs.jsonl
    python benchmarks/pairs_speed.py PHOTOGRAPHS --device cuda --batch-size 32

First pairs a second of `make_pairs` for each size, with every list of photometric changes that is
asked for, and without any. Then steps of recipes as `kpfeat train` takes them: the time of drawing
a batch, that of forward, backward and the optimizer, and the share that the data have. On a
graphics card each part is waited for. All sizes, and all models, take turns. With one thread on a
CPU, times are of the processor, not of the clock, and other programs matter little.
"""

from collections.abc import Callable
from dataclasses import fields
import json
from pathlib import Path
import statistics
import time
from typing import Annotated

from common import provenance
from kpfeat_core.benchmarking.run import synchronize, Turns
from kpfeat_core.data.homography_pairs import make_pairs, PairConfig
from kpfeat_core.data.image_folder import ImageBank, load_bank
from kpfeat_core.data.photometric import PhotometricConfig
from kpfeat_core.io import find_images, unpacked
from kpfeat_core.provenance import device_name
from kpfeat_core.training import recipe_class
from kpfeat_core.training.recipe import Options
from rich.console import Console
from rich.table import Table
import torch
import typer

NO_CHANGES = 'none'
WARM_UP = 2
console = Console()


def photometric(name: str) -> PhotometricConfig:
    """Return a list of changes by its name; none leaves the pictures as they are."""
    if name != NO_CHANGES:
        return PhotometricConfig(photometric=name)
    strengths = [f.name for f in fields(PhotometricConfig) if isinstance(f.default, float)]
    return PhotometricConfig(**dict.fromkeys(strengths, 0.0))


def timed(
    calls: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Return the median milliseconds of calls that take turns."""
    turns = Turns(calls, clock)
    turns.run(rounds, WARM_UP)
    if turns.failures:
        raise SystemExit(f'error: {turns.failures}')
    return {name: statistics.median(times) for name, times in turns.times_ms.items()}


def pair_calls(
    bank: ImageBank, sizes: list[int], lists: list[str], count: int, device: torch.device
) -> dict[str, Callable[[], object]]:
    """Return what makes `count` pairs, for each size and list of changes."""
    generator = torch.Generator(device).manual_seed(0)

    def call(side: int, name: str) -> Callable[[], object]:
        config, changes = PairConfig(view_size=side), photometric(name)

        def make() -> None:
            make_pairs(bank, count, config, changes, generator)
            synchronize(device)

        return make

    return {f'{side} px, {name}': call(side, name) for side in sizes for name in lists}


def step_calls(
    bank: ImageBank, model: str, side: int, count: int, device: torch.device
) -> dict[str, Callable[[], object]]:
    """Return the two parts of a training step: making a batch, and learning from it."""
    recipe_type = recipe_class(model)
    options = Options.build(recipe_type, {'view_size': side, 'batch_size': count})
    torch.manual_seed(0)
    recipe = recipe_type(recipe_type.build(model, options), options.loss).to(device).train()
    recipe = recipe.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW([p for p in recipe.parameters() if p.requires_grad], 1e-4)
    generator = torch.Generator(device).manual_seed(0)
    made = {}

    def draw() -> None:
        made['batch'] = recipe_type.sample(options, bank, count, generator)
        synchronize(device)

    def learn() -> None:
        optimizer.zero_grad(set_to_none=True)
        recipe(made['batch'], generator)['total'].backward()
        optimizer.step()
        synchronize(device)

    return {f'{model}: data': draw, f'{model}: learning': learn}


def main(
    photographs: Annotated[Path, typer.Argument(help='a folder, or a .zip of one')],
    device: Annotated[str, typer.Option(help='cpu or cuda')] = 'cpu',
    sizes: Annotated[str, typer.Option(help='sides of the views')] = '128,224,320',
    lists: Annotated[
        str, typer.Option(help='lists of photometric changes; none: no changes')
    ] = 'none,camera,superpoint-pair,kp2d',
    models: Annotated[
        str,
        typer.Option(help='models that learn from pairs of views, whose steps are timed'),
    ] = 'alike-t,keynet,kp2d,aslfeat',
    step_size: Annotated[int, typer.Option(min=64, help='side of the views in a step')] = 224,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    images: Annotated[int, typer.Option(min=1, help='photographs, evenly chosen')] = 200,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    rounds: Annotated[int, typer.Option(min=1)] = 7,
    load: Annotated[str, typer.Option(help='what else ran, noted in the results')] = '',
    out: Annotated[Path | None, typer.Option(help='append JSON lines to this file')] = None,
) -> None:
    """Time pairs and steps, and print pairs a second and the share of the data."""
    torch.set_num_threads(threads)
    place = torch.device(device)
    alone = place.type == 'cpu' and threads == 1
    clock = time.process_time if alone else time.perf_counter
    with unpacked(photographs) as folder:
        paths = find_images(folder)
        bank = load_bank(paths[:: max(1, len(paths) // images)][:images]).to(place)
    sides = [int(side) for side in sizes.split(',')]
    milliseconds = timed(
        pair_calls(bank, sides, lists.split(','), batch_size, place), rounds, clock
    )
    shared = {
        'device': device_name(place),
        'batch_size': batch_size,
        'clock': clock.__name__,
        'load': load,
    }
    rates = {name: round(1e3 * batch_size / ms, 1) for name, ms in milliseconds.items()}
    lines = [{'benchmark': 'pairs_speed, pairs', 'pairs_per_second': rates, **shared}]

    calls = {}
    for model in filter(None, models.split(',')):
        calls |= step_calls(bank, model, step_size, batch_size, place)
    times = timed(calls, rounds, clock)
    for model in filter(None, models.split(',')):
        data, learning = times[f'{model}: data'], times[f'{model}: learning']
        step = {
            'benchmark': 'pairs_speed, step',
            'model': model,
            'view_size': step_size,
            'data_ms': round(data, 1),
            'learning_ms': round(learning, 1),
            'data_share': round(data / (data + learning), 3),
        }
        lines.append({**step, **shared})
    show(lines)
    if out is not None:
        write(out, lines)


def show(lines: list[dict]) -> None:
    """Print pairs a second, then the steps."""
    table = Table('views, changes', 'pairs / s')
    for name, rate in lines[0]['pairs_per_second'].items():
        table.add_row(name, f'{rate:g}')
    console.print(table)
    table = Table('step of', 'data ms', 'learning ms', 'share of the data')
    for line in lines[1:]:
        table.add_row(
            f'{line["model"]}, {line["view_size"]} px x {line["batch_size"]}',
            f'{line["data_ms"]:g}',
            f'{line["learning_ms"]:g}',
            f'{line["data_share"]:.1%}',
        )
    console.print(table)


def write(out: Path, lines: list[dict]) -> None:
    """Append the results."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open('a', encoding='utf-8') as file:
        file.writelines(json.dumps({**line, **provenance()}) + '\n' for line in lines)


if __name__ == '__main__':
    typer.run(main)
