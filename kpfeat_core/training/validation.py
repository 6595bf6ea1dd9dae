"""Numbers that tell during training whether it gets better: the same pairs every time."""

import torch
from torch import Tensor

from ..data.homography_pairs import PairBatch
from ..geometry import inside, warp_points
from ..matchers import MutualNearestNeighbour
from ..models.base import Extractor
from ..shapes import Float


def validate(
    extractor: Extractor, pairs: PairBatch, max_num_keypoints: int = 512
) -> dict[str, float]:
    """
    Return mean matching accuracy at 1 and 3 px, repeatability at 3 px, and counts.

    Accuracy is the share of mutual nearest neighbours within the threshold of the truth;
    repeatability the share of keypoints visible in both views with another within 3 px.
    """
    extractor = extractor.with_options(
        max_num_keypoints=max_num_keypoints, detection_threshold=0.0
    )
    training = extractor.training
    extractor.eval()
    matcher = MutualNearestNeighbour()
    sums = torch.zeros(5, dtype=torch.float64)
    for b in range(len(pairs.H_0to1)):
        sums += _measure(extractor, matcher, pairs.images[:, b], pairs.H_0to1[b : b + 1])
    extractor.train(training)
    mma1, mma3, repeatability, matches, right = (sums / len(pairs.H_0to1)).tolist()
    return {
        'mma1': mma1,
        'mma3': mma3,
        'repeatability': repeatability,
        'matches': matches,
        'right': right,
    }


def _measure(
    extractor: Extractor,
    matcher: MutualNearestNeighbour,
    images: Float[Tensor, '2 3 v v'],
    H_0to1: Float[Tensor, '1 3 3'],
) -> Float[Tensor, ' 5']:
    features = [extractor.extract(image) for image in images]
    index = matcher.match(*features).pairs()
    truth = warp_points(features[0].keypoints.cpu(), H_0to1.cpu())
    other = features[1].keypoints.cpu()
    index = index.cpu()
    error = (truth[0, index[:, 0]] - other[0, index[:, 1]]).norm(dim=-1)
    seen = inside(truth[0], *images.shape[-2:])
    nearest = (truth[0, seen][:, None] - other[0]).norm(dim=-1)
    near = nearest.amin(1) if nearest.numel() else truth.new_zeros(0)
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
