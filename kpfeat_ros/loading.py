"""Loading of what the nodes run, so that node files need neither torch nor NumPy."""

from typing import TYPE_CHECKING

from kpfeat_core.registry import create_extractor
import numpy as np

from .options import ExtractorNodeOptions

if TYPE_CHECKING:
    from kpfeat_core.models.base import Extractor

WARM_UP_SIZE = (240, 320)


def load_extractor(options: ExtractorNodeOptions) -> 'Extractor':
    """Build the extractor and run it once, so that the first image is not the slow one."""
    extractor = create_extractor(options.model, options.weights, options.device)
    extractor.extract(np.zeros(WARM_UP_SIZE, np.uint8))
    return extractor
