"""`kpfeat bag stats`: features, matches, sharpness, exposure and timing of a recording."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TYPE_CHECKING

import typer

from .bag_common import (
    check_ending,
    EndOption,
    FeaturesOption,
    finish,
    JsonOption,
    MadeByOption,
    need_packages,
    on_images,
    pace,
    print_result,
    QuietOption,
    RecordingArgument,
    StartOption,
    StrideOption,
    topic_names,
    TopicsOption,
    wanted_images,
)
from .common import configured, DeviceOption, examples, SetOption, table_console, WeightsOption
from ..config import ExtractorConfig, make_config, MatcherConfig, ViewConfig

if TYPE_CHECKING:
    from ..bags.stats import StatisticsReport

EPILOG = examples(
    'kpfeat bag stats drive/ --out stats.html',
    'kpfeat bag stats drive/ --features features.mcap --out stats.html --out stats.csv',
    'kpfeat bag stats features.mcap --geometry fundamental --out stats.json',
    'Exit code 0: all done; 2: nothing was written; 3: some images were skipped, or damaged.',
)
ENDINGS = ('.html', '.json', '.csv')


@configured(
    {'max_num_keypoints': '--max-keypoints'},
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
    features: FeaturesOption = None,
    topics: TopicsOption = [],  # noqa: B006 - typer copies it
    start: StartOption = '',
    end: EndOption = '',
    stride: StrideOption = 1,
    model: MadeByOption = '',
    weights: WeightsOption = '',
    device: DeviceOption = 'cpu',
    settings: SetOption = [],  # noqa: B006 - typer copies it
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    *,
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
    from ..bags import stats_report as numbers
    from ..bags.stats import measure_recording

    wanted = wanted_images(
        recording,
        model,
        settings,
        extraction,
        view,
        topics=topic_names(topics),
        start=start,
        end=end,
        stride=stride,
        weights=weights,
        device=device,
    )

    def work(show: Callable[['StatisticsReport'], None]) -> 'StatisticsReport':
        report = measure_recording(
            wanted, features, make_config(MatcherConfig, matching), on_image=show
        )
        for path in out:
            _write(path, report)
        return report

    report, seconds = on_images('measuring', quiet, work)
    if not (quiet or as_json):
        _print_table(report)
    values = {**numbers.as_json(report), 'seconds': round(seconds, 3)}
    print_result(values, _sentence(report, seconds, out), quiet, as_json)
    finish(report, quiet)


def _check_out(out: list[Path]) -> None:
    for path in out:
        check_ending('--out', path, ENDINGS)
    if any(path.suffix == '.html' for path in out):
        from ..html_report import require_libraries

        require_libraries()


def _write(path: Path, report: 'StatisticsReport') -> None:
    from ..bags import stats_report as numbers
    from ..bags.stats_report import write_report

    writers = {'.html': write_report, '.json': numbers.write_json, '.csv': numbers.write_csv}
    writers[path.suffix](path, report)


def _print_table(report: 'StatisticsReport') -> None:
    from rich.table import Table

    from ..bags.stats_report import summary_rows

    table = Table('', *report.topics, '', box=None, pad_edge=False)
    for label, texts, meaning in summary_rows(report):
        table.add_row(label, *texts, meaning)
    table_console().print(table)


def _sentence(report: 'StatisticsReport', seconds: float, out: Sequence[Path]) -> str:
    written = f', written to {", ".join(map(str, out))}' if out else ''
    return f'{report.features} of {report.images} images, {pace(report.images, seconds)}{written}'
