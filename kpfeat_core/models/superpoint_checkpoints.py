"""
Published layouts of SuperPoint's weights, brought to ours.

Ours is that of the open weights: convolution, ReLU, batch normalisation. The layout of Magic Leap
has no batch normalisation: here it gets one that changes nothing. A third, of the PyTorch port
with batch normalisation before the ReLU, moves that one into the convolution, and gets one that
changes nothing behind the ReLU.
"""

import torch
from torch import Tensor

from ..errors import WeightsError

# Our layers, and the same in the layout of Magic Leap.
MAGIC_LEAP = {
    **{f'backbone.{i}.{j}': f'conv{i + 1}{"ab"[j]}' for i in range(4) for j in range(2)},
    **{'detector.0': 'convPa', 'detector.1': 'convPb'},
    **{'descriptor.0': 'convDa', 'descriptor.1': 'convDb'},
}
# Our layers, and (convolution, normalisation) in the layout with normalisation before the ReLU.
_STAGES = ('inc.conv.conv', *(f'down{i}.mpconv.1.conv' for i in (1, 2, 3)))
BN_FIRST = {
    f'backbone.{i}.{j}': (f'{stage}.{3 * j}', f'{stage}.{3 * j + 1}')
    for i, stage in enumerate(_STAGES)
    for j in range(2)
} | {k: (v, v.replace('conv', 'bn')) for k, v in MAGIC_LEAP.items() if 'back' not in k}
BN_FIRST_EPS = 1e-5

CONV = ('weight', 'bias')
BN = ('weight', 'bias', 'running_mean', 'running_var')


def own_names(state: dict[str, Tensor], eps: float) -> dict[str, Tensor]:
    """
    Return a state dict of any published layout with our names; others come back unchanged.

    eps: of our batch normalisation. Layers that are missing as a whole stay away, and tensors
    that belong to none stay as they are. Raises WeightsError for incomplete layers.
    """
    left = dict(state)
    if 'conv1a.weight' in state:
        layers = {own: (conv, None) for own, conv in MAGIC_LEAP.items()}
    elif f'{_STAGES[0]}.0.weight' in state:
        layers = dict(BN_FIRST)
    else:
        return left
    converted = {}
    for own, (conv, bn) in layers.items():
        if f'{conv}.weight' not in left:
            continue
        weight, bias = _take(left, conv, CONV)
        if bn is not None:
            weight, bias = _fold(weight, bias, *_take(left, bn, BN))
            left.pop(f'{bn}.num_batches_tracked', None)
        converted |= {f'{own}.conv.weight': weight, f'{own}.conv.bias': bias}
        converted |= {f'{own}.bn.{k}': v for k, v in _identity(bias, eps).items()}
    return left | converted


def _take(state: dict[str, Tensor], layer: str, names: tuple[str, ...]) -> list[Tensor]:
    """Take the tensors of a layer out of a state dict."""
    missing = [f'{layer}.{name}' for name in names if f'{layer}.{name}' not in state]
    if missing:
        raise WeightsError(
            f'the checkpoint has the names of a published SuperPoint but lacks '
            f'{", ".join(missing)}; it is incomplete: get it again'
        )
    return [state.pop(f'{layer}.{name}') for name in names]


def _identity(bias: Tensor, eps: float) -> dict[str, Tensor]:
    """Return a batch normalisation that changes nothing, of as many channels as the bias."""
    zeros, ones = torch.zeros_like(bias), torch.ones_like(bias)
    return {'weight': ones, 'bias': zeros, 'running_mean': zeros, 'running_var': ones - eps}


def _fold(
    weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor
) -> tuple[Tensor, Tensor]:
    """Move the normalisation that follows a convolution into its weight and bias."""
    shapes = {tuple(value.shape) for value in (bias, gamma, beta, mean, var)}
    if shapes != {tuple(weight.shape[:1])}:
        raise WeightsError(
            f'the checkpoint has a convolution of shape {tuple(weight.shape)} and beside it '
            f'vectors of shapes {sorted(shapes)}; expected one number per output channel'
        )
    scale = gamma.double() / (var.double() + BN_FIRST_EPS).sqrt()
    folded = weight.double() * scale[:, None, None, None]
    shift = beta.double() + (bias.double() - mean.double()) * scale
    return folded.to(weight.dtype), shift.to(bias.dtype)
