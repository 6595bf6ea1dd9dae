"""
Synthetic Shapes on disk: two files for each split.

`<split>.npy` holds images (K, H, W) uint8 and can be mapped into memory. `<split>.safetensors`
holds keypoints (M, 2) float32 and counts (K,) as in `ShapesArrays` and, as a note, the options
they were drawn with; it is written last, so that where it is, all is.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
import io
import json
import math
import os
from pathlib import Path
import shutil
from typing import Any

import numpy as np
from safetensors import safe_open, SafetensorError
from safetensors.numpy import save

from .config import check_split, ShapesConfig, SPLITS
from .pieces import draw_pieces, PIECE_ROWS, ShapesArrays, total_rows
from ...errors import DataError
from ...io import replacing

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
