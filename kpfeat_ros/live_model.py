"""The model of an extractor node: loaded, exchanged while it works, left for the CPU."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
import traceback
from typing import Any, NamedTuple, TYPE_CHECKING

from kpfeat_core.errors import ConfigError, KpfeatError
from kpfeat_core.registry import extractor_config_class, extractor_names
from rclpy.parameter import Parameter

from .background import Background
from .loading import check_loadable, extract, load_extractor, OutOfMemoryError, release_memory
from .options import ModelOptions

if TYPE_CHECKING:
    from .node import KpfeatNode


class Loaded(NamedTuple):
    """A network, and why it is on the CPU instead of where it was asked for, if it is."""

    extractor: Any
    shortage: str = ''


class LiveModel:
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
        self._wanted: ModelOptions | None = None  # what is being loaded
        self._loader: Background | None = None
        self._trouble: dict[str, str] = {}  # what, and a sentence

    def declare(self) -> None:
        """Declare which model it is, and the options of that."""
        self._parameters.declare(ModelOptions, {'model': extractor_names()})
        with suppress(ConfigError):  # there is no such model: load says so
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

        Raises OutOfMemoryError, and what `loading.extract` raises.
        """
        with self._parameters.lock:
            extractor, options = self.extractor, self.options
        try:
            return options.model, extract(extractor, images, masks)
        except OutOfMemoryError as error:
            on_cpu = str(extractor.device) == 'cpu'
            if len(images) > 1 or on_cpu or options.on_out_of_memory != 'cpu':
                raise
            shortage = str(error)
        fallen = Loaded(load_extractor(replace(options, device='cpu'), extractor.config), shortage)
        with self._parameters.lock:
            if self.extractor is extractor:  # else another has come meanwhile
                self._take(fallen)
        del extractor
        release_memory()
        return options.model, extract(fallen.extractor, images, masks)

    def settings(self) -> dict[str, str]:
        """Return what diagnostics say: the model and where it runs, and what is wrong with it."""
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

    def _switch(self, request: Any, loaded: Loaded, error: Exception | None) -> None:
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

    def _take(self, loaded: Loaded) -> None:
        """Work with a network from now on, and say so."""
        self.extractor = loaded.extractor
        self._trouble.pop('out_of_memory', None)
        log = self._node.get_logger()
        if loaded.shortage:
            self._trouble['out_of_memory'] = f'on the CPU instead: {loaded.shortage}'
            log.warning(self._trouble['out_of_memory'])
        log.info(f'{self.options.model} is ready on {self.extractor.device}')

    def _stay(self, options: ModelOptions, error: Exception) -> None:
        """Say why the old model goes on, and put its parameters back."""
        running, what = _source(self.options), str(error)
        if not isinstance(error, KpfeatError):  # ours, not the user's: say where
            what = ''.join(traceback.format_exception(error))
        trouble = f'{options.model} could not be loaded: {what}'
        self._trouble['switch_failed'] = trouble
        self._node.statistics.count('failed.switch')
        self._node.get_logger().error(f'{trouble} ({running["model"]} goes on)')
        self._node.set_parameters([Parameter(key, value=value) for key, value in running.items()])


def _load(request: tuple[ModelOptions, Any]) -> Loaded:
    options, config = request
    try:
        return Loaded(load_extractor(options, config))
    except OutOfMemoryError as error:
        if options.on_out_of_memory != 'cpu' or options.device == 'cpu':
            raise
        shortage = str(error)
    return Loaded(load_extractor(replace(options, device='cpu'), config), shortage)


def _source(options: ModelOptions) -> dict[str, str]:
    """Return the options of which a change means loading."""
    return {name: getattr(options, name) for name in ('model', 'weights', 'device')}
