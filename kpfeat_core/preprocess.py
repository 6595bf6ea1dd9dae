"""
Images as an extractor is shown them, and its keypoints back in pixels of the whole image.

The order is: region of interest, binning, extraction under the mask, back to pixels of the whole
image, removal of the distortion of the lens.
"""

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from .axes import Bool
from .camera import Calibration, read_calibration, undistort
from .config import ViewConfig
from .errors import BadImageError
from .features import Features
from .image import read_image, rescale_points

if TYPE_CHECKING:
    from .models.base import Extractor


@dataclass(frozen=True)
class Preprocessed:
    """
    One image as an extractor is shown it.

    image: the region of interest, binned: (h, w) or (h, w, 3). mask (h, w): where keypoints may
    lie, in pixels of `image`; None: anywhere. whole_size: width and height of the image that it
    was cut from. calibration: of that; None where keypoints keep the distortion of the lens.
    """

    image: np.ndarray
    mask: Bool[np.ndarray, 'h w'] | None
    whole_size: tuple[int, int]
    config: ViewConfig
    calibration: Calibration | None

    def finish(self, features: Features) -> Features:
        """
        Bring the features of `image`, a batch of one, into pixels of the whole; without padding.

        With a calibration, keypoints are in pixels of the ideal camera with the same matrix.
        """
        return self._without_distortion(self._in_the_whole(features.select(0)))

    def _in_the_whole(self, features: Features) -> Features:
        config = self.config
        size = features.image_size.new_tensor([self.whole_size])
        if not (config.roi_x_offset or config.roi_y_offset or config.binning > 1):
            return replace(features, image_size=size)
        keypoints = rescale_points(features.keypoints, (1, 1), (config.binning,) * 2)
        keypoints = keypoints + keypoints.new_tensor([config.roi_x_offset, config.roi_y_offset])
        scales = None if features.scales is None else features.scales * config.binning
        return replace(features, keypoints=keypoints, scales=scales, image_size=size)

    def _without_distortion(self, features: Features) -> Features:
        if self.calibration is None:
            return features
        points, good = undistort(self.calibration, features.keypoints[0].cpu().numpy())
        keypoints = torch.from_numpy(points).to(features.keypoints)[None]
        return replace(features, keypoints=keypoints).take(good)


class Preprocessor:
    """
    Cuts, bins and masks images for an extractor; its features come in the images' own pixels.

    Immutable. calibration: of the images as they come; by default that of the
    calibration_file.

    Raises ConfigError and ImageError where a file cannot be read.
    """

    def __init__(self, config: ViewConfig, calibration: Calibration | None = None) -> None:
        self.config = config
        self.calibration = calibration
        self._refused = ''  # why camera_info is of no use
        if config.undistort and config.calibration_file:
            self.calibration = read_calibration(config.calibration_file)
        self._mask = read_image(config.mask).any(2) if config.mask else None

    def with_calibration(self, calibration: Calibration) -> 'Preprocessor':
        """Return the same for the images of another camera."""
        other = copy.copy(self)
        other.calibration = calibration
        return other

    def without_calibration(self, reason: str) -> 'Preprocessor':
        """Return the same for a camera whose camera_info is of no use, for a reason."""
        other = copy.copy(self)
        other.calibration, other._refused = None, reason
        return other

    def apply(self, image: np.ndarray) -> Preprocessed:
        """
        Cut and bin an image (H, W) or (H, W, 3).

        Raises BadImageError, of the kinds region, mask and camera_info, where the options misfit.
        """
        height, width = image.shape[:2]
        self._check_mask(width, height)
        calibration = self._calibration_for(width, height)
        mask = None if self._mask is None else self._bin_mask(self._cut(self._mask))
        return Preprocessed(
            self._bin(self._cut(image)), mask, (width, height), self.config, calibration
        )

    def extract(self, extractor: 'Extractor', image: np.ndarray) -> Features:
        """
        Return the features of an image (H, W) or (H, W, 3), a batch of one, in its own pixels.

        With `undistort` keypoints are in pixels of the ideal camera with the same matrix instead.

        Raises ImageError, and its BadImageError where the options do not fit the image.
        """
        shown = self.apply(image)
        return shown.finish(extractor.extract(shown.image, shown.mask))

    def _cut(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        config = self.config
        x, y = config.roi_x_offset, config.roi_y_offset
        right = width if config.roi_width < 0 else x + config.roi_width
        bottom = height if config.roi_height < 0 else y + config.roi_height
        if not (x < right <= width and y < bottom <= height):
            raise BadImageError(
                'region',
                f'region of interest is {right - x}x{bottom - y} at ({x}, {y}), which does not '
                f'fit into an image of {width}x{height}; set the parameters roi_x_offset, '
                'roi_y_offset, roi_width and roi_height, where a size of -1 reaches to the edge',
            )
        return image[y:bottom, x:right]

    def _bin(self, image: np.ndarray) -> np.ndarray:
        binning = self.config.binning
        if binning == 1:
            return image
        height, width = (side // binning for side in image.shape[:2])
        if not (width and height):
            raise BadImageError(
                'region',
                f'binning is {binning}, more than the {image.shape[1]}x{image.shape[0]} pixels '
                'of the region have; choose a smaller one',
            )
        whole = np.ascontiguousarray(image[: height * binning, : width * binning])
        return cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)

    def _bin_mask(self, mask: Bool[np.ndarray, 'h w']) -> Bool[np.ndarray, 'h2 w2']:
        """Return the mask of the bins of which all pixels are shown."""
        binning = self.config.binning
        height, width = (side // binning for side in mask.shape)
        whole = mask[: height * binning, : width * binning]
        return whole.reshape(height, binning, width, binning).all((1, 3))

    def _check_mask(self, width: int, height: int) -> None:
        if self._mask is not None and self._mask.shape != (height, width):
            found = 'x'.join(map(str, self._mask.shape[::-1]))
            raise BadImageError(
                'mask',
                f"mask '{self.config.mask}' is of {found} pixels, expected {width}x{height} as "
                'the images are, whatever the region of interest',
            )

    def _calibration_for(self, width: int, height: int) -> Calibration | None:
        if not self.config.undistort:
            return None
        if self.calibration is None and self._refused:
            raise BadImageError(
                'camera_info',
                f'undistort is set and camera_info is of no use: {self._refused}; calibrate the '
                'camera, or set calibration_file',
            )
        if self.calibration is None:
            raise BadImageError(
                'camera_info',
                'undistort is set and no camera_info came so far; let the driver publish it, '
                "remap 'camera_info', or set calibration_file",
            )
        if not self.calibration.fits((width, height)):
            found = 'x'.join(map(str, self.calibration.size))
            raise BadImageError(
                'camera_info',
                f'calibration is for images of {found}, got one of {width}x{height}; calibrate at '
                'this size, or let the driver fill in roi and binning of camera_info',
            )
        return self.calibration
