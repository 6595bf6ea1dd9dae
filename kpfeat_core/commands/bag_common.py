"""What the verbs of `kpfeat bag` share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
import enum
import json
from pathlib import Path
import time
from typing import Annotated, Any, Optional, TYPE_CHECKING, TypeVar

import typer

from .common import image_progress, SOME_FAILED, tell
from ..config import DEFAULT_MODEL, make_config, parse_options, ViewConfig
from ..errors import DataError

if TYPE_CHECKING:
    from ..bags.extract import Extraction, Report

R = TypeVar('R', bound='Report')


class StorageKind(str, enum.Enum):
    """How a recording is stored."""

    mcap = 'mcap'
    sqlite3 = 'sqlite3'


class DescriptorKind(str, enum.Enum):
    """How the numbers of a descriptor are stored."""

    float32 = 'float32'
    float16 = 'float16'
    int8 = 'int8'
    binary = 'binary'


RecordingArgument = Annotated[
    Path,
    typer.Argument(help='Folder of rosbag2, or a file that ends in .mcap, .db3, .bag or .zst.'),
]
FeaturesOption = Annotated[
    Optional[Path],  # noqa: UP045 - typer 0.9 knows no `|`
    typer.Option(
        '--features',
        '-f',
        help='Recording that holds the features, as `kpfeat bag extract` writes it.',
    ),
]
TopicsOption = Annotated[
    list[str],
    typer.Option(
        '--topics',
        '-t',
        metavar='TOPIC,...',
        help='Topics to take; by default all but depth images.',
        show_default=False,
    ),
]
StartOption = Annotated[
    str,
    typer.Option(help='Begin here: seconds from the first message, or since 1970.'),
]
EndOption = Annotated[str, typer.Option(help='End before this: seconds as for --start.')]
StrideOption = Annotated[int, typer.Option(min=1, help='Take every k-th image of a topic.')]
StorageOption = Annotated[
    Optional[StorageKind],  # noqa: UP045 - typer 0.9 knows no `|`
    typer.Option('--storage', help='How a recording is stored; by the name of --out, else mcap.'),
]
CopyOption = Annotated[
    list[str],
    typer.Option(
        '--copy',
        metavar='TOPIC,...',
        help="Topics of the input to copy, '*' for all.",
        show_default=False,
    ),
]
DescriptorTypeOption = Annotated[
    DescriptorKind,
    typer.Option('--descriptor-type', help='How descriptors are stored in messages.'),
]
BatchSizeOption = Annotated[
    int,
    typer.Option(
        '--batch-size',
        min=-1,
        help='Images that go through the network together; -1: 8 on a GPU, else 1.',
    ),
]
MadeByOption = Annotated[
    str,
    typer.Option(
        '--model',
        help='Model that makes the features; by default the recorded ones are taken, and '
        f'{DEFAULT_MODEL} where there are none.',
        show_default=False,
    ),
]
QuietOption = Annotated[bool, typer.Option('--quiet', '-q', help='Say nothing but errors.')]
JsonOption = Annotated[bool, typer.Option('--json', help='Print the result as JSON.')]


def need_packages() -> None:
    """Raise DataError where what reads recordings is not installed."""
    try:
        import mcap
        import rosbags
    except ImportError as error:
        raise DataError(
            f"recordings need {error.name}, which is not installed; pip install 'kpfeat[bags]'"
        ) from None
    del mcap, rosbags


def topic_names(words: Sequence[str]) -> tuple[str, ...]:
    """Return the names of topics that were given one by one, or with commas between them."""
    return tuple(name.strip() for word in words for name in word.split(',') if name.strip())


def check_ending(option: str, path: Path, endings: Sequence[str]) -> None:
    """Raise DataError for a name that ends in none of these."""
    if path.suffix not in endings:
        raise DataError(f"{option} is '{path}', expected a name ending in {' or '.join(endings)}")


def wanted_images(
    source: Path,
    model: str,
    settings: Sequence[str],
    extraction: Mapping[str, Any],
    view: Mapping[str, Any],
    out: Path = Path(),
    **others: Any,
) -> 'Extraction':
    """
    Return which images are meant, what makes their features, and where these go, if anywhere.

    model: '' for recorded features. settings: of --set. extraction, view: flags of their classes.
    others: more of `Extraction`.
    """
    from ..bags.extract import Extraction
    from ..registry import extractor_config_class

    parsed = parse_options(settings, extractor_config_class(model or DEFAULT_MODEL))
    options = {**extraction, **parsed}
    view = make_config(ViewConfig, view)
    return Extraction(source, out, model=model, options=options, view=view, **others)


def on_images(
    what: str, quiet: bool, work: Callable[[Callable[[R], None]], R], resumes: bool = False
) -> tuple[R, float]:
    """
    Do work on images with progress; return what it returns, and the seconds that it took.

    work: takes the function that is to be told of each image. resumes: whether the same command
    goes on where it was stopped.
    """

    def show_report(report: R) -> None:
        if report.discarded and not (quiet or report.images):
            tell('an earlier run left some of other options or input: thrown away')
        show(report.images, report.total)

    began = time.perf_counter()
    with image_progress(what, quiet) as show, said_if_stopped(resumes):
        report = work(show_report)
    return report, time.perf_counter() - began


@contextmanager
def said_if_stopped(resumes: bool = True) -> Iterator[None]:
    """Say how a run that is interrupted goes on, where it does."""
    try:
        yield
    except KeyboardInterrupt:
        if resumes:
            tell('stopped; the same command goes on from here')
        raise


def described(report: 'Report', seconds: float, *others: str) -> dict[str, Any]:
    """Return a report for JSON, without `others` of its values."""
    values = {k: v for k, v in vars(report).items() if k not in ('total', *others)}
    paths = {name: str(values[name]) for name in ('source', 'out') if name in values}
    damage = [str(damage) for damage in report.damage]
    return {**values, **paths, 'damage': damage, 'seconds': round(seconds, 3)}


def earlier(count: int) -> str:
    """Say how many of those that were named before are of an earlier run."""
    return f' ({count} of them by an earlier run)' if count else ''


def pace(images: int, seconds: float) -> str:
    """Say how long work took, and its speed where there were images to be done."""
    speed = f', {images / max(seconds, 1e-9):.1f} frames/s' if images else ''
    return f'{seconds:.1f} s{speed}'


def print_result(values: Mapping[str, Any], sentence: str, quiet: bool, as_json: bool) -> None:
    """Print what became of the work: as JSON, or else as a sentence."""
    if as_json:
        typer.echo(json.dumps(values, indent=2))
    elif not quiet:
        typer.echo(sentence)


def finish(report: 'Report', quiet: bool) -> None:
    """Leave with an exit code, and with a word on stderr about what was not used or not read."""
    if report.left_out and not quiet:
        names = ', '.join(report.left_out)
        tell(f'left out, as it shows depth: {names}; --topics takes what it names')
    if report.complete:
        return
    if not quiet:
        for kind, count in sorted(report.skipped.items()):
            tell(f'skipped {count} of {report.images} images ({kind}): {report.reasons[kind]}')
        tell_damage(report.damage)
    raise typer.Exit(SOME_FAILED)


def tell_damage(damages: Sequence[Any]) -> None:
    """Say on stderr what of a recording could not be read."""
    for damage in damages:
        tell(f'damaged: {damage}')
