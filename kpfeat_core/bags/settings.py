"""What results depend on, as plain values: a journal of other settings is of no use."""

from dataclasses import asdict
import hashlib
from pathlib import Path
from typing import Any, TYPE_CHECKING

import cv2
import torch

from .reader import BagReader
from ..config import ViewConfig

if TYPE_CHECKING:
    from ..models.base import Extractor


def settings_of_input(reader: BagReader) -> dict[str, Any]:
    """Return what tells one state of a recording from another."""
    known = [(file.name, file.stat()) for file in reader.recording.files]
    return {'files': [[name, stat.st_size, stat.st_mtime_ns] for name, stat in known]}


def settings_of_model(name: str, extractor: 'Extractor') -> dict[str, Any]:
    """Return what features depend on beside the images."""
    from .. import __version__

    return {
        'versions': [__version__, torch.__version__, cv2.__version__],
        'model': [name, asdict(extractor.config), _digest(extractor)],
        'device': str(extractor.device),
    }


def settings_of_view(config: ViewConfig) -> dict[str, Any]:
    """Return how images are looked at, with the content of the files that are named."""
    view = asdict(config)
    for name in ('mask', 'calibration_file'):
        view[name] = view[name] and hashlib.sha256(Path(view[name]).read_bytes()).hexdigest()
    return {'view': view}


def _digest(extractor: 'Extractor') -> str:
    """Hash the weights."""
    total = hashlib.sha256()
    networks = [extractor.network, *(network for network, _ in extractor.submodules().values())]
    for network in networks:
        for name, tensor in sorted(network.state_dict().items()):
            total.update(name.encode())
            total.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy())
    return total.hexdigest()
