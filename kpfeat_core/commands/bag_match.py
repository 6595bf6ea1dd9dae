"""`kpfeat bag match`: matches between the images of a recording."""

import json
from pathlib import Path
import time
from typing import Annotated, Any, Optional, TYPE_CHECKING

import typer

from .bag_common import (
    EndOption,
    FeaturesOption,
    JsonOption,
    MadeByOption,
    need_packages,
    QuietOption,
    RecordingArgument,
    StartOption,
    StorageKind,
    StrideOption,
    tell_skipped,
    topic_names,
    TopicsOption,
)
from .bag_extract import DescriptorKind
from .common import configured, DeviceOption, examples, SetOption, tell, WeightsOption
from .extract import SOME_FAILED
from .progress import image_progress
from ..bags.match.pairing import PairingConfig
from ..config import (
    DEFAULT_MODEL,
    ExtractorConfig,
    make_config,
    MatcherConfig,
    parse_options,
    ViewConfig,
)

if TYPE_CHECKING:
    from ..bags.match.matching import MatchReport

EPILOG = examples(
    'kpfeat bag match drive/ --out matches.mcap',
    'kpfeat bag match features.mcap --every 5 --geometry fundamental --out matches.mcap',
    'kpfeat bag match drive/ --features features.mcap --keyframes --out matches.mcap',
    "kpfeat bag match drive.bag --model alike-n --copy '*' --out with_matches",
    'Exit code 0: all done; 2: nothing was written; 3: some images were skipped, or damaged.',
)


@configured(
    {'max_num_keypoints': '--max-keypoints'},
    pairing=PairingConfig,
    matching=MatcherConfig,
    extraction=ExtractorConfig,
    view=ViewConfig,
)
def match(
    recording: RecordingArgument,
    out: Annotated[
        Path,
        typer.Option(
            '--out',
            '-o',
            help='What to write: FILE.mcap, FILE.db3, or a folder with metadata.yaml.',
        ),
    ],
    features: FeaturesOption = None,
    topics: TopicsOption = [],  # noqa: B006 - typer copies it
    start: StartOption = '',
    end: EndOption = '',
    stride: StrideOption = 1,
    storage: Annotated[
        Optional[StorageKind],  # noqa: UP045 - typer 0.9 knows no `|`
        typer.Option(help='How the output is stored; by the name of --out, else mcap.'),
    ] = None,
    copy: Annotated[
        list[str],
        typer.Option(
            '--copy',
            metavar='TOPIC,...',
            help="Topics of RECORDING to copy, '*' for all.",
            show_default=False,
        ),
    ] = [],  # noqa: B006 - typer copies it
    model: MadeByOption = '',
    weights: WeightsOption = '',
    device: DeviceOption = 'cpu',
    descriptor_type: Annotated[
        DescriptorKind, typer.Option(help='How descriptors that are made are stored.')
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
    pairing: dict[str, Any],
    matching: dict[str, Any],
    extraction: dict[str, Any],
    view: dict[str, Any],
) -> None:
    """
    Match the images of a recording with the one before, the k-th before, or a keyframe.

    The features are those of --features, else those that RECORDING itself holds, else they are
    made of its images. Recorded features need no images. The output holds them and the matches,
    /left/matches beside /left/features, at the log time of the newer image; --topics names the
    topics of features where they are recorded, and those of images where they are made.

    With --keyframes an image is matched with the keyframe. Where too few of the keyframe's
    keypoints are found again, the image before becomes the next keyframe.

    The output appears when it is complete. A run that was stopped or killed goes on where it was
    when the same command is given again.
    """
    need_packages()
    from ..bags.extraction import Extraction
    from ..bags.match.matching import match_recording, Matching
    from ..registry import extractor_config_class

    parsed = parse_options(settings, extractor_config_class(model or DEFAULT_MODEL))
    images = Extraction(
        source=recording,
        out=out,
        topics=topic_names(topics),
        start=start,
        end=end,
        stride=stride,
        storage=storage.value if storage else '',
        copy=topic_names(copy),
        model=model,
        weights=weights,
        device=device,
        options={**extraction, **parsed},
        view=make_config(ViewConfig, view),
        descriptor_type=descriptor_type.value,
        batch_size=batch_size,
    )
    wanted = Matching(
        images,
        features,
        make_config(PairingConfig, pairing),
        make_config(MatcherConfig, matching),
    )
    began = time.perf_counter()
    with image_progress('matching', quiet) as show:

        def on_step(report: 'MatchReport') -> None:
            if report.discarded and not (quiet or report.images):
                tell('an earlier run left some of other options or input: thrown away')
            show(report.images, report.total)

        try:
            report = match_recording(wanted, on_step=on_step)
        except KeyboardInterrupt:
            tell('stopped; the same command goes on from here')
            raise
    seconds = time.perf_counter() - began
    if as_json:
        typer.echo(json.dumps(_summary(report, seconds), indent=2))
    elif not quiet:
        typer.echo(_sentence(report, seconds, wanted.matcher.geometry))
    if not report.complete:
        if not quiet:
            tell_skipped(report)
        raise typer.Exit(SOME_FAILED)


def _summary(report: 'MatchReport', seconds: float) -> dict[str, Any]:
    values = {k: v for k, v in vars(report).items() if k not in ('total', 'shares')}
    values |= {'source': str(report.source), 'out': str(report.out), 'seconds': round(seconds, 3)}
    values |= {'inlier_share': round(report.inlier_share, 4)}
    return values | {'damage': [str(damage) for damage in report.damage]}


def _sentence(report: 'MatchReport', seconds: float, geometry: str) -> str:
    done = report.images - report.resumed
    resumed = f' ({report.resumed} of them by an earlier run)' if report.resumed else ''
    inliers = f', {report.inliers} inliers (median {100 * report.inlier_share:.0f} % of a pair)'
    return (
        f'{report.pairs} pairs of {report.images} images{resumed}, {report.matches} matches'
        f'{inliers if geometry != "none" else ""}'
        f'{_keyframes(report.keyframes)}, '
        f'{seconds:.1f} s, {done / max(seconds, 1e-9):.1f} frames/s, written to {report.out}'
    )


def _keyframes(count: int) -> str:
    return f', {count} {"keyframe" if count == 1 else "keyframes"}' if count else ''
