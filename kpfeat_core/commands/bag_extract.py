"""`kpfeat bag extract`: the features of every image of a recording."""

import enum
import json
from pathlib import Path
import time
from typing import Annotated, Any, Optional, TYPE_CHECKING

import typer

from .bag_common import (
    EndOption,
    JsonOption,
    need_packages,
    QuietOption,
    StartOption,
    StorageKind,
    StrideOption,
    tell_skipped,
    topic_names,
    TopicsOption,
)
from .bag_fleet import (
    AddressOption,
    ByPartOption,
    cluster_config,
    ClusterOption,
    CpusOption,
    extract_several,
    GpusOption,
    VerifyOption,
)
from .bag_render import check_drawing, draw_extracted
from .common import (
    configured,
    DeviceOption,
    examples,
    ModelOption,
    SetOption,
    tell,
    WeightsOption,
)
from .extract import SOME_FAILED
from .progress import image_progress
from ..config import DEFAULT_MODEL, ExtractorConfig, make_config, parse_options, ViewConfig

if TYPE_CHECKING:
    from ..bags.extraction import Extraction, Report

EPILOG = examples(
    'kpfeat bag extract drive/ --out features.mcap',
    'kpfeat bag extract drive.bag --topics /left/image_raw --start 10 --end 25 --out left.mcap',
    'kpfeat bag extract drive/ --copy /imu,/tf --storage sqlite3 --out with_features',
    'kpfeat bag extract drive/ --annotations --copy /camera/image_raw --out d.mcap --video d.mp4',
    'kpfeat bag extract drive/ --model alike-n --device auto --format h5 --out features.h5',
    'kpfeat bag extract drive/ --format colmap --pictures --out drive.db',
    'kpfeat bag extract drive/ --format rtabmap --depth /depth/image --out rtabmap.mcap',
    "kpfeat bag extract fleet/ 'depot/*/camera*' --out features",
    'kpfeat bag extract fleet/ --cluster --device cuda --gpus-per-task 0.5 --out features',
    'Exit code 0: all done; 2: nothing was written; 3: some images were skipped, or damaged, or '
    'a part failed.',
)


class Format(str, enum.Enum):
    """How features are stored."""

    bag = 'bag'
    npz = 'npz'
    h5 = 'h5'
    colmap = 'colmap'
    rtabmap = 'rtabmap'


class DescriptorKind(str, enum.Enum):
    """How the numbers of a descriptor are stored."""

    float32 = 'float32'
    float16 = 'float16'
    int8 = 'int8'
    binary = 'binary'


@configured({'max_num_keypoints': '--max-keypoints'}, extraction=ExtractorConfig, view=ViewConfig)
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
    topics: TopicsOption = [],  # noqa: B006 - typer copies it
    start: StartOption = '',
    end: EndOption = '',
    stride: StrideOption = 1,
    format: Annotated[
        Format,
        typer.Option(
            '--format',
            help='bag: messages; npz: a file for each image, CAMERA/STAMP.npz; h5: one file in '
            'the layout of hloc; colmap: a database of COLMAP, to be matched by it; rtabmap: '
            'messages RGBDImage, of images with their features.',
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
            metavar='TOPIC,...',
            help="Topics of the input to copy, '*' for all.",
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
    annotations: Annotated[
        bool,
        typer.Option(
            '--annotations',
            help='With the format bag: keypoints to be shown by Foxglove over the images as well, '
            'on image_annotations beside features.',
        ),
    ] = False,
    pictures: Annotated[
        bool,
        typer.Option(
            '--pictures', help='With the format colmap: write the images too, to OUT.images.'
        ),
    ] = False,
    depth: Annotated[
        str,
        typer.Option(
            metavar='TOPIC',
            help='With the format rtabmap: depth images in the pixels of the images.',
            show_default=False,
        ),
    ] = '',
    video: Annotated[
        Optional[Path],  # noqa: UP045 - typer 0.9 knows no `|`
        typer.Option(
            metavar='FILE.mp4',
            help='With the format bag: draw what was found, as `kpfeat bag render` does.',
            show_default=False,
        ),
    ] = None,
    settings: SetOption = [],  # noqa: B006 - typer copies it
    by_part: ByPartOption = False,
    verify: VerifyOption = False,
    cluster: ClusterOption = False,
    address: AddressOption = '',
    cpus_per_task: CpusOption = -1,
    gpus_per_task: GpusOption = -1,
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

    Several recordings are taken part by part, which is file by file: OUT/NAME/PART, where NAME is
    the path of the recording below the folder that all have in common. --start and --end count
    from the start of each recording, --stride within each part. OUT/manifest.json tells of every
    part: input and output with size and SHA-256, settings, counts, or why it failed. The same
    command again does what is missing, failed or changed, and nothing else; a part that fails
    never stops the others. With --cluster the parts are done at the same time, by one machine or
    many, with the same result.
    """
    need_packages()
    from ..bags.extraction import Extraction
    from ..bags.fleet.parts import single_recording
    from ..registry import extractor_config_class

    options = {**extraction, **parse_options(settings, extractor_config_class(model))}
    wanted = Extraction(
        recordings[0],
        out,
        topic_names(topics),
        start,
        end,
        stride,
        format.value,
        storage.value if storage else '',
        topic_names(copy),
        model,
        weights,
        device,
        options,
        make_config(ViewConfig, view),
        descriptor_type.value,
        batch_size,
        annotations,
        pictures,
        depth,
    )
    tasks = cluster_config(cluster, address, gpus_per_task)
    several = by_part or verify or cluster or not single_recording(recordings, out)
    if video:
        check_drawing(video, wanted, several)
    if several:
        extract_several(recordings, wanted, tasks, cpus_per_task, verify, quiet, as_json)
    else:
        _extract_one(wanted, video, quiet, as_json)


def _extract_one(wanted: 'Extraction', video: Path | None, quiet: bool, as_json: bool) -> None:
    from ..bags.extraction import extract_recording

    began = time.perf_counter()
    with image_progress('extracting', quiet) as show:

        def on_step(report: 'Report') -> None:
            if report.discarded and not (quiet or report.images):
                tell('an earlier run left some of other options or input: thrown away')
            show(report.images, report.total)

        try:
            report = extract_recording(wanted, on_step=on_step)
        except KeyboardInterrupt:
            tell('stopped; the same command goes on from here')
            raise
    seconds = time.perf_counter() - began
    if as_json:
        typer.echo(json.dumps(_summary(report, seconds), indent=2))
    elif not quiet:
        typer.echo(_sentence(report, seconds))
    if video:
        draw_extracted(video, wanted, quiet or as_json)
    if not report.complete:
        if not quiet:
            tell_skipped(report)
        raise typer.Exit(SOME_FAILED)


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
