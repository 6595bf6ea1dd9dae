"""Synthetic Shapes (DeTone et al. 2018): drawings with exact corners to learn from."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
import io
import json
import math
import multiprocessing
import os
from pathlib import Path
import shutil
from typing import Any

import cv2
import numpy as np
from safetensors import safe_open, SafetensorError
from safetensors.numpy import save
import torch
from torch import Tensor

from .config import check_split, PRIMITIVES, ShapesConfig, SharesConfig, SPLITS
from .shape_boards import draw_checkerboard, draw_cube, draw_stripes
from .shape_figures import (
    Canvas,
    draw_ellipses,
    draw_lines,
    draw_noise,
    draw_polygon,
    draw_polygons,
    draw_star,
    fixed_point,
    SHIFT,
)
from ..axes import Bool, Float, Int
from ..errors import ConfigError, DataError
from ..io import replacing

DRAW: dict[str, Callable[[Canvas], np.ndarray]] = {
    'lines': draw_lines,
    'polygon': draw_polygon,
    'polygons': draw_polygons,
    'ellipses': draw_ellipses,
    'star': draw_star,
    'checkerboard': draw_checkerboard,
    'stripes': draw_stripes,
    'cube': draw_cube,
    'noise': draw_noise,
}


def draw_shape(
    primitive: str, split: str, index: int, config: ShapesConfig
) -> tuple[np.ndarray, Float[np.ndarray, 'n 2']]:
    """
    Draw image `index` of a primitive in a split: (H, W) uint8, and its labels.

    Labels (N, 2) float32 are corners and end points as (x, y), sub-pixel, inside the image. The
    same arguments always give the same image. Raises DataError for an unknown name.
    """
    return finish(*draw_large(primitive, split, index, config), config)


def draw_large(
    primitive: str, split: str, index: int, config: ShapesConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Draw an image at full size, before blur and resizing, with labels (N, 2) at that size."""
    check_split(split)
    if primitive not in DRAW:
        raise DataError(
            f"there is no primitive '{primitive}'; expected one of {', '.join(PRIMITIVES)}"
        )
    key = (config.seed, SPLITS.index(split), PRIMITIVES.index(primitive), index)
    rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(key)))
    canvas = Canvas(config, rng)
    if primitive != 'noise':
        canvas.paint_background()
    points = DRAW[primitive](canvas)
    return canvas.image, points


def finish(
    large: np.ndarray, points: np.ndarray, config: ShapesConfig
) -> tuple[np.ndarray, Float[np.ndarray, 'n 2']]:
    """Blur and shrink a drawing; labels (N, 2) move along, those outside are dropped."""
    if config.blur_px > 1:
        large = cv2.GaussianBlur(large, (config.blur_px, config.blur_px), 0)
    size = np.array([config.width, config.height])
    image = cv2.resize(large, size.tolist(), interpolation=cv2.INTER_LINEAR)
    scale = size / [config.draw_width, config.draw_height]
    points = (points + 0.5) * scale - 0.5  # OpenCV's resize aligns the areas of pixels
    inside = ((points >= 0) & (points <= size - 1)).all(1)
    return image, points[inside].astype(np.float32)


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


LABEL = (40, 230, 80)
OUTLINE = (0, 0, 0)
FONT = cv2.FONT_HERSHEY_SIMPLEX
ZOOM = 3
GAP = 4


def draw_sheet(config: ShapesConfig, split: str = 'train', columns: int = 6) -> np.ndarray:
    """Draw the first images of each primitive, a row for each: (H, W, 3) uint8 RGB, enlarged."""
    config.check()
    rows = []
    for primitive in PRIMITIVES:
        cells = [_cell(*draw_shape(primitive, split, k, config)) for k in range(columns)]
        for colour, thickness in ((OUTLINE, 4), (LABEL, 1)):
            where = (8, 26)
            cv2.putText(cells[0], primitive, where, FONT, 0.8, colour, thickness, cv2.LINE_AA)
        rows.append(np.concatenate(cells, 1))
    return np.concatenate(rows)[:-GAP, :-GAP]


def _cell(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Enlarge an image with its labels, and add a gap at the right and below."""
    large = cv2.resize(image, None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_NEAREST)
    picture = cv2.cvtColor(large, cv2.COLOR_GRAY2RGB)
    for centre in fixed_point((points + 0.5) * ZOOM - 0.5).tolist():
        cv2.circle(picture, centre, 4 << SHIFT, LABEL, 1, cv2.LINE_AA, SHIFT)
        cv2.circle(picture, centre, 1 << (SHIFT - 1), LABEL, cv2.FILLED, cv2.LINE_AA, SHIFT)
    return cv2.copyMakeBorder(picture, 0, GAP, 0, GAP, cv2.BORDER_CONSTANT, value=(255,) * 3)


@dataclass(frozen=True)
class ShapesBatch:
    """
    Images (B, 1, H, W) in [0, 1] and their labels.

    keypoints (B, P, 2) are (x, y) pixels, sub-pixel; mask (B, P) tells which are labels and not
    padding, which comes last.
    """

    images: Float[Tensor, 'b 1 h w']
    keypoints: Float[Tensor, 'b p 2']
    mask: Bool[Tensor, 'b p']


@dataclass(frozen=True)
class ShapesBank:
    """
    Images of a split, and how often each is drawn.

    images (K, H, W) uint8; keypoints (K, P, 2), zeros after the first counts (K,); primitives
    (K,): places in PRIMITIVES; probabilities (K,).
    """

    images: Tensor
    keypoints: Float[Tensor, 'k p 2']
    counts: Int[Tensor, ' k']
    primitives: Int[Tensor, ' k']
    probabilities: Float[Tensor, ' k']

    def __len__(self) -> int:
        return len(self.counts)

    def to(self, device: torch.device | str) -> 'ShapesBank':
        """Move all images and labels to a device."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items()})

    def of(self, *primitives: str) -> Int[Tensor, ' n']:
        """Return the rows that show some primitives."""
        wanted = self.counts.new_tensor([PRIMITIVES.index(name) for name in primitives])
        return torch.nonzero(torch.isin(self.primitives, wanted))[:, 0]

    def draw(self, count: int, generator: torch.Generator) -> ShapesBatch:
        """Draw images at random, each primitive by its share; the generator is on the device."""
        return self.batch(
            self.probabilities.multinomial(count, replacement=True, generator=generator)
        )

    def batch(self, index: Int[Tensor, ' b']) -> ShapesBatch:
        """Return rows (B,) as a batch."""
        counts = self.counts[index]
        places = torch.arange(self.keypoints.shape[1], device=counts.device)
        return ShapesBatch(
            self.images[index][:, None].float() / 255,
            self.keypoints[index],
            places < counts[:, None],
        )


def load_shapes(
    folder: Path | str,
    split: str,
    config: ShapesConfig | None = None,
    shares: SharesConfig = SharesConfig(),  # noqa: B008 - frozen
) -> ShapesBank:
    """
    Read a split that `kpfeat shapes` drew; its images stay on disk until they are used.

    config: the options that it must have been drawn with; none accepts any. Raises DataError.
    """
    return _bank(read_shapes(folder, split, config), shares)


def make_shapes(
    split: str,
    config: ShapesConfig,
    shares: SharesConfig = SharesConfig(),  # noqa: B008 - frozen
    workers: int = 1,
) -> ShapesBank:
    """Draw a split in memory; the same images as in a cache."""
    config.check()
    pieces = range(-(-total_rows(split, config) // PIECE_ROWS))
    drawn = list(draw_pieces(split, config, pieces, workers))
    names = ('images', 'keypoints', 'counts')
    arrays = (np.concatenate([getattr(piece, name) for piece in drawn]) for name in names)
    return _bank(ShapesArrays(*arrays), shares)


def _bank(arrays: ShapesArrays, shares: SharesConfig) -> ShapesBank:
    counts = arrays.counts
    padded = np.zeros((len(counts), max(1, counts.max()), 2), np.float32)
    padded[np.arange(padded.shape[1]) < counts[:, None]] = arrays.keypoints
    primitives = np.arange(len(counts)) % len(PRIMITIVES)
    weights = np.array(shares.weights())[primitives]
    return ShapesBank(
        torch.from_numpy(np.asarray(arrays.images)),
        torch.from_numpy(padded),
        torch.from_numpy(counts),
        torch.from_numpy(primitives),
        torch.from_numpy((weights / weights.sum()).astype(np.float32)),
    )


VERSION = 1  # rises when the drawing changes, so that old and new images are not mixed
NOTE = 'shapes'  # the key of the note in the file of labels
Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]


def write_shapes(
    folder: Path | str,
    split: str,
    config: ShapesConfig,
    workers: int = 1,
    progress: Progress = lambda items, total, what: items,
) -> bool:
    """
    Draw a split into a folder, or go on where a run was stopped; false if all was there.

    The files are the same bytes whatever the workers and however often the run was stopped; a
    kill loses the pieces that are being drawn. `progress(items, total, what)` may show how far it
    is. Raises DataError where the folder holds images of other options.
    """
    config.check()
    paths = _Paths(Path(folder), split)
    note = _note(split, config)
    if paths.labels.exists():
        _check_note(_read(paths.labels)[1], note, folder)
        shutil.rmtree(paths.pieces, ignore_errors=True)
        return False
    _begin(paths, note, config)
    count = -(-total_rows(split, config) // PIECE_ROWS)
    todo = [k for k in range(count) if not paths.piece(k).exists()]
    drawn = zip(todo, draw_pieces(split, config, todo, workers), strict=True)
    for k, arrays in progress(drawn, len(todo), f'drawing {split}'):
        _write_piece(paths, k, arrays)
    _finish(paths, count, note)
    return True


def read_shapes(
    folder: Path | str, split: str, config: ShapesConfig | None = None
) -> ShapesArrays:
    """
    Read a split that `write_shapes` finished; the images stay on disk until they are looked at.

    config: the options that it must have been drawn with; none accepts any. Raises DataError.
    """
    check_split(split)
    paths = _Paths(Path(folder), split)
    if not paths.labels.exists():
        begun = ' completely' if paths.pieces.exists() else ''
        raise DataError(
            f"'{folder}' does not hold the {split} split{begun}; draw it with "
            f'`kpfeat shapes --split {split} --out {folder}`'
        )
    tensors, note = _read(paths.labels)
    if config is not None:
        _check_note(note, _note(split, config), folder)
    try:
        images = np.load(paths.images, mmap_mode='c')  # changes, if any, stay in memory
        arrays = ShapesArrays(images, tensors['keypoints'], tensors['counts'])
        if len(images) != len(arrays.counts) or arrays.counts.sum() != len(arrays.keypoints):
            raise ValueError(f'{len(images)} images, labels of {len(arrays.counts)}')
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise DataError(
            f"'{paths.images}' and its labels are broken ({error}); delete both and draw them "
            'again'
        ) from error
    return arrays


@dataclass(frozen=True)
class _Paths:
    """The files of a split."""

    folder: Path
    split: str

    @property
    def images(self) -> Path:
        return self.folder / f'{self.split}.npy'

    @property
    def labels(self) -> Path:
        return self.folder / f'{self.split}.safetensors'

    @property
    def pieces(self) -> Path:
        """Labels of finished pieces, while the split is being drawn."""
        return self.folder / f'.{self.split}-pieces'

    def piece(self, k: int) -> Path:
        return self.pieces / f'{k:06d}.safetensors'


def _note(split: str, config: ShapesConfig) -> dict[str, Any]:
    """Return all that decides about the images of a split; the size of others does not."""
    counts = {f'{name}_images' for name in SPLITS}
    options = {k: v for k, v in asdict(config).items() if k not in counts}
    return {'version': VERSION, 'images': config.count(split), **options}


def _check_note(found: dict[str, Any], wanted: dict[str, Any], folder: Path | str) -> None:
    changed = [
        f'{key} {found.get(key)!r}, now {wanted.get(key)!r}'
        for key in sorted(found.keys() | wanted.keys())
        if found.get(key) != wanted.get(key)
    ]
    if changed:
        raise DataError(
            f"'{folder}' holds shapes of other options ({'; '.join(changed)}): choose another "
            'folder, or repeat its options'
        )


def _begin(paths: _Paths, note: dict[str, Any], config: ShapesConfig) -> None:
    """Make the file of images at its full size, unless it has been begun already."""
    shape = (total_rows(paths.split, config), config.height, config.width)
    header = _header(shape)
    size = len(header) + math.prod(shape)
    begun = paths.pieces / 'note.json'
    if begun.exists():
        _check_note(json.loads(begun.read_text()), note, paths.folder)
        if paths.images.exists() and paths.images.stat().st_size == size:
            return
        for piece in paths.pieces.glob('*.safetensors'):  # their images are gone
            piece.unlink()
    elif paths.images.exists():
        raise DataError(
            f"'{paths.images}' is there without labels beside it; delete it, or choose another "
            'folder'
        )
    with replacing(begun) as temporary:
        temporary.write_text(json.dumps(note))
    with replacing(paths.images) as temporary, temporary.open('wb') as file:
        file.write(header)
        file.truncate(size)


def _header(shape: tuple[int, ...]) -> bytes:
    """Return the start of a .npy file of uint8."""
    stream = io.BytesIO()
    description = {'descr': '|u1', 'fortran_order': False, 'shape': shape}
    np.lib.format.write_array_header_1_0(stream, description)
    return stream.getvalue()


def _write_piece(paths: _Paths, k: int, arrays: ShapesArrays) -> None:
    """Put images in their place; then, and only then, the labels."""
    # not through a memory map, which ends the program where the disk is full
    with paths.images.open('r+b') as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)  # leaves the file at the first image
        file.seek(k * PIECE_ROWS * arrays.images[0].size, io.SEEK_CUR)
        file.write(arrays.images.tobytes())
        file.flush()
        os.fsync(file.fileno())
    _save(paths.piece(k), arrays.keypoints, arrays.counts)


def _finish(paths: _Paths, count: int, note: dict[str, Any]) -> None:
    """Join the labels of all pieces."""
    pieces = [_read(paths.piece(k))[0] for k in range(count)]
    keypoints, counts = (np.concatenate([p[n] for p in pieces]) for n in ('keypoints', 'counts'))
    _save(paths.labels, keypoints, counts, note)
    shutil.rmtree(paths.pieces)


def _save(
    path: Path, keypoints: np.ndarray, counts: np.ndarray, note: dict[str, Any] | None = None
) -> None:
    with replacing(path) as temporary:
        tensors = {'keypoints': keypoints, 'counts': counts}
        temporary.write_bytes(save(tensors, {NOTE: json.dumps(note)}))


def _read(path: Path) -> tuple[dict[str, np.ndarray], Any]:
    """Read a file of labels and its note; raises DataError."""
    try:
        with safe_open(path, 'np') as file:
            note = json.loads((file.metadata() or {})[NOTE])
            return {name: file.get_tensor(name) for name in file.keys()}, note  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DataError(
            f"'{path}' is no complete file of labels ({error!r}); delete it and draw again"
        ) from error
