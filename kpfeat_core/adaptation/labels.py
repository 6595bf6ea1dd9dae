"""
Pseudo-labels of a folder of photographs: one file each, and an index of all.

The views of a photograph are drawn from the seed and its name, and every file is written in one
step. So a run may be stopped at any moment, and goes on where it was: what lies there in the end
is the same, byte by byte, on the same machine.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
import copy
from dataclasses import asdict, dataclass
import hashlib
import json
import os
from pathlib import Path
import re
from typing import Any

import numpy as np
import torch

from .aggregate import adapt, select_keypoints
from .config import AdaptConfig
from ..data.homography_config import homography_config, HomographyConfig
from ..errors import ConfigError, DataError, ImageError
from ..image import (
    image_to_tensor,
    ImageLike,
    read_image,
    rescale_points,
    resize,
    scaled_size,
)
from ..io import NamedImage, read_npz, replacing, write_npz
from ..models.base import Extractor

INDEX = 'index.json'
FORMAT_VERSION = 1
READERS = 2  # threads that decode photographs while the device works
READ_AHEAD = 4  # photographs that wait decoded; large ones take 100 MB each


@dataclass(frozen=True)
class Labelled:
    """One photograph of a run: how many keypoints it has, or why it has none."""

    name: Path
    keypoints: int
    problem: str = ''
    kept: bool = False  # it was there from an earlier run


def working_size(height: int, width: int, config: AdaptConfig) -> tuple[int, int]:
    """Return the (height, width) at which a photograph is labelled; raises ConfigError."""
    if (config.height > 0) != (config.width > 0):
        raise ConfigError(
            f'height is {config.height} and width {config.width}; expected both or none of them'
        )
    if config.height > 0:
        return config.height, config.width
    return scaled_size(height, width, config.resize)


def label_image(
    extractor: Extractor,
    image: ImageLike,
    name: str,
    config: AdaptConfig,
    homographies: HomographyConfig | None = None,
) -> dict[str, np.ndarray]:
    """
    Label one photograph, the same for the same seed and name.

    Returns keypoints (N, 2), x and y in pixels of the photograph, and keypoint_scores (N,), best
    first; image_size (2,) and work_size (2,), width and height of the photograph and of what the
    detector saw. Raises ImageError and ConfigError.
    """
    tensor = image_to_tensor(image, extractor.channels).to(extractor.device)
    source = (tensor.shape[2], tensor.shape[3])
    size = working_size(*source, config)
    generator = torch.Generator().manual_seed(_seed(config.seed, name))
    found = adapt(extractor, resize(tensor, size), config, generator, homographies)
    keypoints, scores, mask = select_keypoints(found.score_map, config)[:3]
    points = rescale_points(keypoints[mask], size, source)
    return {
        'keypoints': points.cpu().numpy(),
        'keypoint_scores': scores[mask].cpu().numpy(),
        'image_size': np.array(source[::-1], np.float32),
        'work_size': np.array(size[::-1], np.float32),
    }


def _seed(seed: int, name: str) -> int:
    digest = hashlib.sha256(f'{seed}/{name}'.encode('utf-8', 'surrogateescape')).digest()
    return int.from_bytes(digest[:7], 'big')


def make_labels(
    extractor: Extractor,
    images: Sequence[NamedImage],
    out: Path | str,
    config: AdaptConfig,
    homographies: HomographyConfig | None = None,
    weights_sha256: str = '',
) -> Iterator[Labelled]:
    """
    Label photographs into a folder, one .npz each, and tell of each when it is done.

    Photographs that have labels keep them; those that cannot be used are passed over and listed
    in the index, which is complete when the iterator has ended. weights_sha256: noted there.

    Raises DataError if the folder holds labels that were made in another way, and ConfigError.
    """
    homographies = homographies or homography_config(config.homographies)
    working_size(1, 1, config)
    out = Path(out)
    recipe = _recipe(extractor, config, homographies, weights_sha256)
    _begin(out, recipe)
    extractor = copy.deepcopy(extractor).to(getattr(torch, config.precision))
    found = []
    for image, pending in _read_ahead(images, out):
        try:
            ready = pending.result()
            if not isinstance(ready, Labelled):
                name = image.name.as_posix()
                arrays = label_image(extractor, ready, name, config, homographies)
                write_npz(label_path(out, image.name), arrays)
                ready = Labelled(image.name, len(arrays['keypoints']))
        except ImageError as error:
            ready = Labelled(image.name, 0, _without_folder(str(error), image))
        found.append(ready)
        yield ready
    _write_index(out, recipe, found)


def _without_folder(text: str, image: NamedImage) -> str:
    """Name the image as the index does: where its folder lies may not change the labels."""
    name = image.name.as_posix()
    text = text.replace(str(image.path), name)
    return text if name in text else f"'{name}': {text}"


def label_path(out: Path | str, name: Path | str) -> Path:
    """Return where the labels of a photograph lie."""
    return Path(out) / Path(name).with_suffix('.npz')


def read_labels(path: Path | str) -> dict[str, np.ndarray]:
    """Read a file that `make_labels` wrote: what `label_image` gives; raises DataError."""
    arrays = read_npz(path)
    missing = {'keypoints', 'keypoint_scores', 'image_size', 'work_size'} - arrays.keys()
    if missing:
        raise DataError(f"'{path}' holds no labels: it lacks {', '.join(sorted(missing))}")
    return arrays


def _read_ahead(
    images: Iterable[NamedImage], out: Path
) -> Iterator[tuple[NamedImage, Future[Labelled | np.ndarray]]]:
    """Look at photographs in threads, a few ahead of the one that is wanted next."""
    with ThreadPoolExecutor(READERS) as pool:
        waiting: deque = deque()
        for image in images:
            waiting.append((image, pool.submit(_look, image, out)))
            if len(waiting) > READ_AHEAD:
                yield waiting.popleft()
        yield from waiting


def _look(image: NamedImage, out: Path) -> Labelled | np.ndarray:
    """Tell what an earlier run found in a photograph, or decode it; raises ImageError."""
    path = label_path(out, image.name)
    if path.is_file():
        try:
            return Labelled(image.name, len(read_labels(path)['keypoints']), kept=True)
        except DataError:  # a damaged disk: made again
            pass
    return read_image(image.path)


def _recipe(
    extractor: Extractor, config: AdaptConfig, homographies: HomographyConfig, weights: str
) -> dict[str, Any]:
    """Return all that decides about the labels, as it stands in the index."""
    options = asdict(config)
    del options['batch_size']  # not a matter of what is found, beyond rounding
    return {
        'format': 'kpfeat labels',
        'format_version': FORMAT_VERSION,
        'model': extractor.name,
        'weights_sha256': weights,
        'model_options': asdict(extractor.config),
        'options': options,
        'homographies': asdict(homographies),
    }


def _begin(out: Path, recipe: Mapping[str, Any]) -> None:
    """Write the recipe into a new folder, or check that it is that of the labels there."""
    if out.exists() and not out.is_dir():
        raise DataError(f"'{out}' is a file; expected a folder for labels")
    path = out / INDEX
    if not path.is_file():
        _write_json(path, recipe)
        return
    there = read_index(out)
    if isinstance(there.get('options'), dict):  # options that came later had their defaults
        there['options'].setdefault('precision', AdaptConfig.precision)
    wanted = json.loads(json.dumps(recipe))
    differing = _differences(there, wanted)
    if differing:
        raise DataError(
            f"the labels in '{out}' were made with {differing}; take the same options to go on "
            'with them, or another folder'
        )
    _remove_leftovers(out)


def _differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Say in which entries of a recipe the labels that are there differ; '' if in none."""
    texts = []
    for key, value in wanted.items():
        other = there.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            texts.append(_differences(other, value))
        elif other != value:
            texts.append(f'{key}={other!r} instead of {value!r}')
    return ', '.join(filter(None, texts))


def read_index(out: Path | str) -> dict[str, Any]:
    """
    Read the index of a folder of labels; raises DataError.

    It holds model, weights_sha256, model_options, options and homographies, and when the run is
    complete, images (name to number of keypoints) and skipped (name to reason).
    """
    path = Path(out) / INDEX
    try:
        index = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the index of labels '{path}': {error}") from error
    if not isinstance(index, dict) or index.get('format') != 'kpfeat labels':
        raise DataError(f"'{path}' is no index of labels; take another folder")
    return index


def _write_index(out: Path, recipe: Mapping[str, Any], found: Sequence[Labelled]) -> None:
    lists = {
        'images': {i.name.as_posix(): i.keypoints for i in found if not i.problem},
        'skipped': {i.name.as_posix(): i.problem for i in found if i.problem},
    }
    _write_json(out / INDEX, {**recipe, **lists})


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + '\n', encoding='utf-8')


def _remove_leftovers(out: Path) -> None:
    """Remove the half-written files of processes that were killed."""
    for path in out.rglob('.*'):
        match = re.fullmatch(r'\..+\.(\d+)\.(npz|json)', path.name)
        if match and not _is_running(int(match[1])):
            path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True
