"""
Solids in random rooms, where they stand and hang, and which of them each ray of a camera meets.

World and camera axes are x right, y down, z forward. A ray is origin + t * direction; those of
cameras have a z of 1 in the camera's axes, so that t is the depth. Rays come as (B, 3, P).
"""

from dataclasses import dataclass, replace
import math

import torch
from torch import Tensor
import torch.nn.functional as F

from ..axes import Float, Int

BOXES, BUMPS = 7, 5  # where a first camera looks


@dataclass(frozen=True)
class Solids:
    """
    What stands in each of B rooms; the first of the N solids is the room, seen from inside.

    frames (B, N, 3, 3) and centers (B, N, 3): a solid is where frame @ (world - center) lies in
    the cube of -1 to 1, or, after the first `cubes` of them, in the unit ball. tiles
    (B, N, 6, 2, 4): affine maps of the world to the (u, v) of each face's pictures, which change
    at every integer; a ball has one face, the first. gains (B, N, 6): how bright each face is.
    """

    frames: Float[Tensor, 'b n 3 3']
    centers: Float[Tensor, 'b n 3']
    tiles: Float[Tensor, 'b n 6 2 4']
    gains: Float[Tensor, 'b n 6']
    cubes: int

    def __len__(self) -> int:
        return len(self.frames)

    def local(self, points: Float[Tensor, 'b 3 p'], solid: int) -> Float[Tensor, 'b 3 p']:
        """Return world points in the frame of one solid."""
        return self.frames[:, solid] @ (points - self.centers[:, solid, :, None])

    def tensors(self) -> tuple[Tensor, ...]:
        """Return what differs from room to room, one row for each."""
        return self.frames, self.centers, self.tiles, self.gains

    def repeat(self, count: int) -> 'Solids':
        """Return each room `count` times."""
        repeated = (value.repeat_interleave(count, 0) for value in self.tensors())
        return Solids(*repeated, self.cubes)


@dataclass(frozen=True)
class Views:
    """
    One camera in each of B rooms.

    turns (B, 3, 3): world to camera axes; places (B, 3): where they stand; intrinsics (B, 3, 3).
    """

    turns: Float[Tensor, 'b 3 3']
    places: Float[Tensor, 'b 3']
    intrinsics: Float[Tensor, 'b 3 3']

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all of it, one row for each room."""
        return self.turns, self.places, self.intrinsics

    def repeat(self, count: int) -> 'Views':
        """Return each camera `count` times."""
        return Views(*(value.repeat_interleave(count, 0) for value in self.tensors()))

    def rays(self, pixels: Float[Tensor, 'b p 2']) -> Float[Tensor, 'b 3 p']:
        """Return the directions in which pixels (x, y) look."""
        lifted = F.pad(pixels, (0, 1), value=1.0)
        return self.turns.mT @ torch.linalg.inv(self.intrinsics) @ lifted.mT

    def project(self, points: Float[Tensor, 'b 3 p']) -> Float[Tensor, 'b p 3']:
        """Return (x, y) pixels and depth of world points; pixels of those behind are NaN."""
        there = self.turns @ (points - self.places[..., None])
        depth = there[:, 2]
        pixels = (self.intrinsics @ there)[:, :2] / torch.where(depth > 1e-6, depth, torch.nan)[
            :, None
        ]
        return torch.cat([pixels, depth[:, None]], 1).mT

    def transform(self, other: 'Views') -> Float[Tensor, 'b 4 4']:
        """Return the matrix that takes coordinates of these cameras to those of others."""
        turn = other.turns @ self.turns.mT
        move = other.turns @ (self.places - other.places)[..., None]
        return F.pad(torch.cat([turn, move], -1), (0, 0, 0, 1)) + _corner(turn)


def _corner(like: Tensor) -> Tensor:
    """Return 4 x 4 zeros but for a one in the last corner."""
    corner = like.new_zeros(4, 4)
    corner[3, 3] = 1
    return corner


def cast(
    solids: Solids, places: Float[Tensor, 'b 3'], rays: Float[Tensor, 'b 3 p']
) -> tuple[Float[Tensor, 'b p'], Int[Tensor, 'b p']]:
    """Return how far along each ray from its place the first surface lies, and on which solid."""
    depth, nearest = None, None
    for solid in range(solids.frames.shape[1]):
        here, along = solids.local(places[..., None], solid), solids.frames[:, solid] @ rays
        if solid == 0:
            depth = _leave_cube(here, along)
            nearest = torch.zeros_like(depth, dtype=torch.long)
            continue
        hit = _meet_cube(here, along) if solid < solids.cubes else _meet_ball(here, along)
        closer = hit < depth
        depth = torch.where(closer, hit, depth)
        nearest = torch.where(closer, solid, nearest)
    return depth, nearest


def _steps(here: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distances to the middle plane of each axis, and half of those between faces."""
    inverse = 1 / torch.where(along.abs() < 1e-9, 1e-9, along)
    return -here * inverse, inverse.abs()


def _leave_cube(here: Tensor, along: Tensor) -> Tensor:
    middle, half = _steps(here, along)
    return (middle + half).amin(1)


def _meet_cube(here: Tensor, along: Tensor) -> Tensor:
    """Return the distances at which rays from outside enter the cube of -1 to 1; else infinity."""
    middle, half = _steps(here, along)
    enter, leave = (middle - half).amax(1), (middle + half).amin(1)
    return torch.where((enter < leave) & (enter > 0), enter, torch.inf)


def _meet_ball(here: Tensor, along: Tensor) -> Tensor:
    """Return the distances at which rays from outside enter the unit ball; else infinity."""
    length = along.square().sum(1)
    closest = -(here * along).sum(1) / length
    # from the point nearest to the center: squares of far origins would lose digits
    beside = 1 - (here + closest[:, None] * along).square().sum(1)
    enter = closest - (beside.clamp(min=0) / length).sqrt()
    return torch.where((beside > 0) & (enter > 0), enter, torch.inf)


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
