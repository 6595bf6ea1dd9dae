"""Photometric changes: what each keeps, how far it goes, and what views of a pair share."""

import colorsys

from kpfeat_core.data.photometric import (
    augment,
    change_color,
    change_gray,
    COLOR_LISTS,
    ColorRanges,
    GRAY_LISTS,
    GrayRanges,
    PhotometricConfig,
)
from kpfeat_core.image import match_channels
from made_room import seeded
import pytest
import torch

NO_CHANGE = GrayRanges(0, (1, 1), 0, 0, 0, motion_px=1)
# The mean of six images of seed 0, weighed by pixels of seed 9, after changes of seed 1; recorded
# before the lists shared their code.
RECORDED = {
    'camera': [0.3305, 0.2583, 0.1914, 0.2821, 0.2655, 0.274],
    'superpoint-synthetic': [0.319, 0.3546, 0.2525, 0.2158, 0.1521, 0.3252],
    'superpoint-augment': [0.3082, 0.3372, 0.2587, 0.2396, 0.1988, 0.303],
    'superpoint-pair': [0.308, 0.3374, 0.2587, 0.2397, 0.1989, 0.303],
    'aslfeat': [0.2961, 0.3372, 0.3092, 0.2932, 0.1659, 0.2876],
    'kp2d': [0.141, 0.3598, 0.1302, 0.1632, 0.2532, 0.3443],
    'keynet': [0.2512, 0.2514, 0.2528, 0.2487, 0.192, 0.2488],
    'alike': [0.2477, 0.2742, 0.2876, 0.2678, 0.2561, 0.2138],
}


def color(images: torch.Tensor, seed: int = 0, **ranges) -> torch.Tensor:
    return change_color(images, ColorRanges(**ranges), seeded(seed))


def gray(images: torch.Tensor, seed: int = 0, **ranges) -> torch.Tensor:
    return change_gray(images, NO_CHANGE._replace(**ranges), seeded(seed))


@pytest.fixture
def images() -> torch.Tensor:
    """Return 80 times one image whose colors are far from black and white."""
    image = 0.4 + 0.2 * torch.rand(1, 3, 12, 16, generator=seeded())
    return image.repeat(80, 1, 1, 1)


@pytest.fixture
def even() -> torch.Tensor:
    return torch.full((64, 1, 40, 48), 0.5)


@pytest.mark.parametrize('name', ['camera', *GRAY_LISTS, *COLOR_LISTS])
def test_lists_keep_range_and_shape_and_follow_from_the_generator(name) -> None:
    images = torch.rand(6, 3, 32, 40, generator=seeded())
    before = images.clone()
    config = PhotometricConfig(photometric=name)
    changed, again, other = (augment(images, config, seeded(seed)) for seed in (1, 1, 2))
    assert changed.shape == images.shape and changed.min() >= 0 and changed.max() <= 1
    assert torch.equal(changed, again) and not torch.equal(changed, other)
    assert torch.equal(images, before)
    weights = torch.rand(3, 32, 40, generator=seeded(9))
    assert (changed * weights).mean((1, 2, 3)).tolist() == pytest.approx(RECORDED[name], abs=2e-4)


def test_without_any_change_images_stay_as_they_are(images) -> None:
    torch.testing.assert_close(color(images), images)
    torch.testing.assert_close(gray(images[:3]), images[:3])


def test_brightness_is_a_factor_and_shift_a_number(images, even) -> None:
    factor = (color(images, brightness=0.4) / images).flatten(1)
    assert factor.std(1).max() < 1e-6
    assert 0.6 <= factor.min() < 0.65 and 1.35 < factor.max() <= 1.401
    for moved in (color(images, shift=0.2) - images, gray(even, brightness=0.2) - 0.5):
        assert moved.flatten(1).std(1).max() < 1e-6
        assert -0.2 <= moved.min() < -0.15 and 0.15 < moved.max() <= 0.2


def test_contrast_keeps_the_mean_gray_and_saturation_every_gray(images) -> None:
    luma = match_channels(images, 1)
    contrast = color(images, contrast=0.5)
    torch.testing.assert_close(match_channels(contrast, 1).mean(), luma.mean())
    factor = contrast.flatten(1).std(1) / images.flatten(1).std(1)
    assert 0.5 <= factor.min() < 0.6 and 1.4 < factor.max() < 1.51
    saturated = color(images, saturation=0.9)
    torch.testing.assert_close(match_channels(saturated, 1), luma)
    factor = (saturated - luma).flatten(1).std(1) / (images - luma).flatten(1).std(1)
    assert 0.1 <= factor.min() < 0.2 and 1.8 < factor.max() < 1.91


def test_contrast_of_gray_lists_scales_what_differs_from_the_mean() -> None:
    images = 0.5 + 0.1 * (torch.rand(64, 1, 20, 20, generator=seeded()) - 0.5)
    changed = gray(images, contrast=(0.3, 1.8))
    torch.testing.assert_close(changed.mean((1, 2, 3)), images.mean((1, 2, 3)))
    factor = changed.flatten(1).std(1) / images.flatten(1).std(1)
    assert 0.3 <= factor.min() < 0.4 and 1.7 < factor.max() < 1.801


def test_hue_turns_as_in_hsv(images) -> None:
    turned = color(images[:6], hue=0.5)
    turns = []
    for before, after in zip(images[:6].flatten(2), turned.flatten(2), strict=True):
        hsv = [[colorsys.rgb_to_hsv(*pixel) for pixel in image.T.tolist()]
               for image in (before, after)]  # fmt: skip
        first, second = torch.tensor(hsv)
        torch.testing.assert_close(first[:, 1:], second[:, 1:], atol=1e-4, rtol=0)
        turn = (second[:, 0] - first[:, 0]) % 1
        assert ((turn - turn[0] + 0.5) % 1 - 0.5).abs().max() < 1e-3
        turns.append(float(turn[0]))
    assert max(turns) - min(turns) > 0.2


def test_half_of_the_images_change_where_half_of_them_should(images) -> None:
    changed = color(images, share=0.5, brightness=0.5) - images
    assert 0.3 < (changed.abs().amax((1, 2, 3)) > 1e-4).float().mean() < 0.7


def test_both_views_of_a_pair_share_gray_and_the_order_of_channels(images) -> None:
    changed = color(images, gray_share=0.5)
    is_gray = (changed.amax(1) - changed.amin(1)).amax((1, 2)) < 1e-6
    assert torch.equal(is_gray[:40], is_gray[40:]) and 0.3 < is_gray.float().mean() < 0.7
    swapped = color(images, swap_share=1.0)
    assert torch.equal(swapped[:40], swapped[40:])
    assert len({tuple(image[:, 0, 0].tolist()) for image in swapped}) == 6
    torch.testing.assert_close(swapped.sort(1).values, images.sort(1).values)


def test_the_first_view_stays_where_the_second_alone_changes(images) -> None:
    changed = change_color(images, COLOR_LISTS['keynet']._replace(share=1.0), seeded())
    assert torch.equal(changed[:40], images[:40])
    assert ((changed - images)[40:].abs().amax((1, 2, 3)) > 1e-3).all()


def test_noise_and_blur_of_color_lists_are_as_strong_as_published() -> None:
    plain = torch.full((200, 3, 20, 20), 0.5)
    spread = color(plain, noise=0.05).flatten(1).std(1)
    noisy = spread > 1e-4
    assert 0.35 < noisy.float().mean() < 0.65
    assert float(spread[noisy].mean()) == pytest.approx(0.05, rel=0.05)
    spots = torch.zeros(200, 3, 11, 11)
    spots[:, :, 5, 5] = 1
    blurred = color(spots, blurred=True)
    torch.testing.assert_close(blurred.sum((2, 3)), torch.ones(200, 3))
    tops = blurred[:, 0, 5, 5].round(decimals=3).unique(return_counts=True)
    assert len(tops[0]) == 3 and tops[0][-1] == 1  # two kernels, and none
    assert 80 < tops[1][-1] < 120
    middle = torch.exp(-torch.tensor([1.0, 0.0, 1.0]) / (2 * 0.8**2))  # OpenCV's for 3 pixels
    assert float(tops[0][1]) == pytest.approx(float((middle / middle.sum())[1] ** 2), abs=1e-3)


def test_noise_and_speckle_of_gray_lists_go_up_to_their_limits(even) -> None:
    spread = gray(even, noise=0.05).flatten(1).std(1)
    assert spread.min() < 0.01 and 0.04 < spread.max() < 0.053
    speckled = gray(even, speckle=0.1)
    for share in [(speckled == value).float().mean((1, 2, 3)) for value in (0.0, 1.0)]:
        assert 0.04 < share.mean() < 0.06 and share.max() < 0.13
    assert ((speckled == 0) | (speckled == 1) | (speckled == 0.5)).all()


def test_shade_darkens_some_of_an_image_smoothly() -> None:
    white = torch.ones(32, 1, 120, 160)
    shaded = gray(white, ellipses=20, shade=(0.8, 0.8), shade_blur_px=(50, 100))
    assert shaded.amax((1, 2, 3)).median() > 0.8  # some is left in the light
    assert 0.2 <= shaded.amin((1, 2, 3)).max() < 0.5
    assert (shaded[..., 1:] - shaded[..., :-1]).abs().max() < 0.05
    assert (gray(white, 1, ellipses=20, shade=(-0.5, -0.5)) == 1).all()


def test_motion_blur_spreads_a_spot_along_one_line_and_keeps_its_sum() -> None:
    spots = torch.zeros(64, 1, 21, 21)
    spots[:, :, 10, 10] = 1
    moved = gray(spots, motion_px=7)
    torch.testing.assert_close(moved.sum((2, 3)), torch.ones(64, 1))
    lengths, lines = set(), set()
    for image in moved[:, 0]:
        y, x = (image.nonzero() - 10).T
        lengths.add(len(x))
        if len(x) > 1:
            lines.add((bool((y == 0).all()), bool((x == 0).all()), bool((x == y).all())))
        assert image.argmax() == 10 * 21 + 10
        assert ((y == 0) | (x == 0) | (x == y) | (x == -y)).all()
    assert lengths == {1, 3, 5, 7} and len(lines) == 4


def test_changes_come_in_different_orders() -> None:
    changed = gray(torch.full((200, 1, 16, 16), 0.5), brightness=0.3, speckle=0.2).flatten(1)
    background = changed.median(1, keepdim=True).values
    speckled = (changed < background).float().mean(1) > 0.05
    brighter = speckled & (background[:, 0] > 0.55)
    # what is black by a speckle stays so only where the brightness rose before
    assert {True, False} == set((changed[brighter].amin(1) == 0).tolist())
