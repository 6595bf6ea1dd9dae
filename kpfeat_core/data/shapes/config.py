"""Options of Synthetic Shapes; defaults are those of the published training."""

from dataclasses import dataclass

from ...config import check_config, option
from ...errors import ConfigError, DataError

# The order is part of the data: a primitive's place is its number in caches and banks.
PRIMITIVES = (
    'lines', 'polygon', 'polygons', 'ellipses', 'star', 'checkerboard', 'stripes', 'cube', 'noise'
)  # fmt: skip
UNLABELLED = ('ellipses', 'noise')
SPLITS = ('train', 'val', 'test')


@dataclass(frozen=True)
class ShapesConfig:
    """How many images are drawn, how large, and on what background."""

    seed: int = option(0, 'every image follows from this, its split, primitive and number', low=0)
    train_images: int = option(10000, 'training images of each primitive', low=1)
    val_images: int = option(200, 'validation images of each primitive', low=1)
    test_images: int = option(500, 'test images of each primitive', low=1)
    height: int = option(120, 'height of the images in pixels', low=16)
    width: int = option(160, 'width of the images in pixels', low=16)
    draw_height: int = option(960, 'height at which shapes are drawn', 128, 4096)
    draw_width: int = option(1280, 'width at which shapes are drawn', 128, 4096)
    blur_px: int = option(21, 'side of the Gaussian kernel at that size, odd; 1: none', 1, 255)
    blobs: int = option(100, 'discs in the background', low=0)
    blob_radius_min: float = option(0.02, 'smallest disc, as a share of the long side', 0.0, 1.0)
    blob_radius_max: float = option(0.031, 'largest disc, as a share of the long side', 0.0, 1.0)
    smooth_min_px: int = option(150, 'smallest box that blurs the background', 1, 2048)
    smooth_max_px: int = option(500, 'largest box that blurs the background', 1, 2048)

    def count(self, split: str) -> int:
        """Return how many images of each primitive a split has; DataError for another name."""
        check_split(split)
        return getattr(self, f'{split}_images')

    def check(self) -> None:
        """Raise ConfigError where options are out of range or contradict each other."""
        check_config(self)
        if self.blur_px % 2 == 0:
            raise ConfigError(f'blur_px is {self.blur_px}, expected an odd number')
        for low, high in (
            ('blob_radius_min', 'blob_radius_max'),
            ('smooth_min_px', 'smooth_max_px'),
        ):
            if getattr(self, low) > getattr(self, high):
                raise ConfigError(
                    f'{low} is {getattr(self, low)}, expected at most {high}, '
                    f'{getattr(self, high)}'
                )


@dataclass(frozen=True)
class SharesConfig:
    """How often images without or with few labels are drawn, compared to the others."""

    ellipses_share: float = option(0.3, 'share of the ellipses that is kept', 0.0, 1.0)
    stripes_share: float = option(0.2, 'share of the stripes that is kept', 0.0, 1.0)
    noise_share: float = option(0.1, 'share of the noise that is kept', 0.0, 1.0)

    def weights(self) -> list[float]:
        """Return the weight of each primitive, in their order."""
        return [getattr(self, f'{name}_share', 1.0) for name in PRIMITIVES]


def check_split(split: str) -> None:
    """Raise DataError for a split that does not exist."""
    if split not in SPLITS:
        raise DataError(f"there is no split '{split}'; expected one of {', '.join(SPLITS)}")
