"""Loading, running and freeing networks, so that node files need neither torch nor NumPy."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
import ctypes
import dataclasses
from functools import partial
import gc
import time
import traceback
from typing import Any, TYPE_CHECKING

from kpfeat_core.errors import ConfigError
from kpfeat_core.factory import check_device, create_extractor
from kpfeat_core.features import Features
from kpfeat_core.sources import parse_size
from kpfeat_core.weights.files import find_weights
import numpy as np
import torch

from .options import ModelOptions
from .sharing import network_key, share

if TYPE_CHECKING:
    from kpfeat_core.models.base import Extractor

LINGERS_S = 2.0


class OutOfMemoryError(ConfigError):
    """A GPU that has too little memory."""

    kind = 'out_of_memory'


def load_extractor(options: ModelOptions, config: Any) -> 'Extractor':
    """
    Return the extractor, run once, so that the first image is not the slow one.

    Nodes of one process share a network. config: the model's own configuration.

    Raises ConfigError, its OutOfMemoryError, and WeightsError.
    """
    # In a thread that ends with it: each thread that has run a network keeps helpers of its own,
    # and where these are more than the cores, OpenMP lets them sleep after every layer. That made
    # an image of 640x480 take 49 ms instead of 36 on two cores.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_load, options, config).result()


def _load(options: ModelOptions, config: Any) -> 'Extractor':
    width, height = _expected_size(options.warm_up_size)
    values = dataclasses.asdict(config)
    build = partial(create_extractor, options.model, options.weights, options.device, **values)
    try:
        key = network_key(options.model, options.weights, options.device, config)
        extractor = share(key, build, **values)
    except torch.OutOfMemoryError as error:
        raise _out_of_memory(error, options.model, options.device, 'its weights') from error
    extract(extractor, [np.zeros((height, width), np.uint8)])
    return extractor


def extract(
    extractor: 'Extractor', images: list[np.ndarray], masks: list[np.ndarray | None] | None = None
) -> list[Features]:
    """
    Return the features of each image, a batch of one; raises OutOfMemoryError.

    images: (H, W) or (H, W, 3); masks: (H, W) bool, or None for all of an image.
    """
    try:
        features = extractor.extract(images, masks)
    except torch.OutOfMemoryError as error:
        height, width = images[0].shape[:2]
        what = f'{len(images)} image(s) of {width}x{height}'
        raise _out_of_memory(error, extractor.name, extractor.device, what) from error
    return [features.select(b) for b in range(len(images))]


def _out_of_memory(error: Exception, model: str, device: Any, what: str) -> OutOfMemoryError:
    traceback.clear_frames(error.__traceback__)  # their tensors: who catches it needs the memory
    return OutOfMemoryError(
        f"device '{device}' has too little memory for {model} on {what}: end what else uses it, "
        'choose a smaller model, set resize, binning or a smaller batch_size or warm_up_size, use '
        'device cpu, or set on_out_of_memory to cpu'
    )


def check_loadable(options: ModelOptions) -> None:
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


def release_memory(there: Callable[[], object] = lambda: None) -> None:
    """
    Give back what nothing refers to any more, on the GPU too.

    there: returns what is to go, such as a node that an executor may still hold for a moment; it
    is waited for, not long. glibc keeps what was freed for the process, 50 to 120 MiB after a
    small network has run.
    """
    gc.collect()  # modules refer to each other in circles
    end = time.monotonic() + LINGERS_S
    while there() is not None and time.monotonic() < end:
        time.sleep(0.05)
        gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with suppress(AttributeError, OSError, TypeError):  # another libc has no such function
        ctypes.CDLL(None).malloc_trim(0)
