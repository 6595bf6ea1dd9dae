"""The published changes of colour: what they keep, how far they go, and what views share."""

import colorsys
from dataclasses import replace

from kpfeat_core.data.colour import change_colour, ColourConfig, COLOURS
from kpfeat_core.image import match_channels
import pytest
import torch


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def change(images: torch.Tensor, seed: int = 0, **options) -> torch.Tensor:
    return change_colour(images, ColourConfig(**options), generator(seed))


@pytest.fixture
def images() -> torch.Tensor:
    """Return 80 times one image whose colours are far from black and white."""
    image = 0.4 + 0.2 * torch.rand(1, 3, 12, 16, generator=generator())
    return image.repeat(80, 1, 1, 1)


def test_without_any_change_images_stay_as_they_are(images) -> None:
    torch.testing.assert_close(change(images), images)


@pytest.mark.parametrize('name', COLOURS)
def test_published_lists_keep_range_and_shape_and_follow_from_the_generator(name) -> None:
    images = torch.rand(7, 3, 18, 25, generator=generator())
    changed = change_colour(images, COLOURS[name], generator(1))
    assert changed.shape == images.shape and changed.min() >= 0 and changed.max() <= 1
    assert torch.equal(changed, change_colour(images, COLOURS[name], generator(1)))
    assert not torch.equal(changed, change_colour(images, COLOURS[name], generator(2)))


def test_brightness_is_a_factor_and_shift_a_number(images) -> None:
    factor = (change(images, brightness=0.4) / images).flatten(1)
    assert factor.std(1).max() < 1e-6
    assert 0.6 <= factor.min() < 0.65 and 1.35 < factor.max() <= 1.401
    moved = (change(images, shift=0.2) - images).flatten(1)
    assert moved.std(1).max() < 1e-6
    assert -0.2 <= moved.min() < -0.15 and 0.15 < moved.max() <= 0.2


def test_contrast_keeps_the_mean_gray_and_saturation_every_gray(images) -> None:
    gray = match_channels(images, 1)
    contrast = change(images, contrast=0.5)
    torch.testing.assert_close(match_channels(contrast, 1).mean(), gray.mean())
    factor = contrast.flatten(1).std(1) / images.flatten(1).std(1)
    assert 0.5 <= factor.min() < 0.6 and 1.4 < factor.max() < 1.51
    saturated = change(images, saturation=0.9)
    torch.testing.assert_close(match_channels(saturated, 1), gray)
    factor = (saturated - gray).flatten(1).std(1) / (images - gray).flatten(1).std(1)
    assert 0.1 <= factor.min() < 0.2 and 1.8 < factor.max() < 1.91


def test_hue_turns_as_in_hsv(images) -> None:
    turned = change(images[:6], hue=0.5)
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
    changed = change(images, share=0.5, brightness=0.5) - images
    assert 0.3 < (changed.abs().amax((1, 2, 3)) > 1e-4).float().mean() < 0.7


def test_both_views_of_a_pair_share_gray_and_the_order_of_channels(images) -> None:
    gray = change(images, gray_share=0.5)
    is_gray = (gray.amax(1) - gray.amin(1)).amax((1, 2)) < 1e-6
    assert torch.equal(is_gray[:40], is_gray[40:]) and 0.3 < is_gray.float().mean() < 0.7
    swapped = change(images, swap_share=1.0)
    assert torch.equal(swapped[:40], swapped[40:])
    assert len({tuple(image[:, 0, 0].tolist()) for image in swapped}) == 6
    torch.testing.assert_close(swapped.sort(1).values, images.sort(1).values)


def test_the_first_view_stays_where_the_second_alone_changes(images) -> None:
    config = replace(COLOURS['keynet'], share=1.0)
    changed = change_colour(images, config, generator())
    assert torch.equal(changed[:40], images[:40])
    assert ((changed - images)[40:].abs().amax((1, 2, 3)) > 1e-3).all()


def test_noise_and_blur_are_as_strong_as_published() -> None:
    plain = torch.full((200, 3, 20, 20), 0.5)
    spread = change(plain, noise=0.05).flatten(1).std(1)
    noisy = spread > 1e-4
    assert 0.35 < noisy.float().mean() < 0.65
    assert float(spread[noisy].mean()) == pytest.approx(0.05, rel=0.05)
    spots = torch.zeros(200, 3, 11, 11)
    spots[:, :, 5, 5] = 1
    blurred = change(spots, blurred=True)
    torch.testing.assert_close(blurred.sum((2, 3)), torch.ones(200, 3))
    tops = blurred[:, 0, 5, 5].round(decimals=3).unique(return_counts=True)
    assert len(tops[0]) == 3 and tops[0][-1] == 1  # two kernels, and none
    assert 80 < tops[1][-1] < 120
    middle = torch.exp(-torch.tensor([1.0, 0.0, 1.0]) / (2 * 0.8**2))  # OpenCV's for 3 pixels
    assert float(tops[0][1]) == pytest.approx(float((middle / middle.sum())[1] ** 2), abs=1e-3)
