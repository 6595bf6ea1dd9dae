"""What the verbs of `kpfeat bag` share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
import json
from pathlib import Path
import time
from typing import Annotated, Any, TYPE_CHECKING, TypeVar

import typer

from .common import image_progress, SOME_FAILED, tell
from ..bags.request import FramesRequest
from ..config import DEFAULT_MODEL, make_config, parse_options, ViewConfig
from ..errors import DataError

if TYPE_CHECKING:
    from ..bags.frames import BagReport
    from ..bags.recording import Damage

R = TypeVar('R', bound='BagReport')
Request = TypeVar('Request', bound=FramesRequest)
FLAGS = {
    'max_num_keypoints': '--max-keypoints',
    'topics': '--topics -t',
    'features': '--features -f',
    'model': '--model -m',
    'weights': '--weights -w',
}
CODES = 'Exit code 0: all done; 2: nothing was written; 3: some images were skipped, or damaged.'
RecordingArgument = Annotated[
    Path,
    typer.Argument(help='Folder of rosbag2, or a file that ends in .mcap, .db3, .bag or .zst.'),
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


def check_ending(option: str, path: Path, endings: Sequence[str]) -> None:
    """Raise DataError for a name that ends in none of these."""
    if path.suffix not in endings:
        raise DataError(f"{option} is '{path}', expected a name ending in {' or '.join(endings)}")


def make_request(
    cls: type[Request],
    source: Path,
    request: Mapping[str, Any],
    settings: Sequence[str],
    extraction: Mapping[str, Any],
    view: Mapping[str, Any],
    **others: Any,
) -> Request:
    """
    Return a request; raises KpfeatError.

    request, extraction, view: flags of their classes. settings: of --set. others: more of `cls`.
    """
    from ..registry import extractor_config_class

    model = request.get('model') or DEFAULT_MODEL
    options = {**extraction, **parse_options(settings, extractor_config_class(model))}
    seen = make_config(ViewConfig, view)
    return cls(source, **others, **request, options=options, view=seen)


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


def pace(images: int, seconds: float) -> str:
    """Return how long work took, and its speed where there were images to be done."""
    speed = f', {images / max(seconds, 1e-9):.1f} frames/s' if images else ''
    return f'{seconds:.1f} s{speed}'


def print_result(values: Mapping[str, Any], sentence: str, quiet: bool, as_json: bool) -> None:
    """Print what became of the work: as JSON, or else as a sentence."""
    if as_json:
        typer.echo(json.dumps(values, indent=2))
    elif not quiet:
        typer.echo(sentence)


def print_report(
    report: 'BagReport', seconds: float, written: Sequence[Path], quiet: bool, as_json: bool
) -> None:
    """Print a report: as JSON, or else as a sentence; written: the files."""
    done = pace(report.images - report.resumed, seconds)
    where = f', written to {", ".join(map(str, written))}' if written else ''
    values = report.described() | {'seconds': round(seconds, 3)}
    print_result(values, f'{report.summary()}, {done}{where}', quiet, as_json)


def finish(report: 'BagReport', quiet: bool) -> None:
    """Leave with an exit code, and with a word on stderr about what was not used or not read."""
    if report.left_out and not quiet:
        names = ', '.join(report.left_out)
        tell(f'left out, as it shows depth: {names}; --topics takes what it names')
    if report.doubled and not quiet:
        names = ', '.join(report.doubled)
        tell(f'left out, as its images are there raw: {names}; --topics takes what it names')
    if report.complete:
        return
    if not quiet:
        for kind, count in sorted(report.skipped.items()):
            tell(f'skipped {count} of {report.images} images ({kind}): {report.reasons[kind]}')
        tell_damage(report.damage)
    raise typer.Exit(SOME_FAILED)


def tell_damage(damages: Sequence['Damage']) -> None:
    """Say on stderr what of a recording could not be read."""
    for damage in damages:
        tell(f'damaged: {damage}')
