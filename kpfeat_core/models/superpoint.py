"""
SuperPoint: keypoints and descriptors from one fully convolutional network; MagicPoint.

DeTone, Malisiewicz, Rabinovich, "SuperPoint: Self-Supervised Interest Point Detection and
Description", CVPR Workshops 2018. MagicPoint is the detector alone.

An encoder shrinks the gray image to cells of 8x8 pixels. For each cell the detector tells apart
its 64 pixels and a 65th class, the dustbin, for no keypoint; the descriptor head gives one vector
for the centre of the cell.
"""

from dataclasses import dataclass

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from .base import Converted, DenseMaps, Extractor
from .layers import halve_in_strips, infers_on_cpu, normalized_conv, strip_rows
from ..axes import Float
from ..config import ExtractorConfig, option, redefault
from ..errors import WeightsError
from ..geometry import sample
from ..keypoints import Keypoints, refine_soft_argmax, suppress_greedily, suppress_non_maxima

CELL = 8  # pixels
BN_EPS = 1e-3  # of the published open weights, which were trained with it
WIDTHS = (1, 64, 64, 128, 128)  # channels of the image and after each stage of the encoder
HEAD_WIDTH = 256
# Floats of a full-resolution layer that are in work at once on a CPU: 8 MB. Larger ones would be
# asked from the system and given back for every layer, which costs more than some convolutions.
STRIP_ELEMENTS = 1 << 21
MIN_STRIP_ROWS = 16


@dataclass(frozen=True)
class SuperPointConfig(
    redefault(ExtractorConfig, detection_threshold=0.015, upsample_to=480, nms_radius=4)
):
    """How SuperPoint's maps become keypoints."""

    nms: str = option(
        'fast',
        'non-maximum suppression: exact goes keypoint by keypoint from the best one on; fast '
        'comes close to it and drops a few more',
        choices=('fast', 'exact'),
        live=True,
    )
    upstream_sampling: bool = option(
        False, "read descriptors half a pixel to the left and above, as Magic Leap's program does"
    )


class ConvReluNorm(nn.Module):
    """Convolution, ReLU, batch normalisation, in this order; no ReLU in the last of a head."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, relu: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity='relu')  # the default one fades
        self.bn = nn.BatchNorm2d(outputs, eps=BN_EPS)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, outputs, h, w)."""
        if not self.relu:
            return normalized_conv(x, self.conv, self.bn)
        y, bn = F.relu(self.conv(x), inplace=True), self.bn
        if self.training or not infers_on_cpu(y):
            return bn(y)
        scale = bn.weight * (bn.running_var + bn.eps).rsqrt()
        shift = bn.bias - bn.running_mean * scale
        return torch.addcmul(shift[:, None, None], y, scale[:, None, None], out=y)


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(ConvReluNorm(inputs, outputs), ConvReluNorm(outputs, outputs))


def _head(inputs: int, outputs: int) -> nn.Sequential:
    last = ConvReluNorm(HEAD_WIDTH, outputs, 1, relu=False)
    return nn.Sequential(ConvReluNorm(inputs, HEAD_WIDTH), last)


def _shrink(stage: nn.Sequential, x: Float[Tensor, 'b c h w']) -> Float[Tensor, 'b d h2 w2']:
    """Apply a stage and halve the sides, in strips; each of its convolutions sees one row more."""
    rows = x.shape[2]
    if not stage.training:
        widest = stage[-1].conv.out_channels * x.shape[3]
        rows = strip_rows(x, rows, widest, STRIP_ELEMENTS, MIN_STRIP_ROWS)
    return halve_in_strips(stage, x, rows, reach=len(stage))


def cell_scores(logits: Float[Tensor, 'b 65 h w']) -> Float[Tensor, 'b h8 w8']:
    """
    Turn the 65 logits of each cell into the probability of each pixel to be its keypoint.

    Channel k is pixel (x, y) = (k % 8, k // 8) of the cell, channel 64 the dustbin. In float32:
    the scores of half precision would tie too often.
    """
    exact = torch.promote_types(logits.dtype, torch.float32)
    probability = logits.to(exact).softmax(1)[:, :-1]
    return F.pixel_shuffle(probability, CELL).squeeze(1)


class SuperPoint(Extractor):
    """SuperPoint, or MagicPoint without the descriptor head; gray in, cells of 8x8 pixels."""

    config_class = SuperPointConfig
    channels = 1
    stride = CELL
    # Weights are the squared scores; found best for blobs as wide as a corner's (sigma 0.6 to 1.5)
    soft_temperature = 0.5

    def __init__(
        self, name: str, config: SuperPointConfig | None = None, descriptor_dim: int = 256
    ) -> None:
        super().__init__(config)
        self.name = name
        self.descriptor_dim = descriptor_dim
        self.backbone = nn.Sequential(*map(_stage, WIDTHS[:-1], WIDTHS[1:]))
        self.detector = _head(WIDTHS[-1], CELL**2 + 1)
        self.descriptor = _head(WIDTHS[-1], descriptor_dim) if descriptor_dim else None
        # an image of one channel does not show the convolutions that channels come last
        self.to(memory_format=torch.channels_last)

    def forward(self, image: Float[Tensor, 'b 1 h w']) -> DenseMaps:
        """
        Compute the score of every pixel and the descriptor of every cell.

        descriptor_maps: (B, D, H/8, W/8), unit length; empty for MagicPoint.
        """
        logits, descriptors = self.heads(image)
        maps = () if descriptors is None else (F.normalize(descriptors, dim=1),)
        return DenseMaps(cell_scores(logits), maps)

    def heads(
        self, image: Float[Tensor, 'b 1 h w']
    ) -> tuple[Float[Tensor, 'b 65 h8 w8'], Float[Tensor, 'b d h8 w8'] | None]:
        """Return the logits of the cells, and their descriptors of any length, for losses."""
        x = image
        for stage in self.backbone[:-1]:
            x = _shrink(stage, x)
        x = self.backbone[-1](x)
        return self.detector(x), None if self.descriptor is None else self.descriptor(x)

    def detect(self, maps: DenseMaps) -> Keypoints:
        """Select keypoints and refine them; the score stays that of the pixel."""
        config, score_map = self.config, maps.score_map
        with torch.no_grad():
            peaks = score_map.detach()
            if config.nms == 'exact':
                peaks = suppress_greedily(peaks, config.nms_radius, config.detection_threshold)
            else:
                peaks = suppress_non_maxima(peaks, config.nms_radius)
            xy, scores, mask = self.select(peaks)
        if not config.sub_pixel:
            return Keypoints(xy.to(score_map.dtype), scores, mask)
        keypoints, dispersity = refine_soft_argmax(
            score_map, xy, temperature=self.soft_temperature, logarithmic=True
        )
        return Keypoints(keypoints, scores, mask, dispersity)

    def describe(self, maps: DenseMaps, found: Keypoints) -> Float[Tensor, 'b n d']:
        """
        Read the descriptors of the cells bilinearly, unit length; cell i has its centre at 8i+3.5.

        Computed in the type of the keypoints. MagicPoint's have the length 0.
        """
        keypoints = found.keypoints
        if self.descriptor is None:
            return keypoints.new_zeros(*keypoints.shape[:2], 0)
        offset = 0.0 if self.config.upstream_sampling else 0.5
        cells = (keypoints + offset) / CELL - 0.5
        cell_descriptors = maps.descriptor_maps[0].to(keypoints.dtype)
        return F.normalize(sample(cell_descriptors, cells, padding='border'), dim=-1)

    def convert_checkpoint(self, state: dict[str, Tensor]) -> Converted:
        """
        Turn any of the three published layouts into ours; MagicPoint leaves out descriptors.

        Raises WeightsError.
        """
        tensors = own_names(state)
        if self.descriptor is None:
            tensors = {k: v for k, v in tensors.items() if not k.startswith('descriptor.')}
        return tensors, {}


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


def own_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """
    Return a state dict of any published layout with our names; others come back unchanged.

    Layers that are missing as a whole stay away, and tensors that belong to none stay as they
    are. Raises WeightsError for incomplete layers.
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
        converted |= {f'{own}.bn.{k}': v for k, v in _identity(bias).items()}
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


def _identity(bias: Tensor) -> dict[str, Tensor]:
    """Return a batch normalisation that changes nothing, of as many channels as the bias."""
    zeros, ones = torch.zeros_like(bias), torch.ones_like(bias)
    return {'weight': ones, 'bias': zeros, 'running_mean': zeros, 'running_var': ones - BN_EPS}


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
