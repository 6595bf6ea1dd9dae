"""
Options of the nodes themselves, beside those of the extractor and the matcher.

Read by the nodes, the launch file and the parameter file; imports neither ROS nor torch.
"""

from dataclasses import dataclass

from kpfeat_core.config import DEFAULT_MODEL, option

TRANSPORTS = ('raw', 'compressed')
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

    model: str = option(DEFAULT_MODEL, 'name of the extractor')
    weights: str = option('', 'weight file; empty takes $KPFEAT_WEIGHTS or the bundled one')
    device: str = option('auto', 'cpu, cuda, cuda:1, ..., or auto: a GPU where there is one')
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
