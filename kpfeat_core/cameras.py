"""
Keypoints without the distortion of their lens, and calibrations as ROS cameras give them.

An undistorted keypoint is in pixels of the same camera matrix: where it would be seen if the lens
were ideal and everything else the same. It may lie outside the image.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from .calibration import Calibration
from .errors import ConfigError
from .shapes import Bool, Float

LARGEST_ERROR_PX = 0.1  # after distorting again: what is beyond has no place without distortion


def undistort(
    calibration: Calibration, points: Float[np.ndarray, 'n 2']
) -> tuple[Float[np.ndarray, 'n 2'], Bool[np.ndarray, ' n']]:
    """
    Return where pixels would be without distortion, and which of them have such a place.

    Far outside what was calibrated there may be none; what is returned for those means nothing.
    """
    if not len(points) or calibration.is_ideal:
        return points, np.ones(len(points), bool)
    matrix = np.asarray(calibration.matrix, np.float64)
    ideal = calibration.directions(points)
    found = ideal @ matrix[:2, :2].T + matrix[:2, 2]
    with np.errstate(invalid='ignore'):
        error = np.linalg.norm(calibration.pixels(ideal) - points, axis=1)
    return found.astype(points.dtype), (error < LARGEST_ERROR_PX) & np.isfinite(found).all(1)


def distort(
    calibration: Calibration, points: Float[np.ndarray, 'n 2']
) -> Float[np.ndarray, 'n 2']:
    """Return where the lens shows what would be at these pixels without distortion."""
    if calibration.is_ideal:
        return points
    matrix = np.asarray(calibration.matrix, np.float64)
    directions = (points - matrix[:2, 2]) @ np.linalg.inv(matrix[:2, :2]).T
    return calibration.pixels(directions).astype(points.dtype)


def part_of(
    calibration: Calibration,
    offset: tuple[int, int],
    size: tuple[int, int],
    binning: Sequence[int],
) -> Calibration:
    """
    Return the calibration of images that are a part of what was calibrated, and binned.

    offset, size: x, y and width, height of the part, in pixels of the calibrated image. binning:
    pixels averaged into one, in x and in y. Outer edges coincide: x' = (x + 0.5) / binning - 0.5.
    """
    scale = 1 / np.asarray(binning, np.float64)
    matrix = np.array(calibration.matrix, np.float64)
    matrix[:2, 2] += 0.5 - np.asarray(offset)
    matrix[:2] *= scale[:, None]
    matrix[:2, 2] -= 0.5
    width, height = (int(side) // int(each) for side, each in zip(size, binning, strict=True))
    return replace(calibration, matrix=matrix, size=(width, height))


def read_calibration(path: Path | str) -> Calibration:
    """Read a file as ROS's camera_calibration and camera drivers write it; raises ConfigError."""
    try:
        import yaml
    except ImportError:
        raise ConfigError('calibration files need PyYAML: pip install pyyaml') from None
    try:
        found = yaml.safe_load(Path(path).expanduser().read_text(encoding='utf-8'))
        return Calibration(
            matrix=np.array(found['camera_matrix']['data'], np.float64).reshape(3, 3),
            size=(int(found['image_width']), int(found['image_height'])),
            model=str(found['distortion_model']),
            coefficients=tuple(map(float, found['distortion_coefficients']['data'])),
        )
    except OSError as error:
        raise ConfigError(f"calibration '{path}' cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError, ConfigError) as error:
        reason = f'{error} is missing' if isinstance(error, KeyError) else error
        raise ConfigError(
            f"'{path}' is no calibration ({reason}); expected YAML with image_width, "
            'image_height, camera_matrix, distortion_model and distortion_coefficients, as '
            'camera_calibration writes it'
        ) from error
