"""`kpfeat bag render`: a video and a contact sheet of a recording."""

from pathlib import Path
from typing import Annotated, Any, Optional, TYPE_CHECKING

import typer

from .bag_common import (
    check_ending,
    described,
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
    StrideOption,
    topic_names,
    TopicsOption,
    wanted_images,
)
from .common import configured, DeviceOption, examples, SetOption, tell, WeightsOption
from ..bags.render import RenderConfig
from ..config import ExtractorConfig, make_config, MatcherConfig, ViewConfig
from ..errors import DataError

if TYPE_CHECKING:
    from ..bags.extract import Extraction
    from ..bags.render import RenderReport

EPILOG = examples(
    'kpfeat bag render drive/ --out drive.mp4',
    'kpfeat bag render drive/ --features features.mcap --show matches --out drive.mp4',
    'kpfeat bag render drive/ --start 10 --end 25 --speed 0.25 --out slowly.mp4',
    'kpfeat bag render drive/ --sheet drive.png --tiles 20',
    'Exit code 0: all done; 2: nothing was written; 3: some images were skipped, or damaged.',
)
VIDEOS = ('.mp4',)
SHEETS = ('.png', '.jpg', '.jpeg')


@configured(
    {'max_num_keypoints': '--max-keypoints'},
    rendering=RenderConfig,
    matching=MatcherConfig,
    extraction=ExtractorConfig,
    view=ViewConfig,
)
def render(
    recording: RecordingArgument,
    out: Annotated[
        Optional[Path],  # noqa: UP045 - typer 0.9 knows no `|`
        typer.Option('--out', '-o', metavar='FILE.mp4', help='Video to write.'),
    ] = None,
    sheet: Annotated[
        Optional[Path],  # noqa: UP045 - typer 0.9 knows no `|`
        typer.Option('--sheet', metavar='FILE.png|jpg', help='Contact sheet to write.'),
    ] = None,
    features: FeaturesOption = None,
    topics: TopicsOption = [],  # noqa: B006 - typer copies it
    start: StartOption = '',
    end: EndOption = '',
    stride: StrideOption = 1,
    model: MadeByOption = '',
    weights: WeightsOption = '',
    device: DeviceOption = 'cpu',
    settings: SetOption = [],  # noqa: B006 - typer copies it
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    *,
    rendering: dict[str, Any],
    matching: dict[str, Any],
    extraction: dict[str, Any],
    view: dict[str, Any],
) -> None:
    """
    Draw keypoints, their tracks or their matches over the images of a recording.

    The video shows each image from its log time until the next one, gaps as they were; below it
    stand the seconds from the first message, as --start takes them, the number of the image, and
    counts. A sheet shows some images, spread evenly; without --out only about those are worked
    on. Of several image topics each has files of its own: drive.left.mp4 for /left/features.

    The features are those of --features, else those that RECORDING itself holds, else they are
    made of its images. The files appear when they are complete; the same input and options give
    the same bytes.
    """
    need_packages()
    _check_names(out, sheet)
    from ..bags.render import render_recording

    wanted = wanted_images(
        recording,
        model,
        settings,
        extraction,
        view,
        topics=topic_names(topics),
        start=start,
        end=end,
        stride=stride,
        weights=weights,
        device=device,
    )
    report, seconds = on_images(
        'drawing',
        quiet,
        lambda show: render_recording(
            wanted,
            out,
            sheet,
            features,
            make_config(RenderConfig, rendering),
            make_config(MatcherConfig, matching),
            on_image=show,
        ),
    )
    if report.codec and not report.is_h264 and not quiet:
        tell(f'PyAV has no encoder for H.264 here: {report.codec}, which browsers do not play')
    values = described(report, seconds, 'out', 'resumed', 'discarded', 'copied')
    values['files'] = [str(file) for file in report.files]
    print_result(values, _sentence(report, seconds), quiet, as_json)
    finish(report, quiet)


def check_drawing(video: Path, wanted: 'Extraction', several: bool) -> None:
    """Raise DataError where `draw_extracted` could not draw what will be written."""
    if several or wanted.format != 'bag':
        raise DataError('--video goes with one recording and the format bag; see bag render')
    from ..bags.render import check_extraction

    check_ending('--video', video, VIDEOS)
    check_extraction(wanted)


def draw_extracted(video: Path, wanted: 'Extraction', quiet: bool) -> None:
    """Make a video of features that were just written."""
    from ..bags.render import render_extracted

    report, _ = on_images('drawing', quiet, lambda show: render_extracted(wanted, video, show))
    if not quiet:
        typer.echo(f'drawn to {", ".join(map(str, report.files))}')


def _check_names(out: Path | None, sheet: Path | None) -> None:
    if not (out or sheet):
        raise DataError('there is nothing to write; give --out FILE.mp4, --sheet FILE.png or both')
    if out:
        check_ending('--out', out, VIDEOS)
    if sheet:
        check_ending('--sheet', sheet, SHEETS)


def _sentence(report: 'RenderReport', seconds: float) -> str:
    return (
        f'{report.features} of {report.images} images, {report.keypoints} keypoints, '
        f'{pace(report.images, seconds)}, written to {", ".join(map(str, report.files))}'
    )
