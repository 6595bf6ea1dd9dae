"""Pictures of a run: what it learns from, what it makes of pairs held out, and its curves."""

from collections.abc import Mapping, Sequence
import csv
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from .validation import match_pairs, MAX_NUM_KEYPOINTS, RIGHT_PX
from ..axes import Bool, Float
from ..data.labelled import LabelledImages
from ..data.view_pairs import ViewPairs
from ..geometry import pixel_grid
from ..image import match_channels
from ..models.base import Extractor
from ..visualize import CORRECT, draw_matches, WRONG

LOG, VALIDATION, SPEED = 'log.csv', 'validation.csv', 'speed.csv'


def append_row(path: Path, numbers: Mapping[str, float]) -> None:
    """Add a row, and the header to a new file."""
    is_new = not path.exists()
    with open(path, 'a', newline='') as file:
        writer = csv.DictWriter(file, numbers)
        if is_new:
            writer.writeheader()
        writer.writerow({key: round(value, 5) for key, value in numbers.items()})


def read_rows(path: Path) -> list[dict[str, float]]:
    """Read all rows as numbers, without a last one that was cut off."""
    with open(path, newline='') as file:
        rows = [row for row in csv.DictReader(file) if all(row.values())]
    return [{name: float(value) for name, value in row.items()} for row in rows]


def validation_picture(folder: Path, step: int) -> Path:
    """Return where a run puts what it makes of photographs held out."""
    return folder / 'validation' / f'{step:07d}.jpg'


def forget_after(folder: Path, step: int) -> None:
    """Remove what a run wrote after the checkpoint that it goes on from; -1: all of it."""
    if (folder / VALIDATION).exists():
        for row in read_rows(folder / VALIDATION):
            if row['step'] > step:
                validation_picture(folder, int(row['step'])).unlink(missing_ok=True)
    for name in (LOG, VALIDATION, SPEED):
        _drop_rows_after(folder / name, step)


def _drop_rows_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = [row for row in read_rows(path) if row['step'] <= step]
    path.unlink()
    for row in kept:
        append_row(path, row | {'step': int(row['step'])})


YELLOW = (250, 220, 60)
# What is no curve, or of another size than the others.
NOT_PLOTTED = {
    LOG: ('step', 'seconds', 'gradient', 'skipped', 'total'),
    VALIDATION: ('step', 'seconds', 'matches', 'right', 'score'),
}


def draw_pairs(pairs: ViewPairs, rows: int = 3, columns: int = 2) -> np.ndarray:
    """Draw pairs with true correspondences of a coarse grid; grey is outside the photograph."""
    side = pairs.images.shape[-1]
    step = side // 6
    grid = pixel_grid(5, 5) * step + step
    tiles = []
    for b in range(min(rows * columns, len(pairs))):
        warped = pairs.part(b, len(pairs)).warp(grid[None].to(pairs.images.device), 0)
        there, kept = warped.points[0].cpu(), warped.visible[0].cpu()
        scores = np.linspace(0, 1, int(kept.sum()))
        views = (_rgb8(view) for view in _shown(pairs.images[:, b], pairs.valid[:, b]))
        tiles.append(draw_matches(*views, grid[kept].numpy(), there[kept].numpy(), scores=scores))
    return _sheet(tiles, columns)


def draw_matched_pairs(
    extractor: Extractor,
    pairs: ViewPairs,
    max_num_keypoints: int = MAX_NUM_KEYPOINTS,
    rows: int = 2,
    columns: int = 2,
) -> np.ndarray:
    """Draw the keypoints of held-out pairs, yellow, and their matches: right green, wrong red."""
    few = pairs.part(0, max(1, len(pairs) // (rows * columns)))
    zoom = _zoom(pairs.images.shape[-1])
    tiles = []
    for b, pair in enumerate(match_pairs(extractor, few, max_num_keypoints)):
        points = [features.keypoints[0][features.mask[0]].cpu() for features in pair.features]
        views = [
            _circles(_rgb8(image, zoom), p, zoom, YELLOW)
            for image, p in zip(few.images[:, b], points, strict=True)
        ]
        ends = [_enlarged(p[i], zoom) for p, i in zip(points, pair.index.unbind(1), strict=True)]
        tiles.append(draw_matches(*views, *ends, correct=pair.error.numpy() < RIGHT_PX))
        if len(tiles) == rows * columns:
            break
    return _sheet(tiles, columns)


def draw_labelled(
    batch: LabelledImages,
    found: Sequence[Tensor] = (),
    count: int = 8,
    columns: int = 4,
) -> np.ndarray:
    """
    Draw images with their keypoints, enlarged; what does not count is grey.

    found: keypoints (N, 2) that a detector found in each image, as red dots.
    """
    images = _shown(match_channels(batch.images[:count], 3), batch.valid[:count])
    zoom = _zoom(images.shape[-1])
    tiles = []
    for i, image in enumerate(images):
        truth = batch.keypoints[i][batch.mask[i]].cpu()
        tile = _circles(_rgb8(image, zoom), truth, zoom, CORRECT, radius=4)
        tiles.append(_circles(tile, found[i], zoom, WRONG, radius=1) if len(found) else tile)
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    return _sheet(tiles, columns)


def _shown(images: Float[Tensor, 'b 3 h w'], valid: Bool[Tensor, 'b h w']) -> Tensor:
    return torch.where(valid[:, None], images, 0.5)


def _zoom(width: int) -> int:
    return max(1, round(400 / width))


def _rgb8(image: Float[Tensor, '3 h w'], zoom: int = 1) -> np.ndarray:
    pixels = (image.clamp(0, 1).permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8)
    return cv2.resize(pixels, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)


def _enlarged(points: Float[Tensor, 'n 2'], zoom: int) -> np.ndarray:
    return ((points + 0.5) * zoom - 0.5).numpy()


def _circles(
    picture: np.ndarray,
    points: Float[Tensor, 'n 2'],
    zoom: int,
    colour: tuple[int, int, int],
    radius: int = 2,
) -> np.ndarray:
    for x, y in _enlarged(points, zoom).round().astype(int).tolist():
        cv2.circle(picture, (x, y), radius, (0, 0, 0), 2)
        cv2.circle(picture, (x, y), radius, colour, 1)
    return picture


def _sheet(tiles: list[np.ndarray], columns: int) -> np.ndarray:
    """Put pictures of one size into rows; a last row that is not full goes."""
    full = len(tiles) // columns * columns
    lines = [np.hstack(tiles[i : i + columns]) for i in range(0, full, columns)]
    return np.vstack(lines) if lines else tiles[0]


def plot_curves(folder: Path, path: Path) -> None:
    """Plot losses and validation of a run's CSV files side by side."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4))
    for axis, (name, left_out) in zip(axes, NOT_PLOTTED.items(), strict=True):
        rows = read_rows(folder / name)
        steps = [row['step'] for row in rows]
        for column in [key for key in rows[0] if key not in left_out]:
            axis.plot(steps, [row[column] for row in rows], label=column)
        axis.set(xlabel='step', title=name.removesuffix('.csv'), ylim=(0, None))
        axis.legend()
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
