"""An extractor that knows the truth, and pairs for it."""

from kpfeat_core.evaluation import Evaluator, PlanarPair, PROTOCOLS
from kpfeat_core.features import Features
import numpy as np
import torch
import torch.nn.functional as F

DEFAULT = PROTOCOLS['default']


class GridExtractor:
    """Finds fixed points; two images get the same descriptors in the same order."""

    def __init__(self, points_of_width):
        self.points_of_width = points_of_width
        self.calls = 0

    def with_options(self, max_num_keypoints):
        self.limit = max_num_keypoints
        return self

    def extract(self, image):
        self.calls += 1
        points = torch.as_tensor(self.points_of_width[image.shape[1]], dtype=torch.float32)
        count = len(points)
        return Features(
            keypoints=points[None],
            keypoint_scores=torch.linspace(1, 0.5, count)[None],
            descriptors=F.normalize(torch.eye(60)[:count] + 0.01, dim=-1)[None],
            mask=torch.ones(1, count, dtype=torch.bool),
            image_size=torch.tensor([[float(image.shape[1]), float(image.shape[0])]]),
        )


POINTS = np.array([[10.0, 14.0], [90.0, 12.0], [80.0, 60.0], [15.0, 70.0], [50.0, 33.0]])


def blank_pair(H_0to1, width0=100, width1=101, height=80):
    views = [np.zeros((height, width, 3), np.uint8) for width in (width0, width1)]
    return PlanarPair('group', 'group/pair', *views, H_0to1)


def values(extractor, pair, protocol=DEFAULT):
    return Evaluator(extractor, protocol)(pair).values
