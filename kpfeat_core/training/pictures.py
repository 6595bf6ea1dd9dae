"""Pictures of a run: its pairs, to be looked at before anything is trained, and its curves."""

from pathlib import Path

import cv2
import numpy as np
import torch

from ..data.labelled import LabelledImages
from ..data.view_pairs import ViewPairs
from ..geometry import pixel_grid
from ..image import match_channels
from ..visualize import draw_matches
from .curves import LOG, read_rows, VALIDATION

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
        shown = torch.where(pairs.valid[:, b, None], pairs.images[:, b], 0.5).cpu()
        views = (shown.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)
        warped = pairs.part(b, len(pairs)).warp(grid[None].to(pairs.images.device), 0)
        there, kept = warped.points[0].cpu(), warped.visible[0].cpu()
        scores = np.linspace(0, 1, int(kept.sum()))
        tiles.append(draw_matches(*views, grid[kept].numpy(), there[kept].numpy(), scores=scores))
    full = len(tiles) // columns * columns
    lines = [np.hstack(tiles[i : i + columns]) for i in range(0, full, columns)]
    return np.vstack(lines) if lines else tiles[0]


def draw_labelled(batch: LabelledImages, count: int = 8, columns: int = 4) -> np.ndarray:
    """Draw images with their keypoints, enlarged; what does not count is grey."""
    shown = torch.where(batch.valid[:, None], match_channels(batch.images, 3), 0.5).cpu()
    zoom = max(1, round(400 / shown.shape[-1]))
    tiles = []
    for image, points, mask in zip(
        shown[:count], batch.keypoints.cpu(), batch.mask.cpu(), strict=False
    ):
        tile = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        tile = cv2.resize(tile, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)
        for x, y in ((points[mask] + 0.5) * zoom - 0.5).round().int().tolist():
            cv2.circle(tile, (x, y), 4, (0, 0, 0), 2)
            cv2.circle(tile, (x, y), 4, (60, 220, 90), 1)
        tiles.append(tile)
    blank = np.zeros_like(tiles[0])
    tiles += [blank] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    return np.vstack(rows)


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
