"""`kpfeat bag extract`: the features of every image of a recording."""

import enum
from pathlib import Path
from typing import Annotated, Any, Optional, TYPE_CHECKING

import typer

from .bag_common import (
    BatchSizeOption,
    CopyOption,
    described,
    DescriptorKind,
    DescriptorTypeOption,
    earlier,
    EndOption,
    finish,
    JsonOption,
    need_packages,
    on_images,
    pace,
    print_result,
    QuietOption,
    StartOption,
    StorageOption,
    StrideOption,
    topic_names,
    TopicsOption,
    wanted_images,
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
    WeightsOption,
)
from ..config import DEFAULT_MODEL, ExtractorConfig, ViewConfig

if TYPE_CHECKING:
    from ..bags.extract import Extraction, Report

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
    storage: StorageOption = None,
    copy: CopyOption = [],  # noqa: B006 - typer copies it
    model: ModelOption = DEFAULT_MODEL,
    weights: WeightsOption = '',
    device: DeviceOption = 'cpu',
    descriptor_type: DescriptorTypeOption = DescriptorKind.float32,
    batch_size: BatchSizeOption = -1,
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
    from ..bags.parts import single_recording

    wanted = wanted_images(
        recordings[0],
        model,
        settings,
        extraction,
        view,
        out,
        topics=topic_names(topics),
        start=start,
        end=end,
        stride=stride,
        format=format.value,
        storage=storage.value if storage else '',
        copy=topic_names(copy),
        weights=weights,
        device=device,
        descriptor_type=descriptor_type.value,
        batch_size=batch_size,
        annotations=annotations,
        pictures=pictures,
        depth=depth,
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
    from ..bags.extract import extract_recording

    report, seconds = on_images(
        'extracting', quiet, lambda show: extract_recording(wanted, on_step=show), resumes=True
    )
    print_result(described(report, seconds), _sentence(report, seconds), quiet, as_json)
    if video:
        draw_extracted(video, wanted, quiet or as_json)
    finish(report, quiet)


def _sentence(report: 'Report', seconds: float) -> str:
    return (
        f'{report.features} of {report.images} images{earlier(report.resumed)}, '
        f'{report.keypoints} keypoints, {pace(report.images - report.resumed, seconds)}, '
        f'written to {report.out}'
    )
