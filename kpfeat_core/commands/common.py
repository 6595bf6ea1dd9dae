"""Parts that verbs share: options made from configuration classes, progress, examples."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
import functools
import inspect
from pathlib import Path
import time
from typing import Annotated, Any, Optional, TextIO, TYPE_CHECKING, TypeVar

import typer

from ..config import DEFAULT_MODEL, describe, ExtractorConfig, OptionDescription, parse_options

if TYPE_CHECKING:
    from rich.progress import Progress

    from ..models.base import Extractor

T = TypeVar('T')
PART_SECONDS = 3600.0  # over which the speed of parts is averaged
SOME_FAILED = 3  # exit code where something was left out; 0: all was done, 2: nothing
PathOrNone = Optional[Path]  # noqa: UP045 - typer 0.9, which Ubuntu 24.04 has, knows no `|`
ModelOption = Annotated[
    str, typer.Option('--model', '-m', help='Model name; see `kpfeat weights list`.')
]
WeightsOption = Annotated[
    str,
    typer.Option(
        '--weights',
        '-w',
        metavar='FILE',
        help="Weight file, or 'rotation'; else $KPFEAT_WEIGHTS, else the bundled one.",
        show_default=False,
    ),
]
DeviceOption = Annotated[
    str, typer.Option('--device', help='cpu, cuda, cuda:N, mps, or auto for a GPU if there.')
]
SetOption = Annotated[
    list[str],
    typer.Option(
        '--set', metavar='KEY=VALUE', help='Any other option of the model.', show_default=False
    ),
]


def examples(*lines: str) -> str:
    """Return the end of a help text: one command a line."""
    return '\n\n'.join(['[bold]Examples[/bold]', *lines])


def configured(
    flags: Mapping[str, str] | None = None, **classes: type
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """
    Add one flag to a command for each field of configuration classes.

    `@configured(matching=MatcherConfig)` calls the command with `matching`, a dict of the options
    that the user set. Help and bounds come from the fields; flags: other names for some. The
    options of `request` stand among the command's own, the others in panels of their own.
    """
    flags = flags or {}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        described = {group: _described(cls) for group, cls in classes.items()}

        @functools.wraps(command)
        def run(**given: Any) -> None:
            for group, options in described.items():
                values = {option.name: given.pop(option.name) for option in options}
                given[group] = {k: _words(v) for k, v in values.items() if v not in (None, [], ())}
            command(**given)

        signature = inspect.signature(command)
        own = [p for p in signature.parameters.values() if p.name not in classes]
        made = [
            _parameter(option, group, flags.get(option.name, ''), classes[group])
            for group, options in described.items()
            for option in options
        ]
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *made)]
        run.__signature__ = signature.replace(parameters=parameters)
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def _described(cls: type) -> list[OptionDescription]:
    """Return the options of a configuration class, by their old names as well."""
    options = [describe(f) for f in fields(cls) if 'help' in f.metadata]
    return [*options, *(option._replace(name=option.old) for option in options if option.old)]


def _parameter(
    described: OptionDescription, group: str, flag: str, cls: type
) -> inspect.Parameter:
    """Return the flag of an option; its default None means: not given."""
    kind = described.kind
    flag = flag or '--' + described.name.replace('_', '-')
    whose = f' of {DEFAULT_MODEL}' if issubclass(cls, ExtractorConfig) else ''
    if kind is bool:
        flag = f'{flag}/--no-{flag[2:]}'
    allowed = f'; {described.allowed}' if described.allowed else ''
    option = typer.Option(
        *flag.split(),
        help=f'{described.help} (default{whose} {described.default_in_words}{allowed})',
        metavar={bool: None, int: 'INT', float: 'NUMBER', str: 'TEXT', tuple: 'A,B,...'}[kind],
        show_default=False,
        rich_help_panel=None if group == 'request' else f'{group.capitalize()} options',
        hidden=described.name == described.old,
    )
    given = list[str] if kind is tuple else kind
    return inspect.Parameter(
        described.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[Optional[given], option],  # noqa: UP045 - typer 0.9 knows no `|`
    )


def _words(value: Any) -> Any:
    """Return a list of words, given one by one or with commas between them, as a tuple."""
    if not isinstance(value, list | tuple):
        return value
    return tuple(word.strip() for text in value for word in text.split(',') if word.strip())


def prose(function: Callable[..., Any]) -> str:
    """Return the docstring with its lines joined into paragraphs, as a help text."""
    paragraphs = inspect.getdoc(function).split('\n\n')
    return '\n\n'.join(' '.join(text.split()) for text in paragraphs)


def load_extractor(
    model: str, weights: str, device: str, options: Mapping[str, Any], settings: Sequence[str]
) -> 'Extractor':
    """Build the extractor that the flags describe; raises KpfeatError."""
    from ..factory import create_extractor
    from ..registry import extractor_config_class

    parsed = parse_options(settings, extractor_config_class(model))
    return create_extractor(model, weights, device, **{**options, **parsed})


def tell(text: str) -> None:
    """Print a line on stderr, above a progress bar if there is one."""
    console().print(text, markup=False, highlight=False, soft_wrap=True)


def end_images(
    total: int, skipped: int, keypoints: int, start: float, where: str, kept: int = 0
) -> None:
    """
    Print what was done since `start`, a time of perf_counter, and leave with 3 if not all was.

    kept: images that were done before.
    """
    done, seconds = total - skipped, time.perf_counter() - start
    images = '1 image' if done == 1 else f'{done} images'
    before = f' ({kept} of them before)' if kept else ''
    typer.echo(f'{images}{before}, {keypoints} keypoints, {seconds:.1f} s, {where}')
    if skipped:
        tell(f'{skipped} of {total} images were skipped')
        raise typer.Exit(SOME_FAILED)


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Iterate with a progress bar on stderr; none where stderr is not a terminal."""
    from rich.progress import track as rich_track

    shown = console()
    yield from rich_track(
        items, what, total=total, console=shown, transient=True, disable=not shown.is_terminal
    )


def table_console(file: TextIO | None = None) -> Any:
    """Return a console for tables on stdout, or for `file`: whole lines for grep and scripts."""
    from rich.console import Console

    found = Console(file=file, markup=False, emoji=False)  # paths may have brackets and colons
    if not found.is_terminal:
        found.width = 1000
    return found


@functools.cache
def console() -> Any:
    """Return the console of stderr, which prints above a progress bar if there is one."""
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def image_progress(what: str, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """
    Yield a function that takes how many images are done, and of how many.

    Shows a bar on stderr; nothing where that is not a terminal, or with `quiet`.
    """
    from rich.progress import MofNCompleteColumn

    with _progress(MofNCompleteColumn(), quiet) as progress:
        task = progress.add_task(what, total=None, rate=0.0)

        def show(done: int, total: int) -> None:
            rate = progress.tasks[0].speed or 0.0
            progress.update(task, completed=done, total=max(done, total), rate=rate)

        yield show


@contextmanager
def part_progress(
    what: str, parts: int, quiet: bool = False
) -> Iterator[Callable[[float, int], None]]:
    """
    Yield a function that takes how many parts of work are done, and how many images by now.

    Parts that are done at the first call do not count for the time that is left. Shows a bar on
    stderr; nothing where that is not a terminal, or with `quiet`.
    """
    from rich.progress import TextColumn

    began = time.monotonic()
    counts = TextColumn('{task.fields[done]} of {task.fields[parts]} parts')
    with _progress(counts, quiet, PART_SECONDS) as progress:
        task = progress.add_task(what, total=None, parts=parts, done=0, rate=0.0)

        def show(done: float, images: int) -> None:
            if progress.tasks[0].total is None:
                progress.reset(task, total=parts, completed=done)
            rate = images / max(time.monotonic() - began, 1e-9)
            progress.update(task, completed=done, done=int(done), rate=rate)

        yield show


def _progress(amount: Any, quiet: bool, seconds: float = 30.0) -> 'Progress':
    """Return a bar with a column for the amount; seconds: over which the speed is averaged."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        amount,
        TextColumn('{task.fields[rate]:.1f} frames/s'),
        TimeRemainingColumn(compact=True),
        console=console(),
        transient=True,
        disable=quiet or not console().is_terminal,
        speed_estimate_period=seconds,
    )
