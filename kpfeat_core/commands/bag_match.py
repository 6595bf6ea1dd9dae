"""`kpfeat bag match`: matches between the images of a recording."""

from pathlib import Path
from typing import Annotated, Any, TYPE_CHECKING

import typer

from .bag_common import (
    BatchSizeOption,
    CopyOption,
    described,
    DescriptorKind,
    DescriptorTypeOption,
    earlier,
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
    StorageOption,
    StrideOption,
    topic_names,
    TopicsOption,
    wanted_images,
)
from .common import configured, DeviceOption, examples, SetOption, WeightsOption
from ..bags.match_steps import PairingConfig
from ..config import ExtractorConfig, make_config, MatcherConfig, ViewConfig

if TYPE_CHECKING:
    from ..bags.match import MatchReport

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
    storage: StorageOption = None,
    copy: CopyOption = [],  # noqa: B006 - typer copies it
    model: MadeByOption = '',
    weights: WeightsOption = '',
    device: DeviceOption = 'cpu',
    descriptor_type: DescriptorTypeOption = DescriptorKind.float32,
    batch_size: BatchSizeOption = -1,
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
    from ..bags.match import match_recording, Matching

    images = wanted_images(
        recording,
        model,
        settings,
        extraction,
        view,
        out,
        topics=topic_names(topics),
        start=start,
        end=end,
        stride=stride,
        storage=storage.value if storage else '',
        copy=topic_names(copy),
        weights=weights,
        device=device,
        descriptor_type=descriptor_type.value,
        batch_size=batch_size,
    )
    wanted = Matching(
        images,
        features,
        make_config(PairingConfig, pairing),
        make_config(MatcherConfig, matching),
    )
    report, seconds = on_images(
        'matching', quiet, lambda show: match_recording(wanted, on_step=show), resumes=True
    )
    values = described(report, seconds, 'shares')
    values['inlier_share'] = round(report.inlier_share, 4)
    sentence = _sentence(report, seconds, wanted.matcher.geometry)
    print_result(values, sentence, quiet, as_json)
    finish(report, quiet)


def _sentence(report: 'MatchReport', seconds: float, geometry: str) -> str:
    inliers = f', {report.inliers} inliers (median {100 * report.inlier_share:.0f} % of a pair)'
    return (
        f'{report.pairs} pairs of {report.images} images{earlier(report.resumed)}, '
        f'{report.matches} matches{inliers if geometry != "none" else ""}'
        f'{_keyframes(report.keyframes)}, {pace(report.images - report.resumed, seconds)}, '
        f'written to {report.out}'
    )


def _keyframes(count: int) -> str:
    return f', {count} {"keyframe" if count == 1 else "keyframes"}' if count else ''
