"""`kpfeat bag render` and `kpfeat bag stats`: pictures and numbers of a recording."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Optional, TYPE_CHECKING

import typer

from .bag_common import (
    check_ending,
    CODES,
    finish,
    FLAGS,
    JsonOption,
    make_request,
    need_packages,
    on_images,
    print_report,
    QuietOption,
    RecordingArgument,
)
from .common import configured, examples, SetOption, table_console, tell
from ..bags.request import ExtractRequest, FramesRequest, RenderConfig
from ..config import ExtractorConfig, make_config, MatcherConfig, ViewConfig
from ..errors import DataError

if TYPE_CHECKING:
    from ..bags.stats import StatsReport

RENDER_EPILOG = examples(
    'kpfeat bag render drive/ --out drive.mp4',
    'kpfeat bag render drive/ --features features.mcap --show matches --out drive.mp4',
    'kpfeat bag render drive/ --start 10 --end 25 --speed 0.25 --out slowly.mp4',
    'kpfeat bag render drive/ --sheet drive.png --tiles 20',
    CODES,
)
STATS_EPILOG = examples(
    'kpfeat bag stats drive/ --out stats.html',
    'kpfeat bag stats drive/ --features features.mcap --out stats.html --out stats.csv',
    'kpfeat bag stats features.mcap --geometry fundamental --out stats.json',
    CODES,
)
VIDEOS = ('.mp4',)
SHEETS = ('.png', '.jpg', '.jpeg')
NUMBERS = ('.html', '.json', '.csv')


@configured(
    FLAGS,
    request=FramesRequest,
    rendering=RenderConfig,
    matching=MatcherConfig,
    extraction=ExtractorConfig,
    view=ViewConfig,
)
def render(
    recording: RecordingArgument,
    out: Annotated[
        Optional[Path],  # noqa: UP045 - typer 0.9 knows no `|`
        typer.Option('--out', '-o', metavar='FILE.mp4', help='Video to write.'),
    ] = None,
    sheet: Annotated[
        Optional[Path],  # noqa: UP045 - typer 0.9 knows no `|`
        typer.Option('--sheet', metavar='FILE.png|jpg', help='Contact sheet to write.'),
    ] = None,
    settings: SetOption = [],  # noqa: B006 - typer copies it
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    *,
    request: dict[str, Any],
    rendering: dict[str, Any],
    matching: dict[str, Any],
    extraction: dict[str, Any],
    view: dict[str, Any],
) -> None:
    """
    Draw keypoints, their tracks or their matches over the images of a recording.

    The video shows each image from its log time until the next one, gaps as they were; below it
    stand the seconds from the first message, as --start takes them, the number of the image, and
    counts. A sheet shows some images, spread evenly; without --out only about those are worked
    on. Of several image topics each has files of its own: drive.left.mp4 for /left/features.

    The features are those of --features, else those that RECORDING itself holds, else they are
    made of its images. The files appear when they are complete; the same input and options give
    the same bytes.
    """
    need_packages()
    _check_names(out, sheet)
    from ..bags.render import render_recording

    wanted = make_request(FramesRequest, recording, request, settings, extraction, view)
    configs = make_config(RenderConfig, rendering), make_config(MatcherConfig, matching)
    report, seconds = on_images(
        'drawing',
        quiet,
        lambda show: render_recording(wanted, out, sheet, *configs, on_image=show),
    )
    if report.codec and not report.is_h264 and not quiet:
        tell(f'PyAV has no encoder for H.264 here: {report.codec}, which browsers do not play')
    print_report(report, seconds, report.files, quiet, as_json)
    finish(report, quiet)


@configured(
    FLAGS,
    request=FramesRequest,
    matching=MatcherConfig,
    extraction=ExtractorConfig,
    view=ViewConfig,
)
def stats(
    recording: RecordingArgument,
    out: Annotated[
        list[Path],
        typer.Option(
            '--out',
            '-o',
            metavar='FILE.html|json|csv',
            help='What to write: a page, or the numbers of each image; give it again for more.',
            show_default=False,
        ),
    ] = [],  # noqa: B006 - typer copies it
    settings: SetOption = [],  # noqa: B006 - typer copies it
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    *,
    request: dict[str, Any],
    matching: dict[str, Any],
    extraction: dict[str, Any],
    view: dict[str, Any],
) -> None:
    """
    Show how features, matches, sharpness, exposure and timing change over a recording.

    Prints a summary. The page has plots over time, how long keypoints are followed, and pictures
    of the worst moments: the most blurred images, the fewest keypoints found again, the longest
    gaps. Features alone will do, without what needs images.

    The features are those of --features, else those that RECORDING itself holds, else they are
    made of its images. The same input and options give the same bytes.
    """
    need_packages()
    _check_out(out)
    from ..bags.stats import measure_recording
    from ..bags.stats_report import write_numbers

    wanted = make_request(FramesRequest, recording, request, settings, extraction, view)
    config = make_config(MatcherConfig, matching)

    def work(show: Callable[['StatsReport'], None]) -> 'StatsReport':
        report = measure_recording(wanted, config, on_image=show)
        for path in out:
            write_numbers(path, report)
        return report

    report, seconds = on_images('measuring', quiet, work)
    if not (quiet or as_json):
        _print_table(report)
    print_report(report, seconds, out, quiet, as_json)
    finish(report, quiet)


def check_drawing(video: Path, request: ExtractRequest, several: bool) -> None:
    """Raise DataError where `draw_extracted` could not draw what will be written."""
    if several or request.format != 'bag':
        raise DataError('--video goes with one recording and the format bag; see bag render')
    from ..bags.render import check_extraction

    check_ending('--video', video, VIDEOS)
    check_extraction(request)


def draw_extracted(video: Path, request: ExtractRequest, quiet: bool) -> None:
    """Make a video of features that were just written."""
    from ..bags.render import render_extracted

    report, _ = on_images('drawing', quiet, lambda show: render_extracted(request, video, show))
    if not quiet:
        typer.echo(f'drawn to {", ".join(map(str, report.files))}')


def _check_names(out: Path | None, sheet: Path | None) -> None:
    if not (out or sheet):
        raise DataError('there is nothing to write; give --out FILE.mp4, --sheet FILE.png or both')
    if out:
        check_ending('--out', out, VIDEOS)
    if sheet:
        check_ending('--sheet', sheet, SHEETS)


def _check_out(out: list[Path]) -> None:
    for path in out:
        check_ending('--out', path, NUMBERS)
    if any(path.suffix == '.html' for path in out):
        from ..html_report import require_libraries

        require_libraries()


def _print_table(report: 'StatsReport') -> None:
    from rich.table import Table

    from ..bags.stats_report import summary_rows

    table = Table('', *report.topics, '', box=None, pad_edge=False)
    for label, texts, meaning in summary_rows(report):
        table.add_row(label, *texts, meaning)
    table_console().print(table)
