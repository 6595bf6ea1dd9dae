"""
Solids in rooms, cameras, and which surface each ray of a camera meets first.

World and camera axes are x right, y down, z forward. A ray is origin + t * direction; those of
cameras have a z of 1 in the camera's axes, so that t is the depth. Rays come as (B, 3, P).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
import torch.nn.functional as F

from ..axes import Float, Int


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
