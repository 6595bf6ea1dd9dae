"""
Options of the launch file, and of the nodes beside those of the extractor and the matcher.

Imports neither ROS nor torch.
"""

from dataclasses import dataclass, fields
import re

from kpfeat_core.config import DEFAULT_MODEL, describe, DESCRIPTOR_TYPES, MatcherConfig, option
from kpfeat_core.errors import ConfigError
from kpfeat_core.registry import extractor_names

TRANSPORTS = ('raw', 'compressed')
KEYPOINT_PIXELS = ('distorted', 'undistorted', 'rectified')
MATCHER_MODES = ('consecutive', 'reference', 'stereo')
GEOMETRIES = next(describe(f).choices for f in fields(MatcherConfig) if f.name == 'geometry')
CAMERA_NAME = re.compile(r'[A-Za-z][A-Za-z0-9_]*')


def split_names(option: str, text: str) -> list[str]:
    """
    Return the names of cameras in 'left,right'; one empty name for a single camera.

    option: what the text was given as. Raises ConfigError.
    """
    if not text:
        return ['']
    names = [name.strip() for name in text.split(',')]
    for name in names:
        if not CAMERA_NAME.fullmatch(name) or names.count(name) > 1:
            raise ConfigError(
                f"{option} is '{text}', expected different names between commas, such as "
                'left,right'
            )
    return names


@dataclass(frozen=True)
class LifecycleOptions:
    """How a node begins its life."""

    autostart: bool = option(
        True, 'configure and activate at the start; false waits for `ros2 lifecycle set`'
    )


@dataclass(frozen=True)
class DiagnosticsOptions:
    """Limits beyond which a node's diagnostics are a warning or an error."""

    min_rate_warn_hz: float = option(
        0.0, 'fewer results a second are a warning; 0 never is', low=0.0, high=1000.0, live=True
    )
    min_rate_error_hz: float = option(
        0.0, 'fewer results a second are an error; 0 never is', low=0.0, high=1000.0, live=True
    )
    max_age_warn_s: float = option(
        2.0, 'a newest input older than this is a warning', low=0.0, high=1e6, live=True
    )
    max_age_error_s: float = option(
        10.0, 'a newest input older than this is an error', low=0.0, high=1e6, live=True
    )
    max_drop_share_warn: float = option(
        1.0, 'dropping a larger share of the input is a warning', low=0.0, high=1.0, live=True
    )
    max_drop_share_error: float = option(
        1.0, 'dropping a larger share of the input is an error', low=0.0, high=1.0, live=True
    )


@dataclass(frozen=True)
class CameraNodeOptions:
    """What the camera node sends, whatever its source."""

    frame_id: str = option('camera_optical_frame', 'frame of the images')
    sending: bool = option(True, 'send images; false pauses', live=True)


@dataclass(frozen=True)
class ModelOptions:
    """Which model the extractor node loads, and where it runs."""

    model: str = option(DEFAULT_MODEL, 'name of the extractor', live=True)
    weights: str = option(
        '',
        "weight file, or 'rotation' for the bundled one that stands any roll of the camera; empty "
        'takes $KPFEAT_WEIGHTS or the bundled one, for upright cameras',
        live=True,
    )
    device: str = option(
        'auto', 'cpu, cuda, cuda:1, ..., or auto: a GPU where there is one', live=True
    )
    warm_up_size: str = option(
        '640x480', 'WIDTHxHEIGHT of the images to expect: configure runs the network at it'
    )
    on_out_of_memory: str = option(
        'fail',
        'when the GPU has too little memory: fail with advice, or go on with cpu, once',
        choices=('fail', 'cpu'),
        live=True,
    )


@dataclass(frozen=True)
class ExtractorNodeOptions:
    """What the extractor node listens to and sends."""

    cameras: str = option(
        '',
        'names of several cameras that share the model, such as left,right: images of '
        "'left/image' become 'left/features'; empty is a single one, of 'image' and 'features'",
    )
    batch_size: int = option(
        1,
        'work on the images of this many cameras together: faster on a GPU',
        low=1,
        high=64,
        live=True,
    )
    batch_wait_ms: float = option(
        5.0,
        'with a batch_size: how long the first image waits for those of other cameras',
        low=0.0,
        high=1000.0,
        live=True,
    )
    image_transport: str = option(
        'raw', "raw listens to 'image', compressed to 'image/compressed'", choices=TRANSPORTS
    )
    descriptor_type: str = option(
        'float32',
        'how descriptors are sent: float32 is exact, the others are smaller',
        choices=DESCRIPTOR_TYPES,
        live=True,
    )
    max_rate_hz: float = option(
        -1.0,
        'work on this many images a second at most, and pass over the others; -1 on all',
        low=-1.0,
        high=1000.0,
        live=True,
    )


@dataclass(frozen=True)
class MatcherNodeOptions:
    """What the matcher node matches each frame with."""

    mode: str = option(
        'consecutive',
        'consecutive matches each frame with the one before; reference with one that is kept, '
        "the first or that of the last ~/set_reference; stereo matches those of 'features0' with "
        "those of 'features1' that were taken at the same time",
        choices=MATCHER_MODES,
        live=True,
    )
    stamp_tolerance_ms: float = option(
        10.0,
        'in mode stereo: two frames were taken at the same time if their stamps differ by no more '
        'than this; less than half the time between two images',
        low=0.0,
        high=10000.0,
        live=True,
    )


@dataclass(frozen=True)
class OverlayNodeOptions:
    """What the overlay node keeps and draws."""

    image_transport: str = option(
        'raw', "raw listens to 'image', compressed to 'image/compressed'", choices=TRANSPORTS
    )
    stereo: bool = option(
        False, "matches are between 'image' and 'image1', the images of a second camera"
    )
    buffer_size: int = option(
        30, 'images kept until their features arrive; more for slow models', low=2, high=1000
    )
    max_drawn_matches: int = option(
        300, 'draw the best N matches; -1 draws all', low=-1, live=True
    )
    track_length: int = option(
        10, 'frames that the trails of tracks reach back', low=2, high=1000, live=True
    )
    jpeg_quality: int = option(
        80, 'of compressed pictures: more is sharper and larger', low=1, high=100, live=True
    )
    keypoint_pixels: str = option(
        'distorted',
        'what keypoints are given in: pixels of the image; undistorted, where the extractor has '
        'that option: camera_info says where the image shows them; or the images are rectified',
        choices=KEYPOINT_PIXELS,
        live=True,
    )
    depth_tolerance_ms: float = option(
        20.0,
        'a depth image belongs to features if their stamps differ by no more than this',
        low=0.0,
        high=10000.0,
        live=True,
    )
    marker_distance: float = option(
        1.0,
        'markers lie on a plane this far before the camera, in metres',
        low=0.01,
        high=1000.0,
        live=True,
    )


@dataclass(frozen=True)
class LaunchOptions:
    """What can be chosen at start; an empty text leaves it to the parameter file."""

    model: str = option('', 'name of the extractor', choices=('', *extractor_names()))
    weights: str = option('', 'weight file of the model')
    device: str = option('', 'where the network runs: cpu, cuda, cuda:1 or auto')
    max_num_keypoints: str = option('', 'keep the best N keypoints of an image; -1 keeps all')
    mode: str = option(
        '',
        'what the matcher of each camera matches a frame with: the one before, or a reference',
        choices=('', *MATCHER_MODES),
    )
    geometry: str = option(
        '',
        'model that matches are verified with; empty is a homography, and a fundamental matrix '
        'for pairs of cameras',
        choices=('', *GEOMETRIES),
    )
    image: str = option('image', 'topic with the images of the camera')
    image_transport: str = option(
        '', 'raw, or compressed for what is on image/compressed', choices=('', *TRANSPORTS)
    )
    depth: str = option(
        'depth', 'topic with depth images, pixel by pixel those of image, for keypoint_cloud'
    )
    cameras: str = option(
        '',
        'names of several cameras, such as left,right: each gets its nodes and topics in a '
        'namespace of its name, where image is looked for too',
    )
    pairs: str = option(
        '',
        'cameras that are matched with each other, such as left-right or left-right,left-rear; '
        'the matches of the first are on left_right/matches',
    )
    one_extractor: bool = option(
        False, 'one extractor for all cameras, which can work on several images together'
    )
    params_file: str = option('', 'parameter file with what is to differ from the defaults')
    namespace: str = option('', 'namespace of nodes and topics')
    use_sim_time: bool = option(False, "take the time from /clock, such as a bag player's")
    autostart: bool = option(
        True,
        'configure and activate the nodes; false waits for a lifecycle manager, or for '
        '`ros2 lifecycle set`',
    )
    composed: bool = option(False, 'all nodes in one process')


@dataclass(frozen=True)
class LaunchFileOptions:
    """What the launch file alone offers, beside LaunchOptions."""

    container: str = option(
        '',
        'load the nodes into this component container, which must be one of kpfeat and run '
        'already, such as /kpfeat_container; empty starts processes',
    )
    respawn: bool = option(
        False, 'start a node that ends again, after 2 s; false ends the launch then'
    )
    log_level: str = option(
        'info',
        'what the nodes log; in a container that follows the container',
        choices=('debug', 'info', 'warn', 'error', 'fatal'),
    )
    rviz: bool = option(False, 'start rviz2 with the layout of kpfeat')


NODE_OPTIONS = (
    *(LifecycleOptions, DiagnosticsOptions, CameraNodeOptions, ModelOptions),
    *(ExtractorNodeOptions, MatcherNodeOptions, OverlayNodeOptions),
)
# the launch options that are parameters of each node
CHOSEN = {
    'extractor': (
        *('model', 'weights', 'device', 'max_num_keypoints', 'image_transport'),
        *('use_sim_time', 'autostart'),
    ),
    'matcher': ('mode', 'geometry', 'use_sim_time', 'autostart'),
    'overlay': ('image_transport', 'use_sim_time', 'autostart'),
}
