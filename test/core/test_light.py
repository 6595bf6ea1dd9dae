"""SuperPoint's photometric changes do what their published list says."""

from dataclasses import replace

from kpfeat_core.data.light import change_light, LightConfig, LIGHTS
import pytest
import torch

NONE = LightConfig(
    brightness=0, contrast_min=1, contrast_max=1, noise=0, speckle=0, ellipses=0, motion_px=1
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def change(images: torch.Tensor, seed: int = 0, **options) -> torch.Tensor:
    return change_light(images, replace(NONE, **options), generator(seed))


@pytest.fixture
def grey() -> torch.Tensor:
    return torch.full((64, 1, 40, 48), 0.5)


def test_without_any_change_images_stay_as_they_are() -> None:
    images = torch.rand(3, 3, 32, 40, generator=generator())
    torch.testing.assert_close(change(images), images)


def test_published_lists_keep_range_and_shape_and_follow_from_the_generator() -> None:
    images = torch.rand(8, 1, 34, 50, generator=generator())
    before = images.clone()
    for config in LIGHTS.values():
        changed = change_light(images, config, generator(1))
        assert changed.shape == images.shape
        assert changed.min() >= 0 and changed.max() <= 1
        assert torch.equal(changed, change_light(images, config, generator(1)))
        assert not torch.equal(changed, change_light(images, config, generator(2)))
    assert torch.equal(images, before)


def test_brightness_moves_each_image_by_one_number_within_its_limit(grey) -> None:
    moved = change(grey, brightness=0.2) - 0.5
    assert moved.flatten(1).std(1).max() == 0
    assert 0.15 < moved.max() <= 0.2 and -0.2 <= moved.min() < -0.15


def test_contrast_scales_what_differs_from_the_mean() -> None:
    images = 0.5 + 0.1 * (torch.rand(64, 1, 20, 20, generator=generator()) - 0.5)
    changed = change(images, contrast_min=0.3, contrast_max=1.8)
    torch.testing.assert_close(changed.mean((1, 2, 3)), images.mean((1, 2, 3)))
    factor = changed.flatten(1).std(1) / images.flatten(1).std(1)
    assert 0.3 <= factor.min() < 0.4 and 1.7 < factor.max() < 1.801


def test_noise_has_deviations_up_to_its_limit(grey) -> None:
    spread = change(grey, noise=0.05).flatten(1).std(1)
    assert spread.min() < 0.01 and 0.04 < spread.max() < 0.053


def test_speckle_is_black_and_white_in_equal_parts(grey) -> None:
    speckled = change(grey, speckle=0.1)
    shares = [(speckled == value).float().mean((1, 2, 3)) for value in (0.0, 1.0)]
    for share in shares:
        assert 0.04 < share.mean() < 0.06 and share.max() < 0.13
    assert ((speckled == 0) | (speckled == 1) | (speckled == 0.5)).all()


def test_shade_darkens_some_of_an_image_smoothly() -> None:
    white = torch.ones(32, 1, 120, 160)
    options = {'ellipses': 20, 'shade_min': 0.8, 'shade_max': 0.8}
    shaded = change(white, **options, shade_blur_min_px=50, shade_blur_max_px=100)
    assert shaded.amax((1, 2, 3)).median() > 0.8  # some is left in the light
    assert 0.2 <= shaded.amin((1, 2, 3)).max() < 0.5
    assert (shaded[..., 1:] - shaded[..., :-1]).abs().max() < 0.05
    assert (change(white, 1, ellipses=20, shade_min=-0.5, shade_max=-0.5) == 1).all()


def test_motion_blur_spreads_a_spot_along_one_line_and_keeps_its_sum() -> None:
    spots = torch.zeros(64, 2, 21, 21)
    spots[:, :, 10, 10] = 1
    moved = change(spots, motion_px=7)
    torch.testing.assert_close(moved.sum((2, 3)), torch.ones(64, 2))
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
    changed = change(torch.full((200, 1, 16, 16), 0.5), brightness=0.3, speckle=0.2).flatten(1)
    background = changed.median(1, keepdim=True).values
    speckled = (changed < background).float().mean(1) > 0.05
    brighter = speckled & (background[:, 0] > 0.55)
    # what is black by a speckle stays so only where the brightness rose before
    assert {True, False} == set((changed[brighter].amin(1) == 0).tolist())
