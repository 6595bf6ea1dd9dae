"""What stands and hangs in random rooms, where a first camera looks."""

from dataclasses import replace
import math

import torch
from torch import Tensor
import torch.nn.functional as F

from .room_solids import cast, Solids, Views
from ..axes import Float

BOXES, BUMPS = 7, 5


class RoomSampler:
    """Random numbers from a generator, on its device."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        unit = torch.rand(shape, generator=self.generator, device=self.generator.device)
        return low + (high - low) * unit

    def normal(self, deviation: float, *shape: int) -> Tensor:
        drawn = torch.randn(shape, generator=self.generator, device=self.generator.device)
        return drawn * deviation

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        """Draw with an even distribution of the logarithm."""
        return self.uniform(math.log(low), math.log(high), *shape).exp()

    def chance(self, share: float, *shape: int) -> Tensor:
        return self.uniform(0, 1, *shape) < share


def turn_to(yaw: Tensor, pitch: Tensor, roll: Tensor) -> Float[Tensor, '*b 3 3']:
    """Return world to camera axes: yaw to the right, then pitch up, then roll."""
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)

    def matrix(*values: Tensor) -> Tensor:
        return torch.stack(values, -1).unflatten(-1, (3, 3))

    c, s = yaw.cos(), yaw.sin()
    yawed = matrix(c, zero, -s, zero, one, zero, s, zero, c)
    c, s = pitch.cos(), pitch.sin()
    pitched = matrix(one, zero, zero, zero, c, s, zero, -s, c)
    c, s = roll.cos(), roll.sin()
    return matrix(c, s, zero, -s, c, zero, zero, zero, one) @ pitched @ yawed


def furnish(half: Tensor, first: Views, side: int, draw: RoomSampler) -> Solids:
    """Put boxes and bumps where the first camera looks; nothing hangs on anything yet."""
    count, number = len(half), 1 + BOXES + BUMPS
    frames = torch.diag_embed(1 / half)[:, None].repeat(1, number, 1, 1)
    centers = half.new_zeros(count, number, 3)
    nothing = half.new_zeros(count, number, 6, 2, 4), half.new_ones(count, number, 6)
    empty = Solids(frames[:, :1], centers[:, :1], *(n[:, :1] for n in nothing), cubes=1)
    pixels = draw.uniform(-0.1, 1.1, count, BOXES + BUMPS, 2) * side
    rays = first.rays(pixels)
    reach, _ = cast(empty, first.places, rays)
    walls = first.places[:, None] + (reach[:, None] * rays).mT
    boxes = _boxes(half, first.places, walls[:, :BOXES], draw)
    bumps = _bumps(half, first.places, walls[:, BOXES:], draw)
    frames = torch.cat([frames[:, :1], boxes[0], bumps[0]], 1)
    centers = torch.cat([centers[:, :1], boxes[1], bumps[1]], 1)
    return Solids(frames, centers, *nothing, cubes=1 + BOXES)


def _boxes(half: Tensor, place: Tensor, walls: Tensor, draw: RoomSampler) -> tuple[Tensor, Tensor]:
    """Return frames and centers of boxes between the camera and points on walls (B, N, 3)."""
    shape = walls.shape[:2]
    share = draw.uniform(0.45, 1.0, *shape)[..., None]
    centers = place[:, None] + share * (walls - place[:, None])
    distance = (centers - place[:, None]).norm(dim=-1, keepdim=True)
    sizes = distance * draw.between(0.05, 0.25, *shape, 3)
    stands = draw.chance(0.6, *shape)
    floor = half[:, None, 1] - sizes[..., 1]
    centers[..., 1] = torch.where(stands, floor, centers[..., 1])
    straight = draw.chance(0.3, *shape)  # along the walls, as cupboards, doors and kerbs are
    yaw = torch.where(straight, 0.0, draw.uniform(-math.pi, math.pi, *shape))
    leaning = torch.where(stands, 0.0, 0.25)
    turn = turn_to(yaw, draw.normal(1, *shape) * leaning, draw.normal(1, *shape) * leaning)
    return turn / sizes[..., None], centers


def _bumps(half: Tensor, place: Tensor, walls: Tensor, draw: RoomSampler) -> tuple[Tensor, Tensor]:
    """Return frames and centers of flat ellipsoids sunk into walls at points (B, N, 3)."""
    shape = walls.shape[:2]
    distance = (walls - place[:, None]).norm(dim=-1, keepdim=True)
    sizes = distance * draw.between(0.15, 0.5, *shape, 3)
    axis = (walls / half[:, None]).abs().argmax(-1, keepdim=True)
    height = sizes.gather(-1, axis) * draw.uniform(0.25, 0.6, *shape)[..., None]
    sizes = sizes.scatter(-1, axis, height)
    sunk = height * draw.uniform(0.3, 0.8, *shape)[..., None]
    outwards = walls.gather(-1, axis)
    centers = walls.scatter(-1, axis, outwards + outwards.sign() * sunk)
    return torch.diag_embed(1 / sizes), centers


def hang(
    solids: Solids, half: Tensor, first: Views, depth: Tensor, short: float, draw: RoomSampler
) -> Solids:
    """Hang pictures whose short side has `short` texels, each about as large as a pixel there."""
    count, number = solids.frames.shape[:2]
    distance = (solids.centers - first.places[:, None]).norm(dim=-1)
    distance[:, 0] = depth
    focal = first.intrinsics[:, :1, 0]
    width = (distance / focal * short)[..., None] * draw.between(0.6, 1.3, count, number, 6)
    axes = _face_axes(F.normalize(solids.frames, dim=-1), draw) / width[..., None, None]
    tiles = torch.cat([axes, draw.uniform(0, 256, count, number, 6, 2, 1)], -1)
    gains = draw.uniform(0.6, 1.1, count, number, 6)
    # a bump has the pictures of its wall, seen from in front
    bumps = solids.centers[:, -BUMPS:] / half[:, None]
    axis = bumps.abs().argmax(-1, keepdim=True)
    face = 2 * axis + (bumps.gather(-1, axis) > 0)
    room = torch.arange(count, device=half.device)[:, None, None]
    tiles[:, -BUMPS:] = tiles[room, 0, face]
    gains[:, -BUMPS:] = gains[room, 0, face]
    return replace(solids, tiles=tiles, gains=gains)


def _face_axes(axes: Float[Tensor, 'b n 3 3'], draw: RoomSampler) -> Float[Tensor, 'b n 6 2 3']:
    """
    Return the directions, right and down, of pictures on the faces of solids with these axes.

    On what is upright they are upright and not mirrored, seen from outside, or from inside the
    room; on floors and tops they are turned at random.
    """
    x, y, z = axes.unbind(-2)
    sign = torch.ones_like(x)
    sign[:, 0] = -1  # the room is seen from inside
    angle = draw.uniform(-math.pi, math.pi, *x.shape[:2], 2)[..., None]
    level = []
    for cos, sin in zip(angle.cos().unbind(2), angle.sin().unbind(2), strict=True):
        level.append((cos * x + sin * z, cos * z - sin * x))
    faces = [(-sign * z, y), (sign * z, y), *level, (sign * x, y), (-sign * x, y)]
    return torch.stack([torch.stack(face, -2) for face in faces], -3)
