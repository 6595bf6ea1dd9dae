"""
KP2D (KeyPointNet): every cell of 8x8 pixels regresses one keypoint, its score and its descriptor.

Tang et al., "Neural Outlier Rejection for Self-Supervised Keypoint Learning", ICLR 2020. Layers
have the names of the published checkpoints.

The last convolution of the descriptor head has no activation after it, so it commutes with
bilinear reading: here its 3x3 input is interpolated at each keypoint, and the kernel is applied
to that. The numbers are the same, and it costs a part of the whole map's convolution: a cell has
one keypoint, and, in versions with upsampled descriptors, four pixels of that map.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from .base import Converted, DenseMaps, Extractor
from .layers import halve_in_strips, normalized_conv, strip_rows
from ..axes import Bool, Float
from ..config import AUTO, ExtractorConfig, option, redefault
from ..errors import WeightsError
from ..geometry import gather_rows, inside, pixel_grid
from ..keypoints import clear_borders, Keypoints, select_best

CELL = 8
HALF_CELL = (CELL - 1) / 2  # pixels from the centre of a cell's first pixel to the cell's centre
POINTS_AT_ONCE = 1024  # 16 MB of float32 patches for each image
# Floats of a layer's map that are in work at once on a CPU, where the maps are large: 4 MB.
STRIP_ELEMENTS = 1 << 20


class Version(NamedTuple):
    """How far a keypoint may go from its cell's centre, in half cells, and the descriptor map."""

    cross_ratio: float
    upsample: bool


VERSIONS = {
    'v0': Version(1.0, upsample=False),
    'v1': Version(2.0, upsample=False),
    'v2': Version(2.0, upsample=True),
    'v3': Version(2.0, upsample=True),  # the network of v2, trained with IO-Net alone
    'v4': Version(2.0, upsample=True),  # the network of v2, trained with IO-Net as well
}


@dataclass(frozen=True)
class Kp2dConfig(redefault(ExtractorConfig, upsample_to=480)):
    """How KP2D's cells become keypoints."""

    detection_threshold: float = option(
        0.5,
        'drop keypoints that score at or below this; 0 keeps one of each cell, as published, in '
        'flat regions too',
        low=0.0,
        high=1.0,
        live=True,
    )
    nms_radius: int = option(
        0,
        'keep only the best keypoint within this many pixels; 0 keeps all',
        low=0,
        high=64,
        live=True,
    )
    version: str = option(
        AUTO,
        'published version: v0 plain, v1 with keypoints that cross cells, v2 to v4 with upsampled '
        'descriptors too; auto: that of the weights, else v4',
        choices=(AUTO, *VERSIONS),
    )
    upstream_sampling: bool = option(
        False,
        'read descriptors as the published code does, which is 1.5 pixels off at the image '
        'borders, 3.5 in v0 and v1, and right in the middle',
        live=True,
    )


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
    )


def _run(x: Tensor, *blocks: nn.Sequential) -> Tensor:
    for block in blocks:
        x = F.leaky_relu(normalized_conv(x, block[0], block[1]), 0.01, inplace=True)
    return x


def _run_pooled(x: Tensor, first: nn.Sequential, second: nn.Sequential) -> Tensor:
    """Run two blocks and halve their map: (B, inputs, h, w) to (B, outputs, h/2, w/2)."""
    rows = x.shape[2]
    if not first.training:
        widest = max(first[0].out_channels, second[0].out_channels)
        rows = strip_rows(x, rows, widest * x.shape[3], STRIP_ELEMENTS, CELL)
    return halve_in_strips(lambda part: _run(part, first, second), x, rows, reach=2)


class Kp2d(Extractor):
    """KP2D in any of its versions; RGB in, one keypoint for each cell of 8x8 pixels out."""

    config_class = Kp2dConfig
    architecture = {'version': 'v4'}
    name = 'kp2d'
    channels = 3
    stride = CELL
    descriptor_dim = 256

    def __init__(self, config: Kp2dConfig | None = None) -> None:
        super().__init__(config)
        self.version = VERSIONS[self.config.version]
        self.dropout = nn.Dropout2d(0.2)
        self.conv1a, self.conv1b = _block(3, 32), _block(32, 32)
        self.conv2a, self.conv2b = _block(32, 64), _block(64, 64)
        self.conv3a, self.conv3b = _block(64, 128), _block(128, 128)
        self.conv4a, self.conv4b = _block(128, 256), _block(256, 256)
        self.convDa, self.convDb = _block(256, 256), nn.Conv2d(256, 1, 3, padding=1)
        self.convPa, self.convPb = _block(256, 256), nn.Conv2d(256, 2, 3, padding=1)
        self.convFa = _block(256, 256)
        self.convFb = _block(256, 512) if self.version.upsample else None
        self.convFaa, self.convFbb = _block(256, 256), nn.Conv2d(256, 256, 3, padding=1)

    def prepare(self, image: Float[Tensor, 'b 3 h w']) -> Float[Tensor, 'b 3 h w']:
        """
        Bring gray to 0; with the published factor, which is small by a multiplication.

        The padding comes later, so that it is gray, as the padding of the first convolution is.
        """
        return (image - 0.5) * 0.225

    def forward(self, image: Float[Tensor, 'b 3 h w']) -> DenseMaps:
        """
        Compute scores (B, H/8, W/8), positions (B, H/8, W/8, 2) and the map for descriptors.

        The outermost ring of cells has score 0, and positions are clamped to the image.
        descriptor_maps: (B, 256, H/4, W/4), in v0 and v1 (B, 256, H/8, W/8), before convFbb.
        """
        # dropout takes whole channels, so that it may as well come after the pooling
        x = self.dropout(_run_pooled(image, self.conv1a, self.conv1b))
        x = self.dropout(_run_pooled(x, self.conv2a, self.conv2b))
        skip = self.dropout(_run(x, self.conv3a, self.conv3b))
        x = self.dropout(_run(F.max_pool2d(skip, 2), self.conv4a, self.conv4b))
        logits = self.convDb(self.dropout(_run(x, self.convDa)))
        offsets = self.convPb(self.dropout(_run(x, self.convPa)))
        x = self.dropout(_run(x, self.convFa))
        if self.convFb is not None:
            x = F.pixel_shuffle(normalized_conv(x, self.convFb[0], self.convFb[1]), 2)
            x = torch.cat([x, skip], 1)
        # half precision has no room for positions, and makes high scores equal
        exact = torch.promote_types(logits.dtype, torch.float32)
        score_map = clear_borders(logits[:, 0].to(exact).sigmoid(), 1, 1)
        return DenseMaps(
            score_map, (_run(x, self.convFaa),), self._positions(offsets.to(exact).tanh())
        )

    def _positions(self, offsets: Float[Tensor, 'b 2 h w']) -> Float[Tensor, 'b h w 2']:
        """Turn offsets in -1..1 from the centres of the cells into (x, y) pixels."""
        height, width = offsets.shape[-2:]
        cells = pixel_grid(height, width, offsets.device, offsets.dtype)
        centers = (cells * CELL + HALF_CELL).view(height, width, 2)
        xy = centers + offsets.permute(0, 2, 3, 1) * (HALF_CELL * self.version.cross_ratio)
        last = xy.new_tensor([width * CELL - 1, height * CELL - 1])
        return xy.clamp(min=torch.zeros_like(last), max=last)

    def crop(self, maps: DenseMaps, size: tuple[int, int]) -> DenseMaps:
        """
        Remove the cells whose centre lies in the padding, and clear the outermost of the others.

        As in an image without padding, no keypoint of the cells that are left can lie outside.
        """
        rows, columns = ((side + CELL // 2 - 1) // CELL for side in size)
        cells = (slice(None), slice(rows), slice(columns))
        positions = maps.positions[cells]
        score_map = clear_borders(maps.score_map[cells], 1, 1)
        score_map = score_map * inside(positions, *size, margin=self.config.remove_borders)
        return replace(maps, score_map=score_map, positions=positions)

    def detect(self, maps: DenseMaps) -> Keypoints:
        """Select the cells with the best scores; their keypoints lie at their positions."""
        config = self.config
        positions = maps.positions if config.sub_pixel else maps.positions.round()
        farthest = HALF_CELL * self.version.cross_ratio + 0.5  # from the cell's centre; rounded
        reach = int((config.nms_radius + 2 * farthest) // CELL)
        with torch.no_grad():
            peaks = nms_points(maps.score_map, positions, config.nms_radius, reach)
            cells, scores, mask = select_best(
                peaks, config.detection_threshold, config.max_num_keypoints
            )
        index = cells[..., 1] * positions.shape[2] + cells[..., 0]
        return Keypoints(gather_rows(positions.flatten(1, 2), index), scores, mask)

    def describe(self, maps: DenseMaps, found: Keypoints) -> Float[Tensor, 'b n d']:
        """
        Read descriptors bilinearly from the map, of which each pixel sees 4 or 8 of the image.

        The published code (upstream_sampling) aligns the corners of image and map: the first and
        last pixel of the image, padding included, fall on those of the map. That is right in the
        middle of the image, and at its borders half a pixel of the map too far inwards.
        """
        (features,) = maps.descriptor_maps
        height, width = features.shape[-2:]
        pixel = CELL // 2 if self.version.upsample else CELL
        size = found.keypoints.new_tensor([width, height])
        points = (found.keypoints + 0.5) / pixel - 0.5
        if self.config.upstream_sampling:
            points = found.keypoints * ((size - 1) / (size * pixel - 1))
        kernel = self.convFbb.weight.permute(0, 2, 3, 1).flatten(1).to(points.dtype)
        bias = self.convFbb.bias.to(points.dtype)
        parts = [
            F.linear(read_patches(features, some).flatten(2), kernel, bias)
            for some in points.split(POINTS_AT_ONCE, dim=1)
        ]
        return F.normalize(torch.cat(parts, 1), dim=-1)

    def convert_checkpoint(self, state: dict[str, Tensor]) -> Converted:
        """
        Take a published checkpoint, of the version of this extractor.

        The tensors of all versions have the same names and shapes. Those of v0 and v1 have a
        layer convFb that never was in use; it goes, and shows which checkpoint is theirs.

        Raises WeightsError where the tensors are of another version.
        """
        version, needed = self.config.version, self.version.upsample
        if _upsampling(state) not in (None, needed):
            layer, others = 'a layer', 'v2, v3 or v4, which are one network; set version=v4'
            if needed:
                layer = 'no layer'
                others = 'v0 or v1, which have equal tensors; set version=v0 or version=v1'
            raise WeightsError(
                f'this checkpoint has {layer} convFb that was in use, so it is not of version '
                f'{version} but of {others}'
            )
        if not needed:
            state = {k: v for k, v in state.items() if not k.startswith('convFb.')}
        return state, {'version': version}


def _upsampling(state: dict[str, Tensor]) -> bool | None:
    """Return whether a network of these tensors was trained with convFb; None: unknown."""

    def touched(layer: str) -> bool | None:
        mean, variance = (state.get(f'{layer}.1.running_{part}') for part in ('mean', 'var'))
        if mean is None or variance is None:
            return None
        return not bool((mean == 0).all() and (variance == 1).all())

    # unknown for a network that was never trained and for one of another model
    return bool(touched('convFb')) if touched('convFa') else None


def read_patches(
    maps: Float[Tensor, 'b c h w'], points: Float[Tensor, 'b n 2']
) -> Float[Tensor, 'b n 9 c']:
    """
    Interpolate the 3x3 window around each point of the maps, row after row.

    A kernel of a zero-padded 3x3 convolution applied to it gives the same as reading the
    convolved map bilinearly at the point. Points outside the map are moved to its border.
    Computed in the type of the points; differentiable in both.
    """
    height, width = maps.shape[-2:]
    (columns, across), (rows, down) = (
        _taps(points[..., axis], size) for axis, size in ((0, width), (1, height))
    )
    weights = down[:, :, :, None, :, None] * across[:, :, None, :, None, :]  # b n 3 3 4 4
    image = torch.arange(len(maps), device=maps.device)[:, None, None, None]
    index = (image * height + rows[..., :, None]) * width + columns[..., None, :]  # b n 4 4
    vectors = maps.permute(0, 2, 3, 1).flatten(0, 2)  # no copy where channels come last
    around = F.embedding(index.flatten(2), vectors)  # five times as fast as gather
    return weights.flatten(4).flatten(2, 3) @ around.to(points.dtype)


def _taps(along: Float[Tensor, 'b n'], size: int) -> tuple[Tensor, Tensor]:
    """
    Return which four lines the 3 windows of a coordinate read, and their weights (B, N, 3, 4).

    Lines outside the map have weight 0, as zero padding has it.
    """
    along = along.nan_to_num().clamp(0, size - 1)
    low = along.detach().floor()
    fraction = (along - low)[..., None, None]
    lines = low.long()[..., None] + torch.arange(-1, 3, device=along.device)
    shift = torch.eye(4, device=along.device, dtype=along.dtype)
    weights = (1 - fraction) * shift[:3] + fraction * shift[1:]
    present = (lines >= 0) & (lines < size)
    return lines.clamp(0, size - 1), weights * present[..., None, :]


def _windows(values: Tensor, reach: int, outside: float) -> Tensor:
    """View the neighbourhood of each cell: (B, h, w) to (B, h, w, 2 reach + 1, 2 reach + 1)."""
    padded = F.pad(values, (reach,) * 4, value=outside)
    size = 2 * reach + 1
    return padded.unfold(1, size, 1).unfold(2, size, 1)


def nms_points(
    score_map: Float[Tensor, 'b h w'], positions: Float[Tensor, 'b h w 2'], radius: int, reach: int
) -> Float[Tensor, 'b h w']:
    """
    Zero the cells whose keypoint has a better one within `radius` pixels in x and in y.

    Exactly greedy: best first, each keypoint that stays removes those around it. Of equal scores
    the first cell's is the better. reach: how many cells apart keypoints so near can be.
    """
    if radius == 0:
        return score_map
    rivals = _better_and_near(score_map, positions, radius, reach)
    open_cells = score_map > 0
    kept = torch.zeros_like(open_cells)
    while open_cells.any():  # at least the best one of those left is settled in each round
        beaten = (rivals & _windows(open_cells, reach, False)).any(-1).any(-1)
        kept |= open_cells & ~beaten
        removed = (rivals & _windows(kept, reach, False)).any(-1).any(-1)
        open_cells = open_cells & beaten & ~removed
    return score_map * kept


def _better_and_near(
    score_map: Float[Tensor, 'b h w'], positions: Float[Tensor, 'b h w 2'], radius: int, reach: int
) -> Bool[Tensor, 'b h w r r']:
    """Return for each cell which of the cells around it would suppress it."""
    order = torch.arange(score_map[0].numel(), device=score_map.device)
    order = order.view(1, *score_map.shape[1:])
    scores, here = _windows(score_map, reach, 0.0), score_map[..., None, None]
    first = _windows(order, reach, 0) < order[..., None, None]
    rivals = (scores > here) | ((scores == here) & first)
    for axis in (0, 1):
        own = positions[..., axis]
        rivals &= (_windows(own, reach, torch.inf) - own[..., None, None]).abs() <= radius
    return rivals
