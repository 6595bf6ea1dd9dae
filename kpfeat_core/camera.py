"""Camera calibration, from camera_info or from files, and lens distortion."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from .axes import Bool, Float, Int
from .errors import ConfigError, ShapeError

LENGTHS = (4, 5, 8, 12, 14)  # numbers in OpenCV's distortion models
COEFFICIENTS = {
    '': LENGTHS,
    'plumb_bob': LENGTHS,
    'rational_polynomial': LENGTHS,
    'equidistant': (4,),
    'fisheye': (4,),
}
# Names that librealsense and others give to the same models.
SAME_MODELS = {
    'brown conrady': 'plumb_bob',
    'modified brown conrady': 'plumb_bob',
    'kannala brandt4': 'equidistant',
}
FISHEYE_MODELS = ('equidistant', 'fisheye')
EXACT = (cv2.TERM_CRITERIA_MAX_ITER | cv2.TERM_CRITERIA_EPS, 100, 1e-9)
LARGEST_ERROR_PX = 0.1  # after distorting again; points beyond have no place without distortion


@dataclass(frozen=True)
class Calibration:
    """
    How a camera sees: x right, y down, z along the optical axis.

    matrix (3, 3): focal lengths and principal point in pixels, (0, 0) being the centre of the
    top-left pixel. coefficients: of OpenCV's distortion models; none for rectified images. size:
    width and height of the images; (0, 0) where they are not known.
    """

    matrix: Float[np.ndarray, '3 3']
    size: tuple[int, int]
    model: str = ''
    coefficients: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check it, and name the model as ROS does; raises ConfigError."""
        name = self.model.strip().lower()
        object.__setattr__(self, 'model', SAME_MODELS.get(name, name))
        if self.model in FISHEYE_MODELS and not any(self.coefficients[4:]):  # of five numbers
            object.__setattr__(self, 'coefficients', self.coefficients[:4])
        if not (np.isfinite(self.matrix).all() and self.matrix[0, 0] > 0 < self.matrix[1, 1]):
            raise ConfigError(
                f'focal lengths are {self.matrix[0, 0]:g} and {self.matrix[1, 1]:g}, expected '
                'more than 0: the camera is not calibrated'
            )
        if not np.isfinite(self.coefficients).all():
            raise ConfigError(
                f'distortion coefficients are {", ".join(f"{c:g}" for c in self.coefficients)}, '
                'expected finite numbers: calibrate the camera again'
            )
        if not any(self.coefficients):
            return
        if self.model not in COEFFICIENTS:
            known = ', '.join(filter(None, COEFFICIENTS))
            raise ConfigError(f"distortion model is '{self.model}', expected one of {known}")
        if len(self.coefficients) not in COEFFICIENTS[self.model]:
            counts = ' or '.join(map(str, COEFFICIENTS[self.model]))
            raise ConfigError(
                f"got {len(self.coefficients)} coefficients of distortion model '{self.model}', "
                f'expected {counts}'
            )

    @property
    def is_ideal(self) -> bool:
        """Return whether the lens shows straight lines straight."""
        return not any(self.coefficients) and self.model not in FISHEYE_MODELS

    def _given_coefficients(self) -> Float[np.ndarray, ' k']:
        return np.array(self.coefficients if any(self.coefficients) else [0.0] * 4, np.float64)

    def directions(self, points: Float[np.ndarray, 'n 2']) -> Float[np.ndarray, 'n 2']:
        """Return x/z and y/z of the rays of pixels, without the lens's distortion."""
        if not len(points):
            return np.zeros((0, 2))
        pixels = np.asarray(points, np.float64)[:, None]
        coefficients = self._given_coefficients()
        if self.model in FISHEYE_MODELS:
            return cv2.fisheye.undistortPoints(pixels, self.matrix, coefficients)[:, 0]
        # one function since OpenCV 5; before, undistortPoints stopped after five steps
        undistort = getattr(cv2, 'undistortPointsIter', cv2.undistortPoints)
        found = undistort(pixels, self.matrix, coefficients, R=None, P=None, criteria=EXACT)
        return found[:, 0]

    def pixels(self, directions: Float[np.ndarray, 'n 2']) -> Float[np.ndarray, 'n 2']:
        """Return the pixels at which directions, as x/z and y/z, are seen."""
        if not len(directions):
            return np.zeros((0, 2))
        matrix = np.asarray(self.matrix, np.float64)
        coefficients = self._given_coefficients()
        if self.model in FISHEYE_MODELS:
            return cv2.fisheye.distortPoints(directions[:, None], matrix, coefficients)[:, 0]
        rays = np.concatenate([directions, np.ones((len(directions), 1))], 1)
        zero = np.zeros(3)
        return cv2.projectPoints(rays, zero, zero, matrix, coefficients)[0][:, 0]

    def fits(self, size: tuple[int, int]) -> bool:
        """Return whether images of this width and height can be the camera's."""
        return tuple(self.size) in ((0, 0), tuple(size))

    def check_size(self, size: tuple[int, int], name: str) -> None:
        """Raise ShapeError if something has another width and height than the camera's images."""
        if not self.fits(size):
            raise ShapeError(
                f'{name} is of {size[0]}x{size[1]} pixels, the calibration of '
                f'{self.size[0]}x{self.size[1]}: both must be of the same image'
            )


def at_distance(
    calibration: Calibration, points: Float[np.ndarray, 'n 2'], distance: float
) -> Float[np.ndarray, 'n 3']:
    """Return where pixels lie on the plane at z = distance, in its unit."""
    directions = calibration.directions(points)
    return distance * np.concatenate([directions, np.ones((len(directions), 1))], 1)


def width_at(calibration: Calibration, pixels: float, distance: float) -> float:
    """Return how wide something is, in the unit of distance, that is so many pixels wide."""
    return pixels * distance / float(calibration.matrix[0, 0])


def with_depth(
    calibration: Calibration, points: Float[np.ndarray, 'n 2'], depth: Float[np.ndarray, 'h w']
) -> tuple[Float[np.ndarray, 'm 3'], Int[np.ndarray, ' m']]:
    """
    Return the points in space that pixels show, and the rows of the pixels that have one.

    depth: z of each pixel of the same image, in metres; zero, negative, infinite and NaN mean
    unknown. The nearest pixel counts: between two surfaces the mean of both is on neither.

    Raises ShapeError where sizes differ.
    """
    height, width = depth.shape
    calibration.check_size((width, height), 'depth image')
    finite = np.isfinite(points).all(1)
    nearest = np.floor(np.where(finite[:, None], points, -1) + 0.5).astype(np.int64)
    x, y = nearest.T
    rows = np.flatnonzero((x >= 0) & (x < width) & (y >= 0) & (y < height))
    z = depth[y[rows], x[rows]].astype(np.float64)
    known = np.isfinite(z) & (z > 0)
    rows, z = rows[known], z[known]
    return at_distance(calibration, points[rows], 1.0) * z[:, None], rows


def undistort(
    calibration: Calibration, points: Float[np.ndarray, 'n 2']
) -> tuple[Float[np.ndarray, 'n 2'], Bool[np.ndarray, ' n']]:
    """
    Return where pixels would be without distortion, and which of them have such a place.

    Far outside the calibrated region there may be none; the values there mean nothing.
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
    """Return where the lens shows the points of these undistorted pixels."""
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
    Return the calibration of images that are a part of the calibrated image, and binned.

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
        reason = 'an entry is not of the expected form'
        if isinstance(error, (ConfigError, KeyError)):
            reason = f'{error} is missing' if isinstance(error, KeyError) else error
        raise ConfigError(
            f"'{path}' is no calibration ({reason}); expected YAML with image_width, "
            'image_height, camera_matrix, distortion_model and distortion_coefficients, as '
            'camera_calibration writes it'
        ) from error
