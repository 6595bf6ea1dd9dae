"""Networks that several nodes of one process use: loaded once, and freed with the last of them."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields
import threading
from typing import Any, TYPE_CHECKING
from weakref import WeakValueDictionary

from kpfeat_core.factory import check_device
from kpfeat_core.weights.files import find_weights

if TYPE_CHECKING:
    from kpfeat_core.models.base import Extractor


@dataclass(eq=False)
class _Shared:
    extractor: 'Extractor'


_lock = threading.RLock()
_known: WeakValueDictionary[Hashable, _Shared] = WeakValueDictionary()


def network_key(model: str, weights: str, device: str, config: Any) -> Hashable:
    """
    Return what two extractors must have in common to share a network.

    That is the model, the weight file and when it was written, the device, and all options that
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
        extractor.shared = shared  # what `with_options` makes of it has it too
        return extractor


def networks_in_use() -> int:
    """Return how many networks there are, however many nodes use each."""
    return len(_known)
