"""Options of homographies, homographic adaptation and Synthetic Shapes; torch is not needed."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

from ..config import make_config, option, PRECISIONS, Range, Share
from ..errors import ConfigError


@dataclass(frozen=True)
class PatchConfig:
    """
    A patch of image 0, deformed and moved, that fills image 1: SuperPoint and KP2D.

    Lengths are shares of the image's sides, and what is said of the largest is exact.

    patch_ratio: sides of the patch, before it is changed; perspective_x, perspective_y: how far
    corners move sideways, and up or down, at most; edges: opposed, where what the left edge gains
    in length the right one loses, and both slide, or independent, where each of the four edges
    changes its length; scaling: by how much the size changes at most; num_scales: sizes that are
    tried beside the unchanged one; max_angle_deg: rotation up to this, to both sides; num_angles:
    evenly spaced angles that are tried beside 0.

    spread: truncated, normal, where half of the largest is one standard deviation and what is
    beyond the largest is drawn again, or clipped, where the largest is one standard deviation and
    the limit; square_pixels: rotate in pixels, else in shares of the sides, as SuperPoint's code
    does, which shears and stretches images that are not square; artifacts: let the patch leave
    image 0, where nothing is to be seen; translation_overflow: with artifacts, how much further
    than to the border the patch may move.
    """

    patch_ratio: Annotated[float, Range(0.05, 1.0)] = 0.5
    perspective_x: Annotated[float, Range(0.0, 0.5)] = 0.1
    perspective_y: Annotated[float, Range(0.0, 0.5)] = 0.1
    edges: Literal['opposed', 'independent'] = 'opposed'
    scaling: Annotated[float, Range(0.0, 0.9)] = 0.1
    num_scales: Annotated[int, Range(0)] = 5
    max_angle_deg: Annotated[float, Range(0.0, 180.0)] = 90.0
    num_angles: Annotated[int, Range(0)] = 25
    spread: Literal['truncated', 'clipped'] = 'truncated'
    square_pixels: bool = True
    artifacts: bool = False
    translation_overflow: Share = 0.0


@dataclass(frozen=True)
class AffineConfig:
    """
    Rotation, then scale, then shear, about the middle of the image: Key.Net.

    max_shear: of x along y, to both sides, as the rotation.
    """

    min_scale: Annotated[float, Range(0.05, 20.0)] = 0.5
    max_scale: Annotated[float, Range(0.05, 20.0)] = 2.0
    max_shear: Annotated[float, Range(0.0, 5.0)] = 0.8
    max_angle_deg: Annotated[float, Range(0.0, 180.0)] = 45.0


HomographyConfig = PatchConfig | AffineConfig
_ARTIFACTS = {'scaling': 0.2, 'perspective_x': 0.2, 'perspective_y': 0.2, 'artifacts': True}
_AUGMENT = PatchConfig(patch_ratio=0.85, **_ARTIFACTS)
# What each system uses. SuperPoint: the open implementation with its configuration v6, the paper
# (DeTone et al. 2018) gives no numbers. KP2D: Tang et al. 2020 and its code; its lengths in -1..1
# are twice ours. Key.Net: the code of Barroso-Laguna et al. 2019, and what the paper says.
HOMOGRAPHIES: Mapping[str, HomographyConfig] = MappingProxyType(
    {
        'superpoint': PatchConfig(),
        'superpoint-synthetic': PatchConfig(
            patch_ratio=0.8, translation_overflow=0.05, **_ARTIFACTS
        ),
        'superpoint-augment': _AUGMENT,
        'superpoint-pair': _AUGMENT,
        'superpoint-adapt': PatchConfig(patch_ratio=0.85, max_angle_deg=180.0, **_ARTIFACTS),
        'kp2d': PatchConfig(
            patch_ratio=0.7, edges='independent', num_scales=100, max_angle_deg=45.0,
            num_angles=100, spread='clipped',
        ),
        'keynet': AffineConfig(),
        'keynet-paper': AffineConfig(max_scale=3.5, max_angle_deg=60.0),
    }
)  # fmt: skip


def homography_config(name: str, changes: Mapping[str, Any] | None = None) -> HomographyConfig:
    """Return a published configuration with some options changed; raises ConfigError."""
    if name not in HOMOGRAPHIES:
        raise ConfigError(
            f"there are no homographies '{name}'; expected one of {', '.join(HOMOGRAPHIES)}"
        )
    published = HOMOGRAPHIES[name]
    return make_config(type(published), asdict(published) | dict(changes or {}))


@dataclass(frozen=True)
class AdaptConfig:
    """How many views a detector is asked about, and how its answers become keypoints."""

    num: int = option(100, 'views of a photograph, itself among them', low=1)
    homographies: str = option(
        'superpoint-adapt', 'how the views are drawn', choices=tuple(HOMOGRAPHIES)
    )
    aggregation: str = option(
        'sum',
        'score of a pixel from the views that see it: sum (over their count) or max',
        choices=('sum', 'max'),
    )
    border_erosion: int = option(
        3, 'ignore what a view says this close to where it ends, in pixels', low=0
    )
    outside: str = option(
        'reflection',
        'what views show beyond the photograph: its reflection, or zeros as published, which '
        'draws edges that are not there',
        choices=('reflection', 'zeros'),
    )
    support: float = option(
        0.25,
        'a pixel that a smaller share of the views sees scores as if the rest of that share had '
        'seen nothing there: a few views agree too easily; 0 as published',
        low=0.0,
        high=1.0,
    )
    min_views: int = option(1, 'pixels that fewer views see score 0', low=1)
    detection_threshold: float = option(0.015, 'drop keypoints that score at or below this', 0.0)
    nms_radius: int = option(4, 'keep only the best keypoint within this many pixels', 0, 64)
    remove_borders: int = option(4, 'drop keypoints closer than this to the border', low=0)
    max_num_keypoints: int = option(600, 'keep the best N keypoints; -1 keeps all', low=-1)
    sub_pixel: bool = option(False, 'refine keypoints to sub-pixel positions')
    resize: int = option(320, 'long side at which the detector works; -1 keeps the size', low=-1)
    height: int = option(-1, 'with width: exactly this size instead, whatever the shape', low=-1)
    width: int = option(-1, 'with height: exactly this size instead, whatever the shape', low=-1)
    seed: int = option(0, 'every random draw follows from this and the name of the image', low=0)
    precision: str = option('float32', 'arithmetic of the network', choices=PRECISIONS)
    batch_size: int = option(-1, 'views at once; -1 takes what suits the device', low=-1)


# The order is part of the data: a primitive's place is its number.
PRIMITIVES = (
    'lines', 'polygon', 'polygons', 'ellipses', 'star', 'checkerboard', 'stripes', 'cube', 'noise'
)  # fmt: skip
UNLABELED = ('ellipses', 'noise')
# How often images without or with few labels are drawn, compared to the others.
SHARES = {'ellipses': 0.3, 'stripes': 0.2, 'noise': 0.1}


class ShapesConfig(NamedTuple):
    """
    What Synthetic Shapes look like.

    seed: every image follows from this, its split, primitive and number; train, val, test: images
    of each primitive, published numbers; height, width: of the images in pixels; draw_height,
    draw_width: at which shapes are drawn; blur_px: side of the Gaussian kernel at that size, odd,
    1 is none; blobs: discs in the background, whose radius is a share of the long side between
    blob_radius; smooth_px: smallest and largest box that blurs the background.
    """

    seed: int = 0
    train: int = 10000
    val: int = 200
    test: int = 500
    height: int = 120
    width: int = 160
    draw_height: int = 960
    draw_width: int = 1280
    blur_px: int = 21
    blobs: int = 100
    blob_radius: tuple[float, float] = (0.02, 0.031)
    smooth_px: tuple[int, int] = (150, 500)
