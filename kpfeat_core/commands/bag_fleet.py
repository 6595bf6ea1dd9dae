"""`kpfeat bag extract` of several recordings: options, progress and the table at the end."""

from collections.abc import Iterator, Sequence
from pathlib import Path
import time
from typing import Annotated, Any, TYPE_CHECKING

import typer

from .bag_common import earlier, pace, print_result, said_if_stopped
from .common import part_progress, SOME_FAILED, table_console, tell
from ..errors import ConfigError, DataError

if TYPE_CHECKING:
    from ..bags.batch import FleetReport
    from ..bags.cluster import ClusterConfig
    from ..bags.extract import Extraction, Report
    from ..bags.manifest import Entry

PANEL = 'Options for several recordings'
SHOWN = 20  # problems that are told; the manifest has all

ByPartOption = Annotated[
    bool,
    typer.Option(
        '--by-part',
        help='Take one recording as several are taken: its parts one by one, with a manifest.',
        rich_help_panel=PANEL,
    ),
]
VerifyOption = Annotated[
    bool,
    typer.Option(
        '--verify',
        help='Hash the outputs that are there, to find those that were changed; without it a '
        'file of the right size counts as done.',
        rich_help_panel=PANEL,
    ),
]
ClusterOption = Annotated[
    bool,
    typer.Option('--cluster', help='Work on Ray, a task for each part.', rich_help_panel=PANEL),
]
AddressOption = Annotated[
    str,
    typer.Option(
        metavar='HOST:PORT',
        help='Ray that runs already, or auto to find it; else $RAY_ADDRESS, else one of its own '
        'on this machine.',
        rich_help_panel=PANEL,
        show_default=False,
    ),
]
CpusOption = Annotated[
    float,
    typer.Option(
        min=-1,
        help='Cores for a part, with and without --cluster; the last digits of features depend '
        'on it. -1: 4 beside a GPU, else 1.',
        rich_help_panel=PANEL,
    ),
]
GpusOption = Annotated[
    float,
    typer.Option(
        min=-1,
        help='GPUs for a task, 0.5 for two tasks on one; -1: 1 with --device cuda, else 0.',
        rich_help_panel=PANEL,
    ),
]


def cluster_config(cluster: bool, address: str, gpus: float) -> 'ClusterConfig | None':
    """Return where tasks are to run; None for this process."""
    from ..bags.cluster import ClusterConfig

    config = ClusterConfig(address, gpus)
    if not cluster and config != ClusterConfig():
        raise ConfigError('--address and --gpus-per-task go with --cluster')
    return config if cluster else None


def extract_several(
    words: Sequence[Path],
    wanted: 'Extraction',
    cluster: 'ClusterConfig | None',
    cpus: float,
    verify: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Extract features of all recordings that words stand for, on Ray where it is asked for."""
    from ..bags.batch import extract_fleet, FleetReport, InTurn
    from ..bags.cluster import OnRay
    from ..bags.parts import find_parts

    began = time.perf_counter()
    parts = find_parts(words, wanted.out)
    with part_progress('extracting', len(parts), quiet) as show, said_if_stopped():
        done = FleetReport(())

        def on_result(report: FleetReport) -> None:
            nonlocal done
            done = report
            show(len(report.results), report.images_now)

        def on_step(part: 'Report') -> None:
            share = part.images / max(part.total, part.images, 1)
            show(len(done.results) + share, done.images_now + part.images - part.resumed)

        runner = OnRay(cluster) if cluster else InTurn(on_step)
        report = extract_fleet(wanted, parts, runner, cpus, verify, on_result)
    seconds = time.perf_counter() - began
    if not report.done:
        name, error = next(iter(report.failed.items()))
        raise DataError(f'not one of {len(parts)} parts could be done; {name}: {error}')
    if not (quiet or as_json):
        _print_table(report)
    values, sentence = (make(report, wanted.out, seconds) for make in (_summary, _sentence))
    print_result(values, sentence, quiet, as_json)
    _finish(report, quiet)


def _finish(report: 'FleetReport', quiet: bool) -> None:
    """Tell what failed, and leave with the exit code."""
    if not quiet:
        problems = [line for item in report.entries.items() for line in _problems(*item)]
        for line in problems[:SHOWN]:
            tell(line)
        if len(problems) > SHOWN:
            tell(f'and {len(problems) - SHOWN} more such lines; the manifest tells of all')
    if not report.complete:
        raise typer.Exit(SOME_FAILED)


def _problems(name: str, entry: 'Entry') -> Iterator[str]:
    if entry.error:
        yield f'failed: {name}: {entry.error}'
    for kind, count in sorted(entry.skipped.items()):
        images = f'{count} of {entry.counts["images"]} images'
        yield f'skipped: {name}: {images} ({kind}): {entry.reasons[kind]}'
    for damage in entry.all_damage:
        yield f'damaged: {name}: {damage}'


def _summary(report: 'FleetReport', out: Path, seconds: float) -> dict[str, Any]:
    from ..bags.manifest import MANIFEST
    from ..bags.tasks import COUNTS

    return {
        'out': str(out),
        'manifest': str(out / MANIFEST),
        'recordings': len({part.group for part in report.parts}),
        'parts': len(report.parts),
        'done': report.done,
        'done_before': report.done - len(report.seconds),
        'failed': report.failed,
        **{name: report.total(name) for name in COUNTS},
        'skipped': report.skipped,
        'damaged_parts': report.damaged,
        'seconds': round(seconds, 3),
    }


def _sentence(report: 'FleetReport', out: Path, seconds: float) -> str:
    from ..bags.manifest import MANIFEST

    before = earlier(report.done - len(report.seconds))
    return (
        f'{report.done} of {len(report.parts)} parts{before}, {report.total("images")} images, '
        f'{report.total("keypoints")} keypoints, {pace(report.images_now, seconds)}, '
        f'see {out / MANIFEST}'
    )


def _print_table(report: 'FleetReport') -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column('recording')
    for name in ('parts', 'images', 'keypoints', 'skipped', 'damaged', 'frames/s'):
        table.add_column(name, justify='right')
    table.add_column('state')
    for name, one in report.by_recording():
        spent = sum(one.seconds.values())
        table.add_row(
            name,
            str(len(one.parts)),
            str(one.total('images')),
            str(one.total('keypoints')),
            str(one.skipped),
            str(one.damaged),
            f'{one.images_now / spent:.1f}' if spent else '',
            _state(one),
        )
    table_console().print(table)


def _state(report: 'FleetReport') -> str:
    if report.failed:
        return f'{len(report.failed)} of {len(report.parts)} failed'
    return 'done' if report.seconds else 'was done'
