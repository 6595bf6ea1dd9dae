"""
Homographic adaptation of one image (DeTone et al. 2018, section 5).

The detector sees N views of the image under random homographies, the image itself among them.
What it says is brought back to the image and averaged, pixel by pixel, over the views that show
the pixel. Corners that are found from everywhere stay, what one view alone shows fades. Near the
borders of the image few views see a pixel, and their mean is noisy: without `support`, too many of
the best keypoints lie there.

The published code renders the mask of what a view shows, erodes it, and warps it back. Here what
is seen, with its margin, comes from the equations of the borders: it is exact and needs no image.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
import torch.nn.functional as F

from .config import AdaptConfig
from ..data.homographies import sample_homographies
from ..data.homography_config import homography_config, HomographyConfig
from ..errors import ImageError
from ..geometry import inside
from ..image import channels_last, image_to_tensor, ImageLike, pad_to_stride
from ..keypoints import (
    clear_borders,
    Keypoints,
    refine_soft_argmax,
    select_best,
    suppress_non_maxima,
)
from ..models.base import DenseMaps, Extractor
from ..shapes import Bool, Float, Int

# Views at once on a CPU, whose caches hold few, and on a GPU.
AT_ONCE = {False: 4, True: 50}
# A detector of one keypoint a cell says how good and where, not how good each pixel is: its word
# counts fully there and fades like a Gaussian of this many pixels, up to that far away.
SPREAD_PX = 1.0
SPREAD_REACH = 2
# Weights are score^2: the mean of a window of them follows its peak and hardly its size.
REFINE_TEMPERATURE = 0.5


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
    Ask a detector about `config.num` views of an image and bring its answers together.

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
    total = image.new_zeros(size)
    counts = torch.zeros(size, dtype=torch.int64, device=image.device)
    at_once = config.batch_size if config.batch_size > 0 else AT_ONCE[image.is_cuda]
    for H_0to1 in drawn.to(image).split(at_once):
        scores, seen = _view_scores(extractor, image, H_0to1, config)
        counts += seen.sum(0)
        scores = scores * seen
        total = torch.maximum(total, scores.amax(0)) if _is_max(config) else total + scores.sum(0)
    if not _is_max(config):
        total = total / counts.clamp(min=max(1, config.support * config.num))
    return Adapted((total * (counts >= config.min_views))[None], counts[None])


def _is_max(config: AdaptConfig) -> bool:
    return config.aggregation == 'max'


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
    Tell which pixels of image 0 the view shows, `margin` of its pixels or more from where it ends.

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
