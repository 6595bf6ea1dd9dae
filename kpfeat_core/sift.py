"""OpenCV's SIFT descriptors at keypoints that something else found."""

import cv2
import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F

from .shapes import Float

DESCRIPTOR_DIM = 128
WIDTHS = 6  # side of the described region in keypoint sizes: 4 cells, each 1.5 sizes wide


def sift_descriptors(
    image: Float[Tensor, 'b 1 h w'],
    keypoints: Float[Tensor, 'b n 2'],
    side: float,
    orientations: Float[Tensor, 'b n'] | None = None,
) -> Float[Tensor, 'b n d']:
    """
    Describe square regions around keypoints by RootSIFT, in unit length.

    image: gray in 0..1; keypoints: (x, y) pixels; side: of the regions in pixels; orientations:
    radians, none for upright. Where nothing but one gray value is seen all components are equal.

    RootSIFT (Arandjelovic and Zisserman 2012): the square root of the shares of the directions.
    """
    sift = cv2.SIFT_create()
    pictures = image[:, 0].float().clamp(0, 1).mul(255).round().byte().cpu().numpy()
    points = keypoints.detach().float().cpu().numpy()
    angles = np.zeros(points.shape[:2])
    if orientations is not None:
        angles = np.rad2deg(orientations.detach().float().cpu().numpy()) % 360
    described = np.zeros((*points.shape[:2], DESCRIPTOR_DIM), np.float32)
    for b, picture in enumerate(pictures):
        # class_id tells which is which: SIFT may leave some out and change their order
        wanted = [
            cv2.KeyPoint(float(x), float(y), side / WIDTHS, float(angle), 1.0, 0, k)
            for k, ((x, y), angle) in enumerate(zip(points[b], angles[b], strict=True))
        ]
        if wanted:
            kept, values = sift.compute(picture, wanted)
            described[b, [point.class_id for point in kept]] = values
    shares = torch.from_numpy(described)
    shares = torch.where(shares.sum(-1, keepdim=True) > 0, shares, 1.0)
    return F.normalize(shares, p=1, dim=-1).sqrt().to(image.device)
