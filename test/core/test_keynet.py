"""Key.Net: filters, levels, selection, scales, and what describes its keypoints."""

import cv2
from kpfeat_core.errors import ConfigError, WeightsError
from kpfeat_core.factory import create_extractor
from kpfeat_core.image import read_image
from kpfeat_core.models.base import DenseMaps
from kpfeat_core.models.keynet import HardNet
from kpfeat_core.models.keynet_scores import (
    FILTER_GAINS,
    handcrafted_maps,
    KeyNetSize,
    narrow_conv,
    normalize_locally,
    ScoreNetwork,
)
from kpfeat_core.registry import build_extractor
from kpfeat_core.weights import files as weights
from kpfeat_core.weights.files import find_weights, read_weights, save_weights
from kpfeat_core.weights.importing import import_checkpoint
import numpy as np
import pytest
from safetensors.torch import save_file
import torch
import torch.nn.functional as F

SIFT = {'descriptor': 'sift'}


@pytest.fixture(scope='module')
def photo(request) -> np.ndarray:
    image = read_image(request.config.rootpath / 'kpfeat_core/assets/circuit.jpg')
    return cv2.resize(image, (480, 349), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope='module')
def trained(reference, tmp_path_factory):
    """Return Key.Net with published weights and SIFT."""
    out = tmp_path_factory.mktemp('weights') / 'keynet.safetensors'
    import_checkpoint(reference / 'weights/keynet/keynet_pytorch.pth', 'keynet', out)
    return create_extractor('keynet', str(out), **SIFT, max_num_keypoints=400)


def random_image(height: int, width: int, count: int = 1) -> torch.Tensor:
    return torch.rand(count, 1, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ('name', 'variant', 'parameters'),
    [('keynet', 'torch', 5873), ('keynet', 'tf', 5921), ('keynet-tiny', 'torch', 279)],
)
def test_the_detector_has_as_many_parameters_as_published(name, variant, parameters) -> None:
    extractor = build_extractor(name, variant=variant, **SIFT)
    assert sum(p.numel() for p in extractor.network.parameters()) == parameters
    assert extractor.submodules() == {}


def test_the_filters_are_derivatives_and_their_products() -> None:
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(14.0), indexing='ij')
    image = 0.5 * 0.3 * x**2 + 0.2 * x * y + 0.5 * 0.1 * y**2
    maps = handcrafted_maps(image[None, None], 'replicate')[0, :, 5, 7]
    dx, dy, dxx, dxy, dyy = 0.3 * 7 + 0.2 * 5, 0.2 * 7 + 0.1 * 5, 0.3, 0.2, 0.1
    expected = [dx, dy, dx**2, dy**2, dx * dy, dxy, dxy**2, dxx, dyy, dxx * dyy]
    torch.testing.assert_close(maps, torch.tensor(expected), atol=1e-4, rtol=0)


def test_gains_make_all_filters_about_as_large_so_that_each_moves_random_weights(photo) -> None:
    gray = torch.from_numpy(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY))[None, None] / 255
    size = handcrafted_maps(gray, 'replicate').square().mean((0, 2, 3)).sqrt()
    assert size.max() / size.min() > 50
    size *= torch.tensor(FILTER_GAINS)
    assert size.max() / size.min() < 5
    torch.manual_seed(0)
    network = ScoreNetwork(KeyNetSize(3, 8, 3), 'torch')
    network(gray).sum().backward()
    by_filter = network.convs[0].weight.grad.abs().mean((0, 2, 3))
    assert by_filter.min() > 0.02 * by_filter.max()


def test_imported_weights_and_files_from_before_the_gains_take_the_filters_as_they_are(
    trained, tmp_path
) -> None:
    assert (trained.detector.filter_gains == 1).all()
    own = build_extractor('keynet', **SIFT).detector.filter_gains
    assert own.flatten().tolist() == list(FILTER_GAINS)
    extractor = build_extractor('keynet-tiny', **SIFT)
    state = extractor.detector.state_dict()
    del state['filter_gains']
    torch.save(state, tmp_path / 'old.pt')
    import_checkpoint(tmp_path / 'old.pt', 'keynet-tiny', tmp_path / 'new.safetensors')
    new = create_extractor('keynet-tiny', str(tmp_path / 'new.safetensors'), **SIFT).detector
    assert (new.filter_gains == 1).all()
    assert torch.equal(new.convs[0].weight, extractor.detector.convs[0].weight)


def test_a_file_from_before_the_gains_says_how_to_convert_it(tmp_path) -> None:
    tensors, metadata = read_weights(find_weights('keynet-tiny', ''))
    del tensors['filter_gains']
    save_file(tensors, tmp_path / 'old.safetensors', metadata)
    with pytest.raises(WeightsError, match='lacks filter_gains.*import .*old.* --model keynet-t'):
        create_extractor('keynet-tiny', str(tmp_path / 'old.safetensors'), **SIFT)


@pytest.mark.parametrize('size', [(33, 40), (40, 33), (32, 32)])
@pytest.mark.parametrize('outputs', [8, 1])
def test_convolving_pairs_of_columns_is_convolving(size, outputs) -> None:
    x = torch.randn(2, 6, *size).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(outputs, 6, 5, 5), torch.randn(outputs)
    with torch.no_grad():
        found = narrow_conv(x, weight, bias)
    expected = F.conv2d(x, weight, bias, padding=2)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize('size', [(32, 32), (35, 81)])
def test_local_normalisation_mirrors_images_smaller_than_its_window(size) -> None:
    image = random_image(*size)
    array = np.pad(image[0, 0].double().numpy(), 32, 'reflect')
    windows = np.lib.stride_tricks.sliding_window_view(array, (65, 65))
    mean, deviation = windows.mean((2, 3)), windows.std((2, 3))
    expected = (image[0, 0].numpy() - mean) / (1 + deviation)
    np.testing.assert_allclose(normalize_locally(image)[0, 0], expected, atol=1e-5)


@pytest.mark.parametrize('variant', ['torch', 'tf'])
def test_flat_images_train_without_nan(variant) -> None:
    network = ScoreNetwork(KeyNetSize(3, 8, 3), variant)
    image = torch.full((2, 1, 40, 48), 0.5, requires_grad=True)
    network(image).sum().backward()
    assert image.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_nothing_is_found_where_there_is_nothing(trained) -> None:
    image = np.full((240, 320), 90, np.uint8)
    assert trained.extract(image).count() == 0
    image[60:180, 200:260] = 200
    points = trained.with_options(multi_scale=False).extract(image).keypoints[0]
    assert len(points) >= 4
    assert (points[:, 0] > 180).all() and (points[:, 0] < 280).all()  # none in the flat parts


def test_scales_are_those_of_the_paper_and_share_the_keypoints_by_area(trained, photo) -> None:
    found = trained.extract(photo).numpy()
    scales = np.sqrt(2.0) ** np.arange(-1, 5)
    counts = (np.abs(found['scales'] / scales[:, None] - 1) < 0.01).sum(1)
    assert counts.sum() == len(found['scales']) == 400
    assert np.abs(counts - 400 * scales**-2 / (scales**-2).sum()).max() < 2


def test_what_a_scale_leaves_over_goes_to_the_next(trained, photo) -> None:
    few = trained.with_options(max_num_keypoints=3000, nms_radius=12)
    scales = few.extract(photo).numpy()['scales']
    areas = 2.0 ** -np.arange(-1, 5)
    largest = (scales < 0.8).sum()
    assert largest < 3000 * areas[0] / areas.sum() * 0.9
    assert (scales > 0.8).sum() > 0
    single = few.with_options(multi_scale=False).extract(photo)
    at_one = (np.abs(scales - 1) < 0.01).sum()
    assert at_one == single.count()  # all that there are, and not only a share


def warped(photo: np.ndarray, degrees: float, zoom: float) -> tuple[np.ndarray, np.ndarray]:
    height, width = photo.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, zoom)
    matrix = np.vstack([matrix, [2e-5, 1e-4, 1]])
    return cv2.warpPerspective(photo, matrix, (width, height)), matrix


def matched(extractor, photo: np.ndarray, degrees: float, zoom: float) -> tuple[int, float]:
    """Return how many mutual nearest neighbours are within 3 pixels, and their share."""
    view, matrix = warped(photo, degrees, zoom)
    here, there = extractor.extract(photo).numpy(), extractor.extract(view).numpy()
    similar = here['descriptors'] @ there['descriptors'].T
    best = similar.argmax(1)
    mutual = np.flatnonzero(similar.argmax(0)[best] == np.arange(len(best)))
    points = here['keypoints'][mutual].astype(np.float64)
    moved = cv2.perspectiveTransform(points[None], matrix)[0]
    error = np.linalg.norm(moved - there['keypoints'][best[mutual]], axis=1)
    return int((error < 3).sum()), float((error < 3).mean())


@pytest.mark.parametrize('orientation', ['upright', 'gradient'])
def test_a_photograph_matches_its_warped_view_and_a_quarter_turn_only_if_oriented(
    trained, photo, orientation
) -> None:
    extractor = trained.with_options(orientation=orientation)
    count, share = matched(extractor, photo, 8, 0.8)
    assert count > 100 and share > 0.8
    turned, _ = matched(extractor, photo, 90, 1.0)
    assert turned < 5 if orientation == 'upright' else turned > 20


def test_orientations_are_given_unless_patches_are_upright(photo) -> None:
    # random weights score what they like
    extractor = build_extractor('keynet', max_num_keypoints=50, detection_threshold=0.0).eval()
    assert extractor.with_options(orientation='upright').extract(photo).orientations is None
    features = extractor.extract([photo, photo[:, ::-1]])
    assert features.orientations.shape == features.mask.shape
    assert features.orientations.abs().max() <= np.pi
    alone = extractor.extract(photo[:, ::-1])
    np.testing.assert_allclose(features.numpy(1)['orientations'], alone.numpy()['orientations'])


def test_sub_pixel_keypoints_follow_a_shift_of_a_third_of_a_pixel(trained, photo) -> None:
    large = cv2.GaussianBlur(cv2.resize(photo, (1440, 1047)).astype(np.float32) / 255, (0, 0), 1.3)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    matrices = (np.float32([[3, 0, place], [0, 3, place]]) for place in (1, 0))
    views = [cv2.warpAffine(large, matrix, (480, 349), flags=flags) for matrix in matrices]
    median = {}
    for sub_pixel in (True, False):
        extractor = trained.with_options(multi_scale=False, sub_pixel=sub_pixel)
        here, there = (extractor.extract(view).keypoints[0] for view in views)
        mode = 'donot_use_mm_for_euclid_dist'
        distance = torch.cdist(here + 1 / 3, there, compute_mode=mode).min(1).values
        median[sub_pixel] = distance[distance < 2].median()
    assert median[True] < 0.1 < 0.4 < median[False]


@pytest.mark.parametrize('level', [0.02, 5.0])
def test_refined_keypoints_stay_in_the_image_whatever_the_scores(level) -> None:
    options = {'remove_borders': 0, 'nms_radius': 2, 'detection_threshold': 0.0}
    extractor = build_extractor('keynet', **SIFT, **options)
    scores = level * random_image(40, 48)[:, 0]
    points = extractor.detect(DenseMaps(scores, (random_image(40, 48),))).keypoints[0]
    assert ((points >= 0) & (points <= torch.tensor([47, 39]))).all()
    assert (points.min(0).values < 2).all()  # those at the borders are among them


@pytest.fixture
def detector(tmp_path, monkeypatch):
    """Return a weight file of Key.Net's detector, alone in its folder."""
    monkeypatch.delenv(weights.ENVIRONMENT, raising=False)
    save_weights(build_extractor('keynet'), tmp_path / 'keynet.safetensors')
    return tmp_path / 'keynet.safetensors'


def first_kernels(file) -> torch.Tensor:
    return read_weights(file)[0]['features.0.weight'].float()


def test_the_bundled_hardnet_describes_where_no_other_is_named(detector, monkeypatch) -> None:
    bundled = first_kernels(weights.BUNDLED / 'hardnet.safetensors')
    made = create_extractor('keynet', str(detector))
    assert torch.equal(made.hardnet.features[0].weight, bundled)
    monkeypatch.setenv(weights.ENVIRONMENT, str(detector))  # a file, which holds no hardnet
    assert torch.equal(create_extractor('keynet').hardnet.features[0].weight, bundled)
    assert create_extractor('keynet', **SIFT).hardnet is None


def test_a_hardnet_of_yours_comes_before_the_bundled_one(detector, monkeypatch) -> None:
    folder = detector.parent
    save_weights(HardNet(), folder / 'hardnet.safetensors')
    own = first_kernels(folder / 'hardnet.safetensors')
    made = create_extractor('keynet', str(detector), descriptor_weights=str(folder))
    assert torch.equal(made.hardnet.features[0].weight, own)
    for place in (folder, folder / 'hardnet.safetensors'):
        monkeypatch.setenv(weights.ENVIRONMENT, str(place))
        made = create_extractor('keynet', str(detector))
        assert torch.equal(made.hardnet.features[0].weight, own)


def test_without_any_hardnet_the_error_names_what_does_without(
    detector, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(weights, 'BUNDLED', tmp_path / 'nothing')
    with pytest.raises(WeightsError, match='descriptor=sift .*no weights for model hardnet'):
        create_extractor('keynet', str(detector))


def test_the_bundled_hardnet_matches_a_warped_view(reference, photo, tmp_path) -> None:
    out = tmp_path / 'keynet.safetensors'
    import_checkpoint(reference / 'weights/keynet/keynet_pytorch.pth', 'keynet', out)
    extractor = create_extractor('keynet', str(out), max_num_keypoints=400)
    count, share = matched(extractor, photo, 8, 0.8)
    assert count > 100 and share > 0.8


def test_a_copy_takes_no_hardnet_without_weights_and_no_others() -> None:
    with pytest.raises(ConfigError, match="made with descriptor='sift'"):
        build_extractor('keynet', **SIFT).with_options(descriptor='hardnet')
    with_hardnet = build_extractor('keynet')
    assert with_hardnet.with_options(**SIFT).config.descriptor == 'sift'
    with pytest.raises(ConfigError, match="descriptor_weights='other.safetensors'"):
        with_hardnet.with_options(descriptor_weights='other.safetensors')


@pytest.mark.parametrize('model', ['keynet', 'keynet-tiny'])
def test_bundled_weights_find_nothing_in_the_noise_of_a_flat_wall(model) -> None:
    noise = np.random.default_rng(0).normal(0, 1.5, (240, 320))
    wall = np.clip(120 + noise, 0, 255).astype(np.uint8)
    extractor = create_extractor(model, **SIFT, multi_scale=False)
    assert extractor.extract(wall).count() < 5
