"""Photographs with depth of a room whose every point is known, for tests of pairs with depth."""

from kpfeat_core.data.depth_pairs import DepthConfig
from kpfeat_core.data.photometric import PhotometricConfig
import numpy as np
from raycast import Room, walk
import torch

ROOM, CAMERAS = Room(), [walk(6)[1], walk(6)[3]]  # of different sizes and focal lengths
EXACT = DepthConfig(depth_tolerance=0.005, depth_edge=0.003)
CALM = PhotometricConfig(
    brightness=0, contrast=0, gamma=0, saturation=0, tint=0, gray_share=0,
    shade_share=0, blur_share=0, noisy_share=0,
)  # fmt: skip


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cast(view: int, pixels, K):
    """Return depth, surface and world points that pixels of a camera with another K show."""
    camera = CAMERAS[view]
    rays = camera.rays(np.asarray(pixels, np.float64), np.asarray(K, np.float64))
    depth, surface = ROOM.cast(camera.origin, rays)
    return depth, surface, camera.origin + rays * depth[:, None]
