"""Pixels of a calibrated camera to directions and points in space."""

from dataclasses import dataclass

import cv2
import numpy as np

from .errors import ConfigError, ShapeError
from .shapes import Float, Int

LENGTHS = (4, 5, 8, 12, 14)  # numbers in OpenCV's distortion models
COEFFICIENTS = {
    '': LENGTHS,
    'plumb_bob': LENGTHS,
    'rational_polynomial': LENGTHS,
    'equidistant': (4,),
    'fisheye': (4,),
}
FISHEYE_MODELS = ('equidistant', 'fisheye')
EXACT = (cv2.TERM_CRITERIA_MAX_ITER | cv2.TERM_CRITERIA_EPS, 100, 1e-9)


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
        """Check it; raises ConfigError."""
        if not (np.isfinite(self.matrix).all() and self.matrix[0, 0] > 0 < self.matrix[1, 1]):
            raise ConfigError(
                f'focal lengths are {self.matrix[0, 0]:g} and {self.matrix[1, 1]:g}, expected '
                'more than 0: the camera is not calibrated'
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
        """Say whether the lens shows straight lines straight."""
        return not any(self.coefficients) and self.model not in FISHEYE_MODELS

    def _given_coefficients(self) -> Float[np.ndarray, ' k']:
        return np.array(self.coefficients if any(self.coefficients) else [0.0] * 4, np.float64)

    def directions(self, points: Float[np.ndarray, 'n 2']) -> Float[np.ndarray, 'n 2']:
        """Return x/z and y/z of what is seen at pixels, without the lens's distortion."""
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
        """Say whether images of this width and height can be the camera's."""
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


def with_depth(
    calibration: Calibration, points: Float[np.ndarray, 'n 2'], depth: Float[np.ndarray, 'h w']
) -> tuple[Float[np.ndarray, 'm 3'], Int[np.ndarray, ' m']]:
    """
    Return what is seen at pixels as points in space, and the rows of the pixels that have one.

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
