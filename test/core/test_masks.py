"""Keypoints lie where masks are true, and the best ones are chosen there: for every extractor."""

from kpfeat_core.errors import ImageError
from kpfeat_core.models.base import Extractor
from kpfeat_core.registry import build_extractor, extractor_names
import numpy as np
import pytest
import torch

N = 8
HEIGHT, WIDTH = 64, 96


@pytest.fixture(params=extractor_names(), scope='module')
def extractor(request) -> Extractor:
    torch.manual_seed(0)
    options = {'max_num_keypoints': N, 'multi_scale': False, 'nms_radius': 2, 'remove_borders': 4}
    # random weights score what they like
    return build_extractor(request.param, **options, detection_threshold=0.0).eval()


def picture(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Random blocks: corners everywhere."""
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return blocks.repeat(8, 0).repeat(8, 1)


def at(mask: np.ndarray, keypoints: torch.Tensor) -> np.ndarray:
    x, y = keypoints.round().long().numpy().T
    return mask[y, x]


def weaker_half(extractor: Extractor, image: np.ndarray) -> np.ndarray:
    """Return the mask that shows the half which holds fewer of the best keypoints."""
    left = np.zeros(image.shape[:2], bool)
    left[:, : image.shape[1] // 2] = True
    return left if at(left, extractor.extract(image).keypoints[0]).mean() < 0.5 else ~left


@pytest.mark.parametrize('options', [{}, {'multi_scale': True}, {'sub_pixel': False}])
def test_a_mask_over_the_stronger_half_still_leaves_the_wanted_number(extractor, options) -> None:
    extractor, image = extractor.with_options(**options), picture()
    mask = weaker_half(extractor, image)
    assert at(mask, extractor.extract(image).keypoints[0]).sum() < N
    features = extractor.extract(image, mask)
    assert features.count() == N
    assert at(mask, features.keypoints[0]).all()
    assert (features.keypoint_scores.diff() <= 0).all()


def test_keypoints_under_a_mask_are_the_best_that_lie_there(extractor) -> None:
    extractor, image = extractor.with_options(sub_pixel=False), picture()
    mask = weaker_half(extractor, image)
    every = extractor.with_options(max_num_keypoints=-1).extract(image)
    expected = every.keypoint_scores[0][torch.from_numpy(at(mask, every.keypoints[0]))][:N]
    torch.testing.assert_close(extractor.extract(image, mask).keypoint_scores[0], expected)


@pytest.mark.parametrize('options', [{}, {'multi_scale': True}, {'resize': 70}, {'resize': 150}])
def test_the_nearest_pixel_of_the_image_given_is_what_the_mask_decides(extractor, options) -> None:
    checks = (np.indices((HEIGHT, WIDTH)) // 3).sum(0) % 2 == 0
    every = extractor.with_options(**options, max_num_keypoints=-1)
    features = every.extract(picture(), checks)
    assert features.count() > 5
    assert at(checks, features.keypoints[0]).all()


def test_a_mask_that_shows_all_changes_nothing(extractor) -> None:
    plain = extractor.extract(picture())
    shown = extractor.extract(picture(), np.ones((HEIGHT, WIDTH), bool))
    # not in which order: there are equal scores
    torch.testing.assert_close(shown.keypoint_scores, plain.keypoint_scores)
    for name in ('keypoints', 'descriptors'):
        here, there = (getattr(found, name)[0].double().sum(0) for found in (shown, plain))
        torch.testing.assert_close(here, there, atol=1e-3, rtol=1e-6)


def test_a_mask_that_shows_nothing_gives_no_keypoints(extractor) -> None:
    for options in ({}, {'multi_scale': True}, {'max_num_keypoints': -1}):
        nothing = np.zeros((HEIGHT, WIDTH), bool)
        features = extractor.with_options(**options).extract(picture(), nothing)
        assert features.count() == 0
        assert features.descriptors.shape == (1, 0, extractor.descriptor_dim)
        assert features.image_size.tolist() == [[WIDTH, HEIGHT]]


def halves() -> tuple[np.ndarray, np.ndarray]:
    top = np.zeros((HEIGHT, WIDTH), bool)
    top[: HEIGHT // 2] = True
    return top, ~top


@pytest.mark.parametrize('form', ['batch', 'list of sizes'])
def test_each_image_has_its_own_mask_or_none(extractor, form) -> None:
    top, bottom = halves()
    images = [picture(seed) for seed in range(3)]
    masks = [torch.from_numpy(top), None, bottom]
    if form == 'batch':
        given = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    else:
        images.insert(1, picture(4, 64, 48))
        masks.insert(1, np.zeros((64, 48), bool))
        given = images
    together = extractor.extract(given, masks)
    for b, (image, mask) in enumerate(zip(images, masks, strict=True)):
        alone = extractor.extract(image, mask)
        assert together.count(b) == alone.count()
        scores = together.select(b).keypoint_scores
        torch.testing.assert_close(scores, alone.keypoint_scores, atol=1e-3, rtol=1e-3)
    assert at(top, together.select(0).keypoints[0]).all()
    assert at(bottom, together.select(len(images) - 1).keypoints[0]).all()


@pytest.fixture
def alike() -> Extractor:
    return build_extractor('alike-t', max_num_keypoints=N).eval()


def test_one_mask_goes_for_all_images(alike) -> None:
    top, _ = halves()
    images = [picture(seed) for seed in range(2)]
    for given in (images, torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)):
        features = alike.extract(given, top)
        for b in range(2):
            assert features.count(b) == N and at(top, features.select(b).keypoints[0]).all()


@pytest.mark.parametrize(
    ('masks', 'reason'),
    [
        (np.ones((WIDTH, HEIGHT), bool), r'shape \(96, 64\), expected \(64, 96\)'),
        (np.ones((HEIGHT, WIDTH), np.uint8), 'of uint8, expected bool'),
        (torch.ones(HEIGHT, WIDTH), 'of torch.float32, expected bool'),
        (np.ones(WIDTH, bool), r'shape \(96,\)'),
        ([None, None], 'got 2 masks for 1 images'),
        (np.ones((HEIGHT, WIDTH, 1), bool), 'got 64 masks for 1 images'),
        pytest.param(['mask.png'], 'of str, expected bool', marks=pytest.mark.unchecked),
    ],
)
def test_masks_that_do_not_fit_are_refused_with_the_reason(alike, masks, reason) -> None:
    with pytest.raises(ImageError, match=reason):
        alike.extract(picture(), masks)


def test_a_mask_may_be_part_of_a_larger_one_and_read_only(alike) -> None:
    large = np.zeros((2 * HEIGHT, 2 * WIDTH), bool)
    large[: HEIGHT // 2] = True
    large.setflags(write=False)
    features = alike.extract(picture(), large[:HEIGHT, WIDTH - 1 :: -1])
    assert features.count() == N and (features.keypoints[0, :, 1] < HEIGHT // 2).all()
