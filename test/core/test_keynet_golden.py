"""Parity with both published networks of Key.Net, whose checkpoints a user would import."""

import cv2
from kpfeat_core.factory import create_extractor
from kpfeat_core.registry import build_extractor
from kpfeat_core.weights.files import read_weights
import numpy as np
import pytest
from run_kpfeat import import_weights
import torch

FILES = {'torch': 'keynet/keynet_pytorch.pth', 'tf': 'keynet_tf/model--1651.index'}


def imported(reference, tmp_path, variant: str, *settings: str):
    """Return an extractor with a published checkpoint of the detector."""
    checkpoint = reference / 'weights' / FILES[variant]
    out = import_weights(checkpoint, 'keynet', tmp_path / f'{variant}.safetensors', *settings)
    return create_extractor('keynet', out, descriptor='sift', sub_pixel=False)


@pytest.fixture
def gray(reference) -> np.ndarray:
    return np.load(reference / 'golden/gray_synth_240x320.npz')['gray']


def scores_of(extractor, gray: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        image = extractor.prepare(torch.from_numpy(gray)[None, None].float() / 255)
        return extractor(image).score_map[0].numpy()


def test_scores_are_those_of_the_official_torch_code(reference, tmp_path, gray) -> None:
    extractor = imported(reference, tmp_path, 'torch')
    expected = np.load(reference / 'golden/keynet_pytorch.npz')['score_official']
    assert np.abs(scores_of(extractor, gray) - expected).max() < 1e-5 * expected.max()


def test_single_scale_keypoints_are_the_maxima_of_the_official_scores(
    reference, tmp_path, gray
) -> None:
    scores = np.load(reference / 'golden/keynet_pytorch.npz')['score_official']
    highest = cv2.dilate(scores, np.ones((15, 15)))
    y, x = np.nonzero((scores == highest)[15:-15, 15:-15])
    extractor = imported(reference, tmp_path, 'torch').with_options(multi_scale=False)
    found = extractor.extract(gray).numpy()['keypoints']
    flat = {(int(a), int(b)) for a, b in zip(x + 15, y + 15, strict=True)}
    assert {tuple(point) for point in found.astype(int)} <= flat
    # the official selection also keeps pixels of flat areas, where all scores are equal
    steep = [
        (a, b)
        for a, b in flat
        if np.ptp(scores[b - 7 : b + 8, a - 7 : a + 8]) > 1e-3 * scores[b, a]
    ]
    assert len(found) == len(steep) > 30


def official_tf_scores(gray: np.ndarray, variables: dict, stored: bool) -> np.ndarray:
    """Compute the scores of the published TensorFlow network with NumPy and OpenCV, float64."""
    image = gray / gray.max()

    def variable(name: str) -> np.ndarray:
        return variables[f'model_deep_detector_{name}'].astype(np.float64)

    def normalize(maps: np.ndarray, which: str) -> np.ndarray:
        mean, variance = 0.0, 1.0
        if stored:
            mean = variable(f'batch_{which}/moving_mean')
            variance = variable(f'batch_{which}/moving_variance')
        gamma, beta = variable(f'batch_{which}/gamma'), variable(f'batch_{which}/beta')
        return (maps - mean) / np.sqrt(variance + 1e-3) * gamma + beta

    def convolve(maps: np.ndarray, which: str) -> np.ndarray:
        kernel, bias = variable(f'conv_{which}/kernel'), variable(f'conv_{which}/bias')
        planes = [
            sum(
                cv2.filter2D(maps[..., c], -1, kernel[..., c, k], borderType=cv2.BORDER_CONSTANT)
                for c in range(maps.shape[2])
            )
            for k in range(kernel.shape[3])
        ]
        return np.stack(planes, -1) + bias

    def derivatives(maps: np.ndarray) -> list[np.ndarray]:
        orders = ((1, 0), (0, 1))
        return [cv2.Sobel(maps, -1, *order, borderType=cv2.BORDER_CONSTANT) for order in orders]

    def shrink(maps: np.ndarray, height: int, width: int) -> np.ndarray:
        y, x = np.linspace(0, len(maps) - 1, height), np.linspace(0, maps.shape[1] - 1, width)
        low_y = np.minimum(y.astype(int), len(maps) - 2)
        low_x = np.minimum(x.astype(int), maps.shape[1] - 2)
        fy, fx = (y - low_y)[:, None, None], (x - low_x)[None, :, None]
        maps = maps.reshape(*maps.shape[:2], -1)
        upper, lower = maps[low_y], maps[low_y + 1]
        upper = upper[:, low_x] * (1 - fx) + upper[:, low_x + 1] * fx
        lower = lower[:, low_x] * (1 - fx) + lower[:, low_x + 1] * fx
        return upper * (1 - fy) + lower * fy

    along = np.exp(-(np.arange(-3, 4) ** 2) / (2 * 1.5**2))
    gauss = np.outer(along, along) / np.sqrt(2 * np.pi * 1.5**2)
    smooth = cv2.filter2D(image, -1, gauss, borderType=cv2.BORDER_CONSTANT)
    parts = []
    for level in range(3):
        size = [int(side / 1.2**level) for side in image.shape]
        small = shrink(smooth, *size)[..., 0] if level else image
        box = {'ddepth': -1, 'ksize': (65, 65), 'borderType': cv2.BORDER_REFLECT_101}
        mean, square = cv2.boxFilter(small, **box), cv2.boxFilter(small**2, **box)
        small = (small - mean) / (1 + np.sqrt(np.abs(square - mean**2)) + 1e-10)
        dx, dy = derivatives(small)
        (dxx, dxy), dyy = derivatives(dx), derivatives(dy)[1]
        maps = (dx, dx**2, dxx, dy, dy**2, dyy, dx * dy, dxx * dyy, dxy, dxy**2)
        maps = np.stack(maps, -1)
        for which in '123':
            maps = np.maximum(normalize(convolve(maps, which), which), 0)
        parts.append(shrink(maps, *image.shape))
    joined = normalize(np.concatenate(parts, -1), 'final')
    return np.maximum(convolve(joined, 'last_layer')[..., 0], 0)


@pytest.mark.parametrize('statistics', ['stored', 'unit'])
def test_scores_of_the_tf_network_are_those_of_its_description(
    reference, tmp_path, gray, statistics
) -> None:
    variables = np.load(reference / 'weights/keynet_tf/keynet_tf_model_1651.npz')
    expected = official_tf_scores(gray, variables, statistics == 'stored')
    extractor = imported(reference, tmp_path, 'tf', f'batch_statistics={statistics}')
    assert extractor.config.variant == 'tf'
    assert np.abs(scores_of(extractor, gray) - expected).max() < 1e-4 * np.ptp(expected)
    assert np.ptp(expected) > 0.05


def test_a_weight_file_says_which_variant_it_is_for_with_the_statistics_that_were_stored(
    reference, tmp_path
) -> None:
    extractor = imported(reference, tmp_path, 'tf')
    assert extractor.config.batch_statistics == 'stored'
    assert extractor.detector.norms[0].running_mean.abs().max() > 0.1
    tensors, notes = read_weights(tmp_path / 'tf.safetensors')
    assert '"variant": "tf"' in notes['architecture'] and 'norm_last.weight' in tensors
    expected = build_extractor('keynet', variant='tf', descriptor='sift').network.state_dict()
    assert set(tensors) == set(expected)


def test_half_precision_finds_the_same_keypoints(reference, tmp_path, gray) -> None:
    extractor = imported(reference, tmp_path, 'torch').with_options(max_num_keypoints=200)
    single = extractor.extract(gray).keypoints[0]
    half = extractor.half().extract(gray).keypoints[0]
    assert (torch.cdist(single, half).min(1).values < 1.5).float().mean() > 0.9
