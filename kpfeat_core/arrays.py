"""Arrays and tensors, on whatever device, to NumPy."""

from typing import Any

import numpy as np
import torch

from .errors import ShapeError
from .shapes import Float


def to_array(values: Any) -> np.ndarray:
    """Return an array of a tensor on any device, an array, or a sequence."""
    return np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values)


def point_array(points: Any, name: str) -> Float[np.ndarray, 'k 2']:
    """Return (K, 2) float64, x and y of each point; raises ShapeError that names them."""
    array = to_array(points)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ShapeError(f'{name} has shape {array.shape}, expected (K, 2): x and y of each point')
    return np.ascontiguousarray(array, dtype=np.float64)
