"""
ALIKE: a light network with differentiable keypoint detection.

Zhao et al., "ALIKE: Accurate and Lightweight Keypoint Detection and Descriptor Extraction",
IEEE Transactions on Multimedia 2022.

The published network upsamples four levels to full resolution, joins them, and applies 1x1
convolutions there. Here each level goes through its share of the 1x1 convolutions first and only
the needed values are upsampled, which gives the same numbers: a 1x1 convolution mixes channels and
bilinear upsampling mixes pixels, so they commute; a ReLU between them does not, and stays where
it was. The score map then upsamples one channel a level instead of dim/4, and descriptors are
computed at the four pixels around each keypoint only.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from .base import DenseMaps, Extractor
from .layers import normalized_conv, strip_rows
from ..axes import Float
from ..config import ExtractorConfig, option
from ..geometry import bilinear_neighbors, flat_index, gather_rows, sample
from ..image import upsample_rows
from ..keypoints import clear_borders, Keypoints, refine_soft_argmax, suppress_non_maxima

# Floats of the widest full-resolution layer that are in work at once on a CPU: 2 MB.
STRIP_ELEMENTS = 1 << 19


@dataclass(frozen=True)
class AlikeConfig(ExtractorConfig):
    """How ALIKE's maps become keypoints."""

    upstream_borders: bool = option(
        False, 'drop one more row and column at the top left, as the published code does'
    )


class AlikeSize(NamedTuple):
    """Channels of the four blocks, descriptor length, and whether the head is one layer."""

    channels: tuple[int, int, int, int]
    descriptor_dim: int
    single_head: bool = True


SIZES = {
    'alike-t': AlikeSize((8, 16, 32, 64), 64),
    'alike-s': AlikeSize((8, 16, 48, 96), 96),
    'alike-n': AlikeSize((16, 32, 64, 128), 128),
    'alike-l': AlikeSize((32, 64, 128, 128), 128, single_head=False),
}


class Block(nn.Module):
    """Two 3x3 convolutions, each with batch normalisation; residual if `skip`."""

    def __init__(self, inputs: int, outputs: int, skip: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Conv2d(inputs, outputs, 1) if skip else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, outputs, h, w)."""
        y = F.relu(normalized_conv(x, self.conv1, self.bn1), inplace=True)
        y = normalized_conv(y, self.conv2, self.bn2)
        if self.downsample is not None:
            y += self.downsample(x)
        return F.relu(y, inplace=True)


def _mix(vectors: Float[Tensor, 'b n c'], weight: Tensor) -> Float[Tensor, 'b n d']:
    """Apply a 1x1 convolution's weight (D, C, 1, 1) to vectors, in the type of the vectors."""
    return F.linear(vectors, weight.flatten(1).to(vectors.dtype))


class Alike(Extractor):
    """ALIKE in any of its four sizes; RGB in, stride 32 inside, any image size outside."""

    config_class = AlikeConfig
    channels = 3
    stride = 32
    nms_rounds = 2
    soft_temperature = 0.1

    def __init__(self, name: str, config: AlikeConfig | None = None) -> None:
        super().__init__(config)
        self.name = name
        self.size = SIZES[name]
        self.descriptor_dim = dim = self.size.descriptor_dim
        c1, c2, c3, c4 = self.size.channels
        quarter = dim // 4
        self.block1 = Block(3, c1, skip=False)
        self.block2 = Block(c1, c2, skip=True)
        self.block3 = Block(c2, c3, skip=True)
        self.block4 = Block(c3, c4, skip=True)
        self.conv1 = nn.Conv2d(c1, quarter, 1, bias=False)
        self.conv2 = nn.Conv2d(c2, quarter, 1, bias=False)
        self.conv3 = nn.Conv2d(c3, quarter, 1, bias=False)
        self.conv4 = nn.Conv2d(c4, quarter, 1, bias=False)
        self.convhead1 = None if self.size.single_head else nn.Conv2d(dim, dim, 1, bias=False)
        self.convhead2 = nn.Conv2d(dim, dim + 1, 1, bias=False)

    def forward(self, image: Float[Tensor, 'b 3 h w']) -> DenseMaps:
        """
        Compute the score map and the four levels that descriptors are read from.

        descriptor_maps: (B, c1, H, W) before conv1, then (B, dim/4, h, w) after conv2..4.
        """
        x1 = self.block1(image)
        x2 = self.block2(F.max_pool2d(x1, 2))
        x3 = self.block3(F.max_pool2d(x2, 4))
        x4 = self.block4(F.max_pool2d(x3, 4))
        low = [self.conv2(x2), self.conv3(x3), self.conv4(x4)]
        low = [F.relu(level, inplace=True) for level in low]
        logits = self._score_logits(x1, low)[:, 0]
        # half precision has too few steps near 1: neighbours would tie
        score = torch.sigmoid(logits.to(torch.promote_types(logits.dtype, torch.float32)))
        return DenseMaps(score, (x1, *low))

    def _score_logits(self, x1: Tensor, low: list[Tensor]) -> Float[Tensor, 'b 1 h w']:
        """Apply the head's score row to the four levels, each at its own resolution; in strips."""
        head = self.convhead2.weight[-1:] if self.convhead1 is None else self.convhead1.weight
        first, *others = head.chunk(4, dim=1)
        parts = [F.conv2d(x, weight) for x, weight in zip(low, others, strict=True)]
        size = x1.shape[-2:]
        widest = max(self.conv1.out_channels, len(head))
        step = strip_rows(x1, size[0], widest * size[1], STRIP_ELEMENTS)
        strips = []
        for start in range(0, size[0], step):
            rows = slice(start, min(start + step, size[0]))
            full = F.conv2d(F.relu(self.conv1(x1[:, :, rows]), inplace=True), first)
            for part in parts:
                full += upsample_rows(part, size, rows)
            if self.convhead1 is not None:
                full = F.conv2d(F.relu(full, inplace=True), self.convhead2.weight[-1:])
            strips.append(full)
        return torch.cat(strips, dim=2)

    def detect(self, maps: DenseMaps) -> Keypoints:
        """
        Differentiable keypoint detection (DKD).

        The hard part (no gradient) takes maxima, the soft part refines them. Scores are read
        bilinearly at the refined positions. Equations 3 to 7 of the paper.
        """
        config, score_map = self.config, maps.score_map
        with torch.no_grad():
            peaks = suppress_non_maxima(score_map.detach(), config.nms_radius, self.nms_rounds)
            if config.upstream_borders:
                peaks = clear_borders(peaks, config.remove_borders + 1, 0)
            xy, scores, mask = self.select(peaks)
        if not config.sub_pixel:
            return Keypoints(xy.to(score_map.dtype), scores, mask)
        keypoints, dispersity = refine_soft_argmax(
            score_map, xy, temperature=self.soft_temperature
        )
        scores = sample(score_map[:, None], keypoints).squeeze(-1)
        return Keypoints(keypoints, scores, mask, dispersity)

    def describe(self, maps: DenseMaps, found: Keypoints) -> Float[Tensor, 'b n d']:
        """Blend the unit descriptors of the four pixels around each keypoint; unit length."""
        pixels, weights = bilinear_neighbors(found.keypoints, *maps.descriptor_maps[0].shape[-2:])
        around = self.describe_pixels(maps, pixels.flatten(1, 2))
        around = around.view(*pixels.shape[:3], self.descriptor_dim)
        return F.normalize((around * weights[..., None]).sum(2), dim=-1)

    def describe_pixels(
        self, maps: DenseMaps, pixels: Float[Tensor, 'b n 2']
    ) -> Float[Tensor, 'b n d']:
        """
        Return the dense descriptor map's unit vectors at integer (x, y) pixels.

        Computed in the type of `pixels`: half precision does not distinguish pixel 2049 from 2048.
        """
        full, *low = maps.descriptor_maps
        height, width = full.shape[-2:]
        rows = full.permute(0, 2, 3, 1).flatten(1, 2)  # no copy where channels come last
        first = gather_rows(rows, flat_index(pixels, width))
        parts = [F.relu(_mix(first.to(pixels.dtype), self.conv1.weight))]
        size = pixels.new_tensor([width - 1, height - 1])
        for level in low:  # upsampling aligns the corner pixels of all levels
            last = pixels.new_tensor([level.shape[-1] - 1, level.shape[-2] - 1])
            level = level.to(pixels.dtype)
            parts.append(sample(level, pixels * (last / size), padding='border'))
        joined = torch.cat(parts, -1)
        if self.convhead1 is not None:
            joined = F.relu(_mix(joined, self.convhead1.weight))
        return F.normalize(_mix(joined, self.convhead2.weight[:-1]), dim=-1)
