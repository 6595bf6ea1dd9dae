"""
Pairs of views of random rooms in which photographs hang, made in batches on the device.

A room is a box between 3 and 24 m long with boxes on its floor and in the air, and with bumps in
its walls; photographs cover all of it, upright on what is upright. A camera that does not roll
much looks at it, walks or drives, turns, and looks again. Depth is exact.
"""

from dataclasses import dataclass, replace
import math
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
import torch.nn.functional as F

from .image_folder import ImageBank
from .photometric import augment, PhotometricConfig
from .room_views import cast, Pictures, render, Solids, Views
from .view_pairs import DepthPairBatch, DepthRules
from ..axes import Bool, Float
from ..config import Range, Share
from ..geometry import inside, pixel_grid

BOXES, BUMPS = 7, 5  # where a first camera looks
PICTURES = 10  # photographs in a room
CANDIDATES = 8  # second cameras that are tried
COARSE = 10  # overlap is measured on 10 x 10 points of each view
RULES = DepthRules(tolerance=0.01, relative=True, edge=0.01)  # the depth is exact


@dataclass(frozen=True)
class RoomConfig:
    """
    How often training pairs show rooms of photographs, and how the camera moves in them.

    rooms_share: share of pairs that show random rooms hung with the photographs; rooms_fov_min,
    rooms_fov_max: smallest and largest field of view in degrees; rooms_forward: share of cameras
    that drive, along where they look, hardly turning; rooms_move: longest way between the views,
    as a share of the depth that they show; rooms_turn_deg: standard deviation of the turn of
    cameras that do not drive; rooms_roll_deg: standard deviation of the roll of each view;
    rooms_overlap: smallest share of what each view shows that the other shows too.
    """

    rooms_share: Share = 0.0
    rooms_fov_min: Annotated[float, Range(20.0, 120.0)] = 50.0
    rooms_fov_max: Annotated[float, Range(20.0, 120.0)] = 90.0
    rooms_forward: Share = 0.3
    rooms_move: Annotated[float, Range(0.0, 2.0)] = 0.9
    rooms_turn_deg: Annotated[float, Range(0.0, 90.0)] = 45.0
    rooms_roll_deg: Annotated[float, Range(0.0, 180.0)] = 3.0
    rooms_overlap: Annotated[float, Range(0.0, 0.7)] = 0.3


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


class SampledRooms(NamedTuple):
    """B rooms, two cameras in each, and whether both show enough of the same."""

    solids: Solids
    views: tuple[Views, Views]
    accepted: Bool[Tensor, ' b']


def make_room_pairs(
    bank: ImageBank,
    count: int,
    side: int,
    config: RoomConfig,
    photometric: PhotometricConfig,
    generator: torch.Generator,
) -> DepthPairBatch:
    """Draw rooms with photographs of the bank, and two views of each, `side` pixels wide."""
    short = float(bank.sizes.amin(1).mean())
    drawn = sample_rooms(count, side, short, config, generator)
    hung = bank.probabilities.multinomial(count * PICTURES, True, generator=generator)
    pictures = Pictures(bank, hung.view(count, PICTURES))
    seen = [render(drawn.solids, pictures, view, side) for view in drawn.views]
    images = augment(torch.cat([image for image, _ in seen]), photometric, generator)
    images = images.unflatten(0, (2, count))
    return DepthPairBatch(
        images,
        torch.stack([1 / depth for _, depth in seen]),
        torch.stack([view.intrinsics for view in drawn.views]),
        drawn.views[0].transform(drawn.views[1]),
        torch.ones_like(images[:, :, 0], dtype=torch.bool),
        RULES,
    )


def sample_rooms(
    count: int, side: int, short: float, config: RoomConfig, generator: torch.Generator
) -> SampledRooms:
    """Draw rooms and cameras; where both views do not show enough of the same, draw again."""
    drawn = _sample_once(count, side, short, config, generator)
    while len(bad := (~drawn.accepted).nonzero()[:, 0]):
        again = _sample_once(len(bad), side, short, config, generator)
        for part, new in zip(
            (drawn.solids, *drawn.views), (again.solids, *again.views), strict=True
        ):
            for value, other in zip(part.tensors(), new.tensors(), strict=True):
                value[bad] = other
        drawn.accepted[bad] = again.accepted
    return drawn


def _sample_once(
    count: int, side: int, short: float, config: RoomConfig, generator: torch.Generator
) -> SampledRooms:
    draw = RoomSampler(generator)
    drives = draw.chance(config.rooms_forward, count)
    half = torch.stack(
        [draw.between(1.5, 4.5, count), draw.uniform(1.2, 2.2, count), draw.between(2, 12, count)],
        -1,
    )
    first = _first_views(half, drives, side, config, draw)
    solids = furnish(half, first, side, draw)
    depth, _ = cast(solids, first.places, first.rays(_coarse(side, first)))
    depth = depth.median(1).values
    solids = hang(solids, half, first, depth, short, draw)
    second, accepted = _second_views(solids, first, depth, drives, side, config, draw)
    return SampledRooms(solids, (first, second), accepted)


def _first_views(
    half: Tensor, drives: Tensor, side: int, config: RoomConfig, draw: RoomSampler
) -> Views:
    """Place cameras in rooms of half sizes (B, 3); those that drive look along the room."""
    count = len(half)
    places = half * draw.uniform(-0.7, 0.7, count, 3)
    places[:, 1] = half[:, 1] * draw.uniform(-0.4, 0.6, count)  # y is down
    yaw = torch.where(drives, draw.normal(0.35, count), draw.uniform(-math.pi, math.pi, count))
    back = draw.chance(0.5, count)
    yaw = yaw + math.pi * back
    pitch, roll = draw.normal(0.12, count), draw.normal(math.radians(config.rooms_roll_deg), count)
    limits = config.rooms_fov_min, config.rooms_fov_max
    fov = draw.uniform(*map(math.radians, limits), count)
    intrinsics = torch.eye(3, device=half.device).repeat(count, 1, 1)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = side / 2 / (fov / 2).tan()
    # a square view is rarely the middle of what the camera takes
    intrinsics[:, :2, 2] = (side - 1) / 2 + side * draw.uniform(-0.15, 0.15, count, 2)
    return Views(turn_to(yaw, pitch, roll), places, intrinsics)


def _coarse(side: int, views: Views, count: int = COARSE) -> Float[Tensor, 'b p 2']:
    """Return evenly spread pixels of each view."""
    grid = (pixel_grid(count, count, views.places.device) + 0.5) * (side / count) - 0.5
    return grid.expand(len(views.places), -1, -1)


def _second_views(
    solids: Solids,
    first: Views,
    depth: Tensor,
    drives: Tensor,
    side: int,
    config: RoomConfig,
    draw: RoomSampler,
) -> tuple[Views, Bool[Tensor, ' b']]:
    """Take, of several moved cameras, the first that is free and shows enough of the same."""
    turns, places = _move(first, depth, drives, config, draw)
    rooms, before = solids.repeat(CANDIDATES), first.repeat(CANDIDATES)
    moved = Views(turns.flatten(0, 1), places.flatten(0, 1), before.intrinsics)
    good = _overlap(rooms, before, moved, side) >= config.rooms_overlap
    good = (good & _is_clear(rooms, moved.places)).unflatten(0, (-1, CANDIDATES))
    room, chosen = torch.arange(len(depth), device=depth.device), good.float().argmax(1)
    second = Views(turns[room, chosen], places[room, chosen], first.intrinsics.clone())
    return second, good.any(1) & _is_clear(solids, first.places)


def _move(
    first: Views, depth: Tensor, drives: Tensor, config: RoomConfig, draw: RoomSampler
) -> tuple[Float[Tensor, 'b c 3 3'], Float[Tensor, 'b c 3']]:
    """Return turns and places of cameras that have moved by a share of the depth they saw."""
    tries, drives = (len(depth), CANDIDATES), drives[:, None]
    forward = first.turns[:, None, 2]
    yaw = torch.atan2(forward[..., 0], forward[..., 2])
    pitch = -forward[..., 1].asin()
    aside = draw.normal(1, *tries, 3)
    aside[..., 1] *= 0.3  # few go up and down
    along = forward * torch.where(draw.chance(0.8, *tries), 1.0, -1.0)[..., None]
    way = F.normalize(torch.where(drives[..., None], along + 0.08 * aside, aside), dim=-1)
    way = way * (draw.uniform(0.05, 1, *tries) * config.rooms_move * depth[:, None])[..., None]
    # who walks turns to what he saw before, by more or less of the angle, and somewhat anywhere
    seen = forward * depth[:, None, None] - way
    back = torch.atan2(seen[..., 0], seen[..., 2]) - yaw
    back = torch.remainder(back + math.pi, 2 * math.pi) - math.pi
    spread = math.radians(config.rooms_turn_deg)
    walked = draw.uniform(0, 1, *tries) * back + draw.normal(spread, *tries)
    yaw = yaw + torch.where(drives, draw.normal(0.07, *tries), walked)
    pitch = pitch + draw.normal(1, *tries) * torch.where(drives, 0.03, spread / 3)
    roll = draw.normal(math.radians(config.rooms_roll_deg), *tries)
    return turn_to(yaw, pitch, roll), first.places[:, None] + way


def _is_clear(solids: Solids, places: Float[Tensor, 'b 3']) -> Bool[Tensor, ' b']:
    """Return which cameras are in their room and not in, nor close to, anything else."""
    local = (solids.frames @ (places[:, None] - solids.centers)[..., None])[..., 0]
    cubes, balls = local[:, : solids.cubes], local[:, solids.cubes :]
    reach = torch.cat([cubes.abs().amax(-1), balls.norm(dim=-1)], 1)
    return (reach[:, 0] < 0.95) & (reach[:, 1:] > 1.2).all(1)


def _overlap(solids: Solids, first: Views, second: Views, side: int) -> Float[Tensor, ' b']:
    """Return the smaller share of what each view shows that the other one shows too."""
    shares = []
    for here, there in ((first, second), (second, first)):
        rays = here.rays(_coarse(side, here))
        depth, _ = cast(solids, here.places, rays)
        points = here.places[..., None] + depth[:, None] * rays
        seen = there.project(points)
        reach, _ = cast(solids, there.places, points - there.places[..., None])
        shown = inside(seen[..., :2], side, side) & (reach > 1 - RULES.tolerance)
        shares.append(shown.float().mean(1))
    return torch.minimum(*shares)


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
