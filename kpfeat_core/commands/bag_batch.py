"""`kpfeat bag extract` of several recordings: progress and the table at the end."""

from collections.abc import Iterator, Sequence
from pathlib import Path
import time
from typing import Any, TYPE_CHECKING

import typer

from .bag_common import pace, print_result, said_if_stopped
from .common import part_progress, SOME_FAILED, table_console, tell
from ..bags.request import ExtractRequest
from ..errors import DataError

if TYPE_CHECKING:
    from ..bags.batch import BatchReport
    from ..bags.frames import BagReport
    from ..bags.manifest import ManifestEntry

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
