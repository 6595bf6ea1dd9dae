"""
IO-Net: tells inliers from outliers among matches, to train KP2D; extraction does without it.

Tang et al., "Neural Outlier Rejection for Self-Supervised Keypoint Learning", ICLR 2020.
"""

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from ..shapes import Float


class IoNet(nn.Module):
    """
    Four residual blocks of 1x1 convolutions over a set of matches.

    Each match is seen in the light of all others of its image pair: instance normalisation takes
    mean and variance over them. Layers have the published names.
    """

    name = 'io-net'
    blocks = 4

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.p_in = nn.Sequential(
            nn.Conv2d(5, width, 1, bias=False), nn.BatchNorm2d(width, momentum=0.9)
        )
        for block in range(self.blocks):
            for layer in (0, 2):
                self.add_module(f'{block}s{layer}', nn.Conv2d(width, width, 1))
                self.add_module(f'{block}s{layer + 1}', nn.BatchNorm2d(width))
        self.p_out = nn.Conv2d(width, 1, 1)

    def forward(self, matches: Float[Tensor, 'b n 5']) -> Float[Tensor, 'b n']:
        """
        Score matches: above 0 for inliers, trained towards 1 and -1.

        matches: x, y in the one image and x, y in the other, both in -1..1 from the first to the
        last pixel centre, and the distance of the descriptors.
        """
        x = F.relu(self.p_in(matches.mT[..., None]))
        for block in range(self.blocks):
            y = x
            for layer in (0, 2):
                y = F.instance_norm(self.get_submodule(f'{block}s{layer}')(y))
                y = F.relu(self.get_submodule(f'{block}s{layer + 1}')(y))
            x = x + y
        return torch.flatten(self.p_out(x), 1)
