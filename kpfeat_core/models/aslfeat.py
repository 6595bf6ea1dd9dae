"""
ASLFeat's detector: peakiness of three levels of features, an edge test, Newton's method.

Luo et al., "ASLFeat: Learning Local Features of Accurate Shape and Localization", CVPR 2020,
section 3.2; edge test and refinement as in SIFT (Lowe, IJCV 2004, section 4).
"""

from dataclasses import dataclass
import re

import torch
from torch import Tensor
import torch.nn.functional as F

from .aslfeat_layers import ConvNormRelu, DeformableLayer, POINTS
from .base import Converted, DenseMaps, Extractor, Pyramid
from .layers import strip_rows
from ..axes import Bool, Float, Int
from ..config import AUTO, ExtractorConfig, option, redefault
from ..geometry import sample
from ..keypoints import gather_windows, Keypoints, suppress_non_maxima

# Floats of a layer that are in work at once on a CPU: 1 MB.
STRIP_ELEMENTS = 1 << 18
EDGE_STEP = 3  # pixels between the scores that the edge test compares
# Layers that score: dilation of the peakiness, pixels per cell, weight.
LEVELS = {'conv1': (3, 1, 1 / 6), 'conv3': (2, 2, 2 / 6), 'conv6': (1, 4, 3 / 6)}
INSTANCE_MAX_RATE = 0.01
# Names of our tensors in a TensorFlow checkpoint; the others belong to the optimizer.
TF_NAMES = {
    'kernel': 'weight',
    'bias': 'bias',
    'moving_mean': 'running_mean',
    'moving_variance': 'running_var',
    'instance_max': 'instance_max',
}
TF_SCOPES = re.compile('^(deform_param|tower)/')


def peakiness(
    maps: Float[Tensor, 'b c h w'], largest: Tensor, dilation: int
) -> Float[Tensor, 'b h w']:
    """
    Score each pixel by how much a channel stands out from its surroundings and from the others.

    maps are divided by `largest`. The surroundings are 3x3 pixels, `dilation` apart, reflected
    at the borders. Equations 6 to 8 of the paper. Computed in float32 at least; in strips.
    """
    rows = maps.permute(0, 2, 3, 1).contiguous()  # no copy where channels come last
    batch, height, width, channels = rows.shape
    step = strip_rows(maps, height, batch * width * channels, STRIP_ELEMENTS)
    down, across = (_reflected(size, dilation, maps.device) for size in (height, width))
    parts = []
    for start in range(0, height, step):
        stop = min(start + step, height)
        near = rows.index_select(1, down[start : stop + 2 * dilation])
        near = near.to(torch.promote_types(near.dtype, torch.float32)) / largest
        parts.append(_stand_out(near, across, dilation))
    return torch.cat(parts, 1)


def _reflected(size: int, margin: int, device: torch.device) -> Int[Tensor, ' n']:
    """Return 0..size - 1 with a margin on both sides that runs back from the ends."""
    index = torch.arange(-margin, size + margin, device=device).abs()
    return torch.minimum(index, 2 * (size - 1) - index)


def _stand_out(
    near: Float[Tensor, 'b h1 w c'], across: Int[Tensor, ' w1'], dilation: int
) -> Float[Tensor, 'b h w']:
    """Return the peakiness of all rows but `dilation` at both ends."""
    count = near.shape[1] - 2 * dilation
    middle = near[:, dilation : dilation + count]
    sums = _three(near, dilation, 1)
    sums = _three(sums.index_select(2, across), dilation, 2)
    local = F.softplus(torch.add(middle, sums, alpha=-1 / 9))
    among = F.softplus(middle - middle.mean(-1, keepdim=True))
    return (local * among).amax(-1)


def _three(values: Tensor, dilation: int, axis: int) -> Tensor:
    """Add up three neighbours along an axis, `dilation` apart; 2 dilation fewer come out."""
    count = values.shape[axis] - 2 * dilation
    first, second, third = (values.narrow(axis, i * dilation, count) for i in range(3))
    total = first + second
    total += third
    return total


def enlarge(maps: Float[Tensor, 'b h w'], factor: int) -> Float[Tensor, 'b h2 w2']:
    """
    Enlarge maps bilinearly so that pixel i comes to lie on pixel factor * i.

    The first version of TensorFlow did so; the last rows and columns repeat the border.
    """
    if factor == 1:
        return maps
    height, width = maps.shape[1:]
    more = F.pad(maps[:, None], (0, 1, 0, 1), mode='replicate')
    size = (factor * height + 1, factor * width + 1)
    more = F.interpolate(more, size, mode='bilinear', align_corners=True)
    return more[:, 0, :-1, :-1]


def off_edges(score_map: Float[Tensor, 'b h w'], threshold: float) -> Bool[Tensor, 'b h w']:
    """
    Return where the curvature in one direction is below `threshold` times that in the other.

    Second differences are taken over EDGE_STEP pixels; the border is repeated outside.
    """
    step = EDGE_STEP
    padded = F.pad(score_map[:, None], (step,) * 4, mode='replicate')[:, 0]
    height, width = score_map.shape[1:]

    def at(dy: int, dx: int) -> Tensor:
        top, left = (1 + dy) * step, (1 + dx) * step
        return padded[:, top : top + height, left : left + width]

    twice = 2 * score_map
    dyy, dxx = at(-1, 0) + at(1, 0) - twice, at(0, -1) + at(0, 1) - twice
    dxy = (at(-1, -1) - at(-1, 1) - at(1, -1) + at(1, 1)) / 4
    determinant = dyy * dxx - dxy.square()
    trace = dyy + dxx
    limit = (threshold + 1) ** 2 / threshold
    return (determinant > 0) & (trace.square() <= limit * determinant)


def refine_newton(
    score_map: Float[Tensor, 'b h w'], xy: Int[Tensor, 'b n 2']
) -> Float[Tensor, 'b n 2']:
    """
    Move keypoints to the extremum of the parabola through the 3x3 scores around them.

    They move by at most half a pixel along each axis, and stay where the parabola has no
    extremum. Differentiable in the score map.
    """
    padded = F.pad(score_map[:, None], (1,) * 4, mode='replicate')[:, 0]
    window = gather_windows(padded, xy + 1, 1)
    nw, n, ne, w, c, e, sw, s, se = window.unbind(-1)
    dx, dy = (e - w) / 2, (s - n) / 2
    dxx, dyy, dxy = e + w - 2 * c, s + n - 2 * c, (nw - ne - sw + se) / 4
    determinant = dxx * dyy - dxy.square()
    exists = determinant != 0
    inverse = 1 / torch.where(exists, determinant, 1)
    step = torch.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], -1) * inverse[..., None]
    moved = xy + torch.where(exists[..., None], step, 0).clamp(-0.5, 0.5)
    last = moved.new_tensor([score_map.shape[2] - 1, score_map.shape[1] - 1])
    return moved.clamp(torch.zeros_like(last), last)


@dataclass(frozen=True)
class AslFeatConfig(redefault(ExtractorConfig, upsample_to=480, nms_radius=1, remove_borders=5)):
    """How ASLFeat's network is built, and how its maps become keypoints."""

    detection_threshold: float = option(
        0.51,
        'drop keypoints that score at or below this (published: 0.5)',
        low=0.0,
        high=100.0,
        live=True,
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


class AslFeat(Extractor):
    """
    ASLFeat; gray image in, stride 4 inside, any image size outside.

    Cell (i, j) of the descriptor map counts as pixel (4i, 4j), as published, although the part
    of the image that it sees is centred on (4i + 3, 4j + 3). The network learns that way:
    positions come from layers that see the pixel itself.
    """

    config_class = AslFeatConfig
    architecture = {'deform': 'a'}
    pyramid = Pyramid(smallest=0.5)
    name = 'aslfeat'
    channels = 1
    stride = 4
    descriptor_dim = 128

    def __init__(self, config: AslFeatConfig | None = None) -> None:
        super().__init__(config)
        self.conv0 = ConvNormRelu(1, 32)
        self.conv1 = ConvNormRelu(32, 32, scored=True)
        self.conv2 = ConvNormRelu(32, 64, stride=2)
        self.conv3 = ConvNormRelu(64, 64, scored=True)
        self.conv4 = ConvNormRelu(64, 128, stride=2)
        self.conv5 = ConvNormRelu(128, 128)
        self.conv6_0 = self._last_layer()
        self.conv6_1 = self._last_layer()
        self.conv6 = self._last_layer(scored=True, normalized=False)

    def _last_layer(self, **options: bool) -> ConvNormRelu:
        if self.config.deform == 'none':
            return ConvNormRelu(128, 128, **options)
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

    def describe(self, maps: DenseMaps, found: Keypoints) -> Float[Tensor, 'b n d']:
        """Read the descriptor map bilinearly at a quarter of the position; unit length."""
        level = maps.descriptor_maps[0].to(found.keypoints.dtype)
        cells = found.keypoints / self.stride
        return F.normalize(sample(level, cells, padding='border'), dim=-1)

    def convert_checkpoint(self, state: dict[str, Tensor]) -> Converted:
        """Rename and turn the variables of a TensorFlow checkpoint; find how its layers bend."""
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
    """Return the option `deform` that the tensors of a network fit."""
    if 'conv6.ori.weight' in state:
        return 'a' if 'conv6.aff.weight' in state else 's'
    if 'conv6.offset.weight' in state:
        return 'u' if len(state['conv6.offset.weight']) == 2 * POINTS else 'h'
    return 'none'
