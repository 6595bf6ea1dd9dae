"""`kpfeat bag match`: matches between the images of a recording."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .bag_common import (
    CODES,
    finish,
    FLAGS,
    JsonOption,
    make_request,
    need_packages,
    on_images,
    print_report,
    QuietOption,
    RecordingArgument,
)
from .common import configured, examples, SetOption
from ..bags.request import MatchRequest, PairingConfig
from ..config import ExtractorConfig, make_config, MatcherConfig, ViewConfig

EPILOG = examples(
    'kpfeat bag match drive/ --out matches.mcap',
    'kpfeat bag match features.mcap --every 5 --geometry fundamental --out matches.mcap',
    'kpfeat bag match drive/ --features features.mcap --keyframes --out matches.mcap',
    "kpfeat bag match drive.bag --model alike-n --copy '*' --out with_matches",
    CODES,
)


@configured(
    FLAGS,
    request=MatchRequest,
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
    settings: SetOption = [],  # noqa: B006 - typer copies it
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    *,
    request: dict[str, Any],
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
    from ..bags.match import match_recording

    wanted = make_request(
        MatchRequest,
        recording,
        request,
        settings,
        extraction,
        view,
        out=out,
        pairing=make_config(PairingConfig, pairing),
        matcher=make_config(MatcherConfig, matching),
    )
    report, seconds = on_images(
        'matching', quiet, lambda show: match_recording(wanted, on_image=show), resumes=True
    )
    print_report(report, seconds, [out], quiet, as_json)
    finish(report, quiet)
