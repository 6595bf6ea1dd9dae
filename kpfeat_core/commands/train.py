"""`kpfeat train`: from a folder of photographs to a weight file."""

from dataclasses import fields
import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from .common import configured, examples, PathOrNone
from ..config import parse_options
from ..training import TrainConfig

EPILOG = examples(
    'kpfeat train alike-t --data photos/ --out runs/first',
    'kpfeat train alike-t --data photos/ --out runs/quick --steps 2000 --batch-size 4',
    'kpfeat train alike-t --data photos/ --out runs/turn --set any_rotation=0.5 --device cuda',
    'kpfeat train magicpoint --out runs/corners --set workers=-1',
    'kpfeat train keynet --recipe training/recipes/keynet.yaml --data photos/ --out runs/keynet',
    'kpfeat extract photo.jpg --weights runs/first/alike-t.safetensors --out features/',
    'The same command goes on with a run that was stopped.',
)


def _list_options(wanted: bool) -> bool:
    if not wanted:
        return wanted
    from rich.console import Console
    from rich.table import Table

    from ..training import recipe_class, RECIPES
    from ..training.recipe import COMMON_CLASSES

    parts = [(cls, 'every model', {}) for cls in COMMON_CLASSES]
    for place in dict.fromkeys(RECIPES.values()):
        models = [name for name, own in RECIPES.items() if own == place]
        recipe = recipe_class(models[0])
        parts.append((recipe.loss_class, ', '.join(models), recipe.defaults))
    table = Table('KEY', 'default', 'what it is', box=None, pad_edge=False)
    for cls, models, changed in parts:
        table.add_section()
        table.add_row(f'[bold]{models}[/bold]', '', '')
        notes = _notes(cls)
        for record in fields(cls):
            text = record.metadata.get('help') or notes[record.name]
            table.add_row(record.name, repr(record.default), text)
        for name, value in changed.items():
            table.add_row(name, repr(value), 'default of an option above, for these models')
    Console().print(table)
    raise typer.Exit


def _notes(cls: type) -> dict[str, str]:
    """Return what the docstring of a table says of its fields, `name, name: text; …`."""
    notes = {}
    for own in cls.__mro__[:-1]:
        details = ' '.join(inspect.getdoc(own).partition('\n\n')[2].split())
        for note in details.removesuffix('.').split('; '):
            names, _, text = note.partition(': ')
            notes |= dict.fromkeys(names.split(', '), text)
    return notes


@configured(training=TrainConfig)
def train(
    model: Annotated[str, typer.Argument(help='Model to train, such as alike-t.')],
    out: Annotated[
        Path, typer.Option('--out', '-o', help='Folder of the run: weights, logs, checkpoints.')
    ],
    data: Annotated[
        PathOrNone,
        typer.Option(
            '--data',
            '-d',
            help='Photographs: a folder, or a .zip of one; magicpoint draws shapes without.',
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        PathOrNone,
        typer.Option(
            '--recipe',
            '-r',
            metavar='FILE',
            help='YAML file with options of the run; flags and --set come before it.',
        ),
    ] = None,
    settings: Annotated[
        list[str],
        typer.Option(
            '--set',
            metavar='KEY=VALUE',
            help='Any option of the image pairs or losses; see --list-options.',
            show_default=False,
        ),
    ] = [],  # noqa: B006 - typer copies it
    list_options: Annotated[
        bool,
        typer.Option(
            '--list-options',
            callback=_list_options,
            is_eager=True,
            help='Show every KEY of --set with its default.',
        ),
    ] = False,
    *,
    training: dict[str, Any],
) -> None:
    """
    Train a model on image pairs made from plain photographs.

    The weights appear as <model>.safetensors in the folder of the run.
    """
    from ..training import recipe_class
    from ..training import train as run_training
    from ..training.recipe import COMMON_CLASSES, read_recipe

    classes = (*COMMON_CLASSES, recipe_class(model).loss_class)
    written = read_recipe(recipe) if recipe else {}
    options = {**written, **training, **parse_options(settings, *classes)}
    run_training(model, data, out, **options)
