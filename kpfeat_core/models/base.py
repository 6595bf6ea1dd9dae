"""The extractor contract: `forward` to dense maps, `detect` keypoints, `describe` them."""

from collections.abc import Sequence
import copy
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import nn, Tensor

from ..config import ExtractorConfig, make_config
from ..errors import ImageError
from ..features import Features
from ..image import (
    image_to_tensor,
    ImageLike,
    pad_to_stride,
    rescale_points,
    resize,
    scaled_size,
)
from ..keypoints import (
    best_first,
    clear_borders,
    Keypoints,
    select_best,
    suppress_non_maxima,
)
from ..shapes import Float

PYRAMID_STEP = 2**-0.5
PYRAMID_LAST = 0.3  # smallest scale of the multi-scale option, as in ALIKE's published code


@dataclass(frozen=True)
class DenseMaps:
    """
    What a network says about every pixel.

    score_map (B, H, W) in [0, 1]; descriptor_maps are the network's own, read by `describe`.
    """

    score_map: Float[Tensor, 'b h w']
    descriptor_maps: tuple[Tensor, ...]


class Extractor(nn.Module):
    """
    Base of all extractors.

    A subclass sets the class attributes, and defines `forward` and `describe`; `detect` where
    its detector is not the usual one. `extract` is the fixed sequence and is not overridden.
    """

    config_class: ClassVar[type] = ExtractorConfig
    min_side: ClassVar[int] = 32
    name: str
    stride: int
    channels: int
    descriptor_dim: int

    def __init__(self, config: ExtractorConfig | None = None) -> None:
        super().__init__()
        self.config = config or self.config_class()

    def forward(self, image: Float[Tensor, 'b c h w']) -> DenseMaps:
        """Compute dense maps of an image whose sides divide by `stride`; differentiable."""
        raise NotImplementedError

    def detect(self, score_map: Float[Tensor, 'b h w']) -> Keypoints:
        """Select keypoints: non-maximum suppression, border, threshold, best N."""
        config = self.config
        with torch.no_grad():
            peaks = suppress_non_maxima(score_map.detach(), config.nms_radius)
            peaks = clear_borders(peaks, config.remove_borders, config.remove_borders)
            xy, scores, mask = select_best(
                peaks, config.detection_threshold, config.max_num_keypoints
            )
        return Keypoints(xy.to(score_map.dtype), scores, mask)

    def describe(
        self, maps: DenseMaps, keypoints: Float[Tensor, 'b n 2']
    ) -> Float[Tensor, 'b n d']:
        """Read unit-length descriptors at (x, y) pixels of the maps."""
        raise NotImplementedError

    @classmethod
    def convert_state_dict(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the tensors of a published checkpoint to ours; the same layout by default."""
        return state

    def with_options(self, **options: Any) -> 'Extractor':
        """Return an extractor that shares this network and differs in these options."""
        other = copy.copy(self)
        other.config = make_config(type(self.config), asdict(self.config) | options)
        return other

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @torch.inference_mode()
    def extract(self, image: ImageLike | Sequence[ImageLike]) -> Features:
        """
        Extract features of one image, a batch, or a list of images of any sizes.

        image: (H, W) or (H, W, 3) RGB array, or (C, H, W) or (B, C, H, W) tensor; uint8, or float
        in 0..1; any H, W from 32 pixels on. A list gives one batch entry per image, in order.

        Keypoints are (x, y) pixels of the images given, best first. Raises ImageError.
        """
        if not isinstance(image, (list, tuple)):
            return self._extract_batch(image_to_tensor(image, self.channels))
        if not image:
            raise ImageError('got an empty list of images, expected at least one')
        tensors = [image_to_tensor(item, self.channels) for item in image]
        return Features.cat([self._extract_batch(tensor) for tensor in tensors])

    def _extract_batch(self, image: Float[Tensor, 'b c h w']) -> Features:
        height, width = image.shape[-2:]
        if min(height, width) < self.min_side:
            raise ImageError(
                f'image is {width}x{height} pixels; {self.name} needs at least '
                f'{self.min_side}x{self.min_side}'
            )
        image = image.to(self.device)
        size = scaled_size(height, width, self.config.resize)
        if min(size) < self.min_side:
            raise ImageError(
                f'resize={self.config.resize} makes a {width}x{height} image {size[1]}x{size[0]}; '
                f'{self.name} needs at least {self.min_side} pixels a side'
            )
        levels = [self._extract_level(image, level) for level in self._pyramid(size)]
        return levels[0] if len(levels) == 1 else self._merge(levels)

    def _pyramid(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """Return the (height, width) of each scale, the full one first."""
        levels, scale = [size], PYRAMID_STEP
        while self.config.multi_scale and scale >= PYRAMID_LAST:
            level = (round(size[0] * scale), round(size[1] * scale))
            if min(level) < self.min_side:
                break
            levels.append(level)
            scale *= PYRAMID_STEP
        return levels

    def _extract_level(self, image: Float[Tensor, 'b c h w'], size: tuple[int, int]) -> Features:
        """Extract at one scale; keypoints come back in pixels of the source image."""
        source = image.shape[-2:]
        small = resize(image, size)
        small = pad_to_stride(small.to(next(self.parameters()).dtype), self.stride)
        maps = self(small.contiguous(memory_format=torch.channels_last))  # twice as fast on CPUs
        score_map = maps.score_map[:, : size[0], : size[1]]
        # half precision has no room for positions, whatever the network computes in
        score_map = score_map.to(torch.promote_types(score_map.dtype, torch.float32))
        found = best_first(self.detect(score_map))
        descriptors = self.describe(maps, found.keypoints).float()
        keypoints = rescale_points(found.keypoints.float(), size, source)
        shown = found.mask[..., None]
        scales = None
        if self.config.multi_scale:
            scales = found.mask * (source[1] / size[1])
        return Features(
            keypoints=keypoints * shown,
            keypoint_scores=found.keypoint_scores.float() * found.mask,
            descriptors=descriptors * shown,
            mask=found.mask,
            image_size=keypoints.new_tensor([source[1], source[0]]).expand(len(image), 2),
            scales=scales,
        )

    def _merge(self, levels: list[Features]) -> Features:
        """Join the keypoints of all scales of the same images and keep the best."""
        scores = torch.cat([level.keypoint_scores for level in levels], 1)
        mask = torch.cat([level.mask for level in levels], 1)
        count = int(mask.sum(1).max())
        if self.config.max_num_keypoints >= 0:
            count = min(count, self.config.max_num_keypoints)
        best = torch.where(mask, scores, -1.0).topk(count, dim=1).indices

        def pick(name: str) -> Tensor:
            joined = torch.cat([getattr(level, name) for level in levels], 1)
            index = best if joined.ndim == 2 else best[..., None].expand(-1, -1, joined.shape[2])
            return joined.gather(1, index)

        names = ('keypoints', 'keypoint_scores', 'descriptors', 'mask', 'scales')
        return Features(image_size=levels[0].image_size, **{name: pick(name) for name in names})
