"""How the published systems draw homographies; `homographies` draws them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from ..config import make_config, option
from ..errors import ConfigError


@dataclass(frozen=True)
class PatchConfig:
    """
    A patch of image 0, deformed and moved, that fills image 1: SuperPoint and KP2D.

    Lengths are shares of the image's sides, and what is said of the largest is exact.
    """

    patch_ratio: float = option(0.5, 'sides of the patch, before it is changed', 0.05, 1.0)
    perspective_x: float = option(0.1, 'how far corners move sideways at most', 0.0, 0.5)
    perspective_y: float = option(0.1, 'how far corners move up or down at most', 0.0, 0.5)
    edges: str = option(
        'opposed',
        'opposed: what the left edge gains in length the right one loses, and both slide; '
        'independent: each of the four edges changes its length',
        choices=('opposed', 'independent'),
    )
    scaling: float = option(0.1, 'by how much the size changes at most', 0.0, 0.9)
    num_scales: int = option(5, 'sizes that are tried beside the unchanged one', low=0)
    max_angle_deg: float = option(90.0, 'rotation up to this, to both sides', 0.0, 180.0)
    num_angles: int = option(25, 'evenly spaced angles that are tried beside 0', low=0)
    spread: str = option(
        'truncated',
        'truncated: normal, half of the largest is one standard deviation, what is beyond the '
        'largest is drawn again; clipped: the largest is one standard deviation and the limit',
        choices=('truncated', 'clipped'),
    )
    square_pixels: bool = option(
        True,
        "rotate in pixels; else in shares of the sides, as SuperPoint's code does, which shears "
        'and stretches images that are not square',
    )
    artifacts: bool = option(False, 'let the patch leave image 0, where nothing is to be seen')
    translation_overflow: float = option(
        0.0, 'with artifacts: how much further than to the border the patch may move', 0.0, 1.0
    )


@dataclass(frozen=True)
class AffineConfig:
    """Rotation, then scale, then shear, about the middle of the image: Key.Net."""

    min_scale: float = option(0.5, 'smallest scale', 0.05, 20.0)
    max_scale: float = option(2.0, 'largest scale', 0.05, 20.0)
    max_shear: float = option(0.8, 'shear of x along y up to this, to both sides', 0.0, 5.0)
    max_angle_deg: float = option(45.0, 'rotation up to this, to both sides', 0.0, 180.0)


HomographyConfig = PatchConfig | AffineConfig

_ARTIFACTS = {
    'scaling': 0.2,
    'perspective_x': 0.2,
    'perspective_y': 0.2,
    'artifacts': True,
}
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
            patch_ratio=0.7,
            perspective_x=0.1,
            perspective_y=0.1,
            edges='independent',
            scaling=0.1,
            num_scales=100,
            max_angle_deg=45.0,
            num_angles=100,
            spread='clipped',
        ),
        'keynet': AffineConfig(),
        'keynet-paper': AffineConfig(max_scale=3.5, max_angle_deg=60.0),
    }
)


def homography_config(name: str, changes: Mapping[str, Any] | None = None) -> HomographyConfig:
    """Return a published configuration with some options changed; raises ConfigError."""
    if name not in HOMOGRAPHIES:
        raise ConfigError(
            f"there are no homographies '{name}'; expected one of {', '.join(HOMOGRAPHIES)}"
        )
    published = HOMOGRAPHIES[name]
    return make_config(type(published), asdict(published) | dict(changes or {}))
