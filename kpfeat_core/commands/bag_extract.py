"""`kpfeat bag extract`: the features of every image of a recording, or of many."""

from collections.abc import Iterator, Sequence
from pathlib import Path
import time
from typing import Annotated, Any, Optional, TYPE_CHECKING

import typer

from .bag_common import (
    finish,
    FLAGS,
    JsonOption,
    make_request,
    need_packages,
    on_images,
    pace,
    print_report,
    print_result,
    QuietOption,
    said_if_stopped,
)
from .bag_show import check_drawing, draw_extracted
from .common import (
    configured,
    examples,
    part_progress,
    SetOption,
    SOME_FAILED,
    table_console,
    tell,
)
from ..bags.request import ExtractRequest
from ..config import ExtractorConfig, ViewConfig
from ..errors import DataError

if TYPE_CHECKING:
    from ..bags.batch import BatchReport
    from ..bags.frames import BagReport
    from ..bags.manifest import ManifestEntry

PANEL = 'Options for several recordings'
EPILOG = examples(
    'kpfeat bag extract drive/ --out features.mcap',
    'kpfeat bag extract drive.bag --topics /left/image_raw --start 10 --end 25 --out left.mcap',
    'kpfeat bag extract drive/ --copy /imu,/tf --storage sqlite3 --out with_features',
    'kpfeat bag extract drive/ --annotations --copy /camera/image_raw --out d.mcap --video d.mp4',
    'kpfeat bag extract drive/ --model alike-n --device auto --format h5 --out features.h5',
    'kpfeat bag extract drive/ --format colmap --pictures --out drive.db',
    'kpfeat bag extract drive/ --format rtabmap --depth /depth/image --out rtabmap.mcap',
    "kpfeat bag extract fleet/ 'depot/*/camera*' --out features",
    'kpfeat bag extract fleet/ --cluster --cpus-per-task 2 --out features',
    'Exit code 0: all done; 2: nothing was written; 3: some images were skipped, or damaged, or '
    'a part failed.',
)


@configured(FLAGS, request=ExtractRequest, extraction=ExtractorConfig, view=ViewConfig)
def extract(
    recordings: Annotated[
        list[Path],
        typer.Argument(
            metavar='RECORDING',
            help='Folder of rosbag2, or a file that ends in .mcap, .db3, .bag or .zst; several, '
            'folders that hold some, and patterns such as *.bag.',
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            '--out',
            '-o',
            help='What to write: FILE.mcap, FILE.db3, or a folder with metadata.yaml; with '
            '--format npz a folder, with h5 and colmap a file. For several recordings a folder.',
        ),
    ],
    video: Annotated[
        Optional[Path],  # noqa: UP045 - typer 0.9 knows no `|`
        typer.Option(
            metavar='FILE.mp4',
            help='With the format bag: draw what was found, as `kpfeat bag render` does.',
            show_default=False,
        ),
    ] = None,
    settings: SetOption = [],  # noqa: B006 - typer copies it
    by_part: Annotated[
        bool,
        typer.Option(
            '--by-part',
            help='Take one recording as several are taken: its parts one by one, with a manifest.',
            rich_help_panel=PANEL,
        ),
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            '--verify',
            help='Hash the outputs that are there, to find those that were changed; without it a '
            'file of the right size counts as done.',
            rich_help_panel=PANEL,
        ),
    ] = False,
    cluster: Annotated[
        bool,
        typer.Option(
            '--cluster',
            help='Work on Ray, a task for each part: that of $RAY_ADDRESS, else one of its own on '
            'this machine.',
            rich_help_panel=PANEL,
        ),
    ] = False,
    cpus_per_task: Annotated[
        float,
        typer.Option(
            min=-1,
            help='Cores for a part, with and without --cluster; the last digits of features '
            'depend on it. -1: 4 beside a GPU, else 1.',
            rich_help_panel=PANEL,
        ),
    ] = -1,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    *,
    request: dict[str, Any],
    extraction: dict[str, Any],
    view: dict[str, Any],
) -> None:
    """
    Extract keypoints and descriptors of every image of a recording.

    Features of /left/image_raw go to /left/features, and to TOPIC/features where several image
    topics share a namespace. Each image is taken once, in the order of log time; stamps and log
    times stay what they are. The same input and options give the same bytes.

    The output appears when it is complete. A run that was stopped or killed goes on where it was
    when the same command is given again.

    Several recordings are taken part by part, which is file by file: OUT/NAME/PART, where NAME is
    the path of the recording below the folder that all have in common. --start and --end count
    from the start of each recording, --stride within each part. OUT/manifest.json tells of every
    part: input and output with size and SHA-256, settings, counts, or why it failed. The same
    command again does what is missing, failed or changed, and nothing else; a part that fails
    never stops the others. With --cluster the parts are done at the same time, by one machine or
    many, with the same result.
    """
    need_packages()
    from ..bags.recording import single_recording

    wanted = make_request(
        ExtractRequest, recordings[0], request, settings, extraction, view, out=out
    )
    several = by_part or verify or cluster or not single_recording(recordings, out)
    if video:
        check_drawing(video, wanted, several)
    if several:
        extract_several(recordings, wanted, cluster, cpus_per_task, verify, quiet, as_json)
    else:
        _extract_one(wanted, video, quiet, as_json)


def _extract_one(request: ExtractRequest, video: Path | None, quiet: bool, as_json: bool) -> None:
    from ..bags.extract import extract_recording

    report, seconds = on_images(
        'extracting', quiet, lambda show: extract_recording(request, on_image=show), resumes=True
    )
    print_report(report, seconds, [request.out], quiet, as_json)
    if video:
        draw_extracted(video, request, quiet or as_json)
    finish(report, quiet)


SHOWN = 20  # problems that are told; the manifest has all


def extract_several(
    words: Sequence[Path],
    request: ExtractRequest,
    cluster: bool,
    cpus: float,
    verify: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Extract features of all recordings that words stand for, on Ray where it is asked for."""
    from ..bags.batch import BatchReport, extract_batch, InTurn
    from ..bags.cluster import OnRay
    from ..bags.recording import find_bag_files

    began = time.perf_counter()
    parts = find_bag_files(words, request.out)
    with part_progress('extracting', len(parts), quiet) as show, said_if_stopped():
        done = BatchReport(())

        def on_result(report: BatchReport) -> None:
            nonlocal done
            done = report
            show(len(report.results), report.images_now)

        def on_image(part: 'BagReport') -> None:
            share = part.images / max(part.total, part.images, 1)
            show(len(done.results) + share, done.images_now + part.images - part.resumed)

        runner = OnRay() if cluster else InTurn(on_image)
        report = extract_batch(request, parts, runner, cpus, verify, on_result)
    seconds = time.perf_counter() - began
    if not report.done:
        name, error = next(iter(report.failed.items()))
        raise DataError(f'not one of {len(parts)} parts could be done; {name}: {error}')
    if not (quiet or as_json):
        _print_table(report)
    values, sentence = (make(report, request.out, seconds) for make in (_summary, _sentence))
    print_result(values, sentence, quiet, as_json)
    _finish(report, quiet)


def _finish(report: 'BatchReport', quiet: bool) -> None:
    """Tell what failed, and leave with the exit code."""
    if not quiet:
        problems = [line for item in report.entries.items() for line in _problems(*item)]
        for line in problems[:SHOWN]:
            tell(line)
        if len(problems) > SHOWN:
            tell(f'and {len(problems) - SHOWN} more such lines; the manifest tells of all')
    if not report.complete:
        raise typer.Exit(SOME_FAILED)


def _problems(name: str, entry: 'ManifestEntry') -> Iterator[str]:
    if entry.error:
        yield f'failed: {name}: {entry.error}'
    for kind, count in sorted(entry.skipped.items()):
        images = f'{count} of {entry.counts["images"]} images'
        yield f'skipped: {name}: {images} ({kind}): {entry.reasons[kind]}'
    for damage in entry.all_damage:
        yield f'damaged: {name}: {damage}'


def _summary(report: 'BatchReport', out: Path, seconds: float) -> dict[str, Any]:
    from ..bags.batch import COUNTS
    from ..bags.manifest import MANIFEST

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


def _sentence(report: 'BatchReport', out: Path, seconds: float) -> str:
    from ..bags.frames import earlier
    from ..bags.manifest import MANIFEST

    before = earlier(report.done - len(report.seconds))
    return (
        f'{report.done} of {len(report.parts)} parts{before}, {report.total("images")} images, '
        f'{report.total("keypoints")} keypoints, {pace(report.images_now, seconds)}, '
        f'see {out / MANIFEST}'
    )


def _print_table(report: 'BatchReport') -> None:
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


def _state(report: 'BatchReport') -> str:
    if report.failed:
        return f'{len(report.failed)} of {len(report.parts)} failed'
    return 'done' if report.seconds else 'was done'
