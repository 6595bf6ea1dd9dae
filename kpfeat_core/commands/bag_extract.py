"""`kpfeat bag extract`: the features of every image of a recording, or of many."""

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from .bag_batch import extract_several
from .bag_common import (
    finish,
    FLAGS,
    JsonOption,
    make_request,
    need_packages,
    on_images,
    print_report,
    QuietOption,
)
from .bag_show import check_drawing, draw_extracted
from .common import configured, examples, SetOption
from ..bags.request import ExtractRequest
from ..config import ExtractorConfig, ViewConfig

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
