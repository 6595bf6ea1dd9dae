"""
A mirrored picture of corners has mirrored keypoints: half a pixel, or x for y, would show.

Any network with kernels that are their own mirror images must do this. SuperPoint and KP2D, whose
last layers number the places in a cell, are tested with their own models.
"""

from kpfeat_core.registry import build_extractor
import numpy as np
import pytest
import torch

# Key.Net's handcrafted maps that change their sign in a mirror: dx, dx dy, dxy; then dy, ...
ODD = {'x': [0, 4, 5], 'y': [1, 4, 5]}


def corners(height: int, width: int) -> np.ndarray:
    """Return rectangles in random gray values on a gray ground: (H, W) uint8."""
    rng = np.random.default_rng(3)
    image = np.full((height, width), 110, np.uint8)
    for _ in range(60):
        x, y = rng.integers(0, (width - 12, height - 12))
        w, h = rng.integers(5, 40, 2)
        image[y : y + h, x : x + w] = rng.integers(0, 256)
    return image


def mirror_kernels(extractor, axis: str) -> None:
    """Make every kernel its own mirror image, and odd inputs' kernels their own negative."""
    dim = {'x': -1, 'y': -2}[axis]
    for name, value in extractor.named_parameters():
        if value.ndim != 4:
            continue
        mirrored = value.data.flip(dim)
        if name == 'detector.convs.0.weight':
            mirrored[:, ODD[axis]] *= -1
        value.data = (value.data + mirrored) / 2
    if extractor.name == 'aslfeat':  # the other layers' cells begin at their first pixel
        extractor.conv3.weight.data.zero_()
        extractor.conv6.weight.data.zero_()


@pytest.mark.parametrize('axis', ['x', 'y'])
@pytest.mark.parametrize('model', ['alike-t', 'alike-l', 'aslfeat', 'keynet', 'keynet-tiny'])
def test_a_mirrored_picture_of_corners_has_mirrored_keypoints(model, axis) -> None:
    torch.manual_seed(0)
    options = {'descriptor': 'sift', 'remove_borders': 8} if model.startswith('keynet') else {}
    extractor = build_extractor(
        model, multi_scale=False, max_num_keypoints=200, detection_threshold=0.0, **options
    ).eval()
    mirror_kernels(extractor, axis)
    image = corners(224, 288)
    flip = {'x': np.fliplr, 'y': np.flipud}[axis]
    found = extractor.extract(image).numpy()
    there = extractor.extract(np.ascontiguousarray(flip(image))).numpy()
    points = found['keypoints'].copy()
    column = {'x': 0, 'y': 1}[axis]
    points[:, column] = image.shape[1 - column] - 1 - points[:, column]
    distance = np.linalg.norm(points[:, None] - there['keypoints'], axis=-1).min(1)
    assert len(points) > 30
    # ties between equal pixels may be decided either way
    assert np.quantile(distance, 0.9) < 1e-2 and np.median(distance) < 1e-3
