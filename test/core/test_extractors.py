"""What every extractor in the registry promises, whatever its weights."""

from unittest.mock import Mock

import cv2
from kpfeat_core.errors import BadImageError, ConfigError, ImageError
from kpfeat_core.factory import create_extractor
from kpfeat_core.registry import build_extractor, extractor_names
import numpy as np
import pytest
import torch


@pytest.fixture(params=extractor_names(), scope='module')
def extractor(request):
    torch.manual_seed(0)
    # random weights score what they like
    return build_extractor(request.param, max_num_keypoints=60, detection_threshold=0.0).eval()


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Random blocks: corners everywhere."""
    size = (height // 8 + 1, width // 8 + 1, 3)
    blocks = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    return blocks.repeat(8, 0).repeat(8, 1)[:height, :width]


@pytest.mark.parametrize('size', [(64, 64), (47, 70), (65, 97)])
def test_any_image_size_gives_unit_descriptors_at_points_inside(extractor, size) -> None:
    features = extractor.extract(picture(*size))
    assert 0 < features.count() <= 60
    assert features.descriptor_dim == extractor.descriptor_dim
    points = features.keypoints[0]
    assert (points >= 0).all() and (points <= torch.tensor([size[1] - 1, size[0] - 1])).all()
    if extractor.descriptor_dim:  # 0 for a detector alone
        norms = features.descriptors[0].norm(dim=-1)
        torch.testing.assert_close(norms, torch.ones_like(norms))
    assert features.image_size.tolist() == [[size[1], size[0]]]


def test_a_list_of_sizes_equals_its_images_one_by_one(extractor) -> None:
    images = [picture(64, 96), picture(64, 72, 1)]
    together = extractor.extract(images)
    for b, image in enumerate(images):
        joined = together.numpy(b)
        for name, value in extractor.extract(image).numpy().items():
            np.testing.assert_allclose(joined[name], value, atol=1e-4, err_msg=name)


def test_images_of_a_list_go_through_the_network_together_where_that_is_faster(
    extractor, monkeypatch
) -> None:
    sizes = []
    forward = type(extractor).forward
    monkeypatch.setattr('kpfeat_core.models.base.FASTER_IN_BATCHES', ('cpu',))
    monkeypatch.setattr(
        type(extractor), 'forward', lambda self, x: sizes.append(len(x)) or forward(self, x)
    )
    images = [picture(64, 96), picture(64, 72, 1), picture(64, 96, 2)]
    images[2] = images[2][..., 0]  # gray among colors
    extractor = extractor.with_options(multi_scale=False)
    together = extractor.extract(images)
    assert sizes == [2, 1]
    assert_equals_one_by_one(extractor, together, images)


def test_a_batch_tensor_equals_its_images_one_by_one(extractor) -> None:
    images = [picture(64, 96, seed) for seed in range(2)]
    batch = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in images])
    assert_equals_one_by_one(extractor, extractor.extract(batch), images)


def assert_equals_one_by_one(extractor, together, images) -> None:
    assert together.batch_size == len(images)
    for b, image in enumerate(images):
        alone = extractor.extract(image).numpy()
        joined = together.numpy(b)
        distance = np.linalg.norm(alone['keypoints'][:, None] - joined['keypoints'], axis=-1)
        nearest = distance.argmin(1)  # rounding may swap neighbours of equal score
        assert len(set(nearest)) == len(nearest) == len(joined['keypoints'])
        assert distance.min(1).max() < 1e-2
        for name in ('keypoint_scores', 'descriptors'):
            np.testing.assert_allclose(joined[name][nearest], alone[name], atol=1e-3)


def test_padding_of_a_batch_is_zero_everywhere(extractor) -> None:
    batch = torch.from_numpy(np.stack([picture(64, 96), np.zeros((64, 96, 3), np.uint8)]))
    every = extractor.with_options(max_num_keypoints=-1)
    scores = every.extract(batch[:1].permute(0, 3, 1, 2)).keypoint_scores
    middle = min(float(scores.median()), 1.0)  # KP2D finds one in every cell of any image
    features = every.with_options(detection_threshold=middle).extract(batch.permute(0, 3, 1, 2))
    padding = ~features.mask
    assert features.count(0) != features.count(1) and padding.any()
    for values in (features.keypoints, features.keypoint_scores, features.descriptors):
        assert not values[padding].any()


def test_gray_images_equal_their_gray_color_images(extractor) -> None:
    gray = picture(64, 96)[..., 0]
    color = extractor.extract(np.repeat(gray[..., None], 3, 2))
    # gray of a gray colour is rounded
    torch.testing.assert_close(
        extractor.extract(gray).keypoints, color.keypoints, atol=1e-3, rtol=0
    )


def test_scores_fall_along_the_keypoints(extractor) -> None:
    for options in ({}, {'sub_pixel': False}, {'multi_scale': True}):
        scores = extractor.with_options(**options).extract(picture(64, 96)).keypoint_scores
        assert scores.shape[1] > 5
        assert (scores.diff() <= 0).all()


def test_half_precision_finds_the_places_that_single_precision_finds() -> None:
    image = cv2.resize(picture(96, 160), (800, 480), interpolation=cv2.INTER_CUBIC)
    single = create_extractor(max_num_keypoints=100).extract(image)
    half = create_extractor(max_num_keypoints=400).half().extract(image)
    # not by a product of matrices, which rounds to tenths of pixels
    exact = 'donot_use_mm_for_euclid_dist'
    distance, nearest = torch.cdist(
        *(f.keypoints[0] for f in (single, half)), compute_mode=exact
    ).min(1)
    assert half.keypoints.dtype == half.descriptors.dtype == torch.float32
    assert distance.median() < 0.02
    close = distance < 0.1
    same = single.descriptors[0] * half.descriptors[0][nearest]
    assert close.float().mean() > 0.8 and (same.sum(-1)[close] > 0.999).all()


def test_resized_extraction_is_in_pixels_of_the_source_and_multi_scale_has_a_scale_for_each(
    extractor,
) -> None:
    features = extractor.with_options(resize=96).extract(picture(144, 192))
    assert features.image_size.tolist() == [[192, 144]]
    assert features.keypoints[..., 0].max() > 96
    options = {'multi_scale': True, 'max_num_keypoints': 500, 'upsample_to': -1}
    features = extractor.with_options(**options).extract(picture(128, 160))
    assert features.count() <= 500
    sizes = {round(float(s), 2) for s in features.scales[features.mask]}
    assert 1.0 in sizes and len(sizes) > 1


def test_an_extractor_with_other_options_shares_the_network_and_refuses_wrong_ones(
    extractor,
) -> None:
    other = extractor.with_options(max_num_keypoints=7)
    assert next(other.parameters()) is next(extractor.parameters())
    assert other.extract(picture(64, 96)).count() <= 7
    assert extractor.config.max_num_keypoints == 60
    with pytest.raises(ConfigError, match="did you mean 'nms_radius'"):
        extractor.with_options(nms_radios=3)
    with pytest.raises(ConfigError, match='at least -1'):
        extractor.with_options(max_num_keypoints=-2)


def test_a_uniform_image_gives_few_keypoints_and_no_error(extractor) -> None:
    strict = extractor.with_options(detection_threshold=0.999999)
    features = strict.extract(np.zeros((64, 64), np.uint8))
    assert features.count() == 0
    assert features.descriptors.shape == (1, 0, extractor.descriptor_dim)


@pytest.mark.parametrize(
    ('given', 'options', 'looked_at'),
    [
        ((240, 320), {'upsample_to': 480}, (360, 480)),
        ((400, 300), {'upsample_to': 480}, (480, 360)),
        ((100, 120), {'upsample_to': 480}, (200, 240)),  # at most twice
        ((480, 640), {'upsample_to': 480}, (480, 640)),  # never smaller
        ((241, 321), {'upsample_to': -1}, (241, 321)),
        ((240, 320), {'upsample_to': 480, 'resize': 160}, (120, 160)),  # who says resize means it
    ],
)
def test_small_images_are_enlarged_as_far_as_the_options_say(
    extractor, given, options, looked_at
) -> None:
    assert extractor.with_options(**options).working_size(*given) == looked_at


def test_keypoints_of_an_enlarged_image_are_those_of_the_image_enlarged_before(extractor) -> None:
    small = extractor.with_options(upsample_to=192, multi_scale=False)
    image = picture(64, 96)
    found = small.extract(image)
    same = small.with_options(upsample_to=-1, resize=192).extract(image)
    assert found.count() > 0
    torch.testing.assert_close(found.keypoints, same.keypoints)
    assert found.image_size.tolist() == [[96, 64]]


def test_too_small_and_no_images_are_refused_with_the_reason(extractor) -> None:
    with pytest.raises(ImageError, match='at least 32x32'):
        extractor.extract(np.zeros((31, 400), np.uint8))
    with pytest.raises(ImageError, match='empty list'):
        extractor.extract([])
    with pytest.raises(ImageError, match='resize=40'):
        extractor.with_options(resize=40).extract(np.zeros((64, 400), np.uint8))


def test_features_can_be_changed_and_trained_on(extractor) -> None:
    features = extractor.extract(picture(64, 96))
    features.keypoints.add_(0.5)
    values = features.descriptors if features.descriptor_dim else features.keypoints
    layer = torch.nn.Linear(values.shape[-1], 2)
    layer(values).sum().backward()
    assert layer.weight.grad is not None
    assert not values.requires_grad


def test_a_full_memory_is_a_problem_of_the_image(monkeypatch) -> None:
    extractor = build_extractor('alike-t')
    for error in (MemoryError(), RuntimeError('DefaultCPUAllocator: cannot allocate memory')):
        monkeypatch.setattr(extractor, '_extract_level', Mock(side_effect=error))
        with pytest.raises(BadImageError, match='more memory than there is') as raised:
            extractor.extract(np.zeros((64, 64), np.uint8))
        assert raised.value.kind == 'memory'
    monkeypatch.setattr(extractor, '_extract_level', Mock(side_effect=RuntimeError('other')))
    with pytest.raises(RuntimeError, match='other'):
        extractor.extract(np.zeros((64, 64), np.uint8))
