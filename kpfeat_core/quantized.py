"""Weight matrices in eight bits, with one scale for each output channel."""

from collections.abc import Mapping

import torch
from torch import Tensor

SCALE = '.scale'
LEVELS = 127  # on either side of zero


def quantize(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """
    Return the same with matrices (O, …) as int8 and, under `<name>.scale`, their steps (O,).

    A number is off by half a step at most, 1/254 of the largest of its output channel. Vectors
    (biases, batch statistics) stay as they are.
    """
    stored: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if value.ndim < 2 or not value.is_floating_point():
            stored[name] = value
            continue
        rows = value.float().flatten(1)
        scale = rows.abs().amax(1) / LEVELS
        steps = rows / scale.where(scale > 0, 1.0)[:, None]
        stored[name] = steps.round().to(torch.int8).reshape(value.shape)
        stored[name + SCALE] = scale
    return stored


def dequantize(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what `quantize` was given, float32 up to rounding; other tensors as they are."""
    values = dict(tensors)
    for name, value in tensors.items():
        scale = tensors.get(name + SCALE)
        if value.dtype != torch.int8 or scale is None or scale.shape != value.shape[:1]:
            continue  # refused where it is loaded: a matrix must not be of whole numbers
        del values[name + SCALE]
        values[name] = (value.flatten(1) * scale[:, None]).reshape(value.shape)
    return values
