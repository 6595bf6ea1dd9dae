"""
Image pairs with exactly known homographies, made from photographs, the same for every seed.

Both views are rendered from one photograph that is continued by reflection at its borders, so
that views are filled to the edge and the truth holds there as well. Each view then goes through
its own changes of light, blur, noise and JPEG compression.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from .pairs import PlanarPair
from ..data.image_folder import find_row, read_kinds
from ..errors import DataError
from ..image import fit, read_image
from ..io import find_images

LONG_SIDE = 480  # larger photographs are reduced to this
VIEW_SHARE = 2 / 3  # sides of a view in shares of the photograph's


@dataclass(frozen=True)
class Level:
    """How strongly the two views of a pair differ; every range is sampled uniformly."""

    name: str
    rotation_deg: float  # in-plane rotation of view 1 against view 0, up to +- this
    scale: float  # zoom of view 1 against view 0, from 1/scale to scale, even in its logarithm
    perspective: float  # depth that changes by up to +- this share from border to border
    light: float  # strength of brightness, contrast and gamma changes, 1 is strong
    blur_px: float  # largest Gaussian sigma
    noise: float  # largest Gaussian noise, in gray levels of 255
    jpeg: int  # lowest JPEG quality


LEVELS = (
    Level('light', 5, 1.1, 0.05, 1.0, 0.8, 8, 50),
    Level('viewpoint', 30, 1.35, 0.35, 0.4, 0.6, 5, 60),
    Level('hard', 45, 1.7, 0.5, 0.6, 1.0, 8, 40),
    Level('rotation', 180, 1.25, 0.2, 0.4, 0.6, 5, 60),
)


class SyntheticPairs(Sequence[PlanarPair]):
    """
    A list of pairs that are rendered when they are read; pair i is the same in every run.

    Photographs and levels take turns, so that any first part of the list is balanced.
    Raises DataError if there are no photographs.
    """

    def __init__(
        self,
        images: Sequence[Path],
        count: int = 200,
        seed: int = 0,
        levels: Sequence[Level] = LEVELS,
    ) -> None:
        if not images:
            raise DataError('no photographs to make pairs from, expected at least one file')
        order = np.random.default_rng(seed).permutation(len(images))
        self.images = [sorted(images)[i] for i in order]
        self.count, self.seed, self.levels = count, seed, tuple(levels)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[PlanarPair]:
        return (self[i] for i in range(self.count))

    def __getitem__(self, index: int) -> PlanarPair:
        """Render pair `index`."""
        if not 0 <= index < self.count:
            raise IndexError(f'pair {index} of {self.count}')
        path = self.images[index % len(self.images)]
        # every photograph meets every level, also where their counts share a factor
        level = self.levels[(index + index // len(self.images)) % len(self.levels)]
        pair = render_pair(path, level, np.random.default_rng([self.seed, index]))
        return replace(pair, name=f'{pair.name}-{index}')  # a photograph may come again


def find_photographs(folder: Path | str) -> list[Path]:
    """
    List the image files of a folder and its subfolders, sorted; raises DataError if none.

    A `manifest.csv` beside the images or above them with the columns file and kind restricts
    the list to kind `photo`.
    """
    found, kinds = find_images(folder), read_kinds(folder)
    return [path for path in found if find_row(path, kinds) == 'photo'] or found


def render_pair(path: Path, level: Level, rng: np.random.Generator) -> PlanarPair:
    """Render both views of a photograph."""
    photograph = fit(read_image(path), (LONG_SIDE, LONG_SIDE))
    height, width = photograph.shape[:2]
    size = (round(width * VIEW_SHARE), round(height * VIEW_SHARE))
    to_view0 = _first_view((width, height), size, rng)
    H_0to1 = _relative_view(size, level, rng)
    view0 = _distort(_render(photograph, to_view0, size), level, rng)
    view1 = _distort(_render(photograph, H_0to1 @ to_view0, size), level, rng)
    name = f'{level.name}/{path.stem}'
    return PlanarPair(level.name, name, view0, view1, H_0to1, origin=path.stem)


def _shift(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def _first_view(
    source: tuple[int, int], size: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Return a crop of the photograph, zoomed a little, around a random point."""
    zoom = rng.uniform(0.85, 1.15)
    room = np.maximum(np.array(source) - np.array(size) / zoom, 0) / 2
    middle = (np.array(source) - 1) / 2 + rng.uniform(-room, room)
    x, y = (np.array(size) - 1) / 2
    return _shift(x, y) @ np.diag([zoom, zoom, 1]) @ _shift(*-middle)


def _relative_view(size: tuple[int, int], level: Level, rng: np.random.Generator) -> np.ndarray:
    """Return the homography from view 0 to view 1, about the middle of the view."""
    angle = np.radians(rng.uniform(-1, 1) * level.rotation_deg)
    scale = level.scale ** rng.uniform(-1, 1)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    similarity = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    # a tilted plane: the depth changes linearly over the view, and the tilted side foreshortens
    towards = rng.uniform(0, 2 * np.pi)
    tilt = np.array([np.cos(towards), np.sin(towards)]) * rng.uniform(0, level.perspective)
    half = max(size) / 2
    perspective = np.eye(3)
    perspective[2, :2] = tilt / half
    squeeze = np.diag([1 - 0.5 * abs(tilt[0]), 1 - 0.5 * abs(tilt[1]), 1])
    move = rng.uniform(-0.08, 0.08, 2) * np.array(size)
    x, y = (np.array(size) - 1) / 2
    matrix = _shift(x + move[0], y + move[1]) @ similarity @ squeeze @ perspective @ _shift(-x, -y)
    return matrix / matrix[2, 2]


def _render(photograph: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Warp with OpenCV at twice the size and average, which keeps edges free of aliasing."""
    twice = np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1.0]])
    large = cv2.warpPerspective(
        photograph,
        twice @ matrix,
        (2 * size[0], 2 * size[1]),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return cv2.resize(large, size, interpolation=cv2.INTER_AREA)


def _distort(image: np.ndarray, level: Level, rng: np.random.Generator) -> np.ndarray:
    """Change light, blur, add noise and compress, each by a random amount up to the level's."""
    contrast = np.exp(rng.uniform(-0.6, 0.6) * level.light)
    gamma = np.exp(rng.uniform(-0.6, 0.6) * level.light)
    brightness = rng.uniform(-0.25, 0.25) * level.light
    values = (image.astype(np.float32) / 255) ** gamma
    middle = values.mean()
    values = (values - middle) * contrast + middle + brightness
    sigma = rng.uniform(0, level.blur_px)
    if sigma > 0.2:
        values = cv2.GaussianBlur(values, (0, 0), sigma)
    noise = rng.standard_normal(values.shape, dtype=np.float32)
    values += noise * (rng.uniform(0, level.noise) / 255)
    pixels = (values * 255).round().clip(0, 255).astype(np.uint8)
    quality = int(rng.integers(level.jpeg, 96))
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    data = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
