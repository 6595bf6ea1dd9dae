"""
ASLFeat: keypoints and descriptors from one network whose last layers bend to the local shape.

Luo et al., "ASLFeat: Learning Local Features of Accurate Shape and Localization", CVPR 2020.
"""

from dataclasses import dataclass
import re
from typing import Any

import torch
from torch import Tensor
import torch.nn.functional as F

from .aslfeat_layers import DeformableLayer, Layer, TAPS
from .aslfeat_scores import enlarge, off_edges, peakiness, refine_newton
from .base import DenseMaps, Extractor
from .pyramid import Pyramid
from ..config import AUTO, enlarge_to, ExtractorConfig, make_config, option
from ..geometry import sample
from ..keypoints import Keypoints, suppress_non_maxima
from ..registry import register
from ..shapes import Float


@dataclass(frozen=True)
class AslFeatConfig(ExtractorConfig):
    """How ASLFeat's network is built, and how its maps become keypoints."""

    detection_threshold: float = option(
        0.51,
        'drop keypoints that score at or below this (published: 0.5)',
        low=0.0,
        high=100.0,
        live=True,
    )
    enlarge_to: int = enlarge_to(480)
    nms_radius: int = option(
        1, 'keep only the best keypoint within this many pixels', low=0, high=64, live=True
    )
    remove_borders: int = option(
        5, 'drop keypoints closer than this to the image border, in pixels', low=0, live=True
    )
    edge_threshold: float = option(
        10.0,
        'drop keypoints where the score bends this much more in one direction than in the '
        'other, as on edges; 0 keeps all',
        low=0.0,
        high=1000.0,
        live=True,
    )
    deform: str = option(
        AUTO,
        'how kernels bend to the local shape: none, u (freely), s (similarity: rotation and '
        "scale, the published 'a'), a (affine), h (homography); auto: as the weights need it",
        choices=(AUTO, 'none', 'u', 's', 'a', 'h'),
    )


# Layers that score: dilation of the peakiness, pixels per cell, weight.
LEVELS = {'conv1': (3, 1, 1 / 6), 'conv3': (2, 2, 2 / 6), 'conv6': (1, 4, 3 / 6)}
INSTANCE_MAX_RATE = 0.01
# What a TensorFlow checkpoint calls our tensors; all else in it belongs to the optimiser.
TF_NAMES = {
    'kernel': 'weight',
    'bias': 'bias',
    'moving_mean': 'running_mean',
    'moving_variance': 'running_var',
    'instance_max': 'instance_max',
}
TF_SCOPES = re.compile('^(deform_param|tower)/')


@register('aslfeat')
class AslFeat(Extractor):
    """
    ASLFeat; gray image in, stride 4 inside, any image size outside.

    Cell (i, j) of the descriptor map counts as pixel (4i, 4j), as published, although what it
    sees is centred on (4i + 3, 4j + 3). The network learns that way: positions come from layers
    that see the pixel itself.
    """

    config_class = AslFeatConfig
    structure = {'deform': 'a'}
    pyramid = Pyramid(smallest=0.5)
    name = 'aslfeat'
    channels = 1
    stride = 4
    descriptor_dim = 128

    def __init__(self, config: AslFeatConfig | None = None, **options: Any) -> None:
        super().__init__(config or make_config(AslFeatConfig, options))
        self.conv0 = Layer(1, 32)
        self.conv1 = Layer(32, 32, scored=True)
        self.conv2 = Layer(32, 64, stride=2)
        self.conv3 = Layer(64, 64, scored=True)
        self.conv4 = Layer(64, 128, stride=2)
        self.conv5 = Layer(128, 128)
        self.conv6_0 = self._last_layer()
        self.conv6_1 = self._last_layer()
        self.conv6 = self._last_layer(scored=True, normalized=False)

    def _last_layer(self, **options: bool) -> Layer:
        if self.config.deform == 'none':
            return Layer(128, 128, **options)
        return DeformableLayer(128, 128, self.config.deform, **options)

    def prepare(self, image: Float[Tensor, 'b 1 h w']) -> Float[Tensor, 'b 1 h w']:
        """Give each image mean 0 and variance 1; the range is 0..255 where a constant counts."""
        image = image * 255.0
        variance, mean = torch.var_mean(image, (2, 3), correction=0, keepdim=True)
        return (image - mean) * (variance + 1e-5).rsqrt()

    def forward(self, image: Float[Tensor, 'b 1 h w']) -> DenseMaps:
        """
        Compute the score map and the descriptor map.

        descriptor_maps: (B, 128, h, w), a quarter of the image's size, of any length.
        """
        conv1 = self.conv1.convolve(self.conv0(image), self.conv1.weight)
        conv3 = self.conv2(self.conv1.activate(conv1))
        conv3 = self.conv3.convolve(conv3, self.conv3.weight)
        conv5 = self.conv5(self.conv4(self.conv3.activate(conv3)))
        conv6 = self.conv6_1(self.conv6_0(conv5))
        conv6 = self.conv6.convolve(conv6, self.conv6.weight)
        score = self._score('conv1', conv1) + self._score('conv3', conv3)
        return DenseMaps(score + self._score('conv6', conv6), (conv6,))

    def _score(self, name: str, maps: Tensor) -> Float[Tensor, 'b h w']:
        """Return the share of one layer in the score map."""
        dilation, factor, weight = LEVELS[name]
        largest = self.get_submodule(name).instance_max
        if self.training:
            with torch.no_grad():
                largest.lerp_(maps.detach().amax().to(largest.dtype), INSTANCE_MAX_RATE)
            largest = largest.clone()  # the next image may come before this one's gradient
        return enlarge(peakiness(maps, largest, dilation) * weight, factor)

    def detect(self, maps: DenseMaps) -> Keypoints:
        """Select maxima that lie on no edge, best first, and refine them to sub-pixel."""
        config, score_map = self.config, maps.score_map
        with torch.no_grad():
            hard = score_map.detach()
            peaks = suppress_non_maxima(hard, config.nms_radius, rounds=0)
            if config.edge_threshold > 0:
                peaks = peaks * off_edges(hard, config.edge_threshold)
            xy, scores, mask = self.select(peaks)
        if not config.sub_pixel:
            return Keypoints(xy.to(score_map.dtype), scores, mask)
        return Keypoints(refine_newton(score_map, xy), scores, mask)

    def describe(
        self,
        maps: DenseMaps,
        keypoints: Float[Tensor, 'b n 2'],
        orientations: Float[Tensor, 'b n'] | None = None,
    ) -> Float[Tensor, 'b n d']:
        """Read the descriptor map bilinearly at a quarter of the position; unit length."""
        level = maps.descriptor_maps[0].to(keypoints.dtype)
        return F.normalize(sample(level, keypoints / self.stride, padding='border'), dim=-1)

    def convert_checkpoint(
        self, state: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Rename and turn the variables of a TensorFlow checkpoint; tell how its layers bend."""
        if 'conv0/kernel' in state:
            state = dict(_from_tensorflow(*item) for item in state.items() if _is_ours(item[0]))
        return state, {'deform': _deform_of(state)}


def _is_ours(name: str) -> bool:
    return '/' in name and name.rpartition('/')[2] in TF_NAMES


def _from_tensorflow(name: str, value: Tensor) -> tuple[str, Tensor]:
    """Turn 'deform_param/conv6/ori/kernel' (h, w, in, out) into 'conv6.ori.weight'."""
    scope, _, last = TF_SCOPES.sub('', name).rpartition('/')
    if last == 'kernel':
        value = value.permute(3, 2, 0, 1).contiguous()
    elif last == 'instance_max':
        value = value.reshape(())
    return f'{scope.replace("/", ".")}.{TF_NAMES[last]}', value


def _deform_of(state: dict[str, Tensor]) -> str:
    """Tell the option `deform` of a network from its tensors."""
    if 'conv6.ori.weight' in state:
        return 'a' if 'conv6.aff.weight' in state else 's'
    if 'conv6.offset.weight' in state:
        return 'u' if len(state['conv6.offset.weight']) == 2 * TAPS else 'h'
    return 'none'
