"""
Synthetic Shapes (DeTone et al. 2018): drawings with exact corners to learn from.

They are drawn when they are needed, by threads, as OpenCV lets several work at once: about 8 ms
each. The same options always give the same images.
"""

from concurrent.futures import Future, ThreadPoolExecutor

import cv2
import numpy as np
import torch

from .config import PRIMITIVES, ShapesConfig, SHARES
from .labelled import LabelledImages
from .shape_figures import Canvas, DRAW
from ..axes import Float
from ..errors import DataError

SPLITS = ('train', 'val', 'test')
Drawing = tuple[np.ndarray, Float[np.ndarray, 'n 2']]


def draw_shape(primitive: str, split: str, index: int, config: ShapesConfig) -> Drawing:
    """
    Draw image `index` of a primitive in a split: (H, W) uint8, and its labels.

    Labels (N, 2) float32 are corners and end points as (x, y), sub-pixel, inside the image. The
    same arguments always give the same image. Raises DataError for an unknown name.
    """
    return finish(*draw_large(primitive, split, index, config), config)


def draw_large(primitive: str, split: str, index: int, config: ShapesConfig) -> Drawing:
    """Draw an image at full size, before blur and resizing, with labels (N, 2) at that size."""
    for what, name, names in (('split', split, SPLITS), ('primitive', primitive, PRIMITIVES)):
        if name not in names:
            raise DataError(f"there is no {what} '{name}'; expected one of {', '.join(names)}")
    key = (config.seed, SPLITS.index(split), PRIMITIVES.index(primitive), index)
    rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(key)))
    canvas = Canvas(config, rng)
    if primitive != 'noise':
        canvas.paint_background()
    points = DRAW[primitive](canvas)
    return canvas.image, points


def finish(large: np.ndarray, points: np.ndarray, config: ShapesConfig) -> Drawing:
    """Blur and shrink a drawing; labels (N, 2) move along, those outside are dropped."""
    if config.blur_px > 1:
        large = cv2.GaussianBlur(large, (config.blur_px, config.blur_px), 0)
    size = np.array([config.width, config.height])
    image = cv2.resize(large, size.tolist(), interpolation=cv2.INTER_LINEAR)
    scale = size / [config.draw_width, config.draw_height]
    points = (points + 0.5) * scale - 0.5  # OpenCV's resize aligns the areas of pixels
    inside = ((points >= 0) & (points <= size - 1)).all(1)
    return image, points[inside].astype(np.float32)


class ShapesBank:
    """
    The images of a split, which are drawn when a batch takes them.

    Where generators of batches have seeds one after another, as those of a run's steps, `workers`
    threads draw the next batch while one is used. Row k shows primitive k mod 9.
    """

    names = ()  # images that are drawn have none

    def __init__(
        self,
        split: str,
        config: ShapesConfig = ShapesConfig(),  # noqa: B008 - frozen
        workers: int = 1,
    ) -> None:
        self.split, self.config = split, config
        weights = torch.tensor([SHARES.get(p, 1.0) for p in PRIMITIVES], dtype=torch.float64)
        weights = weights.repeat(getattr(config, split))
        self.probabilities = (weights / weights.sum()).float()
        self.pool = ThreadPoolExecutor(workers, 'shapes')
        self.expected = -1  # seed of the next batch
        self.ahead: list[Future[Drawing]] = []

    def __len__(self) -> int:
        return len(self.probabilities)

    def to(self, device: torch.device | str) -> 'ShapesBank':
        """Let batches be on a device."""
        self.probabilities = self.probabilities.to(device)
        return self

    def sample(self, count: int, generator: torch.Generator) -> LabelledImages:
        """Draw images (B, 1, H, W) at random, each primitive by its share."""
        rows, seed = self._sample_rows(count, generator), generator.initial_seed()
        in_turn = seed == self.expected
        drawings = self.ahead if in_turn and len(self.ahead) == count else self._start(rows)
        self.expected, self.ahead = seed + 1, []
        if in_turn:
            following = torch.Generator(generator.device).manual_seed(seed + 1)
            self.ahead = self._start(self._sample_rows(count, following))
        return self._join(drawings)

    def draw(self, rows: list[int]) -> LabelledImages:
        """Draw the images of some rows."""
        return self._join(self._start(rows))

    def _join(self, futures: list[Future[Drawing]]) -> LabelledImages:
        drawings = [future.result() for future in futures]
        images = torch.from_numpy(np.stack([image for image, _ in drawings]))[:, None]
        points = [torch.from_numpy(labels) for _, labels in drawings]
        keypoints = torch.nn.utils.rnn.pad_sequence(points, batch_first=True)
        counts = torch.tensor([len(labels) for labels in points])
        mask = torch.arange(keypoints.shape[1]) < counts[:, None]
        valid = torch.ones_like(images[:, 0], dtype=torch.bool)
        device = self.probabilities.device
        return LabelledImages(
            *(value.to(device) for value in (images.float() / 255, keypoints, mask, valid))
        )

    def _sample_rows(self, count: int, generator: torch.Generator) -> list[int]:
        rows = self.probabilities.multinomial(count, replacement=True, generator=generator)
        return rows.tolist()

    def _start(self, rows: list[int]) -> list[Future[Drawing]]:
        return [
            self.pool.submit(
                draw_shape,
                PRIMITIVES[row % len(PRIMITIVES)],
                self.split,
                row // len(PRIMITIVES),
                self.config,
            )
            for row in rows
        ]
