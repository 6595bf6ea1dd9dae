"""
Options of the nodes themselves, beside those of the extractor and the matcher.

Read by the nodes, the launch file and the parameter file; imports neither ROS nor torch.
"""

from dataclasses import dataclass

from kpfeat_core.config import DEFAULT_MODEL, option

TRANSPORTS = ('raw', 'compressed')
KEYPOINT_PIXELS = ('distorted', 'undistorted', 'rectified')
DESCRIPTOR_TYPES = ('float32', 'float16', 'int8', 'binary')


@dataclass(frozen=True)
class LifecycleOptions:
    """How a node begins its life."""

    autostart: bool = option(
        True, 'configure and activate at the start; false waits for `ros2 lifecycle set`'
    )


@dataclass(frozen=True)
class ExtractorNodeOptions:
    """What the extractor node loads, listens to and sends."""

    model: str = option(DEFAULT_MODEL, 'name of the extractor', live=True)
    weights: str = option(
        '', 'weight file; empty takes $KPFEAT_WEIGHTS or the bundled one', live=True
    )
    device: str = option(
        'auto', 'cpu, cuda, cuda:1, ..., or auto: a GPU where there is one', live=True
    )
    warm_up_size: str = option(
        '640x480', 'WIDTHxHEIGHT of the images to expect: configure runs the network at it'
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


@dataclass(frozen=True)
class InputOptions:
    """Which images the extractor works on, what it sees of them, and where keypoints are said."""

    max_rate_hz: float = option(
        -1.0,
        'work on this many images a second at most, and pass over the others; -1 on all',
        low=-1.0,
        high=1000.0,
        live=True,
    )
    roi_x_offset: int = option(
        0, 'left edge of the region of interest, in pixels of the image', low=0, live=True
    )
    roi_y_offset: int = option(
        0, 'upper edge of the region of interest, in pixels of the image', low=0, live=True
    )
    roi_width: int = option(
        -1, 'width of the region of interest; -1 reaches to the right edge', low=-1, live=True
    )
    roi_height: int = option(
        -1, 'height of the region of interest; -1 reaches to the lower edge', low=-1, live=True
    )
    binning: int = option(
        1,
        'average N x N pixels into one before extraction; keypoints stay in pixels of the image',
        low=1,
        high=16,
        live=True,
    )
    mask: str = option(
        '',
        'picture of the size of the images: keypoints where it is black are dropped',
        live=True,
    )
    undistort: bool = option(
        False,
        'publish keypoints where a lens without distortion, with the same camera matrix, would '
        "show them; listens to 'camera_info' beside the images",
    )
    calibration_file: str = option(
        '', 'YAML file of camera_calibration, used by undistort in place of camera_info'
    )


@dataclass(frozen=True)
class MatcherNodeOptions:
    """What the matcher node matches each frame with."""

    mode: str = option(
        'consecutive',
        'consecutive matches each frame with the one before; reference with one that is kept, '
        'the first or that of the last ~/set_reference',
        choices=('consecutive', 'reference'),
        live=True,
    )


@dataclass(frozen=True)
class OverlayNodeOptions:
    """What the overlay node keeps and draws."""

    image_transport: str = option(
        'raw', "raw listens to 'image', compressed to 'image/compressed'", choices=TRANSPORTS
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
        'what keypoints are seen through, for clouds and markers: the lens of camera_info; no '
        'lens, where the extractor has its option undistort; or images are rectified',
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
