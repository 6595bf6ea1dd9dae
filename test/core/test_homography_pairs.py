"""Training pairs: exact geometry, exact masks, the same for the same seed."""

import os
from pathlib import Path
import re

import cv2
from kpfeat_core.data.config import HOMOGRAPHIES
from kpfeat_core.data.homography_pairs import (
    make_pairs,
    PairConfig,
    render_views,
    sample_geometry,
    sample_view_homographies,
)
from kpfeat_core.data.image_folder import ImageBank, load_bank, read_kinds, split_images
from kpfeat_core.data.photometric import augment, PhotometricConfig
from kpfeat_core.errors import DataError
from kpfeat_core.geometry import inside, pixel_grid, sample, warp_points
from kpfeat_core.io import find_images
from made_room import CALM, seeded
import numpy as np
import pytest
import torch

STEEP = {'perspective': 0.9, 'max_zoom': 4.0, 'max_tilt': 3.0}


@pytest.fixture
def folder(tmp_path):
    """Three photographs of different sizes, one broken file, and a manifest."""
    rng = np.random.default_rng(0)
    for name, size in (('a.png', (300, 400)), ('b.png', (260, 200)), ('sub/c.png', (90, 120))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        image = cv2.resize(rng.integers(0, 255, (20, 20, 3), np.uint8), size[::-1])
        cv2.imwrite(str(tmp_path / name), image)
    (tmp_path / 'broken.jpg').write_bytes(b'not an image')
    (tmp_path / 'manifest.csv').write_text('file,kind\na.png,photo\nb.png,texture\n')
    return tmp_path


@pytest.fixture
def bank(folder):
    return load_bank(find_images(folder), 256)


def test_photographs_are_shrunk_kept_and_broken_files_left_out(folder) -> None:
    bank = load_bank(find_images(folder), 256)
    assert bank.names == ('a.png', 'b.png', 'c.png')
    assert bank.sizes.tolist() == [[256, 192], [197, 256], [120, 90]]
    assert bank.left_out == (folder / 'broken.jpg',)


def test_a_bank_is_read_into_the_memory_that_it_keeps(tmp_path) -> None:
    status = Path('/proc/self/status')
    if not os.access('/proc/self/clear_refs', os.W_OK):
        pytest.skip('the most memory of a process cannot be measured here')
    for i in range(96):
        cv2.imwrite(str(tmp_path / f'{i}.bmp'), np.zeros((900, 900, 3), np.uint8))

    def kilobytes(name: str) -> int:
        return int(re.search(rf'{name}:\s*(\d+)', status.read_text())[1])

    before = kilobytes('VmRSS')
    Path('/proc/self/clear_refs').write_text('5')
    bank = load_bank(find_images(tmp_path), 900)
    kept = sum(level.numel() for level in bank.levels) / 1024
    assert kilobytes('VmHWM') - before < 1.4 * kept  # a few pictures are decoded ahead


def test_kinds_in_the_manifest_weigh_how_often_a_photograph_is_drawn(folder) -> None:
    weights = {'photo': 3.0, 'texture': 0.0}
    bank = load_bank(find_images(folder), 64, read_kinds(folder), weights)
    assert bank.probabilities.tolist() == pytest.approx([0.75, 0.0, 0.25])
    with pytest.raises(DataError, match='all 3 images have weight 0'):
        load_bank(find_images(folder), 64, {}, {'': 0.0})


@pytest.mark.parametrize('content', [b'', b'name,size\na.png,3\n', b'\xff\xfe\x00bytes'])
def test_a_manifest_about_something_else_is_passed_over(folder, content) -> None:
    assert read_kinds(folder / 'sub') == {'a.png': 'photo', 'b.png': 'texture'}
    (folder / 'sub/manifest.csv').write_bytes(content)
    assert read_kinds(folder / 'sub') == {}


def test_folders_without_images_are_refused_whatever_their_name(folder) -> None:
    before = find_images(folder)
    (folder / 'tiles.png').mkdir()
    assert find_images(folder) == before
    with pytest.raises(DataError, match='no folder'):
        find_images(folder / 'none')
    with pytest.raises(DataError, match='no images'):
        find_images(folder / 'tiles.png')


def test_quarters_of_a_photograph_are_on_one_side_of_the_split(tmp_path) -> None:
    paths = [tmp_path / f'p{i}{end}.jpg' for i in range(60) for end in ('', '_q0', '_q3')]
    training, validation = split_images(paths, 0.3)
    assert training and validation and len(training) + len(validation) == len(paths)
    sides = [{p.stem.split('_')[0] for p in side} for side in (training, validation)]
    assert not sides[0] & sides[1]


def test_the_same_seed_gives_the_same_pairs_and_another_does_not(bank) -> None:
    first, again, other = (
        make_pairs(bank, 4, PairConfig(view_size=64), PhotometricConfig(), seeded(s))
        for s in (1, 1, 2)
    )
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.H_0to1, again.H_0to1)
    assert not torch.equal(first.images, other.images)


@pytest.mark.parametrize('name', ['camera', *HOMOGRAPHIES])
def test_both_whole_views_are_in_front_of_the_horizon_with_every_sampler(name) -> None:
    corners = torch.tensor([[0.0, 0.0], [95.0, 0.0], [95.0, 95.0], [0.0, 95.0]])
    sizes = torch.tensor([[320.0, 180.0]]).repeat(4000, 1)
    config = PairConfig(geometry=name, view_size=96, **STEEP)
    homographies, H_0to1 = sample_geometry(sizes, config, seeded())
    for homography in (*homographies, H_0to1, torch.linalg.inv(H_0to1)):
        assert (homography[:, 2, 2] > 0).all()  # else both would be behind
        assert warp_points(corners.expand(4000, -1, -1), homography).isfinite().all()


def test_a_photographed_dot_lands_where_the_homography_says_to_a_twentieth_pixel(tmp_path) -> None:
    side, dot = 401, (190.0, 215.0)
    y, x = np.mgrid[:side, :side]
    image = 255 * np.exp(-((x - dot[0]) ** 2 + (y - dot[1]) ** 2) / (2 * 6.0**2))
    cv2.imwrite(str(tmp_path / 'dot.png'), image.astype(np.uint8))
    bank = load_bank([tmp_path / 'dot.png'], 480)
    config = PairConfig(view_size=200, perspective=0, max_tilt=1.0)  # keeps the dot symmetric
    grid, seen = pixel_grid(200, 200), 0
    for seed in range(12):
        homographies = sample_view_homographies(bank.sizes, config, seeded(seed))
        H_0to1 = torch.linalg.inv(homographies[1]) @ homographies[0]
        centers = []
        for homography in homographies:
            view, _ = render_views(bank, torch.tensor([0]), homography, 200)
            weights = (view[0, 0] - 0.02).clamp(min=0).flatten()
            border = torch.ones(200, 200, dtype=torch.bool)
            border[2:-2, 2:-2] = False
            whole = weights.sum() > 0 and weights[border.flatten()].sum() == 0
            centers.append((weights[:, None] * grid).sum(0) / weights.sum() if whole else None)
        if centers[0] is None or centers[1] is None:
            continue
        seen += 1
        expected = warp_points(centers[0][None, None], H_0to1)[0, 0]
        assert (expected - centers[1]).norm() < 0.05
    assert seen >= 3


def test_both_views_show_the_same_at_places_that_the_homography_joins(bank) -> None:
    pairs = make_pairs(bank, 8, PairConfig(view_size=96, max_zoom=1.0), CALM, seeded(3))
    grid = pixel_grid(96, 96).expand(8, -1, -1)
    differences = []
    for homography in (pairs.H_0to1, torch.linalg.inv(pairs.H_0to1)):
        there = warp_points(grid, homography)
        seen = pairs.valid[0].flatten(1) & inside(there, 96, 96)
        views = pairs.images[0].flatten(2).mT, sample(pairs.images[1], there.nan_to_num())
        differences.append((views[0] - views[1]).abs()[seen].mean())
    assert differences[0] < 0.02 < 0.1 < differences[1]


@pytest.mark.parametrize('name', ['camera', *HOMOGRAPHIES])
def test_views_of_every_sampler_show_what_their_homography_joins(name) -> None:
    # a photograph whose red is x and whose green is y says where every view pixel comes from
    ramp = torch.zeros(1, 3, 256, 256)
    ramp[0, :2] = pixel_grid(256, 256).T.view(2, 256, 256)
    levels = ramp, torch.nn.functional.avg_pool2d(ramp, 2)
    bank = ImageBank(levels, torch.tensor([[256.0, 256.0]]), torch.ones(1), ('ramp',))
    pairs = make_pairs(bank, 24, PairConfig(geometry=name, view_size=96), CALM, seeded(5))
    assert pairs.valid.float().mean() > 0.5
    corners = torch.tensor([[20.0, 20.0], [70.5, 25.25], [75.0, 75.0], [24.0, 68.0], [48.0, 48.0]])
    there = warp_points(corners.expand(24, -1, -1), pairs.H_0to1)
    known = pairs.warp(corners.expand(24, -1, -1), 0).visible & inside(there, 96, 96, margin=2)
    views = [
        sample(view * 255, xy.nan_to_num())[..., :2]
        for view, xy in zip(pairs.images, (corners.expand(24, -1, -1), there), strict=True)
    ]
    assert known.sum() > 30
    assert (views[0] - views[1])[known].norm(dim=-1).max() < 0.05


@pytest.mark.parametrize('name', ['camera', *HOMOGRAPHIES])
def test_masks_of_every_sampler_are_the_pixels_that_lie_on_the_photograph(bank, name) -> None:
    config = PairConfig(geometry=name, view_size=64)
    index = bank.probabilities.multinomial(12, replacement=True, generator=seeded(2))
    homographies, _ = sample_geometry(bank.sizes[index], config, seeded(3))
    masks = [render_views(bank, index, h, 64)[1] for h in homographies]
    for mask, homography in zip(masks, homographies, strict=True):
        places = warp_points(pixel_grid(64, 64).double().expand(12, -1, -1), homography.double())
        room = torch.minimum(places, bank.sizes[index][:, None] - 1 - places).amin(-1)
        sure = room.abs() > 1e-3
        assert torch.equal(mask.flatten(1)[sure], (room > 0)[sure]) and sure.float().mean() > 0.9


@pytest.mark.parametrize('photometric', ['kp2d', 'alike', 'keynet', 'aslfeat', 'superpoint-pair'])
def test_published_lists_replace_the_changes_of_a_camera(bank, photometric) -> None:
    pairs, again, calm = (
        make_pairs(bank, 6, PairConfig(view_size=64), changes, seeded(3))
        for changes in (*[PhotometricConfig(photometric=photometric)] * 2, CALM)
    )
    assert pairs.images.shape == (2, 6, 3, 64, 64)
    assert pairs.images.min() >= 0 and pairs.images.max() <= 1
    assert torch.equal(pairs.images, again.images) and torch.equal(pairs.H_0to1, calm.H_0to1)
    differs = (pairs.images - calm.images).abs().mean((2, 3, 4)) > 1e-3
    assert differs[1].float().mean() > 0.8 and differs[0].any() == (photometric != 'keynet')


def test_the_last_pixels_of_a_shrunk_photograph_are_as_bright_as_the_others(tmp_path) -> None:
    cv2.imwrite(str(tmp_path / 'white.png'), np.full((101, 151, 3), 255, np.uint8))
    white = load_bank([tmp_path / 'white.png'], 256)
    halved = torch.diag(torch.tensor([2.0, 2.0, 1.0]))[None]
    view, seen = render_views(white, torch.tensor([0]), halved, 96)
    assert seen.sum() == 51 * 76
    assert view[0, :, seen[0]].min() > 0.999


def test_masks_are_true_exactly_where_the_photograph_is_seen_and_the_rest_mirrors_it(bank) -> None:
    pairs = make_pairs(bank, 6, PairConfig(view_size=64, coverage_max=1.5), CALM, seeded())
    assert not pairs.valid.all() and pairs.valid.any()
    homography = torch.tensor([[[1.0, 0, -10.0], [0, 1.0, 0], [0, 0, 1.0]]])
    view, valid = render_views(bank, torch.tensor([0]), homography, 64)
    assert torch.equal(valid[0], (torch.arange(64) >= 10).expand(64, 64))
    torch.testing.assert_close(view[..., 5], view[..., 15], atol=1e-4, rtol=0)


def test_photometric_changes_stay_in_range_and_differ_between_images() -> None:
    images = torch.rand(1, 3, 32, 32).repeat(5, 1, 1, 1)
    changed = augment(images, PhotometricConfig(), seeded())
    assert changed.min() >= 0 and changed.max() <= 1
    assert torch.isfinite(changed).all()
    assert len({float(image.sum()) for image in changed}) == 5


def test_no_photometric_change_leaves_the_image(bank) -> None:
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(augment(images, CALM, seeded()), images, atol=1e-5, rtol=0)


def test_blur_does_not_shift_the_image() -> None:
    images = torch.zeros(40, 3, 33, 33)
    images[:, :, 16, 16] = 1
    blurred = augment(
        images,
        PhotometricConfig(**(CALM.__dict__ | {'blur_share': 1.0, 'gamma': 0.0})),
        seeded(),
    )
    grid = pixel_grid(33, 33)
    weights = blurred[:, 0].flatten(1)
    centers = weights @ grid / weights.sum(1, keepdim=True)
    assert (centers - 16).abs().max() < 1e-3
    assert blurred.amax((1, 2, 3)).min() < 0.5
