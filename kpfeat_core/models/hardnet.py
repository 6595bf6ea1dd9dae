"""
HardNet: a descriptor for 32x32 patches.

Mishchuk et al., "Working hard to know your neighbor's margins: Local descriptor learning loss",
NeurIPS 2017. The layers are numbered as in the published checkpoints.
"""

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from .layers import normalized_conv
from ..axes import Float

PATCH_SIZE = 32
# (outputs, kernel, stride, padding) of each layer
LAYERS = (
    (32, 3, 1, 1),
    (32, 3, 1, 1),
    (64, 3, 2, 1),
    (64, 3, 1, 1),
    (128, 3, 2, 1),
    (128, 3, 1, 1),
    (128, 8, 1, 0),
)
DROPOUT = 0.3  # before the last layer, in training
CHUNK = 64  # patches in work at once: on a CPU 8 MB for each of the first two layers


class HardNet(nn.Module):
    """Seven convolutions, each with batch normalisation that has no scale and offset to learn."""

    name = 'hardnet'
    descriptor_dim = LAYERS[-1][0]

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 1
        for outputs, kernel, stride, padding in LAYERS:
            last = padding == 0
            layers += [nn.Dropout(DROPOUT)] if last else []
            layers += [nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)]
            layers += [nn.BatchNorm2d(outputs, affine=False)]
            layers += [] if last else [nn.ReLU()]
            inputs = outputs
        self.features = nn.Sequential(*layers)

    def forward(self, patches: Float[Tensor, 'n 1 32 32']) -> Float[Tensor, 'n d']:
        """Describe patches of any brightness and contrast, in unit length."""
        deviation, mean = torch.std_mean(patches.float(), (1, 2, 3), keepdim=True)
        x = ((patches - mean) / (deviation + 1e-7)).to(self.features[0].weight.dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        layers = iter(self.features)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                x = normalized_conv(x, layer, next(layers))
            else:
                x = F.relu(x, inplace=True) if isinstance(layer, nn.ReLU) else layer(x)
        return F.normalize(x.flatten(1).float(), dim=1)

    def describe(self, patches: Float[Tensor, 'n 1 32 32']) -> Float[Tensor, 'n d']:
        """Describe any number of patches, some at a time: `forward` in bounded memory."""
        if not len(patches):
            return patches.new_zeros(0, self.descriptor_dim)
        return torch.cat([self(part) for part in patches.split(CHUNK)])
