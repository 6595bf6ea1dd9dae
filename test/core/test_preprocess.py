"""Which part of an image is seen, and keypoints in pixels of the whole."""

from kpfeat_core.camera import Calibration
from kpfeat_core.config import ViewConfig
from kpfeat_core.errors import BadImageError, ConfigError, ImageError
from kpfeat_core.features import Features
from kpfeat_core.image import write_image
from kpfeat_core.preprocess import Preprocessor
from kpfeat_core.registry import build_extractor
import numpy as np
import pytest
import torch

LENS = Calibration(
    np.array([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]]), (64, 48), 'plumb_bob', (-0.2, 0, 0, 0)
)


class BrightPixels:
    """An extractor that finds what is brighter than half, at the centre of each blob."""

    scales = False

    def extract(self, image: np.ndarray, mask: np.ndarray | None) -> Features:
        self.seen = image
        bright = (image if image.ndim == 2 else image.max(2)) > 127
        y, x = np.nonzero(bright if mask is None else bright & mask)
        arrays = {
            'keypoints': np.stack([x, y], 1).astype(np.float32),
            'keypoint_scores': np.linspace(1, 0.5, len(x), dtype=np.float32),
            'descriptors': np.eye(max(len(x), 1), 8, dtype=np.float32)[: len(x)],
            'image_size': np.array(image.shape[1::-1], np.float32),
        }
        if self.scales:
            arrays['scales'] = np.ones(len(x), np.float32)
        return Features.from_numpy(arrays)


def dots(*pixels: tuple[int, int], size: int = 1) -> np.ndarray:
    """Draw white squares with these upper left pixels on black, 64 wide and 48 high."""
    image = np.zeros((48, 64, 3), np.uint8)
    for x, y in pixels:
        image[y : y + size, x : x + size] = 255
    return image


def keypoints(image: np.ndarray, calibration: Calibration | None = None, **options) -> list:
    view = Preprocessor(ViewConfig(**options), calibration)
    features = view.extract(BrightPixels(), image)
    assert features.image_size.tolist() == [[64, 48]]
    assert features.descriptors.shape[:2] == features.keypoints.shape[:2]
    return features.keypoints[0].tolist()


def test_keypoints_of_a_region_are_in_pixels_of_the_image() -> None:
    image = dots((5, 5), (20, 12), (40, 30), (63, 47))
    region = {'roi_x_offset': 20, 'roi_y_offset': 10}
    assert keypoints(image, **region) == [[20, 12], [40, 30], [63, 47]]
    assert keypoints(image, **region, roi_width=21, roi_height=3) == [[20, 12]]


@pytest.mark.parametrize('binning', [2, 3, 4])
def test_binned_keypoints_are_exact_to_the_half_pixel_and_their_scales_grow(binning) -> None:
    corner = (6 * binning, 5 * binning)
    centre = [corner[0] + (binning - 1) / 2, corner[1] + (binning - 1) / 2]
    assert keypoints(dots(corner, size=binning), binning=binning) == [centre]
    shifted = (corner[0] + 1, corner[1] + 2)  # the grid of bins starts at the region's corner
    found = keypoints(dots(shifted, size=binning), binning=binning, roi_x_offset=1, roi_y_offset=2)
    assert found == [[centre[0] + 1, centre[1] + 2]]
    extractor = BrightPixels()
    extractor.scales = True
    view = Preprocessor(ViewConfig(binning=binning))
    assert view.extract(extractor, dots(corner, size=binning)).scales.tolist() == [[binning]]


def test_binning_averages_and_leaves_out_what_fills_no_bin_and_else_images_pass_as_they_are():
    extractor, image = BrightPixels(), dots((3, 4))
    Preprocessor(ViewConfig()).extract(extractor, image)
    assert np.array_equal(extractor.seen, image)
    image = np.arange(48 * 64, dtype=np.float32).reshape(48, 64) / 4096
    Preprocessor(ViewConfig(binning=5)).extract(extractor, image)
    expected = image[:45, :60].reshape(9, 5, 12, 5).mean((1, 3))
    assert np.allclose(extractor.seen, expected, atol=1e-6)


@pytest.mark.parametrize(
    'region',
    [
        {'roi_x_offset': 64},
        {'roi_x_offset': 10, 'roi_width': 60},
        {'roi_y_offset': 40, 'roi_height': 9},
        {'roi_height': 0},
    ],
)
def test_region_outside_the_image_or_smaller_than_a_bin_is_refused(region) -> None:
    with pytest.raises(BadImageError, match='does not fit into an image of 64x48') as error:
        keypoints(dots(), **region)
    assert error.value.kind == 'region'
    with pytest.raises(BadImageError, match='binning is 16, more than the 8x8 pixels'):
        keypoints(dots(), binning=16, roi_width=8, roi_height=8)


@pytest.fixture
def mask(tmp_path):
    """Return a mask that hides the left half."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, 32:] = 1
    write_image(tmp_path / 'mask.png', picture)
    return str(tmp_path / 'mask.png')


def test_keypoints_where_the_mask_of_the_whole_image_is_black_are_dropped(mask) -> None:
    assert keypoints(dots((5, 5), (31, 20), (32, 20), (63, 47)), mask=mask) == [[32, 20], [63, 47]]
    found = keypoints(dots((30, 8), (40, 8), size=2), mask=mask, roi_x_offset=20, binning=2)
    assert found == [[40.5, 8.5]]


def test_masks_of_another_size_and_files_that_cannot_be_read_are_refused(mask) -> None:
    with pytest.raises(BadImageError, match='is of 64x48 pixels, expected 20x30') as error:
        Preprocessor(ViewConfig(mask=mask)).extract(BrightPixels(), np.zeros((30, 20), np.uint8))
    assert error.value.kind == 'mask'
    with pytest.raises(ImageError, match="there is no file '/no/mask.png'"):
        Preprocessor(ViewConfig(mask='/no/mask.png'))
    with pytest.raises(ConfigError, match='/no/left.yaml'):
        Preprocessor(ViewConfig(undistort=True, calibration_file='/no/left.yaml'))


def test_undistorted_keypoints_leave_the_centre_and_move_outwards() -> None:
    found = keypoints(dots((0, 0), (31, 23), (63, 47)), LENS, undistort=True)
    assert np.allclose(found[1], [31, 23], atol=0.01)
    assert found[0][0] < -1 and found[0][1] < -1
    assert found[2][0] > 64 and found[2][1] > 48


def test_undistortion_comes_after_region_binning_and_mask(mask) -> None:
    options = {'roi_x_offset': 20, 'binning': 2, 'mask': mask}
    plain = keypoints(dots((30, 8), (40, 8), size=2), **options)
    ideal = LENS.directions(np.array(plain)) * 60 + [31.5, 23.5]
    found = keypoints(dots((30, 8), (40, 8), size=2), LENS, undistort=True, **options)
    assert np.allclose(found, ideal, atol=1e-4)


def test_keypoints_that_no_ideal_camera_shows_are_dropped() -> None:
    steep = Calibration(LENS.matrix, LENS.size, 'plumb_bob', (-2.0, 0, 0, 0))
    assert len(keypoints(dots((0, 0), (31, 23)), steep, undistort=True)) == 1


def test_undistorting_waits_for_a_calibration_and_refuses_one_of_another_size() -> None:
    with pytest.raises(BadImageError, match='no camera_info came so far') as error:
        keypoints(dots(), undistort=True)
    assert error.value.kind == 'camera_info'
    view = Preprocessor(ViewConfig(undistort=True)).with_calibration(LENS)
    with pytest.raises(BadImageError, match='images of 64x48, got one of 20x30'):
        view.extract(BrightPixels(), np.zeros((30, 20), np.uint8))


def test_image_without_keypoints_passes_through_everything(mask) -> None:
    assert keypoints(dots(), LENS, undistort=True, mask=mask, binning=2) == []


def test_hidden_bins_are_those_with_any_hidden_pixel(mask) -> None:
    shown = Preprocessor(ViewConfig(mask=mask, binning=3, roi_x_offset=1)).apply(dots())
    assert shown.mask.shape == shown.image.shape[:2] == (16, 21)
    assert shown.mask.all(0).tolist() == [False] * 11 + [True] * 10  # bin 10 has pixels 31 to 33


def test_the_best_keypoints_are_chosen_where_the_mask_shows_the_image(tmp_path) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (24, 40, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    shown = np.zeros(image.shape, np.uint8)
    shown[120:, 170:] = 255
    write_image(tmp_path / 'corner.png', shown)
    torch.manual_seed(0)
    extractor = build_extractor('alike-t', max_num_keypoints=30).eval()
    options = {'roi_x_offset': 51, 'roi_y_offset': 17, 'binning': 2}
    plain = Preprocessor(ViewConfig(**options)).extract(extractor, image)
    masked = Preprocessor(ViewConfig(**options, mask=str(tmp_path / 'corner.png')))
    found = masked.extract(extractor, image)
    hidden = (plain.keypoints[0] < torch.tensor([170.0, 120.0])).any(1)
    assert hidden.sum() > 10
    assert found.count() == plain.count() == 30
    assert (found.keypoints[0] >= torch.tensor([169.5, 119.5])).all()


def test_several_preprocessed_images_are_extracted_together_and_finished_one_by_one(mask) -> None:
    torch.manual_seed(0)
    extractor = build_extractor('alike-t', max_num_keypoints=9).eval()
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(2)]
    views = [Preprocessor(ViewConfig(mask=mask)), Preprocessor(ViewConfig(roi_x_offset=20), LENS)]
    shown = [view.apply(image) for view, image in zip(views, images, strict=True)]
    features = extractor.extract([x.image for x in shown], [x.mask for x in shown])
    for b, (view, image) in enumerate(zip(views, images, strict=True)):
        expected = view.extract(extractor, image).numpy()
        found = shown[b].finish(features.select(b)).numpy()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)
