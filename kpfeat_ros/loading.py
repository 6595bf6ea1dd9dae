"""Loading and freeing of what the nodes run, so that node files need neither torch nor NumPy."""

from contextlib import suppress
import ctypes
import dataclasses
import gc
from typing import Any, TYPE_CHECKING

from kpfeat_core.errors import ConfigError
from kpfeat_core.image_sources import parse_size
from kpfeat_core.registry import check_device, create_extractor
from kpfeat_core.weights import find_weights
import numpy as np
import torch

from .options import ExtractorNodeOptions

if TYPE_CHECKING:
    from kpfeat_core.models.base import Extractor


def load_extractor(options: ExtractorNodeOptions, config: Any) -> 'Extractor':
    """
    Build the extractor and run it once, so that the first image is not the slow one.

    config: the model's own configuration.

    Raises ConfigError and WeightsError.
    """
    width, height = _expected_size(options.warm_up_size)
    try:
        extractor = create_extractor(
            options.model, options.weights, options.device, **dataclasses.asdict(config)
        )
        extractor.extract(np.zeros((height, width), np.uint8))
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"device '{options.device}' has too little memory for {options.model} on "
            f'{options.warm_up_size} images: end what else uses it, choose a smaller model, set '
            'resize or warm_up_size, or use device cpu'
        ) from error
    return extractor


def check_loadable(options: ExtractorNodeOptions) -> None:
    """
    Raise for what is known to fail before anything is loaded.

    Raises ConfigError for a device that is not there, WeightsError where no weights are found.
    """
    check_device(options.device)
    find_weights(options.model, options.weights)


def _expected_size(text: str) -> tuple[int, int]:
    with suppress(ConfigError):
        size = parse_size(text)
        if size:
            return size
    raise ConfigError(
        f"warm_up_size is '{text}', expected WIDTHxHEIGHT of at least 32x32, such as 640x480"
    )


def release_memory() -> None:
    """
    Give back what nothing refers to any more, on the GPU too.

    glibc keeps what was freed for the process, 50 to 120 MiB after a small network has run.
    """
    gc.collect()  # modules refer to each other in circles
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with suppress(AttributeError, OSError, TypeError):  # another libc has no such function
        ctypes.CDLL(None).malloc_trim(0)
