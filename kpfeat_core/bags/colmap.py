"""
Features and cameras as COLMAP takes them, and its database.

COLMAP matches descriptors of SIFT alone where it has no network: 128 bytes, of length 512, by
their distance on a CPU and by their product on a GPU. Ours are turned into such so that both order
neighbours as before: distances are all multiplied by one number, and lengths all become 512.

Pixels begin at the image's corner in COLMAP: (0.5, 0.5) is the centre of the first one.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
import signal
import threading
from typing import Any

import numpy as np

from ..axes import Float
from ..camera import Calibration, FISHEYE_MODELS
from ..errors import DataError

BYTES = 128  # of a descriptor of SIFT
LENGTH = 512.0  # of these bytes as a vector
# The middle of the bytes, in lengths of a descriptor: numbers below -MIDDLE become 0. Less of it
# leaves finer steps and cuts more; of 64 to 256 numbers at most 2 in 1000 are cut.
MIDDLE = 0.35
FOCAL_PRIOR = 1.2  # focal length of a camera that nobody calibrated, in longer sides of its image


class ColmapDatabase:
    """
    A new database of cameras, images, keypoints and descriptors; use as a context manager.

    The same images give the same bytes. Raises DataError where pycolmap is not installed, and
    what pycolmap raises where the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        need_pycolmap()
        self._path = path
        self._cameras: dict[tuple[str, tuple[int, int]], int] = {}

    def __enter__(self) -> 'ColmapDatabase':
        import pycolmap

        self._database = pycolmap.Database.open(self._path)
        return self

    def __exit__(self, *error: Any) -> None:
        self._database.close()

    def add(
        self,
        name: str,
        arrays: Mapping[str, np.ndarray],
        camera: str,
        calibration: Calibration | None = None,
    ) -> None:
        """
        Add an image with the arrays of `Features.numpy`.

        camera: images of the same camera and size share intrinsics, which are those of the
        `calibration`, or a guess.
        """
        import pycolmap

        database = self._database
        width, height = (int(side) for side in arrays['image_size'])
        camera_id = self._camera(camera, (width, height), calibration)
        image = pycolmap.Image(name=name, camera_id=camera_id)
        image.image_id = database.write_image(image)
        frame = pycolmap.Frame(rig_id=camera_id)
        frame.add_data_id(image.data_id)
        database.write_frame(frame)
        database.write_keypoints(image.image_id, keypoints_to_colmap(arrays))
        descriptors = pycolmap.FeatureDescriptors(
            pycolmap.FeatureExtractorType.SIFT, descriptors_to_sift(arrays['descriptors'])
        )
        database.write_descriptors(image.image_id, descriptors)

    def _camera(self, name: str, size: tuple[int, int], calibration: Calibration | None) -> int:
        """Return the camera of this name and size, and the rig of it alone."""
        import pycolmap

        if (name, size) not in self._cameras:
            model, parameters, calibrated = camera_model(size, calibration)
            camera = pycolmap.Camera(
                model=model,
                width=size[0],
                height=size[1],
                params=parameters,
                has_prior_focal_length=calibrated,
            )
            camera.camera_id = self._database.write_camera(camera)
            rig = pycolmap.Rig()
            rig.add_ref_sensor(camera.sensor_id)
            rig.rig_id = camera.camera_id
            self._database.write_rig(rig, use_rig_id=True)
            self._cameras[name, size] = camera.camera_id
        return self._cameras[name, size]


def need_pycolmap() -> None:
    """Import pycolmap, so that SIGTERM still ends a run in silence; raises DataError."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        import pycolmap
    except ImportError:
        raise DataError(
            'the colmap format needs pycolmap, which is not installed; pip install '
            "'kpfeat[colmap]'"
        ) from None
    del pycolmap
    if before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def descriptors_to_sift(descriptors: Float[np.ndarray, 'n d']) -> np.ndarray:
    """
    Return bytes (N, 128) uint8 for descriptors of unit length.

    Up to 127 numbers nothing is lost but the rounding: they are spread over the bytes by cosines
    that sum up to 0, so that the same middle added to all bytes is at right angles to them. Of
    more numbers 127 cosine coefficients are kept, the mean and the highest ones go.
    """
    found = np.asarray(descriptors, np.float64)
    if found.shape[1] >= BYTES:
        found = found @ _cosines(found.shape[1])[1:BYTES].T
        found /= np.linalg.norm(found, axis=1, keepdims=True).clip(1e-12)
    scale = LENGTH / np.sqrt(1 + BYTES * MIDDLE**2)
    spread = found @ _cosines(BYTES)[1 : 1 + found.shape[1]]
    return _round(scale * (MIDDLE + spread).clip(0), round(scale * BYTES * MIDDLE))


def keypoints_to_colmap(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """
    Return x, y (N, 2) float32 of the arrays of `Features.numpy`.

    Where they have scales or orientations: (N, 4) with both; orientations in radians from x
    towards y.
    """
    keypoints = arrays['keypoints'] + np.float32(0.5)
    if not {'scales', 'orientations'} & set(arrays):
        return keypoints
    count = len(keypoints)
    scales = arrays.get('scales', np.ones(count, np.float32))
    orientations = arrays.get('orientations', np.zeros(count, np.float32))
    return np.column_stack([keypoints, scales, orientations])


def camera_model(
    size: tuple[int, int], calibration: Calibration | None = None
) -> tuple[str, list[float], bool]:
    """
    Return COLMAP's name of a camera model, its parameters, and whether they are calibrated.

    size: width and height of the images. SIMPLE_RADIAL with a guess where the calibration is of
    other images, or COLMAP has no such model.
    """
    found = calibration and calibration.fits(size) and _calibrated(calibration)
    if found:
        return *found, True
    width, height = size
    return 'SIMPLE_RADIAL', [FOCAL_PRIOR * max(size), width / 2, height / 2, 0.0], False


def _calibrated(calibration: Calibration) -> tuple[str, list[float]] | None:
    matrix = calibration.matrix
    pinhole = [matrix[0, 0], matrix[1, 1], matrix[0, 2] + 0.5, matrix[1, 2] + 0.5]
    pinhole = [float(value) for value in pinhole]
    lens = [float(value) for value in calibration.coefficients]
    if not any(lens):
        return 'PINHOLE', pinhole
    if calibration.model in FISHEYE_MODELS:
        return 'OPENCV_FISHEYE', pinhole + lens
    if any(lens[8:]):  # thin prism or tilt
        return None
    if any(lens[4:]):
        return 'FULL_OPENCV', pinhole + lens[:8] + [0.0] * (8 - len(lens))
    return 'OPENCV', pinhole + lens[:4]


def _round(values: Float[np.ndarray, 'n 128'], total: int) -> np.ndarray:
    """
    Round rows up or down so that each sums up to `total`, as its numbers nearly do.

    With the middle added to all bytes an error of the sum would outweigh those of single bytes in
    products of rows.
    """
    down = np.floor(values)
    short = total - down.sum(1, keepdims=True)
    order = np.argsort(down - values, axis=1, kind='stable')  # largest remainder first
    ranks = np.argsort(order, axis=1, kind='stable')
    return (down + (ranks < short)).clip(0, 255).astype(np.uint8)


@cache
def _cosines(size: int) -> Float[np.ndarray, 'd d']:
    """Return the orthonormal discrete cosine transform (DCT-II): a row for each frequency."""
    frequency, place = np.mgrid[:size, :size]
    rows = np.sqrt(2 / size) * np.cos(np.pi * frequency * (2 * place + 1) / (2 * size))
    rows[0] /= np.sqrt(2)
    return rows
