"""Positions through resizing, padding, scales and mirrors, in which half a pixel would show."""

from kpfeat_core.keypoints import Keypoints, refine_soft_argmax
from kpfeat_core.models.base import DenseMaps, Extractor
from kpfeat_core.registry import build_extractor
import numpy as np
import pytest
import torch
from torch import nn
import torch.nn.functional as F


class BlobExtractor(Extractor):
    """Scores are the image itself; a descriptor tells how bright red, green and blue are."""

    name, stride, channels, descriptor_dim = 'blobs', 32, 3, 3

    def __init__(self, config=None):
        super().__init__(config)
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, image):
        return DenseMaps(image.amax(1) * self.gain, (image,))

    def detect(self, maps):
        found = super().detect(maps)
        keypoints, _ = refine_soft_argmax(maps.score_map, found.keypoints.long(), 2, 0.02)
        return Keypoints(keypoints, found.keypoint_scores, found.mask)

    def describe(self, maps, found):
        x, y = found.keypoints.round().long().unbind(-1)
        colours = maps.descriptor_maps[0][torch.arange(len(x))[:, None], :, y, x]
        return F.normalize(colours, dim=-1)


SPARSE = {'detection_threshold': 0.6, 'nms_radius': 15}
# (x, y) of the blob in each channel
BLOBS = np.array([(61.3, 47.8), (140.6, 90.2), (207.1, 161.4)])


@pytest.fixture
def image() -> np.ndarray:
    """Return (203, 251, 3) with a red, a green and a blue blob, wide enough to be shrunk."""
    y, x = np.mgrid[:203, :251]
    channels = [np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * 7.0**2)) for u, v in BLOBS]
    return np.stack(channels, -1).astype(np.float32)


@pytest.mark.parametrize('resize', [-1, 251, 180, 96, 400])
def test_blobs_are_found_where_they_are_whatever_the_image_is_resized_to(image, resize) -> None:
    extractor = BlobExtractor().with_options(**SPARSE, resize=resize)
    found = extractor.extract(image).numpy()
    assert len(found['keypoints']) == 3
    scale = max(1, 251 / resize) if resize > 0 else 1
    expected = BLOBS[found['descriptors'].argmax(1)]
    assert np.abs(found['keypoints'] - expected).max() < 0.25 * scale


def test_every_scale_finds_the_blobs_at_the_same_place_and_says_which_scale(image) -> None:
    extractor = BlobExtractor().with_options(**SPARSE, multi_scale=True)
    found = extractor.extract(image).numpy()
    assert sorted({round(float(s), 1) for s in found['scales']}) == [1.0, 1.4, 2.0, 2.8]
    assert len(found['keypoints']) == 3 * 4
    error = np.abs(found['keypoints'] - BLOBS[found['descriptors'].argmax(1)]).max(1)
    assert (error < 0.25 * found['scales']).all()


def test_nothing_is_found_in_the_padding(image) -> None:
    bright = np.ones((70, 90), np.float32)  # padded to 96 x 96
    found = BlobExtractor().with_options(nms_radius=0, max_num_keypoints=-1).extract(bright)
    border = BlobExtractor().config.remove_borders
    assert found.count() == (70 - 2 * border) * (90 - 2 * border)
    assert found.keypoints[0].amax(0).tolist() == [90 - 1 - border, 70 - 1 - border]


@pytest.mark.parametrize('size', [(64, 90), (63, 89)])
def test_keypoints_of_an_enlarged_image_stay_between_its_outermost_pixel_centres(size) -> None:
    class WholePixels(BlobExtractor):
        detect = Extractor.detect

    extractor = WholePixels().with_options(
        nms_radius=0, max_num_keypoints=-1, remove_borders=0, resize=200
    )
    points = extractor.extract(np.ones(size, np.float32)).keypoints[0]
    assert points.amin(0).tolist() == [0, 0]
    assert points.amax(0).tolist() == [size[1] - 1, size[0] - 1]


# Any network whose kernels are their own mirror images finds mirrored keypoints. SuperPoint and
# KP2D, whose last layers number the places in a cell, are tested with their own models.
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
