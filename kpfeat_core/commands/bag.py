"""`kpfeat bag`: recordings to features, matches, pictures and numbers; and what one holds."""

from datetime import datetime, timezone
import json
from typing import Any, TYPE_CHECKING

import typer

from . import bag_extract, bag_match, bag_show
from .bag_common import JsonOption, need_packages, RecordingArgument, tell_damage
from .common import examples, prose, SOME_FAILED, table_console

if TYPE_CHECKING:
    from ..bags.reader import BagReader

app = typer.Typer(
    help='Recordings to features, matches, pictures and numbers.', no_args_is_help=True
)


def info(recording: RecordingArgument, as_json: JsonOption = False) -> None:
    """
    Show what a recording holds: topics, types, counts, rates and times.

    A damaged one is gone through as far as it can be read. A rate is messages a second over the
    whole recording.
    """
    need_packages()
    from ..bags.reader import BagReader

    reader = BagReader(recording)
    if as_json:
        typer.echo(json.dumps(_described(reader), indent=2))
    else:
        _print_table(reader)
    if reader.damage:
        tell_damage(reader.damage)
        raise typer.Exit(SOME_FAILED)


def _described(reader: 'BagReader') -> dict[str, Any]:
    """Return what is known about a recording, for JSON."""
    recording = reader.recording
    return {
        'path': str(recording.path),
        'files': [str(file) for file in recording.files],
        'storage': recording.storage,
        'bytes': recording.size,
        'start': reader.start if reader.count else None,
        'end': reader.end if reader.count else None,
        'duration_s': reader.duration_s,
        'messages': reader.count,
        'topics': [
            {
                'name': topic.name,
                'type': topic.msgtype,
                'messages': topic.count,
                'rate_hz': topic.rate_hz(reader.duration_s),
            }
            for topic in reader.topics
        ],
        'damage': [str(damage) for damage in reader.damage],
    }


def _print_table(reader: 'BagReader') -> None:
    from rich.table import Table

    recording = reader.recording
    files = f'{len(recording.files)} files' if len(recording.files) > 1 else '1 file'
    typer.echo(f'{recording.path}: {recording.storage}, {files}, {recording.size / 1e6:.1f} MB')
    if reader.count:
        begin = datetime.fromtimestamp(1e-9 * reader.start, timezone.utc)
        typer.echo(
            f'{reader.count} messages in {reader.duration_s:.3f} s from '
            f'{1e-9 * reader.start:.3f} ({begin:%Y-%m-%d %H:%M:%S} UTC)'
        )
    else:
        typer.echo('no messages')
    table = Table('topic', 'type', 'messages', 'rate', box=None, pad_edge=False)
    for topic in reader.topics:
        rate = f'{topic.rate_hz(reader.duration_s):.1f} Hz'
        table.add_row(topic.name, topic.described_type, str(topic.count), rate)
    table_console().print(table)


for name, function, epilog in (
    ('info', info, examples('kpfeat bag info drive/', 'kpfeat bag info drive.bag --json')),
    ('extract', bag_extract.extract, bag_extract.EPILOG),
    ('match', bag_match.match, bag_match.EPILOG),
    ('render', bag_show.render, bag_show.RENDER_EPILOG),
    ('stats', bag_show.stats, bag_show.STATS_EPILOG),
):
    app.command(name, help=prose(function), epilog=epilog)(function)
