"""Many images of Synthetic Shapes, drawn piece by piece in one or several processes."""

from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import dataclass
import multiprocessing
import os

import cv2
import numpy as np

from .config import PRIMITIVES, ShapesConfig
from .draw import draw_shape
from ...errors import ConfigError, DataError

PIECE_ROWS = 20 * len(PRIMITIVES)  # images that are drawn, and lost to a kill, together


@dataclass(frozen=True)
class ShapesArrays:
    """
    Images (K, H, W) uint8 and their labels.

    keypoints (M, 2) float32: those of all images one after another; counts (K,): how many each
    image has. Row k of a split shows primitive k mod 9, so that any long piece shows all alike.
    """

    images: np.ndarray
    keypoints: np.ndarray
    counts: np.ndarray


def total_rows(split: str, config: ShapesConfig) -> int:
    """Return the number of images in a split."""
    return config.count(split) * len(PRIMITIVES)


def draw_rows(split: str, config: ShapesConfig, start: int, stop: int) -> ShapesArrays:
    """Draw the rows from start up to, but without, stop."""
    drawn = [
        draw_shape(PRIMITIVES[row % len(PRIMITIVES)], split, row // len(PRIMITIVES), config)
        for row in range(start, stop)
    ]
    images, points = zip(*drawn, strict=True)
    counts = np.array([len(p) for p in points], np.int64)
    return ShapesArrays(np.stack(images), np.concatenate(points), counts)


def draw_pieces(
    split: str, config: ShapesConfig, pieces: Iterable[int], workers: int = 1
) -> Iterator[ShapesArrays]:
    """
    Draw pieces of a split, PIECE_ROWS images each, in the order given.

    workers: processes, none but this one for 1; -1 takes all cores. The images do not depend on
    it. Raises DataError if a process dies.
    """
    last = total_rows(split, config)
    tasks = [(split, config, k * PIECE_ROWS, min((k + 1) * PIECE_ROWS, last)) for k in pieces]
    workers = min(count_workers(workers), len(tasks))
    if workers <= 1:
        yield from (draw_rows(*task) for task in tasks)
        return
    # no forks: a lock that a thread of this process holds, torch's say, stays locked in a copy
    context = multiprocessing.get_context('spawn')
    try:
        with ProcessPoolExecutor(workers, context, initializer=_take_one_core) as pool:
            yield from pool.map(draw_rows, *zip(*tasks, strict=True))
    except BrokenExecutor as error:
        raise DataError(
            f'a process that draws shapes died ({error}); run again to go on, with fewer workers '
            'if memory is short'
        ) from error


def count_workers(workers: int) -> int:
    """Return how many processes are meant; -1 is one for each core that this one may use."""
    if workers != -1 and workers < 1:
        raise ConfigError(f'workers is {workers}, expected at least 1, or -1 for all cores')
    if workers > 0:
        return workers
    usable = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else None
    return usable or os.cpu_count() or 1


def _take_one_core() -> None:
    cv2.setNumThreads(1)  # there is a process for each core already
