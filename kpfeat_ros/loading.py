"""Loading of what the nodes run, so that node files need neither torch nor NumPy."""

import dataclasses
from typing import Any, TYPE_CHECKING

from kpfeat_core.registry import create_extractor
import numpy as np

from .options import ExtractorNodeOptions

if TYPE_CHECKING:
    from kpfeat_core.models.base import Extractor

WARM_UP_SIZE = (240, 320)


def load_extractor(options: ExtractorNodeOptions, config: Any) -> 'Extractor':
    """
    Build the extractor and run it once, so that the first image is not the slow one.

    config: the model's own configuration.
    """
    extractor = create_extractor(
        options.model, options.weights, options.device, **dataclasses.asdict(config)
    )
    extractor.extract(np.zeros(WARM_UP_SIZE, np.uint8))
    return extractor
