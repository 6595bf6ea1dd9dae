"""Layers that several networks share."""

from torch import nn, Tensor
import torch.nn.functional as F


def normalized_conv(x: Tensor, conv: nn.Conv2d, bn: nn.BatchNorm2d) -> Tensor:
    """
    Convolve and normalise: (B, inputs, h, w) to (B, outputs, h2, w2).

    In evaluation the fixed statistics move into the kernel, which saves a pass over the maps.
    """
    if bn.training:
        return bn(conv(x))
    kernel, bias = folded(conv, bn)
    return F.conv2d(x, kernel, bias, conv.stride, conv.padding, conv.dilation)


def folded(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return (kernel, bias) of a convolution with the fixed statistics that follow it inside."""
    scale = (bn.running_var + bn.eps).rsqrt()
    if bn.weight is not None:
        scale = bn.weight * scale
    bias = -bn.running_mean * scale
    if conv.bias is not None:
        bias = bias + conv.bias * scale
    if bn.bias is not None:
        bias = bias + bn.bias
    return conv.weight * scale[:, None, None, None], bias
