"""Numbers that tell during training whether it gets better: the same pairs every time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn, Tensor

from ..axes import Float, Int
from ..data.view_pairs import ViewPairs
from ..features import Features
from ..matching import MutualNearestNeighbor
from ..models.base import Extractor

MAX_NUM_KEYPOINTS = 512
RIGHT_PX = 3.0


class MatchedPair(NamedTuple):
    """
    The keypoints of both views and their mutual nearest neighbours, beside the truth.

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

    Accuracy is the share of mutual nearest neighbours within the threshold of the truth;
    repeatability the share of keypoints visible in both views with another within 3 px. Keypoints
    of which nothing is known do not count.
    """
    sums = torch.zeros(5, dtype=torch.float64)
    for pair in match_pairs(extractor, pairs, max_num_keypoints):
        matches, right = len(pair.error), int((pair.error < RIGHT_PX).sum())
        sums += torch.tensor(
            [
                int((pair.error < 1).sum()) / max(matches, 1),
                right / max(matches, 1),
                int((pair.nearest < RIGHT_PX).sum()) / max(len(pair.nearest), 1),
                matches,
                right,
            ],
            dtype=torch.float64,
        )
    names = ('mma1', 'mma3', 'repeatability', 'matches', 'right')
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
