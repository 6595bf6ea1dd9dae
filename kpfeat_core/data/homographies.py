"""
Random homographies as the published systems draw them, in batches on the generator's device.

All results are H_0to1: it takes (x, y) pixels of image 0 to image 1, with pixel centers at
integers, as `geometry.warp_points` and `geometry.warp_image` want it. What the published code
calls its homography differs:

- SuperPoint's takes pixels of image 1 (the warped one) to image 0: the inverse of ours.
- KP2D's takes image 1 (there the source) to image 0 too, with x and y both in -1..1.
- Key.Net's takes the warped crop to the original one: the inverse of ours.

Image 1 is as large as image 0. The unit square of the samplers is the one between the outer pixel
centers here, so that a patch inside it never reads a pixel that is not there; SuperPoint's code
multiplies by the size instead, which is half a pixel off in the middle of the image.
"""

import math

import torch
from torch import Tensor
import torch.nn.functional as F

from .config import AffineConfig, HomographyConfig, PatchConfig
from ..axes import Bool, Float

# Corners of the unit square in the order that `square_to_corners` has: around, from the top left.
SQUARE = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
# Rounding must not make a patch that touches the border one that crosses it.
TOLERANCE = 1e-5


def sample_homographies(
    config: HomographyConfig, count: int, size: tuple[int, int], generator: torch.Generator
) -> Float[Tensor, 'b 3 3']:
    """
    Draw `count` homographies H_0to1 between images of `size` (height, width).

    All of either image is in front of the other's horizon, which `warp_points` relies on: the
    rare draw of another kind is drawn again. With `artifacts=False`, all that image 1 shows
    lies in image 0.
    """
    if isinstance(config, AffineConfig):
        return _sample_affine(config, count, size, generator)
    patches = _sample_patches(config, count, size, generator)
    to_unit = torch.linalg.inv(square_to_corners(patches))
    while len(hidden := (~all_in_front(to_unit)).nonzero()[:, 0]):
        patches = _sample_patches(config, len(hidden), size, generator)
        to_unit[hidden] = torch.linalg.inv(square_to_corners(patches))
    last = to_unit.new_tensor([max(size[1] - 1, 1), max(size[0] - 1, 1), 1.0])
    return last[:, None] * to_unit / last


def view_homographies(
    sizes: Float[Tensor, 'b 2'],
    side: int,
    coverage: tuple[float, float],
    config: HomographyConfig,
    generator: torch.Generator,
) -> tuple[Float[Tensor, '2 b 3 3'], Float[Tensor, 'b 3 3']]:
    """
    Draw two square views of each photograph (width, height), related by a published homography.

    View 0 is an upright square anywhere in the photograph, whose side is a share of the short one
    between the two of coverage; view 1 is view 0 moved by H_0to1. Returns the homographies from
    the views' pixels to those of the photograph, and H_0to1.
    """

    def draw(*shape: int) -> Tensor:
        return torch.rand(len(sizes), *shape, generator=generator, device=generator.device)

    low, high = coverage
    covered = (low + (high - low) * draw(1)) * (sizes.amin(1, keepdim=True) - 1)
    corner = draw(2) * (sizes - 1 - covered)
    first = torch.eye(3, device=sizes.device).repeat(len(sizes), 1, 1)
    first[:, :2] *= covered[..., None] / (side - 1)
    first[:, :2, 2] = corner
    H_0to1 = sample_homographies(config, len(sizes), (side, side), generator)
    return torch.stack([first, first @ torch.linalg.inv(H_0to1)]), H_0to1


def square_to_corners(corners: Float[Tensor, 'b 4 2']) -> Float[Tensor, 'b 3 3']:
    """
    Return the homography that takes the corners of the unit square to these.

    corners (B, 4, 2): where (0, 0), (1, 0), (1, 1) and (0, 1) go; convex. Source: Heckbert,
    "Fundamentals of Texture Mapping and Image Warping", 1989, section 2.2.3.
    """
    p0, p1, p2, p3 = corners.unbind(1)
    along, down, rest = p1 - p2, p3 - p2, p0 - p1 + p2 - p3
    area = _cross(along, down)
    g = (_cross(rest, down) / area)[:, None]
    h = (_cross(along, rest) / area)[:, None]
    columns = [p1 - p0 + g * p1, p3 - p0 + h * p3, p0]
    bottom = torch.cat([g, h, torch.ones_like(g)], -1)
    return torch.cat([torch.stack(columns, -1), bottom[:, None]], 1)


def all_in_front(homographies: Float[Tensor, '*b 3 3'], side: float = 1.0) -> Bool[Tensor, '*b']:
    """
    Return where all of a square is in front of infinity, as all of its corners are.

    side: of the square, whose first corner is at (0, 0).
    """
    corners = F.pad(side * homographies.new_tensor(SQUARE), (0, 1), value=1.0)
    return (homographies[..., 2, :] @ corners.mT > 1e-3).all(-1)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def _sample_patches(
    config: PatchConfig, count: int, size: tuple[int, int], generator: torch.Generator
) -> Float[Tensor, 'b 4 2']:
    """Draw the corners of patches of image 0, in its unit square."""
    square = torch.tensor(SQUARE, device=generator.device)
    patches = (1 - config.patch_ratio) / 2 + config.patch_ratio * square
    patches = patches + _perspective(config, count, generator)
    patches = _scale(patches, config, generator)
    patches = _translate(patches, config, generator)
    return _rotate(patches, config, size, generator)


def _perspective(
    config: PatchConfig, count: int, generator: torch.Generator
) -> Float[Tensor, 'b 4 2']:
    """Draw how the corners move, in the order of SQUARE."""
    limits = [config.perspective_x, config.perspective_y]
    if not config.artifacts:
        limits = [min(limit, (1 - config.patch_ratio) / 2) for limit in limits]
    first, second = (
        _bell((count, 2), config, generator) * torch.tensor(limits, device=generator.device)
        for _ in range(2)
    )
    if config.edges == 'opposed':
        # x of the left and of the right edge; y that shortens the left, lengthens the right one
        left, right, turn = first[:, 0], second[:, 0], first[:, 1]
        x, y = (left, right, right, left), (turn, -turn, turn, -turn)
    else:
        # half of what the top, bottom, left and right edges gain in length
        top, bottom, left, right = first[:, 0], second[:, 0], first[:, 1], second[:, 1]
        x, y = (-top, top, bottom, -bottom), (-left, -right, right, left)
    return torch.stack([torch.stack(x, -1), torch.stack(y, -1)], -1)


def _scale(
    patches: Float[Tensor, 'b 4 2'], config: PatchConfig, generator: torch.Generator
) -> Float[Tensor, 'b 4 2']:
    """Take one of several sizes, the unchanged one among them, that keep the patch inside."""
    middle = patches.mean(1, keepdim=True)
    drawn = 1 + config.scaling * _bell((len(patches), config.num_scales), config, generator)
    scales = F.pad(drawn, (1, 0), value=1.0)[..., None, None]
    return _choose((patches - middle)[:, None] * scales + middle[:, None], config, generator)


def _translate(
    patches: Float[Tensor, 'b 4 2'], config: PatchConfig, generator: torch.Generator
) -> Float[Tensor, 'b 4 2']:
    """Move the patch to anywhere between two opposite borders, and beyond by the overflow."""
    overflow = config.translation_overflow if config.artifacts else 0.0
    back = -patches.amin(1) - overflow
    forth = 1 - patches.amax(1) + overflow
    share = torch.rand(len(patches), 2, generator=generator, device=generator.device)
    return patches + (back + share * (forth - back))[:, None]


def _rotate(
    patches: Float[Tensor, 'b 4 2'],
    config: PatchConfig,
    size: tuple[int, int],
    generator: torch.Generator,
) -> Float[Tensor, 'b 4 2']:
    """Take one of several angles, 0 among them, that keep the patch inside."""
    limit = math.radians(config.max_angle_deg)
    angles = torch.linspace(-limit, limit, config.num_angles, device=patches.device)
    angles = F.pad(angles, (1, 0))
    cos, sin = angles.cos(), angles.sin()
    turns = torch.stack([cos, -sin, sin, cos], -1).view(-1, 2, 2)
    sides = patches.new_tensor([size[1] - 1, size[0] - 1] if config.square_pixels else [1, 1])
    middle = patches.mean(1, keepdim=True)
    turned = ((patches - middle) * sides)[:, None] @ turns.mT / sides + middle[:, None]
    return _choose(turned, config, generator)


def _choose(
    candidates: Float[Tensor, 'b k 4 2'], config: PatchConfig, generator: torch.Generator
) -> Float[Tensor, 'b 4 2']:
    """
    Take one candidate for each patch, all that may be with the same chance.

    Without artifacts only those inside the unit square may be; the first one, of which nothing
    was changed, always is. (The published code forgets the last candidate where all may be.)
    """
    weights = torch.ones(candidates.shape[:2], device=candidates.device)
    if not config.artifacts:
        outside = (candidates < -TOLERANCE) | (candidates > 1 + TOLERANCE)
        weights[outside.any(-1).any(-1)] = 0
        weights[:, 0] = 1
    index = weights.multinomial(1, generator=generator)[..., None, None]
    return candidates.take_along_dim(index, 1)[:, 0]


def _bell(shape: tuple[int, ...], config: PatchConfig, generator: torch.Generator) -> Tensor:
    """Draw from a normal distribution that is limited to -1..1 as the configuration says."""
    if config.spread == 'clipped':
        drawn = torch.randn(shape, generator=generator, device=generator.device)
        return drawn.clamp(-1, 1)
    uniform = torch.rand(shape, generator=generator, device=generator.device)
    # the inverse of the distribution between -2 and 2 standard deviations: no draw is repeated
    within = math.erf(math.sqrt(2))
    return torch.erfinv((2 * uniform - 1) * within) / math.sqrt(2)


def _sample_affine(
    config: AffineConfig, count: int, size: tuple[int, int], generator: torch.Generator
) -> Float[Tensor, 'b 3 3']:
    """Draw affine maps about the middle of the image, which take image 1 to image 0, inverted."""
    draws = torch.rand(3, count, generator=generator, device=generator.device)
    scale = config.min_scale + draws[0] * (config.max_scale - config.min_scale)
    angle = (2 * draws[1] - 1) * math.radians(config.max_angle_deg)
    shear = (2 * draws[2] - 1) * config.max_shear
    cos, sin = scale * angle.cos(), scale * angle.sin()
    linear = torch.stack([cos + shear * sin, -sin + shear * cos, sin, cos], -1).view(-1, 2, 2)
    inverse = torch.linalg.inv(linear)
    middle = inverse.new_tensor([(size[1] - 1) / 2, (size[0] - 1) / 2])
    shift = middle - inverse @ middle
    bottom = inverse.new_tensor([0.0, 0.0, 1.0]).expand(count, 1, 3)
    return torch.cat([torch.cat([inverse, shift[..., None]], -1), bottom], 1)
