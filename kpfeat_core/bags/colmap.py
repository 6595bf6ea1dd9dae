"""A COLMAP database of a recording: cameras, images, keypoints and descriptors."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
import shutil
import signal
import threading
from typing import Any, TYPE_CHECKING

from .copying import Beside
from .reader import decode
from .recording import Record, sibling
from .writers import disk_errors, ImageNames, put
from ..camera import Calibration, read_calibration
from ..colmap import camera_model, descriptors_to_sift, keypoints_to_colmap
from ..config import ViewConfig
from ..errors import DataError, KpfeatError
from ..image import write_image
from ..messages.conversions import camera_info_to_calibration, image_to_array
from ..messages.definitions import FEATURES, from_cdr
from ..visualize import to_rgb8

if TYPE_CHECKING:
    from .plan import Plan

STAMP_DIGITS = 19  # of nanoseconds since 1970: COLMAP takes images in the order of their names
PICTURES = '.images'  # ending of the folder of pictures, after the name of the database
JPEG = b'\xff\xd8'  # how a file begins


class ColmapSink:
    """
    Writes a database with the images CAMERA/STAMP.jpg, one camera for each topic and image size.

    calibrations: by topic of images; a camera without one gets a guess. pictures: whether to write
    the images as well, to the folder OUT.images; pixel_bits: as in ViewConfig. work: a folder on
    the same disk, where both grow.
    The same records give the same bytes. Raises DataError where pycolmap is not installed.
    """

    def __init__(
        self,
        out: Path,
        work: Path,
        plan: 'Plan',
        calibrations: Mapping[str, Calibration],
        pictures: bool = False,
        pixel_bits: int = ViewConfig.pixel_bits,
    ) -> None:
        _need_pycolmap()
        _check_target(out, pictures)
        self._out, self._work, self._plan = out, work / 'colmap', plan
        self._calibrations, self._pictures = calibrations, pictures
        self._pixel_bits = pixel_bits
        self._images = {features: image for image, features in plan.names.items()}
        self._names = ImageNames(STAMP_DIGITS)
        self._cameras: dict[tuple[str, tuple[int, int]], int] = {}

    def __enter__(self) -> 'ColmapSink':
        import pycolmap

        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir(parents=True)
        plan = self._plan
        with ExitStack() as stack:
            if self._pictures:
                beside = Beside(plan.reader, plan.topics, plan.start, plan.stop)
                self._beside = stack.enter_context(beside)
            with disk_errors(self._work):
                self._database = pycolmap.Database.open(self._work / self._out.name)
            self._opened = stack.pop_all()
        return self

    def write(self, record: Record) -> None:
        name, arrays = self._names.unpack(record)
        with disk_errors(self._work):
            self._write(record.channel.topic, f'{name}.jpg', arrays)
        if self._pictures:
            stamp = from_cdr(record.data, FEATURES).header.stamp
            image = self._beside.at(self._images[record.channel.topic], record.time, stamp)
            _write_picture(self._work / PICTURES / f'{name}.jpg', image, self._pixel_bits)

    def __exit__(self, kind: Any, *rest: Any) -> None:
        try:
            with self._opened, disk_errors(self._work):
                self._database.close()
            if kind is None:
                if self._pictures:
                    put(self._work / PICTURES, pictures_folder(self._out))
                put(self._work / self._out.name, self._out)
        finally:
            shutil.rmtree(self._work, ignore_errors=True)

    def _write(self, topic: str, name: str, arrays: dict[str, Any]) -> None:
        import pycolmap

        database = self._database
        width, height = (int(side) for side in arrays['image_size'])
        camera_id = self._camera(self._images[topic], (width, height))
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

    def _camera(self, topic: str, size: tuple[int, int]) -> int:
        """Return the camera of images of a topic and size, and the rig of it alone."""
        import pycolmap

        if (topic, size) not in self._cameras:
            model, parameters, calibrated = camera_model(size, self._calibrations.get(topic))
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
            self._cameras[topic, size] = camera.camera_id
        return self._cameras[topic, size]


def calibrations(plan: 'Plan', view: ViewConfig) -> dict[str, Calibration]:
    """
    Return the calibration of each topic of images that has one.

    Without distortion where the keypoints of `view` have none.
    """
    if view.undistort and view.calibration_file:
        known = dict.fromkeys(plan.names, read_calibration(view.calibration_file))
    else:
        first = plan.shots.first_calibrations(plan.shots.infos)
        infos = {topic: first.get(sibling(topic, 'camera_info')) for topic in plan.names}
        known = {topic: _calibration(info) for topic, info in infos.items() if info}
    return {
        topic: Calibration(one.matrix, one.size) if view.undistort else one
        for topic, one in known.items()
        if one
    }


def _calibration(record: Record) -> Calibration | None:
    try:
        return camera_info_to_calibration(decode(record))
    except KpfeatError:  # a camera that is not calibrated says so by zeros
        return None


def pictures_folder(out: Path) -> Path:
    """Return the folder of the pictures that belong to a database."""
    return out.with_name(f'{out.name}{PICTURES}')


def _write_picture(path: Path, image: Any, pixel_bits: int) -> None:
    """Write an Image or CompressedImage as JPEG; one that is JPEG as it came."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = bytes(image.data) if hasattr(image, 'format') else b''
    if data.startswith(JPEG):
        path.write_bytes(data)
    else:
        write_image(path, to_rgb8(image_to_array(image, pixel_bits)))


def _check_target(out: Path, pictures: bool) -> None:
    if out.is_dir():
        raise DataError(
            f"--out is '{out}', a folder; expected a name for a database, such as a.db"
        )
    folder = pictures_folder(out)
    if pictures and folder.exists() and not out.exists():
        raise DataError(f"'{folder}' is in the way of the pictures; choose another --out")


def _need_pycolmap() -> None:
    """Import it, so that SIGTERM still ends a run in silence; raises DataError."""
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
