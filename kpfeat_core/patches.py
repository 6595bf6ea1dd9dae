"""
Square patches around keypoints, turned and scaled, and the orientation of their content.

The region of a keypoint is a square with a side in pixels, whose centre is the keypoint and whose
x axis points into the direction of the orientation: radians from the image's x towards its y.
"""

import math

import cv2
import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F

from .axes import Float
from .geometry import sample
from .image import gaussian_blur

BINS = 36
CHUNK = 512  # patches that are read at once: 4 MB of positions at 32 x 32
BLUR = 0.08  # of a patch before its gradients are taken, in sides of the patch
FLAT = 1e-4  # histograms below hold rounding and no gradient, with gray values in 0..1
SMOOTHING = 2  # passes over the histogram of three bins each
DESCRIPTOR_DIM = 128  # of SIFT
WIDTHS = 6  # side of the described region in keypoint sizes: 4 cells, each 1.5 sizes wide


def extract_patches(
    image: Float[Tensor, 'b c h w'],
    keypoints: Float[Tensor, 'b n 2'],
    side: float,
    orientations: Float[Tensor, 'b n'] | None = None,
    size: int = 32,
) -> Float[Tensor, 'b n c s s']:
    """
    Read the regions of keypoints as size x size patches, bilinear and antialiased.

    keypoints: (x, y) pixels; side: of the regions in pixels; orientations: radians, none for
    upright patches. Outside of the image the border pixels go on.
    """
    step = side / size
    if step > 1:  # a pixel is half a pixel wide, as a sigma, and a sample half a step
        image = gaussian_blur(image, 0.5 * math.sqrt(step**2 - 1))
    steps = (torch.arange(size, device=image.device, dtype=image.dtype) + 0.5) / size - 0.5
    y, x = torch.meshgrid(steps * side, steps * side, indexing='ij')
    grid = torch.stack([x, y], -1).view(-1, 2)
    patches = []
    for start in range(0, keypoints.shape[1], CHUNK):
        part = slice(start, start + CHUNK)
        offsets = grid.expand(len(image), 1, -1, -1)
        if orientations is not None:
            offsets = offsets @ _rotations(orientations[:, part]).mT
        points = keypoints[:, part, None] + offsets
        read = sample(image, points.flatten(1, 2), padding='border')
        patches.append(read.unflatten(1, (points.shape[1], size, size)).permute(0, 1, 4, 2, 3))
    if not patches:
        return image.new_zeros(len(image), 0, image.shape[1], size, size)
    return torch.cat(patches, 1)


def _rotations(angles: Float[Tensor, 'b n']) -> Float[Tensor, 'b n 2 2']:
    """Return the matrices that turn x towards y by these angles."""
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)


def dominant_orientations(patches: Float[Tensor, 'n s s']) -> Float[Tensor, ' n']:
    """
    Return the direction in which the most gradient of each patch points, in radians, -pi to pi.

    The peak of a histogram of 36 directions, weighted by the gradients' lengths and by a Gaussian
    around the centre, smoothed, and refined by a parabola through the highest bin and its
    neighbours (Lowe 2004, section 5). 0 for patches without any gradient.

    Patches are blurred first: differences of pixels favour some directions on the finest details,
    which cost 4 to 20 degrees on a photograph that was turned, and with the blur 1.
    """
    if not len(patches):
        return patches.new_zeros(0)
    # a matrix for each axis, several times faster than convolutions of many small images
    mixing = _blurring(patches)
    histogram = _orientation_histogram(mixing @ patches @ mixing.mT)
    for _ in range(SMOOTHING):
        histogram = (histogram.roll(1, 1) + histogram + histogram.roll(-1, 1)) / 3
    peak = histogram.argmax(1, keepdim=True)
    before, top, after = (histogram.gather(1, (peak + shift) % BINS)[:, 0] for shift in (-1, 0, 1))
    curvature = before - 2 * top + after
    shift = torch.where(curvature < 0, 0.5 * (before - after) / curvature, 0.0)
    angle = (peak[:, 0] + shift) * (2 * math.pi / BINS)
    angle = torch.where(angle > math.pi, angle - 2 * math.pi, angle)
    return angle * (top > FLAT)


def _blurring(patches: Float[Tensor, 'n s s']) -> Float[Tensor, 's s']:
    """Return the matrix that blurs the columns of a patch; its border pixels go on outside."""
    size = patches.shape[1]
    radius = math.ceil(3 * BLUR * size)
    steps = torch.arange(-radius, radius + 1, device=patches.device)
    weights = (-0.5 * (steps.to(patches.dtype) / (BLUR * size)).square()).softmax(0)
    rows = torch.arange(size, device=patches.device)[:, None]
    sources = (rows + steps).clamp(0, size - 1)
    return patches.new_zeros(size, size).scatter_add_(1, sources, weights.expand(size, -1))


def _orientation_histogram(patches: Float[Tensor, 'n s s']) -> Float[Tensor, 'n k']:
    """Share the length of each gradient between the two directions that are closest to its own."""
    dx = (patches[:, 1:-1, 2:] - patches[:, 1:-1, :-2]).flatten(1)
    dy = (patches[:, 2:, 1:-1] - patches[:, :-2, 1:-1]).flatten(1)
    size = patches.shape[1] - 2
    x = torch.arange(size, device=patches.device, dtype=patches.dtype) - (size - 1) / 2
    window = torch.exp(-x.square() / (2 * (size / 5) ** 2))
    lengths = torch.hypot(dx, dy) * torch.outer(window, window).flatten()
    bins = torch.atan2(dy, dx) * (BINS / (2 * math.pi))
    low = bins.floor()
    share = bins - low
    histogram = patches.new_zeros(len(patches), BINS)
    low = low.long()
    histogram.scatter_add_(1, low % BINS, lengths * (1 - share))
    return histogram.scatter_add_(1, (low + 1) % BINS, lengths * share)


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
        # class_id identifies each: SIFT may leave some out and change their order
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
