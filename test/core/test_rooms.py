"""Rooms of photographs: exact geometry and occlusion, and several sources in one batch."""

from dataclasses import replace

import cv2
from kpfeat_core.data.homography_pairs import make_pairs, PairConfig
from kpfeat_core.data.image_folder import ImageBank
from kpfeat_core.data.labelled import LabelledBank
from kpfeat_core.data.room_views import cast, Pictures
from kpfeat_core.data.rooms import make_room_pairs, RoomConfig, sample_rooms
from kpfeat_core.data.view_pairs import mix, MixedPairs, PairBatch, sample_mixed, ViewPairs
from kpfeat_core.errors import ConfigError
from kpfeat_core.geometry import inside, pixel_grid, sample
from kpfeat_core.training import recipe_class
from kpfeat_core.training.recipe import Options
from made_room import CALM, seeded
import numpy as np
import pytest
import torch

SIDE, COUNT, SHORT = 128, 6, 96
CONFIG = RoomConfig()


def make_bank(pictures: list[np.ndarray]) -> ImageBank:
    """Keep pictures (h, w, 3) in the corners of squares of 128 pixels."""
    full = np.zeros((len(pictures), 128, 128, 3), np.uint8)
    for row, picture in zip(full, pictures, strict=True):
        row[: picture.shape[0], : picture.shape[1]] = picture
    half = full.reshape(-1, 64, 2, 64, 2, 3).mean((2, 4)).round().astype(np.uint8)
    levels = tuple(torch.from_numpy(v).permute(0, 3, 1, 2).contiguous() for v in (full, half))
    sizes = torch.tensor([p.shape[1::-1] for p in pictures], dtype=torch.float32)
    names = tuple(f'{i}.png' for i in range(len(pictures)))
    return ImageBank(levels, sizes, torch.full((len(pictures),), 1 / len(pictures)), names)


@pytest.fixture(scope='module')
def bank() -> ImageBank:
    """Return smooth pictures, whose colors do not depend on how they are filtered."""
    rng = np.random.default_rng(0)
    sizes = ((96, 128), (128, 96), (96, 96), (96, 120))
    return make_bank(
        [cv2.resize(rng.integers(0, 255, (4, 4, 3), np.uint8), size[::-1]) for size in sizes]
    )


@pytest.fixture(scope='module')
def batch(bank) -> ViewPairs:
    return make_room_pairs(bank, COUNT, SIDE, CONFIG, CALM, seeded(4))


@pytest.fixture(scope='module')
def drawn(bank):
    """Return the rooms and cameras of the batch."""
    return sample_rooms(COUNT, SIDE, float(bank.sizes.amin(1).mean()), CONFIG, seeded(4))


def points_of(drawn, view: int, pixels: torch.Tensor) -> torch.Tensor:
    """Return the world points (B, 3, P) that pixels of a view show."""
    camera = drawn.views[view]
    rays = camera.rays(pixels)
    depth, _ = cast(drawn.solids, camera.places, rays)
    return camera.places[..., None] + depth[:, None] * rays


@pytest.mark.parametrize('view', [0, 1])
def test_both_views_show_the_same_color_where_a_point_lies(batch, view) -> None:
    grid = pixel_grid(SIDE, SIDE).expand(COUNT, -1, -1)
    there = batch.warp(grid, view)
    assert there.visible.float().mean() > 0.3
    own = batch.images[view].flatten(2).mT
    other = sample(batch.images[1 - view], there.points.nan_to_num())
    error = (own - other).abs().amax(-1)[there.visible]
    assert error.median() < 0.004
    assert error.quantile(0.95) < 0.06  # edges of pictures lie between pixels
    shifted = sample(batch.images[1 - view], there.points.nan_to_num() + 5)
    assert (own - shifted).abs().amax(-1)[there.visible].median() > 5 * error.median()


@pytest.mark.parametrize('view', [0, 1])
def test_points_land_where_rays_of_both_cameras_meet_and_come_back(batch, drawn, view) -> None:
    pixels = torch.rand(COUNT, 2000, 2, generator=seeded(1)) * (SIDE - 1)
    warped = batch.warp(pixels, view)
    truth = drawn.views[1 - view].project(points_of(drawn, view, pixels))
    error = (warped.points - truth[..., :2]).norm(dim=-1)[warped.visible]
    assert error.quantile(0.99) < 0.02
    assert error.max() < 0.5
    back = batch.warp(warped.points.nan_to_num(), 1 - view)
    both = warped.visible & back.visible
    assert both.sum() > 0.9 * warped.visible.sum()
    assert (back.points - pixels).norm(dim=-1)[both].quantile(0.99) < 0.05


@pytest.mark.parametrize('view', [0, 1])
def test_hidden_points_are_outside_and_shown_ones_visible(batch, drawn, view) -> None:
    pixels = torch.rand(COUNT, 2000, 2, generator=seeded(1)) * (SIDE - 1)
    warped, other = batch.warp(pixels, view), drawn.views[1 - view]
    points = points_of(drawn, view, pixels)
    place = other.project(points)
    within = inside(place[..., :2], SIDE, SIDE)
    reach, _ = cast(drawn.solids, other.places, points - other.places[..., None])
    hidden, shown = within & (reach < 0.97), within & (reach > 1 - 1e-4)
    assert hidden.sum() > 100
    assert not (warped.visible & (hidden | ~within)).any()
    assert warped.outside[hidden].float().mean() > 0.5  # beside edges nothing is known
    assert warped.visible[shown].float().mean() > 0.85
    assert (warped.outside & shown).sum() <= 3


def test_depth_lies_on_solids_and_intrinsics_are_those_of_the_views(batch, drawn) -> None:
    for view, camera in enumerate(drawn.views):
        rays = camera.rays(pixel_grid(SIDE, SIDE).expand(COUNT, -1, -1))
        depth = 1 / batch.inverse_depth[view].flatten(1)
        points = camera.places[..., None] + depth[:, None] * rays
        gap = torch.full_like(depth, torch.inf)
        for solid in range(drawn.solids.frames.shape[1]):
            local = drawn.solids.local(points, solid)
            cube = solid < drawn.solids.cubes
            reach = local.abs().amax(1) if cube else local.norm(dim=1)
            gap = torch.minimum(gap, (reach - 1).abs())
        assert gap.max() < 1e-3
        assert torch.equal(batch.intrinsics[view], camera.intrinsics)
    transform = batch.T_0to1
    assert torch.allclose(transform[:, :3, :3] @ transform[:, :3, :3].mT, torch.eye(3), atol=1e-5)


def test_cameras_stand_upright_and_see_enough_of_the_same() -> None:
    drawn = sample_rooms(60, SIDE, SHORT, CONFIG, seeded())
    assert drawn.accepted.all()
    for view in drawn.views:
        down = view.turns[:, :2, 1]  # of the world, in the image
        roll = torch.atan2(down[:, 0], down[:, 1])
        assert roll.rad2deg().abs().mean() < 6
        local = drawn.solids.frames[:, 0] @ view.places[..., None]
        assert local.abs().max() < 0.95
    for view in (0, 1):
        pixels = torch.rand(60, 400, 2, generator=seeded(2)) * (SIDE - 1)
        seen = drawn.views[1 - view].project(points_of(drawn, view, pixels))
        within = inside(seen[..., :2], SIDE, SIDE).float().mean(1)
        assert within.min() > CONFIG.rooms_overlap - 0.1


def test_drives_go_where_they_look_and_turn_little() -> None:
    drawn = sample_rooms(30, SIDE, SHORT, replace(CONFIG, rooms_forward=1.0), seeded())
    first, second = drawn.views
    way = torch.nn.functional.normalize(second.places - first.places, dim=-1)
    assert (way * first.turns[:, 2]).sum(-1).abs().min() > 0.9
    turn = second.turns @ first.turns.mT
    cos = (turn.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2
    assert cos.clamp(max=1).acos().rad2deg().mean() < 10


def test_every_draw_follows_from_the_generator(bank, batch) -> None:
    again = make_room_pairs(bank, COUNT, SIDE, CONFIG, CALM, seeded(4))
    assert torch.equal(again.images, batch.images)
    assert torch.equal(again.inverse_depth, batch.inverse_depth)
    assert torch.equal(again.T_0to1, batch.T_0to1)
    other = make_room_pairs(bank, COUNT, SIDE, CONFIG, CALM, seeded(5))
    assert not torch.equal(other.T_0to1, batch.T_0to1)


def test_pictures_are_upright_sharp_when_near_and_even_when_far() -> None:
    stripes = np.zeros((96, 128, 3), np.uint8)
    stripes[:, 16::2] = 255  # every other column of the middle square
    stripes[:48] //= 2
    pictures = Pictures(make_bank([stripes]), torch.zeros(1, 1, dtype=torch.long))
    columns = (torch.arange(96) + 0.5) / 96
    row = torch.zeros(96, dtype=torch.long)

    def read(height: float, pixel: float) -> torch.Tensor:
        place = torch.stack([columns, torch.full_like(columns, height)])
        step = torch.eye(2)[..., None].expand(-1, -1, 96) * pixel / 96
        return pictures.read(row, place, step)

    assert read(0.75, 0.5)[0].round().tolist() == [1.0, 0.0] * 48
    assert read(0.75, 0.5).amax() > 0.9
    far = read(0.75, 16.0)[:, 20:70]
    assert (far - 0.5).abs().max() < 0.1
    assert (read(0.25, 4.0)[:, 10:80] - 0.25).abs().max() < 0.05


def sources(bank):
    """Return the draws of homographies and of rooms, with the generator they share."""
    generator = seeded(7)

    def flat(count: int) -> ViewPairs:
        return make_pairs(bank, count, PairConfig(view_size=48), CALM, generator)

    def rooms(count: int) -> ViewPairs:
        return make_room_pairs(bank, count, 48, CONFIG, CALM, generator)

    return flat, rooms, generator


def test_a_mixed_batch_answers_as_its_parts_do(bank) -> None:
    flat, rooms, _ = sources(bank)
    parts = flat(3), rooms(2)
    mixed = mix(parts)
    assert isinstance(mixed, ViewPairs)
    assert len(mixed) == 5
    points = torch.rand(5, 30, 2, generator=seeded()) * 47
    for view in (0, 1):
        told = mixed.warp(points, view)
        for own, rows in ((parts[0], slice(0, 3)), (parts[1], slice(3, 5))):
            alone = own.warp(points[rows], view)
            assert torch.equal(told.visible[rows], alone.visible)
            assert torch.equal(told.outside[rows], alone.outside)
            assert torch.allclose(told.points[rows], alone.points, equal_nan=True)
    singles = [mixed.part(i, 5) for i in range(5)]
    assert torch.equal(torch.cat([s.images for s in singles], 1), mixed.images)
    halves = [mixed.part(i, 2) for i in (0, 1)]
    assert [len(half) for half in halves] == [3, 2]
    assert torch.equal(halves[1].images, mixed.images[:, 1::2])
    hidden = replace(mixed, valid=torch.zeros_like(mixed.valid))
    assert not hidden.part(0, 5).valid.any()
    assert not hidden.warp(points, 0).visible[:3].any()


def test_shares_of_a_batch_are_met_on_average() -> None:
    counts = {'flat': 0, 'rooms': 0, 'scenes': 0}

    def source(name: str):
        def draw(count: int):
            counts[name] += count
            images = torch.zeros(2, count, 3, 1, 1)
            return PairBatch(images, torch.eye(3).expand(count, 3, 3), images[:, :, 0] > 0)

        return draw

    generator = seeded()
    for _ in range(400):
        others = [(0.25, source('rooms')), (0.4, source('scenes'))]
        before = sum(counts.values())
        sample_mixed(3, source('flat'), others, generator)
        assert sum(counts.values()) == before + 3
    assert counts['rooms'] / 1200 == pytest.approx(0.25, abs=0.03)
    assert counts['scenes'] / 1200 == pytest.approx(0.4, abs=0.03)
    state = generator.get_state()
    sample_mixed(3, source('flat'), [(0.0, source('rooms'))], generator)
    assert torch.equal(generator.get_state(), state)
    sample_mixed(3, source('flat'), [(0.7, source('rooms')), (0.3, source('scenes'))], generator)


@pytest.mark.parametrize(('share', 'kinds'), [(0.5, 2), (1.0, 0)])
def test_a_recipe_draws_rooms_by_their_share(bank, share, kinds) -> None:
    recipe = recipe_class('alike-t')
    values = {'rooms_share': share, 'view_size': 64}
    options = Options.build(recipe, values)
    batch = recipe.sample(options, bank, 4, seeded(1))
    assert len(batch) == 4
    assert batch.images.shape == (2, 4, 3, 64, 64)
    if kinds:
        assert isinstance(batch, MixedPairs)
        assert [len(part) for part in batch.batches] == [2, 2]
    again = recipe.sample(options, bank, 4, seeded(1))
    assert torch.equal(batch.images, again.images)
    assert recipe.picture(batch).ndim == 3


@pytest.mark.parametrize(
    ('model', 'changes'),
    [
        ('alike-t', {'detected': 20, 'random': 20, 'view_size': 64}),
        ('aslfeat', {'correspondences': 64}),
        ('keynet-tiny', {}),
        ('kp2d', {}),
    ],
)
def test_a_step_learns_from_a_mixed_batch(bank, model, changes) -> None:
    recipe = recipe_class(model)
    values = {'rooms_share': 0.5, 'view_size': 96, **changes}
    options = Options.build(recipe, values)
    torch.manual_seed(0)
    extractor = recipe.build(model, options)
    recipe.check(options, extractor, 'photographs')
    trained = recipe(extractor, options.loss)
    batch = recipe.sample(options, bank, 2, seeded())
    assert isinstance(batch, MixedPairs)
    parts = trained(batch, seeded())
    assert parts['total'].isfinite()
    assert parts['total'] > 0
    parts['total'].backward()
    gradients = [p.grad for p in trained.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_superpoint_learns_descriptors_from_rooms_and_corners_from_labels(bank) -> None:
    recipe = recipe_class('superpoint')
    values = {'rooms_share': 0.5, 'view_size': 96, 'labels': 'x'}
    options = Options.build(recipe, values)
    torch.manual_seed(0)
    extractor = recipe.build('superpoint', options)
    recipe.check(options, extractor, 'photographs')
    trained = recipe(extractor, options.loss)
    keypoints = torch.rand(4, 30, 2, generator=seeded()) * 96
    labelled = LabelledBank(bank, keypoints, torch.full((4,), 30))
    batch = recipe.sample(options, labelled, 4, seeded())
    parts = trained(batch, seeded())
    parts['total'].backward()
    gradients = [p.grad for p in trained.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert parts['detector'] > 0
    alone = trained(batch.batches[1], seeded())
    assert alone['detector'] == 0
    assert alone['descriptor'] > 0


def test_wrong_shares_are_told() -> None:
    for model, values, message in (
        ('alike-t', {'rooms_share': 0.7, 'scenes': 'x', 'scenes_share': 0.5}, 'together'),
        ('magicpoint', {'rooms_share': 0.5}, 'not for this model'),
        ('hardnet', {'rooms_share': 0.5}, 'not for this model'),
        ('superpoint', {'scenes': 'x', 'labels': 'x'}, 'not for this model'),
        (
            'superpoint',
            {'rooms_share': 0.5, 'labels': 'x', 'descriptor_loss': 'paper'},
            'expected softmax',
        ),
        ('kp2d', {'rooms_share': 0.5, 'sampler': 'published'}, 'expected views'),
    ):
        recipe = recipe_class(model)
        options = Options.build(recipe, values)
        with pytest.raises(ConfigError, match=message):
            recipe.check(options, recipe.build(model, options), 'photographs')
