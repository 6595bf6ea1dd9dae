"""What the verbs of `kpfeat bag` share."""

from collections.abc import Mapping, Sequence
import enum
from pathlib import Path
from typing import Annotated, Any, Optional, TYPE_CHECKING

import typer

from .common import tell
from ..config import DEFAULT_MODEL, make_config, parse_options, ViewConfig
from ..errors import DataError

if TYPE_CHECKING:
    from ..bags.extraction import Extraction, Report

RecordingArgument = Annotated[
    Path,
    typer.Argument(help='Folder of rosbag2, or a file that ends in .mcap, .db3, .bag or .zst.'),
]
FeaturesOption = Annotated[
    Optional[Path],  # noqa: UP045 - typer 0.9 knows no `|`
    typer.Option(
        '--features',
        '-f',
        help='Recording that holds the features, as `kpfeat bag extract` writes it.',
    ),
]
TopicsOption = Annotated[
    list[str],
    typer.Option(
        '--topics',
        '-t',
        metavar='TOPIC,...',
        help='Topics to take; all of them by default.',
        show_default=False,
    ),
]
StartOption = Annotated[
    str,
    typer.Option(help='Begin here: seconds from the first message, or since 1970.'),
]
EndOption = Annotated[str, typer.Option(help='End before this: seconds as for --start.')]
StrideOption = Annotated[int, typer.Option(min=1, help='Take every k-th image of a topic.')]
MadeByOption = Annotated[
    str,
    typer.Option(
        '--model',
        help='Model that makes the features; by default the recorded ones are taken, and '
        f'{DEFAULT_MODEL} where there are none.',
        show_default=False,
    ),
]
QuietOption = Annotated[bool, typer.Option('--quiet', '-q', help='Say nothing but errors.')]
JsonOption = Annotated[bool, typer.Option('--json', help='Print the result as JSON.')]


class StorageKind(str, enum.Enum):
    """How a recording is stored."""

    mcap = 'mcap'
    sqlite3 = 'sqlite3'


def need_packages() -> None:
    """Raise DataError where what reads recordings is not installed."""
    try:
        import mcap
        import rosbags
    except ImportError as error:
        raise DataError(
            f"recordings need {error.name}, which is not installed; pip install 'kpfeat[bags]'"
        ) from None
    del mcap, rosbags


def topic_names(words: Sequence[str]) -> tuple[str, ...]:
    """Return the names of topics that were given one by one, or with commas between them."""
    return tuple(name.strip() for word in words for name in word.split(',') if name.strip())


def wanted_images(
    recording: Path,
    topics: Sequence[str],
    span: tuple[str, str, int],
    model: tuple[str, str, str],
    settings: Sequence[str],
    extraction: Mapping[str, Any],
    view: Mapping[str, Any],
) -> 'Extraction':
    """
    Return which images are meant, and what makes their features, for `Sights`.

    span: start, end and stride. model: its name, '' for recorded features; weights and device.
    """
    from ..bags.extraction import Extraction
    from ..registry import extractor_config_class

    name, weights, device = model
    options = {
        **extraction,
        **parse_options(settings, extractor_config_class(name or DEFAULT_MODEL)),
    }
    return Extraction(
        recording,
        Path(),  # nothing is extracted to a file
        topic_names(topics),
        *span,
        model=name,
        weights=weights,
        device=device,
        options=options,
        view=make_config(ViewConfig, view),
    )


def tell_skipped(report: 'Report') -> None:
    """Say on stderr which images were not used, and what of a recording could not be read."""
    for kind, count in sorted(report.skipped.items()):
        tell(f'skipped {count} of {report.images} images ({kind}): {report.reasons[kind]}')
    tell_damage(report.damage)


def tell_damage(damages: Sequence[Any]) -> None:
    """Say on stderr what of a recording could not be read."""
    for damage in damages:
        tell(f'damaged: {damage}')
