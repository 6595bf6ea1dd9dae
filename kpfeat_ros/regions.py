"""
Which part of an image the extractor sees, and keypoints back in pixels of the image; free of ROS.

The order is: region of interest, binning, extraction, back to pixels of the image, mask, lens.
"""

import copy
from dataclasses import fields, replace
from typing import Any, TYPE_CHECKING

import cv2
from kpfeat_core.calibration import Calibration
from kpfeat_core.cameras import read_calibration, undistort
from kpfeat_core.features import Features
from kpfeat_core.image import read_image, rescale_points
from kpfeat_core.shapes import Bool
import numpy as np
import torch

from .encodings import BadImageError
from .options import InputOptions

if TYPE_CHECKING:
    from kpfeat_core.models.base import Extractor


class View:
    """
    What an extractor makes of images, by the options of its input; never changes.

    calibration: of the images as they come; by default that of the options' calibration_file.

    Raises ConfigError and ImageError where a file cannot be read.
    """

    def __init__(self, options: InputOptions, calibration: Calibration | None = None) -> None:
        self.options = options
        self.calibration = calibration
        if options.undistort and options.calibration_file:
            self.calibration = read_calibration(options.calibration_file)
        self._mask = read_image(options.mask).any(2) if options.mask else None

    def with_calibration(self, calibration: Calibration) -> 'View':
        """Return the same view of the images of another camera."""
        other = copy.copy(self)
        other.calibration = calibration
        return other

    def extract(self, extractor: 'Extractor', image: np.ndarray) -> Features:
        """
        Return the features of an image (H, W) or (H, W, 3), a batch of one, in its own pixels.

        With `undistort` keypoints are in pixels of the ideal camera with the same matrix instead.

        Raises ImageError; of the kinds region, mask and camera_info where the options do not fit.
        """
        height, width = image.shape[:2]
        self._check_mask(width, height)
        calibration = self._calibration_for(width, height)
        features = extractor.extract(self._bin(self._cut(image)))
        return self._without_distortion(self._masked(self._place(features, image)), calibration)

    def _cut(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        options = self.options
        x, y = options.roi_x_offset, options.roi_y_offset
        right = width if options.roi_width < 0 else x + options.roi_width
        bottom = height if options.roi_height < 0 else y + options.roi_height
        if not (x < right <= width and y < bottom <= height):
            raise BadImageError(
                'region',
                f'region of interest is {right - x}x{bottom - y} at ({x}, {y}), which does not '
                f'fit into an image of {width}x{height}; set the parameters roi_x_offset, '
                'roi_y_offset, roi_width and roi_height, where a size of -1 reaches to the edge',
            )
        return image[y:bottom, x:right]

    def _bin(self, image: np.ndarray) -> np.ndarray:
        binning = self.options.binning
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

    def _place(self, features: Features, image: np.ndarray) -> Features:
        """Bring keypoints of the region back into the image."""
        options, (height, width) = self.options, image.shape[:2]
        moved = options.roi_x_offset or options.roi_y_offset or options.binning > 1
        size = features.image_size.new_tensor([[width, height]])
        if not moved:
            return replace(features, image_size=size)
        features = features.select(0)
        keypoints = rescale_points(features.keypoints, (1, 1), (options.binning,) * 2)
        keypoints = keypoints + keypoints.new_tensor([options.roi_x_offset, options.roi_y_offset])
        scales = None if features.scales is None else features.scales * options.binning
        return replace(features, keypoints=keypoints, scales=scales, image_size=size)

    def _check_mask(self, width: int, height: int) -> None:
        if self._mask is not None and self._mask.shape != (height, width):
            found = 'x'.join(map(str, self._mask.shape[::-1]))
            raise BadImageError(
                'mask',
                f"mask '{self.options.mask}' is of {found} pixels, expected {width}x{height} as "
                'the images are, whatever the region of interest',
            )

    def _masked(self, features: Features) -> Features:
        if self._mask is None:
            return features
        features = features.select(0)
        height, width = self._mask.shape
        x, y = np.rint(features.keypoints[0].cpu().numpy()).astype(np.int64).T
        return _rows(features, self._mask[y.clip(0, height - 1), x.clip(0, width - 1)])

    def _calibration_for(self, width: int, height: int) -> Calibration | None:
        if not self.options.undistort:
            return None
        if self.calibration is None:
            raise BadImageError(
                'camera_info',
                'undistort is set and no camera_info came so far; let the driver publish it, '
                "remap 'camera_info', or set calibration_file",
            )
        if self.calibration.size not in ((0, 0), (width, height)):
            found = 'x'.join(map(str, self.calibration.size))
            raise BadImageError(
                'camera_info',
                f'calibration is for images of {found}, got one of {width}x{height}; calibrate at '
                'this size, or let the driver fill in roi and binning of camera_info',
            )
        return self.calibration

    def _without_distortion(self, features: Features, calibration: Calibration | None) -> Features:
        if calibration is None:
            return features
        features = features.select(0)
        points, good = undistort(calibration, features.keypoints[0].cpu().numpy())
        keypoints = torch.from_numpy(points).to(features.keypoints)[None]
        return _rows(replace(features, keypoints=keypoints), good)


def _rows(features: Features, kept: Bool[np.ndarray, ' n']) -> Features:
    """Keep some keypoints of a batch of one."""
    index = torch.from_numpy(np.flatnonzero(kept)).to(features.device)
    values: dict[str, Any] = {f.name: getattr(features, f.name) for f in fields(features)}
    return Features(
        **{
            name: value if value is None or name == 'image_size' else value[:, index]
            for name, value in values.items()
        }
    )
