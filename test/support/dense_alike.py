"""
ALIKE the straightforward way: every map at full resolution, the image unfolded.

What the paper and the published code describe, written down plainly, as the yardstick for the
speed and the output of `kpfeat_core.models.alike`. Zhao et al., ALIKE, IEEE TMM 2022, section 3.
"""

from kpfeat_core.features import Features
from kpfeat_core.geometry import pixel_grid
from kpfeat_core.models.alike import Alike, Block
from kpfeat_core.models.base import DenseMaps
import torch
from torch import Tensor
import torch.nn.functional as F

RADIUS = 2  # of the soft window; the hard maxima use the configuration's nms_radius
TEMPERATURE = 0.1


def dense_descriptors(extractor: Alike, maps: DenseMaps) -> Tensor:
    """Return the unit descriptors (B, D, H, W) that the extractor gives to all pixels."""
    height, width = maps.descriptor_maps[0].shape[-2:]
    grid = pixel_grid(height, width).expand(len(maps.score_map), -1, -1)
    return extractor.describe_pixels(maps, grid).mT.unflatten(2, (height, width))


@torch.inference_mode()
def extract_densely(extractor: Alike, image: Tensor) -> Features:
    """
    Extract one image (1, 3, H, W) with the extractor's weights and options, at one scale.

    Equals `extractor.extract` to rounding; sub-pixel keypoints only.
    """
    height, width = image.shape[-2:]
    padded = F.pad(image, (0, -width % 32, 0, -height % 32))
    score_map, descriptor_map = dense_maps(extractor, padded)
    score_map = score_map[..., :height, :width]
    descriptor_map = descriptor_map[..., :height, :width]
    peaks = select_peaks(extractor, score_map)
    keypoints = unfold_and_refine(score_map, peaks)
    grid = keypoints / keypoints.new_tensor([width - 1, height - 1]) * 2 - 1
    grid = grid[None, None]  # (1, 1, N, 2)
    scores = F.grid_sample(score_map, grid, align_corners=True)[:, 0, 0]
    descriptors = F.grid_sample(descriptor_map, grid, align_corners=True)[:, :, 0].mT
    return Features(
        keypoints=keypoints[None],
        keypoint_scores=scores,
        descriptors=F.normalize(descriptors, dim=2),
        mask=torch.ones_like(scores, dtype=torch.bool),
        image_size=keypoints.new_tensor([[width, height]]),
    )


def dense_maps(net: Alike, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the score map (1, 1, H, W) and the unit descriptor map (1, D, H, W)."""
    x1 = run_block(net.block1, image)
    x2 = run_block(net.block2, F.max_pool2d(x1, 2))
    x3 = run_block(net.block3, F.max_pool2d(x2, 4))
    x4 = run_block(net.block4, F.max_pool2d(x3, 4))
    first = F.relu(F.conv2d(x1, net.conv1.weight))
    second = upsample(F.relu(F.conv2d(x2, net.conv2.weight)), 2)
    third = upsample(F.relu(F.conv2d(x3, net.conv3.weight)), 8)
    fourth = upsample(F.relu(F.conv2d(x4, net.conv4.weight)), 32)
    joined = torch.cat([first, second, third, fourth], dim=1)
    if net.convhead1 is not None:
        joined = F.relu(F.conv2d(joined, net.convhead1.weight))
    out = F.conv2d(joined, net.convhead2.weight)
    return torch.sigmoid(out[:, -1:]), F.normalize(out[:, :-1], dim=1)


def run_block(block: Block, x: Tensor) -> Tensor:
    """Apply two 3x3 convolutions with batch normalisation, and the residual where there is one."""
    y = F.relu(block.bn1(F.conv2d(x, block.conv1.weight, padding=1)))
    y = block.bn2(F.conv2d(y, block.conv2.weight, padding=1))
    if block.downsample is not None:
        y = y + F.conv2d(x, block.downsample.weight, block.downsample.bias)
    return F.relu(y)


def upsample(x: Tensor, factor: int) -> Tensor:
    """Upsample bilinearly with the corner pixels aligned."""
    return F.interpolate(x, scale_factor=factor, mode='bilinear', align_corners=True)


def select_peaks(extractor: Alike, score_map: Tensor) -> Tensor:
    """Return the flat indices of the best maxima, best first."""
    config = extractor.config
    size, radius = 2 * config.nms_radius + 1, config.nms_radius

    def largest(x: Tensor) -> Tensor:
        return F.max_pool2d(x, size, 1, radius)

    kept = score_map == largest(score_map)
    for _ in range(2):
        suppressed = largest(kept.float()) > 0
        rest = torch.where(suppressed, torch.zeros_like(score_map), score_map)
        kept = kept | ((rest == largest(rest)) & ~suppressed)
    peaks = torch.where(kept, score_map, torch.zeros_like(score_map))
    before, after = config.remove_borders + int(config.upstream_borders), config.remove_borders
    peaks[..., :before, :] = 0
    peaks[..., :before] = 0
    if after > 0:
        peaks[..., -after:, :] = 0
        peaks[..., -after:] = 0
    flat = peaks.flatten()
    order = flat.argsort(descending=True)
    order = order[flat[order] > config.detection_threshold]
    return order if config.max_num_keypoints < 0 else order[: config.max_num_keypoints]


def unfold_and_refine(score_map: Tensor, peaks: Tensor) -> Tensor:
    """Return sub-pixel keypoints (N, 2) from the 25 x H W unfolded score map."""
    width = score_map.shape[-1]
    windows = F.unfold(score_map, 2 * RADIUS + 1, padding=RADIUS)[0].mT[peaks]  # (N, 25)
    weights = ((windows - windows.amax(1, keepdim=True)) / TEMPERATURE).exp()
    step = torch.arange(-RADIUS, RADIUS + 1.0)
    offsets = torch.stack(torch.meshgrid(step, step, indexing='xy'), -1).view(-1, 2)
    residual = weights @ offsets / weights.sum(1, keepdim=True)
    return torch.stack([peaks % width, peaks // width], 1) + residual
