"""What a run measures on pairs held out, and the pictures that it draws: the same every time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import nn, Tensor

from ..axes import Bool, Float, Int
from ..data.labelled import LabelledImages
from ..data.view_pairs import ViewPairs
from ..features import Features
from ..geometry import pixel_grid
from ..image import match_channels
from ..matching import MutualNearestNeighbor
from ..models.base import Extractor
from ..visualize import CORRECT, draw_matches, WRONG

MAX_NUM_KEYPOINTS = 512
CORRECT_PX = 3.0
YELLOW = (250, 220, 60)


class MatchedPair(NamedTuple):
    """
    The keypoints of both views and their mutual nearest neighbors, beside the truth.

    index (K, 2): matches of which the truth is known; error (K,): pixels off it, infinite where
    the other view does not show the point. nearest (M,): pixels from where a visible keypoint of
    view 0 truly lies to the nearest keypoint of view 1.
    """

    features: tuple[Features, Features]
    index: Int[Tensor, 'k 2']
    error: Float[Tensor, ' k']
    nearest: Float[Tensor, ' m']


def validate(
    extractor: Extractor, pairs: ViewPairs, max_num_keypoints: int = MAX_NUM_KEYPOINTS
) -> dict[str, float]:
    """
    Return mean matching accuracy at 1 and 3 px, repeatability at 3 px, and counts.

    Accuracy is the share of mutual nearest neighbors within the threshold of the truth;
    repeatability the share of keypoints visible in both views with another within 3 px. Keypoints
    of which nothing is known do not count.
    """
    sums = torch.zeros(5, dtype=torch.float64)
    for pair in match_pairs(extractor, pairs, max_num_keypoints):
        matches, correct = len(pair.error), int((pair.error < CORRECT_PX).sum())
        sums += torch.tensor(
            [
                int((pair.error < 1).sum()) / max(matches, 1),
                correct / max(matches, 1),
                int((pair.nearest < CORRECT_PX).sum()) / max(len(pair.nearest), 1),
                matches,
                correct,
            ],
            dtype=torch.float64,
        )
    names = ('mma1', 'mma3', 'repeatability', 'matches', 'correct')
    return dict(zip(names, (sums / len(pairs)).tolist(), strict=True))


def match_pairs(
    extractor: Extractor, pairs: ViewPairs, max_num_keypoints: int = MAX_NUM_KEYPOINTS
) -> Iterator[MatchedPair]:
    """Extract and match the views of each pair, and compare with the truth."""
    # views are looked at as they are learned from: not enlarged
    extractor = extractor.with_options(
        max_num_keypoints=max_num_keypoints, detection_threshold=0.0, upsample_to=-1
    )
    matcher = MutualNearestNeighbor()
    # what mirrors a photograph around it follows the same geometry
    pairs = replace(pairs, valid=torch.ones_like(pairs.valid))
    for b in range(len(pairs)):
        with evaluating(extractor):
            matched = _match(extractor, matcher, pairs.part(b, len(pairs)))
        yield matched


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Switch a network to evaluation, and back to what it was in."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def _match(extractor: Extractor, matcher: MutualNearestNeighbor, pair: ViewPairs) -> MatchedPair:
    features = tuple(extractor.extract(image) for image in pair.images[:, 0])
    index = matcher.match(*features).pairs().cpu()
    truth = pair.warp(features[0].keypoints.to(pair.images.device), 0)
    known = (truth.visible | truth.outside)[0].cpu()
    seen, place = truth.visible[0].cpu(), truth.points[0].cpu()
    other = features[1].keypoints.cpu()
    index = index[known[index[:, 0]]]
    error = (place[index[:, 0]] - other[0, index[:, 1]]).norm(dim=-1)
    nearest = (place[seen][:, None] - other[0]).norm(dim=-1)
    near = nearest.amin(1) if nearest.numel() else place.new_zeros(0)
    return MatchedPair(features, index, error.nan_to_num(nan=torch.inf), near)


def draw_pairs(pairs: ViewPairs, rows: int = 3, columns: int = 2) -> np.ndarray:
    """Draw pairs with true correspondences of a coarse grid; gray is outside the photograph."""
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
    """Draw keypoints of held-out pairs, yellow, and matches: correct ones green, others red."""
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
        tiles.append(draw_matches(*views, *ends, correct=pair.error.numpy() < CORRECT_PX))
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
    Draw images with their keypoints, enlarged; what does not count is gray.

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
    color: tuple[int, int, int],
    radius: int = 2,
) -> np.ndarray:
    for x, y in _enlarged(points, zoom).round().astype(int).tolist():
        cv2.circle(picture, (x, y), radius, (0, 0, 0), 2)
        cv2.circle(picture, (x, y), radius, color, 1)
    return picture


def _sheet(tiles: list[np.ndarray], columns: int) -> np.ndarray:
    """Put pictures of one size into rows; a last row that is not full goes."""
    full = len(tiles) // columns * columns
    lines = [np.hstack(tiles[i : i + columns]) for i in range(0, full, columns)]
    return np.vstack(lines) if lines else tiles[0]
