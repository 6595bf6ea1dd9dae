"""
The network of a node: loaded, exchanged while the node works, shared by the nodes of a process.

A network that several nodes use is loaded once, and freed with the last of them.
"""

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
import ctypes
import dataclasses
from dataclasses import dataclass, fields, replace
from functools import partial
import gc
import threading
import time
import traceback
from typing import Any, NamedTuple, TYPE_CHECKING
from weakref import WeakValueDictionary

from kpfeat_core.errors import ConfigError
from kpfeat_core.factory import check_device, create_extractor
from kpfeat_core.features import Features
from kpfeat_core.registry import extractor_config_class, extractor_names
from kpfeat_core.sources import parse_size
from kpfeat_core.weights.files import find_weights
import numpy as np
from rclpy.parameter import Parameter
import torch

from .lifecycle import explain
from .options import ModelOptions
from .worker import Background

if TYPE_CHECKING:
    from kpfeat_core.models.base import Extractor

    from .node import KpfeatNode


LINGERS_S = 2.0  # how long a freed node may still be held by its executor


class OutOfMemoryError(ConfigError):
    """A GPU that has too little memory."""

    kind = 'out_of_memory'


class LoadedNetwork(NamedTuple):
    """A network, and why it is on the CPU instead of where it was asked for, if it is."""

    extractor: Any
    shortage: str = ''


@dataclass(eq=False)
class _Shared:
    extractor: 'Extractor'


_lock = threading.RLock()
_known: WeakValueDictionary[Hashable, _Shared] = WeakValueDictionary()


def network_key(model: str, weights: str, device: str, config: Any) -> Hashable:
    """
    Return the key of a network: two extractors with the same key share it.

    It holds the model, the weight file and when it was written, the device, and all options that
    cannot change while a node runs. Raises ConfigError and WeightsError.
    """
    file = find_weights(model, weights)
    shaping = tuple(
        (field.name, getattr(config, field.name))
        for field in fields(config)
        if not field.metadata['live']
    )
    return model, str(file), file.stat().st_mtime_ns, str(check_device(device)), shaping


def share(key: Hashable, build: Callable[[], 'Extractor'], **options: Any) -> 'Extractor':
    """
    Return an extractor with these options and the network of this key; built if nobody has it.

    The network lives as long as an extractor that was returned here, or made from one.
    """
    with _lock:
        shared = _known.get(key)
        if shared is None:
            _known[key] = shared = _Shared(build())
        extractor = shared.extractor.with_options(**options)
        extractor.shared = shared  # `with_options` passes it on
        return extractor


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
        return pool.submit(_build_and_load, options, config).result()


def _build_and_load(options: ModelOptions, config: Any) -> 'Extractor':
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
    Raise where loading is known to fail, before anything is loaded.

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
    Give back memory that nothing refers to any more, on the GPU too.

    there: returns an object that is to go, such as a node that an executor may hold for a moment
    longer; it is waited for, not long. glibc keeps freed memory for the process, 50 to 120 MiB
    after a small network has run.
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


class ModelManager:
    """
    The model of a node, with its parameters, which may change while it works.

    Another model, weights or device is loaded beside the one at work, which it replaces between
    two images; where that fails the old one goes on and the parameters are put back. Where a GPU
    has too little memory the CPU goes on, if `on_out_of_memory` says so.

    `extract` may be called from any thread, all else from the executor's.
    """

    def __init__(self, node: 'KpfeatNode') -> None:
        self._node, self._parameters = node, node.parameters
        self.extractor: Any = None
        self.options: ModelOptions | None = None  # of the model at work
        self._config_class: type | None = None  # of the model whose options are declared
        self._wanted: ModelOptions | None = None  # the model that is being loaded
        self._loader: Background | None = None
        self._trouble: dict[str, str] = {}  # sentences by kind

    def declare(self) -> None:
        """Declare which model it is, and the options of that."""
        self._parameters.declare(ModelOptions, {'model': extractor_names()})
        with suppress(ConfigError):  # there is no such model: load raises that
            self._declare_options_of(self._node.get_parameter('model').value)

    def load(self) -> None:
        """Load the network and run it once; raises ConfigError and WeightsError."""
        self.options = self._parameters.read(ModelOptions, self._use_options)
        config_class = self._declare_options_of(self.options.model)
        config = self._parameters.read(config_class, self._use_config)
        self._take(_load((self.options, config)))
        self._loader = Background(self._node, _load, self._switch)

    def close(self) -> None:
        """Free the network; the second time does nothing."""
        if self._loader:
            self._loader.close()
        self._loader = self._wanted = self.options = self.extractor = None
        self._trouble.clear()
        release_memory()

    def extract(self, images: Sequence[Any], masks: Sequence[Any]) -> tuple[str, list[Any]]:
        """
        Return the name of the model, and the features of each image.

        Raises OutOfMemoryError, and the errors of `Extractor.extract`.
        """
        with self._parameters.lock:
            extractor, options = self.extractor, self.options
        try:
            return options.model, extract(extractor, images, masks)
        except OutOfMemoryError as error:
            may_move = options.on_out_of_memory == 'cpu' and str(extractor.device) != 'cpu'
            if len(images) > 1 or not may_move:
                raise
            shortage = str(error)
        on_cpu = load_extractor(replace(options, device='cpu'), extractor.config)
        with self._parameters.lock:
            if self.extractor is extractor:  # else another has come meanwhile
                self._take(LoadedNetwork(on_cpu, shortage))
        del extractor
        release_memory()
        return options.model, extract(on_cpu, images, masks)

    def settings(self) -> dict[str, str]:
        """Return values for diagnostics: the model, its device, and the trouble it is in."""
        values = {'model': self.options.model, 'device': str(self.extractor.device)}
        if self._wanted:
            values['loading'] = self._wanted.model
        return values | self._trouble

    def _declare_options_of(self, model: str) -> type:
        before, self._config_class = self._config_class, extractor_config_class(model)
        if before is not self._config_class:
            self._parameters.exchange(before, self._config_class)
        return self._config_class

    def _use_options(self, options: ModelOptions) -> None:
        running = _source(self.options)
        if _source(options) == running:
            self._wanted = None
        elif self._wanted is None or _source(options) != _source(self._wanted):
            config_class = extractor_config_class(options.model)
            config = self._parameters.carried(self._config_class, config_class)
            check_loadable(options)
            self._wanted = options
            self._loader.submit((options, config))
        self.options = replace(options, **running)

    def _use_config(self, config: Any) -> None:
        self.extractor = self.extractor.with_options(**vars(config))

    def _switch(self, request: Any, loaded: LoadedNetwork, error: Exception | None) -> None:
        """Take over what was loaded beside the work, unless something else is wanted by now."""
        options, _ = request
        if options is not self._wanted:
            return
        self._wanted = None
        try:
            if error:
                raise error
            before, after = self._config_class, extractor_config_class(options.model)
            with self._parameters.lock:
                config = self._parameters.switch(before, after, self._use_config)
                extractor = loaded.extractor.with_options(**vars(config))
                self.options = replace(self.options, **_source(options))
                self._config_class = after
                self._take(loaded._replace(extractor=extractor))
        except Exception as trouble:
            self._stay(options, trouble)
        else:
            self._trouble.pop('switch_failed', None)
            release_memory()

    def _take(self, loaded: LoadedNetwork) -> None:
        """Work with a network from now on, and log it."""
        self.extractor = loaded.extractor
        self._trouble.pop('out_of_memory', None)
        log = self._node.get_logger()
        if loaded.shortage:
            self._trouble['out_of_memory'] = f'on the CPU instead: {loaded.shortage}'
            log.warning(self._trouble['out_of_memory'])
        log.info(f'{self.options.model} is ready on {self.extractor.device}')

    def _stay(self, options: ModelOptions, error: Exception) -> None:
        """Log why the old model goes on, and put its parameters back."""
        running = _source(self.options)
        trouble = f'{options.model} could not be loaded: {explain(error)}'
        self._trouble['switch_failed'] = trouble
        self._node.statistics.count('failed.switch')
        self._node.get_logger().error(f'{trouble} ({running["model"]} goes on)')
        self._node.set_parameters([Parameter(key, value=value) for key, value in running.items()])


def _load(request: tuple[ModelOptions, Any]) -> LoadedNetwork:
    options, config = request
    try:
        return LoadedNetwork(load_extractor(options, config))
    except OutOfMemoryError as error:
        if options.on_out_of_memory != 'cpu' or options.device == 'cpu':
            raise
        shortage = str(error)
    return LoadedNetwork(load_extractor(replace(options, device='cpu'), config), shortage)


def _source(options: ModelOptions) -> dict[str, str]:
    """Return the options whose change means loading."""
    return {name: getattr(options, name) for name in ('model', 'weights', 'device')}
