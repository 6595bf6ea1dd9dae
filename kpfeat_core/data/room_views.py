"""
Rooms of solids that photographs cover, and what cameras see of them.

World and camera axes are x right, y down, z forward. A ray is origin + t * direction; those of
cameras have a z of 1 in the camera's axes, so that t is the depth. Rays come as (B, 3, P).

Pictures are filtered to the size that a pixel has on its surface, so that views do not alias; the
edges of surfaces are averages of four rays.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
import torch.nn.functional as F

from .image_folder import ImageBank
from ..axes import Float, Int
from ..geometry import pixel_grid

LEVELS = 6  # of a picture: as it is, and halved again and again
TAPS = 2  # places read along the longer side of a pixel's footprint
SUBPIXELS = ((-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25))
PRIMES = (73856093, 19349663)  # they scatter the pictures over the tiles
CHUNK = 1 << 14  # pixels that are shaded at once, which fit into a processor's cache


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
        transform = F.pad(torch.cat([turn, move], -1), (0, 0, 0, 1))
        transform[:, 3, 3] = 1
        return transform


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


class Seen(NamedTuple):
    """
    What pixels show: RGB (B, 3, P) in [0, 1], depth (B, P), and a number of the surface (B, P).

    Two tiles of a face are two surfaces.
    """

    colors: Float[Tensor, 'b 3 p']
    depth: Float[Tensor, 'b p']
    surface: Int[Tensor, 'b p']


def render(
    solids: Solids, pictures: 'Pictures', views: Views, side: int
) -> tuple[Float[Tensor, 'b 3 v v'], Float[Tensor, 'b v v']]:
    """Return the square images of cameras, in [0, 1], and the depth of their pixels' centers."""
    grid = pixel_grid(side, side, views.places.device).expand(len(views.places), -1, -1)
    seen = look(solids, pictures, views, grid)
    surface = seen.surface.view(-1, side, side)
    edge = torch.zeros_like(surface, dtype=torch.bool)
    for here, there in (
        ((..., slice(1, None)), (..., slice(-1))),
        ((..., slice(1, None), slice(None)), (..., slice(-1), slice(None))),
    ):
        differs = surface[here] != surface[there]
        edge[here] |= differs
        edge[there] |= differs
    # as many pixels of each image as the one with the most edges has
    most = int(edge.flatten(1).sum(1).max())
    index = edge.flatten(1).float().topk(most, dim=1, sorted=False).indices
    offsets = grid.new_tensor(SUBPIXELS)
    pixels = grid[0][index][:, :, None] + offsets  # (B, K, 4, 2)
    finer = look(solids, pictures, views, pixels.flatten(1, 2), size=0.5).colors
    colors = seen.colors.scatter(
        2, index[:, None].expand(-1, 3, -1), finer.unflatten(2, (-1, len(SUBPIXELS))).mean(-1)
    )
    return colors.unflatten(2, (side, side)), seen.depth.view(-1, side, side)


def look(
    solids: Solids,
    pictures: 'Pictures',
    views: Views,
    pixels: Float[Tensor, 'b p 2'],
    size: float = 1.0,
) -> Seen:
    """Return what pixels (x, y) of a camera in each room show; size: their sides."""
    rays = views.rays(pixels)
    depth, solid = cast(solids, views.places, rays)
    room = torch.arange(len(solid), device=solid.device)[:, None].expand_as(solid)
    # how rays move with the pixel; their z stays 1 in the camera's axes
    steps = size * (views.turns.mT @ torch.linalg.inv(views.intrinsics))[..., :2]
    tables = _Tables.of(solids, views.places, steps)
    flat = (room, solid, depth, rays.transpose(0, 1))
    chunk = CHUNK if depth.device.type == 'cpu' else depth.numel()
    pieces = zip(*(part.flatten(-2).split(chunk, -1) for part in flat), strict=True)
    shaded = [_shade(tables, pictures, *piece) for piece in pieces]
    colors, surface = (torch.cat(parts, -1) for parts in zip(*shaded, strict=True))
    return Seen(colors.unflatten(1, depth.shape).transpose(0, 1), depth, surface.view_as(depth))


class _Tables(NamedTuple):
    """
    Solids and cameras as columns, so that what a pixel needs is one choice of columns.

    Of M solids: frames (3, 3, M), centers (3, M), balls (M,); of their faces: tiles (2, 4, 6 M),
    gains (6 M,); of rooms: places (3, B), and steps (3, 2, B) of rays with x and y of the pixel.
    """

    frames: Tensor
    centers: Tensor
    balls: Tensor
    tiles: Tensor
    gains: Tensor
    places: Tensor
    steps: Tensor

    @classmethod
    def of(cls, solids: Solids, places: Tensor, steps: Tensor) -> '_Tables':
        columns = (
            solids.frames.flatten(0, 1).permute(1, 2, 0),
            solids.centers.flatten(0, 1).T,
            (torch.arange(solids.frames.shape[1], device=places.device) >= solids.cubes).repeat(
                len(solids)
            ),
            solids.tiles.flatten(0, 2).permute(1, 2, 0),
            solids.gains.flatten(),
            places.T,
            steps.permute(1, 2, 0),
        )
        return cls(*(column.contiguous() for column in columns))


def _shade(
    tables: _Tables,
    pictures: 'Pictures',
    room: Int[Tensor, ' p'],
    solid: Int[Tensor, ' p'],
    depth: Float[Tensor, ' p'],
    rays: Float[Tensor, '3 p'],
) -> tuple[Float[Tensor, '3 p'], Int[Tensor, ' p']]:
    """Return the colors and surfaces that rays of the cameras in rooms meet at a depth."""
    points = tables.places[:, room] + depth * rays
    index = room * (len(tables.balls) // tables.places.shape[1]) + solid
    normal, face = _surface(tables, index, points)
    # the point that a pixel shows moves along the surface
    steps = tables.steps[..., room]
    slope = (normal * rays).sum(0)
    slope = torch.where(slope.abs() < 1e-6, 1e-6, slope)
    across = (normal[:, None] * steps).sum(0) / slope
    moves = depth * (steps - rays[:, None] * across)  # (3, 2, P)

    tiles = tables.tiles[..., face]
    linear = tiles[:, :3]
    place = (linear * points).sum(1) + tiles[:, 3]
    corner = place.floor()
    x, y = corner.long() * corner.new_tensor(PRIMES, dtype=torch.long)[:, None]
    # a picture, or the same mirrored: what repeats would be two places that look the same
    chosen = (x ^ y).remainder(2 * pictures.count)
    mirrored = chosen >= pictures.count
    place = place - corner
    place[0] = torch.where(mirrored, 1 - place[0], place[0])
    footprint = (linear[:, :, None] * moves).sum(1)
    footprint[0] = torch.where(mirrored, -footprint[0], footprint[0])
    row = room * pictures.count + chosen.remainder(pictures.count)
    colors = pictures.read(row, place, footprint)
    colors = (colors * tables.gains[face]).clamp(max=1)
    return colors, face * 2 * pictures.count + chosen


def _surface(
    tables: _Tables, index: Int[Tensor, ' p'], points: Float[Tensor, '3 p']
) -> tuple[Float[Tensor, '3 p'], Int[Tensor, ' p']]:
    """Return the normal, of any length, and the face, among all, of points on solids."""
    frames = tables.frames[..., index]
    local = (frames * (points - tables.centers[:, index])).sum(1)
    reach, axis = local.abs().max(0)
    ball = tables.balls[index]
    outwards = torch.where(ball | (local.abs() == reach), local, 0)
    side = local.gather(0, axis[None])[0] > 0
    face = torch.where(ball, 0, 2 * axis + side)
    return (frames * outwards[:, None]).sum(0), index * 6 + face


class Pictures:
    """
    The photographs of B rooms, T in each, with their halvings in one row of bytes.

    index (B, T): rows of the bank. Of each photograph the square in its middle is shown.
    """

    def __init__(self, bank: ImageBank, index: Int[Tensor, 'b t']) -> None:
        rows = index.flatten()
        levels = [level[rows] for level in bank.levels]
        while len(levels) < LEVELS:
            levels.append(F.avg_pool2d(levels[-1].float(), 2).round().byte())
        self.texels = torch.cat([level.flatten() for level in levels])
        self.sides = torch.tensor([level.shape[-1] for level in levels], device=rows.device)
        ends = torch.tensor([level.numel() for level in levels], device=rows.device).cumsum(0)
        self.starts = F.pad(ends[:-1], (1, 0))
        sizes = bank.sizes[rows]
        self.short = sizes.amin(1)
        self.first = ((sizes - self.short[:, None]) / 2).floor().T.contiguous()
        self.count = index.shape[1]

    def read(
        self,
        row: Int[Tensor, ' p'],
        place: Float[Tensor, '2 p'],
        footprint: Float[Tensor, '2 2 p'],
    ) -> Float[Tensor, '3 p']:
        """
        Read pictures, 0 to 1, at places of their squares from (0, 0) to (1, 1).

        footprint: how places move with a pixel's x (footprint[:, 0]) and y. It is filtered by
        reading the halving that suits its shorter side at several places along the longer one.
        """
        short, first = self.short[row], self.first[:, row]
        a, b = (footprint * short).unbind(1)
        squares = a.square().sum(0), b.square().sum(0)
        longer = torch.where(squares[0] > squares[1], a, b)
        length = torch.maximum(*squares).sqrt().clamp(min=1e-9)
        area = (a[0] * b[1] - a[1] * b[0]).abs()
        level = torch.maximum(area / length, length / TAPS).log2().clamp(0, LEVELS - 1)
        taps = (torch.arange(TAPS, device=row.device) + 0.5) / TAPS - 0.5
        centers = (first + place * short)[:, None] + taps[:, None] * longer[:, None]
        below = level.floor().clamp(max=LEVELS - 2)
        fine, coarse = (
            self._read_level(row, centers, first, short, (below + up).long()) for up in (0, 1)
        )
        return torch.lerp(fine, coarse, level - below) / 255

    def _read_level(
        self, row: Tensor, centers: Tensor, first: Tensor, short: Tensor, level: Tensor
    ) -> Float[Tensor, '3 p']:
        """Read one halving (P,) bilinearly at centers (2, T, P), pixel corners at integers."""
        scale = 0.5**level
        low, high = (first * scale).ceil(), ((first + short) * scale).floor() - 1
        where = centers * scale - 0.5
        where = torch.minimum(torch.maximum(where, low[:, None]), high[:, None])
        corner = where.floor()
        u, v = where - corner
        step = (corner < high[:, None]).long()  # the last pixel has no neighbor
        x, y = corner.long()
        side = self.sides[level]
        area = side * side
        index = self.starts[level] + 3 * row * area + y * side + x  # (T, P)
        right, down = step[0], step[1] * side
        corners = torch.stack([index, index + right, index + down, index + right + down])
        values = torch.stack([self.texels.take(corners + c * area) for c in range(3)]).float()
        upper = torch.lerp(values[:, 0], values[:, 1], u)
        lower = torch.lerp(values[:, 2], values[:, 3], u)
        return torch.lerp(upper, lower, v).mean(1)
