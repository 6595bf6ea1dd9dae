"""Features and matches of made-up frames, for tests of the nodes."""

from kpfeat_core.features import Features
from kpfeat_core.matching import PairMatches
import numpy as np
import torch


def shifted(count: int = 60, shift: float = 0.0) -> Features:
    """Return features of a flat scene, seen after a move by `shift` pixels to the right."""
    random = torch.Generator().manual_seed(0)
    keypoints = 20 + 500 * torch.rand(count, 2, generator=random)
    descriptors = torch.nn.functional.normalize(torch.randn(count, 32, generator=random), dim=1)
    order = torch.randperm(count, generator=random) if shift else torch.arange(count)
    arrays = {
        'keypoints': (keypoints + torch.tensor([shift, 0.0]))[order].numpy(),
        'keypoint_scores': np.linspace(1, 0.1, count, dtype=np.float32),
        'descriptors': descriptors[order].numpy(),
        'image_size': np.array([640, 480], np.float32),
    }
    return Features.from_numpy(arrays)


def pair_of(point0: tuple[float, float], point1: tuple[float, float]) -> PairMatches:
    one = np.zeros(1, np.int64)
    points = [np.array([point], np.float32) for point in (point0, point1)]
    return PairMatches(one, one, np.ones(1, np.float32), *points, np.ones(1, bool), 'none')
