"""Published weights of Key.Net: their names, the order and units of filters, statistics."""

import re

import torch
from torch import Tensor

TORCH_NAMES = (
    (r'^feature_extractor\.lb_block\.conv(\d)\.0\.', r'convs.\1.'),
    (r'^feature_extractor\.lb_block\.conv(\d)\.1\.', r'norms.\1.'),
    (r'^last_conv\.0\.', 'conv_last.'),
)
TF_PREFIX = 'model_deep_detector_'
TF_NORM = {
    'gamma': 'weight',
    'beta': 'bias',
    'moving_mean': 'running_mean',
    'moving_variance': 'running_var',
}
# Where our ten filters stand in TensorFlow's order: dx, dx^2, dxx, dy, dy^2, dyy, dx dy,
# dxx dyy, dxy, dxy^2.
TF_ORDER = (0, 3, 1, 4, 6, 8, 9, 2, 5, 7)
# How many derivatives multiply to one of ours; TensorFlow's are not divided by 8.
DERIVATIVES = (1, 1, 2, 2, 2, 2, 4, 2, 2, 4)
PLAIN = {'filter_gains': torch.ones(len(DERIVATIVES), 1, 1)}  # the handcrafted maps as they are
EPSILON_DIFFERENCE = 1e-3 - 1e-5  # of the normalisations: TensorFlow's minus ours


def from_torch(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of the PyTorch checkpoint."""
    renamed = {}
    for name, value in state.items():
        for pattern, ours in TORCH_NAMES:
            name = re.sub(pattern, ours, name)
        renamed[name] = value
    return renamed | PLAIN


def from_tf(state: dict[str, Tensor], statistics: str) -> dict[str, Tensor]:
    """
    Convert the variables of the TensorFlow checkpoint; the optimizer's are left out.

    statistics: 'stored', or 'unit' for mean 0 and variance 1. The published extraction program
    restores the trainable variables alone, hence it normalises with the latter.
    """
    ours = dict(PLAIN)
    for name, value in state.items():
        parts = re.fullmatch(TF_PREFIX + r'(conv|batch)_(\d|last_layer|final)/(\w+)', name)
        if parts is None:
            continue
        kind, which, what = parts.groups()
        if kind == 'conv':
            module = f'convs.{int(which) - 1}' if which.isdigit() else 'conv_last'
            if what == 'kernel':
                what, value = 'weight', value.permute(3, 2, 0, 1).contiguous()
        else:
            module = f'norms.{int(which) - 1}' if which.isdigit() else 'norm_last'
            what = TF_NORM[what]
            value = _statistic(what, value, statistics)
        ours[f'{module}.{what}'] = value
    first = ours['convs.0.weight'][:, list(TF_ORDER)]
    units = torch.tensor([8.0**count for count in DERIVATIVES])
    ours['convs.0.weight'] = first * units[:, None, None]
    return ours


def _statistic(what: str, value: Tensor, statistics: str) -> Tensor:
    if what == 'running_mean' and statistics == 'unit':
        return torch.zeros_like(value)
    if what == 'running_var':
        value = torch.ones_like(value) if statistics == 'unit' else value
        return value + EPSILON_DIFFERENCE
    return value
