"""`kpfeat bag`: what recordings hold, and the features of every image in them."""

from datetime import datetime, timezone
import enum
import json
from pathlib import Path
import time
from typing import Annotated, Any, Optional, TYPE_CHECKING

import typer

from .common import (
    configured,
    DeviceOption,
    examples,
    ModelOption,
    prose,
    SetOption,
    tell,
    WeightsOption,
)
from .extract import SOME_FAILED
from .progress import image_progress
from ..config import DEFAULT_MODEL, ExtractorConfig, make_config, parse_options, ViewConfig
from ..errors import DataError

if TYPE_CHECKING:
    from ..bags.extraction import Report
    from ..bags.reading import BagReader

INFO_EPILOG = examples('kpfeat bag info drive/', 'kpfeat bag info drive.bag --json')
EXTRACT_EPILOG = examples(
    'kpfeat bag extract drive/ --out features.mcap',
    'kpfeat bag extract drive.bag --topics /left/image_raw --start 10 --end 25 --out left.mcap',
    'kpfeat bag extract drive/ --copy /imu --copy /tf --storage sqlite3 --out with_features',
    'kpfeat bag extract drive/ --model alike-n --device auto --format h5 --out features.h5',
    'Exit code 0: all done; 2: nothing was written; 3: some images were skipped, or damaged.',
)

app = typer.Typer(help='Features of every image of a recording.', no_args_is_help=True)

RecordingArgument = Annotated[
    Path,
    typer.Argument(help='Folder of rosbag2, or a file that ends in .mcap, .db3, .bag or .zst.'),
]
QuietOption = Annotated[bool, typer.Option('--quiet', '-q', help='Say nothing but errors.')]
JsonOption = Annotated[bool, typer.Option('--json', help='Print the result as JSON.')]


class Format(str, enum.Enum):
    """How features are stored."""

    bag = 'bag'
    npz = 'npz'
    h5 = 'h5'


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


@app.command('info', epilog=INFO_EPILOG)
def info(recording: RecordingArgument, as_json: JsonOption = False) -> None:
    """
    Show what a recording holds: topics, types, counts, rates and times.

    A damaged one is gone through as far as it can be read. A rate is messages a second over the
    whole recording.
    """
    _need_packages()
    from ..bags.reading import BagReader

    reader = BagReader(recording)
    if as_json:
        typer.echo(json.dumps(_described(reader), indent=2))
    else:
        _print_table(reader)
    if reader.damage:
        _tell_damage(reader.damage)
        raise typer.Exit(SOME_FAILED)


@configured({'max_num_keypoints': '--max-keypoints'}, extraction=ExtractorConfig, view=ViewConfig)
def extract(
    recording: RecordingArgument,
    out: Annotated[
        Path,
        typer.Option(
            '--out',
            '-o',
            help='What to write: FILE.mcap, FILE.db3, or a folder with metadata.yaml; with '
            '--format npz a folder, with h5 a file.',
        ),
    ],
    topics: Annotated[
        list[str],
        typer.Option(
            '--topics',
            '-t',
            metavar='TOPIC',
            help='Image topic to take; give it again for more. All of them by default.',
            show_default=False,
        ),
    ] = [],  # noqa: B006 - typer copies it
    start: Annotated[
        str,
        typer.Option(help='Begin here: seconds from the first message, or since 1970.'),
    ] = '',
    end: Annotated[str, typer.Option(help='End before this: seconds as for --start.')] = '',
    stride: Annotated[int, typer.Option(min=1, help='Take every k-th image of a topic.')] = 1,
    format: Annotated[
        Format,
        typer.Option(
            '--format',
            help='bag: messages; npz: a file for each image, CAMERA/STAMP.npz; h5: one file in '
            'the layout of hloc.',
        ),
    ] = Format.bag,
    storage: Annotated[
        Optional[StorageKind],  # noqa: UP045 - typer 0.9 knows no `|`
        typer.Option(help='How a recording is stored; by the name of --out, else mcap.'),
    ] = None,
    copy: Annotated[
        list[str],
        typer.Option(
            '--copy',
            metavar='TOPIC',
            help="Copy a topic of the input; give it again for more, '*' for all.",
            show_default=False,
        ),
    ] = [],  # noqa: B006 - typer copies it
    model: ModelOption = DEFAULT_MODEL,
    weights: WeightsOption = '',
    device: DeviceOption = 'cpu',
    descriptor_type: Annotated[
        DescriptorKind, typer.Option(help='How descriptors are stored in messages.')
    ] = DescriptorKind.float32,
    batch_size: Annotated[
        int,
        typer.Option(
            min=-1, help='Images that go through the network together; -1: 8 on a GPU, else 1.'
        ),
    ] = -1,
    settings: SetOption = [],  # noqa: B006 - typer copies it
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    *,
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
    """
    _need_packages()
    from ..bags.extraction import extract_recording, Extraction
    from ..registry import extractor_config_class

    options = {**extraction, **parse_options(settings, extractor_config_class(model))}
    wanted = Extraction(
        recording,
        out,
        tuple(topics),
        start,
        end,
        stride,
        format.value,
        storage.value if storage else '',
        tuple(copy),
        model,
        weights,
        device,
        options,
        make_config(ViewConfig, view),
        descriptor_type.value,
        batch_size,
    )
    began = time.perf_counter()
    with image_progress('extracting', quiet) as show:
        try:
            report = extract_recording(wanted, on_step=lambda r: show(r.images, r.total))
        except KeyboardInterrupt:
            tell('stopped; the same command goes on from here')
            raise
    seconds = time.perf_counter() - began
    if report.discarded and not quiet:
        tell('what an earlier run left unfinished was of other options or input: thrown away')
    if as_json:
        typer.echo(json.dumps(_summary(report, seconds), indent=2))
    elif not quiet:
        typer.echo(_sentence(report, seconds))
    if not report.complete:
        if not quiet:
            _tell_skipped(report)
        raise typer.Exit(SOME_FAILED)


app.command('extract', help=prose(extract), epilog=EXTRACT_EPILOG)(extract)


def _need_packages() -> None:
    try:
        import mcap
        import rosbags
    except ImportError as error:
        raise DataError(
            f"recordings need {error.name}, which is not installed; pip install 'kpfeat[bags]'"
        ) from None
    del mcap, rosbags


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
    from rich.console import Console
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
        table.add_row(topic.name, topic.msgtype, str(topic.count), rate)
    console = Console(markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 1000  # whole lines for grep and scripts
    console.print(table)


def _summary(report: 'Report', seconds: float) -> dict[str, Any]:
    values = {name: value for name, value in vars(report).items() if name != 'total'}
    values |= {'source': str(report.source), 'out': str(report.out), 'seconds': round(seconds, 3)}
    return values | {'damage': [str(damage) for damage in report.damage]}


def _sentence(report: 'Report', seconds: float) -> str:
    done = report.images - report.resumed
    resumed = f' ({report.resumed} of them by an earlier run)' if report.resumed else ''
    return (
        f'{report.features} of {report.images} images{resumed}, {report.keypoints} keypoints, '
        f'{seconds:.1f} s, {done / max(seconds, 1e-9):.1f} frames/s, written to {report.out}'
    )


def _tell_skipped(report: 'Report') -> None:
    for kind, count in sorted(report.skipped.items()):
        tell(f'skipped {count} of {report.images} images ({kind}): {report.reasons[kind]}')
    _tell_damage(report.damage)


def _tell_damage(damages: list[Any]) -> None:
    for damage in damages:
        tell(f'damaged: {damage}')
