"""
ASLFeat's layers: convolutions, and deformable ones whose kernels are bent in one of four ways.

Luo et al., "ASLFeat: Learning Local Features of Accurate Shape and Localization", CVPR 2020,
section 3.1.
"""

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from .layers import deform_conv2d, folded
from ..axes import Float

POINTS = 9
# Names and channels of the convolutions that predict each way of bending.
DEFORMATIONS = {
    'u': {'offset': 2 * POINTS},
    's': {'ori': 2, 'scale': 1},
    'a': {'ori': 2, 'scale': 1, 'aff': 3},
    'h': {'offset': 8, 'scale': 1},
}
FARTHEST = 10.0  # pixels from the centre that a homography may send a kernel point to
MOST_CORNER_MOTION = 0.95
LEAST_STRETCH = 1e-3


class ConvNormRelu(nn.Conv2d):
    """
    A 3x3 convolution without bias; batch normalisation without factors; ReLU.

    Like TensorFlow's, a stride of 2 pads after the last row and column only: output i is centred
    on input 2i + 1. scored: has the largest output seen, by which scores are divided.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int = 1,
        scored: bool = False,
        normalized: bool = True,
    ) -> None:
        super().__init__(inputs, outputs, 3, stride, padding=stride, bias=False)
        nn.init.kaiming_normal_(self.weight, nonlinearity='relu')
        self.bn = nn.BatchNorm2d(outputs, affine=False) if normalized else None
        if scored:
            self.register_buffer('instance_max', torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, outputs, h / stride, w / stride)."""
        if self.bn.training:
            return self.activate(self.convolve(x, self.weight))
        y = self.convolve(x, *folded(self, self.bn))
        return F.relu(y, inplace=self.stride == (1, 1))  # else it makes the memory dense again

    def convolve(self, x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
        """Convolve, and no more."""
        y = F.conv2d(x, kernel, bias, self.stride, self.padding)
        # where two pixels were added before and after, the first output belongs to nothing
        return y if self.stride == (1, 1) else y[:, :, 1:, 1:]

    def activate(self, raw: Tensor) -> Tensor:
        """Normalise the output of `convolve`, and apply the ReLU."""
        return F.relu(self.bn(raw), inplace=True)


class DeformableLayer(ConvNormRelu):
    """A layer whose kernel is bent at each pixel: 'u', 's', 'a' or 'h' of DEFORMATIONS."""

    def __init__(
        self, inputs: int, outputs: int, deform: str, scored: bool = False, normalized: bool = True
    ) -> None:
        super().__init__(inputs, outputs, scored=scored, normalized=normalized)
        self.deform = deform
        self.parts = DEFORMATIONS[deform] | {'amplitude': POINTS}
        for name, channels in self.parts.items():
            predictor = nn.Conv2d(inputs, channels, 3, padding=1)
            nn.init.zeros_(predictor.weight)  # no offsets at first
            nn.init.zeros_(predictor.bias)
            self.add_module(name, predictor)
        if 'ori' in self.parts:
            with torch.no_grad():
                self.ori.bias[0] = 1.0  # the cosine

    def convolve(self, x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
        """Convolve with the bent kernel."""
        offsets, amplitude = self.predict_offsets(x)
        return deform_conv2d(x, offsets, amplitude, kernel, bias)

    def predict_offsets(
        self, x: Tensor
    ) -> tuple[Float[Tensor, 'b 18 h w'], Float[Tensor, 'b 9 h w']]:
        """Return the (dy, dx) of each kernel point in pixels, and its amplitude, in 0..1."""
        predictors = [self.get_submodule(name) for name in self.parts]
        kernels = torch.cat([predictor.weight for predictor in predictors])
        biases = torch.cat([predictor.bias for predictor in predictors])
        found = F.conv2d(x, kernels, biases, padding=1)  # one pass over the maps, not four
        found = found.to(torch.promote_types(found.dtype, torch.float32))
        named = dict(zip(self.parts, found.split(list(self.parts.values()), 1), strict=True))
        amplitude = named.pop('amplitude').sigmoid()
        if self.deform == 'u':
            return named['offset'], amplitude
        named = {name: value.permute(0, 2, 3, 1) for name, value in named.items()}
        scale = named['scale'].tanh().exp()[..., None]
        if self.deform == 'h':
            moved = homography_points(named['offset'].tanh() * MOST_CORNER_MOTION, scale)
        else:
            A = scale * rotations(named['ori'])
            if self.deform == 'a':
                A = A @ residual_affinities(named['aff'])
            moved = kernel_points(A) @ A
        offsets = (moved - kernel_points(moved)).flip(-1)  # (x, y) to (dy, dx)
        return offsets.flatten(3).permute(0, 3, 1, 2), amplitude


def kernel_points(like: Tensor) -> Float[Tensor, '9 2']:
    """Return the (x, y) of the points of a 3x3 kernel, row after row, around its centre."""
    steps = torch.arange(3, device=like.device, dtype=like.dtype) - 1
    return torch.stack([steps.repeat(3), steps.repeat_interleave(3)], -1)


def rotations(vectors: Float[Tensor, '... 2']) -> Float[Tensor, '... 2 2']:
    """Return [[c, s], [-s, c]] of the directions (c, s) of vectors; it multiplies rows."""
    cosine, sine = F.normalize(vectors, dim=-1).unbind(-1)
    return torch.stack([cosine, sine, -sine, cosine], -1).unflatten(-1, (2, 2))


def residual_affinities(values: Float[Tensor, '... 3']) -> Float[Tensor, '... 2 2']:
    """
    Return lower triangular matrices [[a, 0], [b, d]] of determinant 1; zeros give the identity.

    The part of an affine shape that no rotation and no scale can give (section 3.1, from
    Mishkin et al., "Repeatability Is Not Enough", ECCV 2018).
    """
    stretch, shear, other = values.tanh().unbind(-1)
    stretch, other = (1 + stretch).clamp(LEAST_STRETCH), (1 + other).clamp(LEAST_STRETCH)
    root = (stretch * other).sqrt()
    rows = [stretch / root, torch.zeros_like(root), shear / root, other / root]
    return torch.stack(rows, -1).unflatten(-1, (2, 2))


def homography_points(
    corners: Float[Tensor, '... 8'], scale: Float[Tensor, '... 1 1']
) -> Float[Tensor, '... 9 2']:
    """
    Return where homographies without translation send the points of a 3x3 kernel, as (x, y).

    corners: motion (x, y) of the corners (-1, -1), (1, -1), (-1, 1), (1, 1), below 1 in size.
    scale: factor of the linear part. Points at infinity become the centre.

    The homographies [[h1, h2, 0], [h4, h5, 0], [h7, h8, 1]] solve the direct linear transform of
    the corners by least squares. The four corners make its normal equations fall apart into
    equations of one unknown: with D and E the differences of opposite corners and S and T their
    sums, h7 + h8 = -S.D / D.D and h7 - h8 = -T.E / E.E. As long as corners move by less than 1,
    opposite ones stay apart, so that there always is a solution.
    """
    first = kernel_points(corners)[[0, 2, 6, 8]]
    upper_left, upper_right, lower_left, lower_right = (
        corners.unflatten(-1, (4, 2)) + first
    ).unbind(-2)
    S, D = lower_right + upper_left, lower_right - upper_left
    T, E = upper_right + lower_left, upper_right - lower_left
    both = -(S * D).sum(-1, keepdim=True) / D.square().sum(-1, keepdim=True)
    differ = -(T * E).sum(-1, keepdim=True) / E.square().sum(-1, keepdim=True)
    h7, h8 = (both + differ) / 2, (both - differ) / 2
    # moments of the moved corners w over the corners (X, Y): of 1, X, Y and XY
    one, x, y, xy = (S + T) / 4, (D + E) / 4, (D - E) / 4, (S - T) / 4
    linear = torch.stack([x + one * h7 + xy * h8, y + xy * h7 + one * h8], -2) * scale
    points = kernel_points(corners)
    depth = 1 + points @ torch.cat([h7, h8], -1)[..., None]
    front = depth != 0
    moved = points @ linear / torch.where(front, depth, 1)
    return torch.where(front, moved, 0).clamp(-FARTHEST, FARTHEST)
