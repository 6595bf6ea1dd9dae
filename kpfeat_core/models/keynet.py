"""
Key.Net: a keypoint detector of handcrafted and learned filters, with a descriptor for patches.

Barroso-Laguna et al., "Key.Net: Keypoint Detection by Handcrafted and Learned CNN Filters", ICCV
2019. The detector alone is Key.Net; HardNet, or SIFT, describes its keypoints.

Keypoints of the smaller scales are moved to the full image with pixel areas aligned. The published
programs multiply them by the scale alone, which is up to half of a coarse pixel off.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from .base import Converted, DenseMaps, Extractor, Pyramid
from .keynet_scores import from_tf, from_torch, KeyNetSize, PLAIN, ScoreNetwork
from .layers import normalized_conv
from ..axes import Float
from ..config import AUTO, ExtractorConfig, option, redefault
from ..errors import ConfigError
from ..keypoints import Keypoints, max_filter, refine_soft_argmax, suppress_non_maxima
from ..patches import dominant_orientations, extract_patches, sift_descriptors

PATCH_SIZE = 32
# (outputs, kernel, stride, padding) of each layer of HardNet
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
    """
    HardNet (Mishchuk et al., NeurIPS 2017): a descriptor of 128 numbers for patches of 32x32.

    Seven convolutions, each with batch normalisation that has no scale and offset to learn.
    """

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


SIZES = {
    'keynet': KeyNetSize(blocks=3, filters=8, levels=3),
    # one learned layer of one filter, and the layer that makes scores of it: 279 parameters
    'keynet-tiny': KeyNetSize(blocks=1, filters=1, levels=1),
}
# Of the soft maximum that refines keypoints, by variant: the one whose scores have peaks as wide.
# Measured on a photograph shifted by thirds of a pixel: 0.03 and 0.06 px, and 0.67 without.
TEMPERATURES = {'torch': 0.1, 'tf': 0.2}
# A maximum stands out from its window by this share of its score; rounding does not.
FLAT = 1e-4


@dataclass(frozen=True)
class KeyNetConfig(redefault(ExtractorConfig, nms_radius=7, remove_borders=15)):
    """How Key.Net's scores become keypoints, and their descriptor."""

    detection_threshold: float = option(
        1.0,
        'drop keypoints that score at or below this; scores have no upper bound, and are in the '
        'units of the loss, in which 1 is little: 0 keeps all maxima, noise in flat regions too',
        low=0.0,
        live=True,
    )
    multi_scale: bool = option(
        True,
        'extract on an image pyramid, from sqrt(2) times the size down to a quarter',
        live=True,
    )
    variant: str = option(
        AUTO,
        'which published network: torch, or tf (locally normalised images)',
        choices=(AUTO, 'torch', 'tf'),
    )
    batch_statistics: str = option(
        AUTO,
        'importing tf weights: keep the stored batch statistics, or put mean 0 and variance 1 in '
        'their place (unit), with which the authors made their published keypoints',
        choices=(AUTO, 'stored', 'unit'),
    )
    descriptor: str = option(
        'hardnet',
        'descriptor of the keypoints: hardnet, which has a weight file of its own, or sift',
        choices=('hardnet', 'sift'),
    )
    descriptor_weights: str = option(
        '',
        "HardNet's weight file, or the folder that holds it; empty takes that of $KPFEAT_WEIGHTS "
        'or the bundled one',
    )
    orientation: str = option(
        'gradient',
        'direction of the described patches: gradient, along the strongest gradient, for any '
        'roll, or upright, as published, a little better where the camera does not roll',
        choices=('gradient', 'upright'),
        live=True,
    )
    region_size: float = option(
        44.0, 'side of the described square at scale 1, in pixels', low=4.0, high=512.0, live=True
    )


class KeyNet(Extractor):
    """Key.Net or Tiny-Key.Net with HardNet or SIFT; gray in, any image size."""

    config_class = KeyNetConfig
    architecture: ClassVar[Mapping[str, str]] = {'variant': 'torch', 'batch_statistics': 'stored'}
    pyramid = Pyramid(enlarged=1, smallest=0.25, budget=True)
    submodule_advice = (
        'its file goes into the option descriptor_weights; descriptor=sift does without'
    )
    channels = 1
    stride = 1
    descriptor_dim = HardNet.descriptor_dim

    def __init__(self, name: str, config: KeyNetConfig | None = None) -> None:
        super().__init__(config)
        self.name = name
        self.detector = ScoreNetwork(SIZES[name], self.config.variant)
        self.hardnet = HardNet() if self.config.descriptor == 'hardnet' else None

    @property
    def network(self) -> nn.Module:
        """Return the detector: a weight file of Key.Net holds no descriptor."""
        return self.detector

    def submodules(self) -> dict[str, tuple[nn.Module, str]]:
        """Return HardNet, where that is the descriptor."""
        if self.hardnet is None:
            return {}
        return {HardNet.name: (self.hardnet, self.config.descriptor_weights)}

    def with_options(self, **options: Any) -> 'KeyNet':
        """Return an extractor that shares this network; SIFT needs none, HardNet its weights."""
        if options.get('descriptor') == 'hardnet' and self.hardnet is None:
            raise ConfigError(
                "descriptor='hardnet' needs weights, and this extractor was made with "
                "descriptor='sift'; create another extractor"
            )
        own = self.config.descriptor_weights
        if options.get('descriptor_weights', own) != own:
            raise ConfigError(
                f"descriptor_weights='{options['descriptor_weights']}', and this extractor was "
                f"made with '{own}'; create another extractor"
            )
        return super().with_options(**options)

    def prepare(self, image: Float[Tensor, 'b 1 h w']) -> Float[Tensor, 'b 1 h w']:
        """Divide by the largest value of each image where the weights are used to that."""
        if self.config.variant == 'torch':
            return image
        return image / image.amax((1, 2, 3), keepdim=True).clamp(min=1e-6)

    def forward(self, image: Float[Tensor, 'b 1 h w']) -> DenseMaps:
        """Compute the score map; patches are read from the image, which is passed on."""
        return DenseMaps(self.detector(image), (image,))

    def crop(self, maps: DenseMaps, size: tuple[int, int]) -> DenseMaps:
        """Remove everything outside the first (height, width) pixels, from the image as well."""
        image = maps.descriptor_maps[0][:, :, : size[0], : size[1]]
        return replace(super().crop(maps, size), descriptor_maps=(image,))

    def detect(self, maps: DenseMaps) -> Keypoints:
        """
        Select maxima, refine them, and find their orientations where asked.

        Where the score map is flat there is no maximum. Scores are those of the pixels.
        """
        config, score_map = self.config, maps.score_map
        with torch.no_grad():
            peaks = suppress_non_maxima(score_map.detach(), config.nms_radius, rounds=0)
            lowest = -max_filter(-score_map.detach(), max(1, config.nms_radius))
            peaks = peaks * (peaks * (1 - FLAT) > lowest)
            xy, scores, mask = self.select(peaks)
        keypoints = xy.to(score_map.dtype)
        if config.sub_pixel:
            temperature = TEMPERATURES[config.variant]
            keypoints, _ = refine_soft_argmax(  # of logarithms: scores have any range
                score_map, xy, temperature=temperature, logarithmic=True
            )
        if config.orientation == 'upright':
            return Keypoints(keypoints, scores, mask)
        with torch.no_grad():
            patches = self._patches(maps, keypoints.detach())
            found = dominant_orientations(patches.flatten(0, 1)[:, 0]).view(scores.shape)
        return Keypoints(keypoints, scores, mask, orientations=found)

    def _patches(
        self,
        maps: DenseMaps,
        keypoints: Float[Tensor, 'b n 2'],
        orientations: Float[Tensor, 'b n'] | None = None,
    ) -> Float[Tensor, 'b n 1 s s']:
        """Read patches in single precision, which half precision has no room for."""
        image = maps.descriptor_maps[0].float()
        side = self.config.region_size
        return extract_patches(image, keypoints.float(), side, orientations, PATCH_SIZE)

    def describe(self, maps: DenseMaps, found: Keypoints) -> Float[Tensor, 'b n d']:
        """Describe the regions around the keypoints, turned by their orientations; unit length."""
        keypoints, side = found.keypoints, self.config.region_size
        if self.config.descriptor == 'sift':
            image = maps.descriptor_maps[0]
            return sift_descriptors(image, keypoints, side, found.orientations)
        patches = self._patches(maps, keypoints, found.orientations)
        return self.hardnet.describe(patches.flatten(0, 1)).unflatten(0, keypoints.shape[:2])

    def convert_checkpoint(self, state: dict[str, Tensor]) -> Converted:
        """Read the published layouts of both variants, and files of ours without gains."""
        if 'last_conv.0.weight' in state:
            return from_torch(state), {'variant': 'torch', 'batch_statistics': 'stored'}
        if 'model_deep_detector_conv_last_layer/kernel' in state:
            chosen = self.config.batch_statistics
            return from_tf(state, chosen), {'variant': 'tf', 'batch_statistics': chosen}
        return PLAIN | state, {}
