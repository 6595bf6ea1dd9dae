"""What the verbs of `kpfeat bag` share."""

from collections.abc import Sequence
import enum
from pathlib import Path
from typing import Annotated, Any

import typer

from .common import tell
from ..errors import DataError

RecordingArgument = Annotated[
    Path,
    typer.Argument(help='Folder of rosbag2, or a file that ends in .mcap, .db3, .bag or .zst.'),
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


def tell_damage(damages: Sequence[Any]) -> None:
    """Say on stderr what of a recording could not be read."""
    for damage in damages:
        tell(f'damaged: {damage}')
