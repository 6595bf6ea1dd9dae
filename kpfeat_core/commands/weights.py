"""`kpfeat weights`: list, import and verify weight files."""

import enum
from pathlib import Path
from typing import Annotated, Optional, TYPE_CHECKING

import typer

from .common import examples, table_console
from ..errors import WeightsError

if TYPE_CHECKING:
    from rich.table import Table

    from ..weights.manifest import WeightCheck

LIST_EPILOG = examples('kpfeat weights list', 'KPFEAT_WEIGHTS=~/weights kpfeat weights list')
IMPORT_EPILOG = examples(
    'kpfeat weights import alike-n.pth --model alike-n --out alike-n.safetensors',
    'kpfeat weights import v4.ckpt --model kp2d --set version=v4 --out kp2d.safetensors',
    'kpfeat weights import h/hardnet.safetensors --model hardnet --type int8 --out h8.safetensors',
    'kpfeat extract photo.jpg --model alike-n --weights alike-n.safetensors --out features/',
)
VERIFY_EPILOG = examples('kpfeat weights verify', 'kpfeat weights verify my.safetensors')


class StoredType(str, enum.Enum):
    """How the numbers of a weight file are stored."""

    float32 = 'float32'
    float16 = 'float16'
    int8 = 'int8'


app = typer.Typer(help='List, import and verify weights.', no_args_is_help=True)


@app.command('list', epilog=LIST_EPILOG)
def list_weights(
    models: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer 0.9, which Ubuntu 24.04 has, knows no `|`
        typer.Argument(help='Models to show; none shows all.'),
    ] = None,
) -> None:
    """
    Show every model, where its weights are found, and which published ones can be imported.

    A model without weights needs a weight file of yours: import a checkpoint, or train it.
    """
    from ..registry import network_names

    names = models or network_names()
    unknown = [name for name in names if name not in network_names()]
    if unknown:
        raise WeightsError(
            f"there is no model '{unknown[0]}'; expected one of {', '.join(network_names())}"
        )
    console = table_console()
    console.print(_found_table(names))
    published = _published_table(names)
    if published.row_count:
        console.print('\nPublished checkpoints, to download from their authors:\n')
        console.print(published)
        typer.echo(
            '\nConvert one with `kpfeat weights import FILE --model MODEL --out FILE.safetensors` '
            'and use it with --weights, or put it into the folder $KPFEAT_WEIGHTS as '
            'MODEL.safetensors.'
        )


def _found_table(names: list[str]) -> 'Table':
    """Return one row for each model: where its weights are, and their licence."""
    from rich.table import Table

    from ..config import DEFAULT_MODEL
    from ..weights.files import BUNDLED, candidate_weights, ROTATION
    from ..weights.manifest import verify_file

    table = Table('model', 'weights', 'licence', box=None, pad_edge=False)
    table.add_column('file', overflow='fold')
    for name in names:
        label = f'{name} (default)' if name == DEFAULT_MODEL else name
        places = [place for place in candidate_weights(name) if place[1].is_file()][:1]
        turned = BUNDLED / f'{name}-{ROTATION}.safetensors'
        places += [(f'bundled, {ROTATION}', turned)] if turned.is_file() else []
        if not places:
            table.add_row(label, 'no weights', '', '')
        for state, path in places:
            verdict = verify_file(path)
            fits = not verdict.problem and verdict.model == name
            wrong = 'broken' if verdict.problem else f'of {verdict.model}'
            state = state if fits else f'{state}: {wrong}'
            table.add_row(label, state, verdict.licence if fits else '', str(path))
    return table


def _published_table(names: list[str]) -> 'Table':
    from rich.table import Table

    from ..weights.checkpoints import published_for

    table = Table('model', 'file', 'licence', box=None, pad_edge=False)
    table.add_column('from', overflow='fold')
    table.add_column('options of the import')
    for name in names:
        for item in published_for(name):
            chosen = f'--set {item.settings}' if item.settings else ''
            table.add_row(name, item.file, item.licence, item.source, chosen)
    return table


@app.command('import', epilog=IMPORT_EPILOG)
def import_weights(
    checkpoint: Annotated[
        Path, typer.Argument(help='Published .pth, .pt, .tar, .ckpt, .index or .safetensors.')
    ],
    model: Annotated[str, typer.Option('--model', '-m', help='Model that it is for.')],
    out: Annotated[Path, typer.Option('--out', '-o', help='Weight file to write.')],
    licence: Annotated[str, typer.Option('--licence', help='Licence to note in the file.')] = '',
    settings: Annotated[
        Optional[list[str]],  # noqa: UP045 - see above
        typer.Option(
            '--set',
            metavar='KEY=VALUE',
            help='Option that shapes the network, where the checkpoint does not show it.',
        ),
    ] = None,
    kind: Annotated[
        StoredType,
        typer.Option('--type', help='How matrices are stored; each one halves the file.'),
    ] = StoredType.float32,
) -> None:
    """
    Convert a published checkpoint to a weight file.

    No code in the checkpoint is run.
    """
    import torch

    from ..config import parse_options
    from ..weights.importing import import_checkpoint

    noted = {'licence': licence} if licence else None
    dtype = getattr(torch, kind.value)
    import_checkpoint(checkpoint, model, out, noted, parse_options(settings or []), dtype)
    typer.echo(f'wrote {out}: weights of {model}')


@app.command('verify', epilog=VERIFY_EPILOG)
def verify_weights(
    files: Annotated[
        Optional[list[Path]],  # noqa: UP045 - typer 0.9, which Ubuntu 24.04 has, knows no `|`
        typer.Argument(help='Weight files; none checks the bundled ones.'),
    ] = None,
) -> None:
    """
    Check that weight files are complete, finite and fit their model.

    Bundled files must also have the SHA-256 of the manifest, a licence and a model card.
    """
    from ..weights.manifest import verify_bundled, verify_file

    verdicts = [verify_file(path) for path in files] if files else verify_bundled()
    if not verdicts:
        raise WeightsError('this installation of kpfeat comes without weights; install it again')
    for verdict in verdicts:
        typer.echo(_line(verdict))
    bad = [verdict for verdict in verdicts if verdict.problem]
    if bad:
        raise WeightsError(f'{len(bad)} of {len(verdicts)} weight files are not as they should be')


def _line(verdict: 'WeightCheck') -> str:
    if verdict.problem:
        return f'BAD {verdict.path}: {verdict.problem}'
    licence = verdict.licence or 'no licence noted'
    return f'ok  {verdict.path}: {verdict.model}, {verdict.size / 1e6:.2f} MB, {licence}'
