"""Numbers that tell during training whether it gets better: the same pairs every time."""

from dataclasses import replace

import torch
from torch import Tensor

from ..data.view_pairs import ViewPairs
from ..matchers import MutualNearestNeighbour
from ..models.base import Extractor
from ..shapes import Float


def validate(
    extractor: Extractor, pairs: ViewPairs, max_num_keypoints: int = 512
) -> dict[str, float]:
    """
    Return mean matching accuracy at 1 and 3 px, repeatability at 3 px, and counts.

    Accuracy is the share of mutual nearest neighbours within the threshold of the truth;
    repeatability the share of keypoints visible in both views with another within 3 px. Keypoints
    of which nothing is known do not count.
    """
    extractor = extractor.with_options(
        max_num_keypoints=max_num_keypoints, detection_threshold=0.0
    )
    training = extractor.training
    extractor.eval()
    matcher = MutualNearestNeighbour()
    sums = torch.zeros(5, dtype=torch.float64)
    # what mirrors a photograph around it follows the same geometry
    pairs = replace(pairs, valid=torch.ones_like(pairs.valid))
    for b in range(len(pairs)):
        sums += _measure(extractor, matcher, pairs.part(b, len(pairs)))
    extractor.train(training)
    mma1, mma3, repeatability, matches, right = (sums / len(pairs)).tolist()
    return {
        'mma1': mma1,
        'mma3': mma3,
        'repeatability': repeatability,
        'matches': matches,
        'right': right,
    }


def _measure(
    extractor: Extractor, matcher: MutualNearestNeighbour, pair: ViewPairs
) -> Float[Tensor, ' 5']:
    features = [extractor.extract(image) for image in pair.images[:, 0]]
    index = matcher.match(*features).pairs()
    truth = pair.warp(features[0].keypoints.to(pair.images.device), 0)
    known = (truth.visible | truth.outside)[0].cpu()
    seen, place = truth.visible[0].cpu(), truth.points[0].cpu()
    other = features[1].keypoints.cpu()
    index = index.cpu()
    index = index[known[index[:, 0]]]
    error = (place[index[:, 0]] - other[0, index[:, 1]]).norm(dim=-1)
    nearest = (place[seen][:, None] - other[0]).norm(dim=-1)
    near = nearest.amin(1) if nearest.numel() else place.new_zeros(0)
    count = max(len(error), 1)
    right = int((error < 3).sum())
    return torch.tensor(
        [
            int((error < 1).sum()) / count,
            right / count,
            int((near < 3).sum()) / max(len(near), 1),
            len(error),
            right,
        ],
        dtype=torch.float64,
    )
