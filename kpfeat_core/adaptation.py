"""
Homographic adaptation: labels from a detector that is asked about many views of an image.

The views of a photograph are drawn from the seed and its name, and every file is written in one
step. So a run may be stopped at any moment, and goes on where it was: what lies there in the end
is the same, byte by byte, on the same machine.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
import copy
from dataclasses import asdict, dataclass, replace
import hashlib
import json
import os
from pathlib import Path
import re
from typing import Any

import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F

from .axes import Bool, Float, Int
from .config import old_names
from .data.config import AdaptConfig, homography_config, HomographyConfig
from .data.homographies import sample_homographies
from .data.labelled import FORMAT_VERSION, INDEX, label_path, read_index, read_labels
from .errors import ConfigError, DataError, ImageError
from .geometry import inside
from .image import (
    channels_last,
    image_to_tensor,
    ImageLike,
    pad_to_stride,
    read_image,
    rescale_points,
    resize,
    scaled_size,
)
from .io import NamedImage, replacing, write_npz
from .keypoints import (
    clear_borders,
    Keypoints,
    refine_soft_argmax,
    select_best,
    suppress_non_maxima,
)
from .models.base import DenseMaps, Extractor

# Views at once on a CPU, whose caches hold few, and on a GPU.
AT_ONCE = {False: 4, True: 50}
# A detector of one keypoint a cell says how good and where, not how good each pixel is: its word
# counts fully there and fades like a Gaussian of this many pixels, up to that far away.
SPREAD_PX = 1.0
SPREAD_REACH = 2
# Weights are score^2: the mean of a window of them follows its peak and hardly its size.
REFINE_TEMPERATURE = 0.5
READERS = 2  # threads that decode photographs while the device works
READ_AHEAD = 4  # photographs that wait decoded; large ones take 100 MB each


@dataclass(frozen=True)
class Adapted:
    """What all views together say: score_map (1, H, W), and how many of them saw each pixel."""

    score_map: Float[Tensor, '1 h w']
    counts: Int[Tensor, '1 h w']


@torch.inference_mode()
def adapt(
    extractor: Extractor,
    image: ImageLike,
    config: AdaptConfig,
    generator: torch.Generator,
    homographies: HomographyConfig | None = None,
) -> Adapted:
    """
    Run a detector on `config.num` views of an image and join the scores that it gives.

    image: one image as `Extractor.extract` takes it, used at its own size. generator: what the
    views are drawn from, on any device. homographies: in place of those that the configuration
    names. Raises ImageError for an image that is too small.
    """
    image = image_to_tensor(image, extractor.channels)[:1].to(extractor.device)
    size = (image.shape[2], image.shape[3])
    if min(size) < extractor.min_side:
        raise ImageError(
            f'image is {size[1]}x{size[0]} pixels at work; {extractor.name} needs at least '
            f'{extractor.min_side}x{extractor.min_side}'
        )
    drawn = sample_homographies(
        homographies or homography_config(config.homographies), config.num, size, generator
    )
    drawn[0] = torch.eye(3, device=drawn.device)
    best = config.aggregation == 'max'
    total = image.new_zeros(size)
    counts = torch.zeros(size, dtype=torch.int64, device=image.device)
    at_once = config.batch_size if config.batch_size > 0 else AT_ONCE[image.is_cuda]
    for H_0to1 in drawn.to(image).split(at_once):
        scores, seen = _view_scores(extractor, image, H_0to1, config)
        counts += seen.sum(0)
        scores = scores * seen
        total = torch.maximum(total, scores.amax(0)) if best else total + scores.sum(0)
    if not best:
        total = total / counts.clamp(min=max(1, config.support * config.num))
    return Adapted((total * (counts >= config.min_views))[None], counts[None])


def _view_scores(
    extractor: Extractor,
    image: Float[Tensor, '1 c h w'],
    H_0to1: Float[Tensor, 'n 3 3'],
    config: AdaptConfig,
) -> tuple[Float[Tensor, 'n h w'], Bool[Tensor, 'n h w']]:
    """Return the scores of the pixels of the image in each view, and which of them it shows."""
    size = (image.shape[2], image.shape[3])
    images = image.expand(len(H_0to1), -1, -1, -1)
    grid = _grid(torch.linalg.inv(H_0to1), size)
    views = F.grid_sample(images, grid, padding_mode=config.outside, align_corners=True)
    scores = dense_scores(extractor, views)[:, None]
    scores = F.grid_sample(scores, _grid(H_0to1, size), align_corners=True)[:, 0]
    return scores, _seen(H_0to1, size, config.border_erosion)


def _grid(homographies: Float[Tensor, 'n 3 3'], size: tuple[int, int]) -> Float[Tensor, 'n h w 2']:
    """
    Return where all pixels go, in -1..1 as grid_sample wants it; none may be behind infinity.

    As `warp_points` and `normalize_points` on all pixels, several times faster on a CPU: what
    belongs to rows and to columns is computed once for each.
    """
    height, width = size
    x = torch.arange(width, device=homographies.device, dtype=homographies.dtype)
    y = torch.arange(height, device=homographies.device, dtype=homographies.dtype)[:, None]
    last = homographies.new_tensor([max(width - 1, 1), max(height - 1, 1)])
    rows = homographies[:, :2] * (2 / last)[:, None] - homographies[:, 2:]
    rows = torch.cat([rows, homographies[:, 2:]], 1)[..., None, None]
    u, v, depth = (a * x + (b * y + c) for a, b, c in (row.unbind(1) for row in rows.unbind(1)))
    grid = depth.new_empty(*depth.shape, 2)
    torch.div(u, depth, out=grid[..., 0])
    torch.div(v, depth, out=grid[..., 1])
    return grid


def _seen(
    H_0to1: Float[Tensor, 'n 3 3'], size: tuple[int, int], margin: float
) -> Bool[Tensor, 'n h w']:
    """
    Return which pixels of image 0 the view shows, at least `margin` of its pixels inside its end.

    It ends at its own borders and at those of image 0. Either is a straight line in image 0, so
    that what is seen of a row of pixels is what lies between two columns.
    """
    height, width = size
    depth, inverse = H_0to1[:, 2], torch.linalg.inv(H_0to1)
    planes = []  # a pixel p = (x, y, 1) is seen where the product with each is not negative
    for axis, last in ((0, width - 1), (1, height - 1)):
        planes.append(H_0to1[:, axis] - margin * depth)
        planes.append((last - margin) * depth - H_0to1[:, axis])
        near = torch.eye(3, device=H_0to1.device)[axis]
        for border in (near, near.new_tensor([0, 0, last]) - near):
            # the border as a line of the view; p lies border.p / (depth.p |line_xy|) from it
            line = border @ inverse
            planes.append(border - margin * line[:, :2].norm(dim=-1, keepdim=True) * depth)
    slope, per_row, rest = torch.stack(planes, 1)[..., None].unbind(2)
    y = torch.arange(height, device=H_0to1.device, dtype=H_0to1.dtype)
    rest = rest + per_row * y  # (n, 8, h)
    crossing = -rest / slope
    first = crossing.where(slope > 0, -torch.inf).amax(1)
    last = crossing.where(slope < 0, torch.inf).amin(1)
    last = last.where(~((slope == 0) & (rest < 0)).any(1), -torch.inf)
    x = torch.arange(width, device=H_0to1.device)
    return (x >= first[..., None]) & (x <= last[..., None])


def dense_scores(extractor: Extractor, images: Float[Tensor, 'b c h w']) -> Float[Tensor, 'b h w']:
    """
    Return the score of every pixel, whatever grid the detector works on.

    A detector that predicts positions marks them, each with a small hill as high as its score.
    """
    size = (images.shape[2], images.shape[3])
    ready = pad_to_stride(extractor.prepare(images), extractor.stride)
    ready = ready.to(next(extractor.parameters()).dtype)
    maps = extractor(channels_last(ready))
    maps = extractor.crop(replace(maps, score_map=maps.score_map.float()), size)
    return maps.score_map if maps.positions is None else _hills(maps, size)


def _hills(maps: DenseMaps, size: tuple[int, int]) -> Float[Tensor, 'b h w']:
    """Spread each score around its position; of overlapping hills the higher one counts."""
    height, width = size
    scores = maps.score_map.flatten(1)
    positions = maps.positions.to(scores.dtype).flatten(1, 2)
    reach = range(-SPREAD_REACH, SPREAD_REACH + 1)
    canvas = scores.new_zeros(len(scores), height * width)
    for step in [(x, y) for y in reach for x in reach]:
        pixels = positions.round() + positions.new_tensor(step)
        distance = (pixels - positions).square().sum(-1)
        heights = scores * torch.exp(-distance / (2 * SPREAD_PX**2))
        heights = heights * inside(pixels, height, width)
        x, y = pixels.long().unbind(-1)
        index = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
        canvas.scatter_reduce_(1, index, heights, 'amax')
    return canvas.view(-1, height, width)


@torch.inference_mode()
def select_keypoints(score_map: Float[Tensor, 'b h w'], config: AdaptConfig) -> Keypoints:
    """Select keypoints of an adapted score map: best of their surroundings, threshold, best N."""
    peaks = suppress_non_maxima(score_map, config.nms_radius)
    peaks = clear_borders(peaks, config.remove_borders, config.remove_borders)
    xy, scores, mask = select_best(peaks, config.detection_threshold, config.max_num_keypoints)
    keypoints = xy.to(score_map.dtype)
    if config.sub_pixel:
        keypoints, _ = refine_soft_argmax(
            score_map, xy, temperature=REFINE_TEMPERATURE, logarithmic=True
        )
    return Keypoints(keypoints * mask[..., None], scores, mask)


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
    key = f'{config.seed}/{name}'.encode('utf-8', 'surrogateescape')
    seed = int.from_bytes(hashlib.sha256(key).digest()[:7], 'big')
    generator = torch.Generator().manual_seed(seed)
    found = adapt(extractor, resize(tensor, size), config, generator, homographies)
    keypoints, scores, mask = select_keypoints(found.score_map, config)[:3]
    points = rescale_points(keypoints[mask], size, source)
    return {
        'keypoints': points.cpu().numpy(),
        'keypoint_scores': scores[mask].cpu().numpy(),
        'image_size': np.array(source[::-1], np.float32),
        'work_size': np.array(size[::-1], np.float32),
    }


def make_labels(
    extractor: Extractor,
    images: Sequence[NamedImage],
    out: Path | str,
    config: AdaptConfig,
    homographies: HomographyConfig | None = None,
    weights_sha256: str = '',
) -> Iterator[Labelled]:
    """
    Label photographs into a folder, one .npz each; yields each when it is done.

    Photographs that have labels keep them; those that cannot be used are passed over and listed
    in the index, which is complete when the iterator has ended. weights_sha256: noted there.

    Raises DataError if the folder holds labels that were made in another way, and ConfigError.
    """
    homographies = homographies or homography_config(config.homographies)
    working_size(1, 1, config)
    out = Path(out)
    recipe = _recipe(extractor, config, homographies, weights_sha256)
    _begin(out, recipe, old_names(type(extractor.config)))
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
    """Return what an earlier run found in a photograph, or its pixels; raises ImageError."""
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


def _begin(out: Path, recipe: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """
    Write the recipe into a new folder, or check that it is that of the labels there.

    names: those of today for old ones of the model's options.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"'{out}' is a file; expected a folder for labels")
    path = out / INDEX
    if not path.is_file():
        _write_json(path, recipe)
        return
    there = read_index(out)
    if isinstance(there.get('options'), dict):  # options that came later had their defaults
        there['options'].setdefault('precision', AdaptConfig.precision)
    if isinstance(there.get('model_options'), dict):
        options = there['model_options'].items()
        there['model_options'] = {names.get(name, name): value for name, value in options}
    wanted = json.loads(json.dumps(recipe))
    differing = _differences(there, wanted)
    if differing:
        raise DataError(
            f"the labels in '{out}' were made with {differing}; take the same options to go on "
            'with them, or another folder'
        )
    _remove_leftovers(out)


def _differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return in which entries of a recipe the labels that are there differ; '' if in none."""
    texts = []
    for key, value in wanted.items():
        other = there.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            texts.append(_differences(other, value))
        elif other != value:
            texts.append(f'{key}={other!r} instead of {value!r}')
    return ', '.join(filter(None, texts))


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
