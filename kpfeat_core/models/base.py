"""The extractor contract: `forward` to dense maps, `detect` keypoints, `describe` them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
import copy
from dataclasses import asdict, dataclass, replace
import math
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn, Tensor

from ..axes import Bool, Float, Int
from ..config import AUTO, ExtractorConfig, make_config
from ..errors import BadImageError, ConfigError, ImageError
from ..features import Features
from ..geometry import gather_rows
from ..image import (
    channels_last,
    image_to_tensor,
    ImageLike,
    MaskLike,
    masks_for,
    pad_to_stride,
    rescale_points,
    resize,
    scaled_size,
    shown_at,
    stack_masks,
)
from ..keypoints import (
    best_first,
    clear_borders,
    keep_first,
    Keypoints,
    select_best,
    suppress_non_maxima,
)
from ..runtime import free_memory, StageTimer

# On a CPU the maps of several images leave its caches: at 640x480 and eight together, an image
# took 0.9 to 1.7 times as long as alone (`kpfeat bench --batch 1 --batch 8`).
FASTER_IN_BATCHES = ('cuda', 'mps')
# What alike-t, the leanest, takes for a pixel at 2500x2500; others take up to 640.
PIXEL_BYTES = 120
SURELY_FITS = 1 << 24  # pixels; the free memory is asked for beyond
CPU_ALLOCATION = 'DefaultCPUAllocator'  # in what torch says where the CPU's memory is full
Converted = tuple[dict[str, Tensor], dict[str, str]]  # tensors of a network, its architecture
MOST_ENLARGED = 2  # networks were not trained on images that are more blurred; SIFT doubles, too


@dataclass(frozen=True)
class DenseMaps:
    """
    The output of a network for every pixel, or for every cell of a coarser grid.

    score_map (B, H, W): how good a keypoint each would be, not negative.
    descriptor_maps: the network's own, read by `describe`.
    positions (B, H, W, 2): the (x, y) pixel that each score belongs to, for networks that predict
        positions; None where it is the pixel itself.
    """

    score_map: Float[Tensor, 'b h w']
    descriptor_maps: tuple[Tensor, ...]
    positions: Float[Tensor, 'b h w 2'] | None = None


@dataclass(frozen=True)
class Pyramid:
    """
    Which scales an image is looked at with the option multi_scale, largest first.

    step: factor from one scale to the next. smallest: no scale below this. enlarged: number of
    scales above 1. budget: give each scale its share of the keypoints, by its area, instead of
    letting the scores of all scales compete. The defaults are those of ALIKE's published code.
    """

    step: float = 2**-0.5
    smallest: float = 0.3
    enlarged: int = 0
    budget: bool = False

    def sizes(self, size: tuple[int, int], min_side: int) -> list[tuple[int, int]]:
        """Return the (height, width) of each scale of an image; those below min_side fall away."""
        levels = []
        scale = self.step**-self.enlarged
        while scale > self.smallest * 0.999:  # powers of the step are not exact
            level = (round(size[0] * scale), round(size[1] * scale))
            if min(level) < min_side:
                break
            levels.append(level)
            scale *= self.step
        return levels

    def shares(self, sizes: list[tuple[int, int]], total: int) -> list[int]:
        """Return, for each scale, how many keypoints it and all larger ones may have together."""
        areas = torch.tensor([height * width for height, width in sizes], dtype=torch.float64)
        return (areas.cumsum(0) / areas.sum() * total).round().long().tolist()


class Extractor(nn.Module):
    """
    Base of all extractors.

    A subclass sets the class attributes, and defines `forward` and `describe`; `prepare`, `crop`
    and `detect` where its own are not the usual ones. `extract` is the fixed sequence and is not
    overridden.
    """

    config_class: ClassVar[type] = ExtractorConfig
    min_side: ClassVar[int] = 32
    # Options that shape the network, and the meaning of 'auto' without weights that set them.
    architecture: ClassVar[Mapping[str, str]] = {}
    pyramid: ClassVar[Pyramid] = Pyramid()
    submodule_advice: ClassVar[str] = ''  # how to give the weights of a submodule, or go without
    name: str
    stride: int
    channels: int
    descriptor_dim: int

    def __init__(self, config: ExtractorConfig | None = None) -> None:
        super().__init__()
        config = config or self.config_class()
        chosen = {k: v for k, v in self.architecture.items() if getattr(config, k) == AUTO}
        self.config = replace(config, **chosen)

    def prepare(self, image: Float[Tensor, 'b c h w']) -> Float[Tensor, 'b c h w']:
        """Turn an unpadded image in 0..1 into the network's input; by default it is that."""
        return image

    def forward(self, image: Float[Tensor, 'b c h w']) -> DenseMaps:
        """Compute dense maps of a prepared image with sides divisible by `stride`."""
        raise NotImplementedError

    def crop(self, maps: DenseMaps, size: tuple[int, int]) -> DenseMaps:
        """Remove everything outside the first (height, width) pixels, where the padding begins."""
        return replace(maps, score_map=maps.score_map[:, : size[0], : size[1]])

    def detect(self, maps: DenseMaps) -> Keypoints:
        """Select keypoints: non-maximum suppression, border, threshold, best N."""
        with torch.no_grad():
            peaks = suppress_non_maxima(maps.score_map.detach(), self.config.nms_radius)
            xy, scores, mask = self.select(peaks)
        return Keypoints(xy.to(maps.score_map.dtype), scores, mask)

    def select(
        self, peaks: Float[Tensor, 'b h w']
    ) -> tuple[Int[Tensor, 'b n 2'], Float[Tensor, 'b n'], Bool[Tensor, 'b n']]:
        """Clear the border of a map of maxima and take the best: (x, y), scores and mask."""
        config = self.config
        peaks = clear_borders(peaks, config.remove_borders, config.remove_borders)
        return select_best(peaks, config.detection_threshold, config.max_num_keypoints)

    def describe(self, maps: DenseMaps, found: Keypoints) -> Float[Tensor, 'b n d']:
        """Read unit-length descriptors at keypoints, which are in pixels of the maps."""
        raise NotImplementedError

    def convert_checkpoint(self, state: dict[str, Tensor]) -> Converted:
        """
        Turn the state dict of a published checkpoint into (tensors of `network`, architecture).

        architecture: options of `architecture` that follow from the tensors. By default nothing
        changes.
        """
        return state, {}

    @property
    def network(self) -> nn.Module:
        """Return the module whose tensors the weight file of this model holds."""
        return self

    def submodules(self) -> dict[str, tuple[nn.Module, str]]:
        """Return networks with weight files of their own: name to (module, file given or '')."""
        return {}

    def with_options(self, **options: Any) -> 'Extractor':
        """
        Return an extractor that shares this network and differs in these options.

        Raises ConfigError for unknown options, wrong values, and options that shape the network.
        """
        for name in self.architecture:
            value, own = options.get(name, AUTO), getattr(self.config, name)
            if value not in (AUTO, own):
                raise ConfigError(
                    f"{name}='{value}' shapes the network, and this one was built with "
                    f"{name}='{own}'; create another extractor"
                )
            options[name] = own
        other = copy.copy(self)
        other.config = make_config(type(self.config), asdict(self.config) | options)
        return other

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @torch.no_grad()  # not inference_mode, whose tensors cannot be trained on or changed
    def extract(
        self,
        image: ImageLike | Sequence[ImageLike],
        masks: MaskLike | Sequence[MaskLike | None] | None = None,
    ) -> Features:
        """
        Extract features of one image, a batch, or a list of images of any sizes.

        image: (H, W) or (H, W, 3) RGB array, or (C, H, W) or (B, C, H, W) tensor; uint8, or float
        in 0..1; any H, W from 32 pixels on. A list gives one batch entry per image, in order. On a
        GPU its images of equal size go through the network together, and memory grows with their
        number; a CPU takes one after the other.

        masks: bool, of the size of the image; one (H, W) for all images, or a list with one, or
        None, for each. Keypoints lie only where the mask is true, and the best are chosen of
        those alone.

        Keypoints are (x, y) pixels of the images given, best first. Raises ImageError, also for
        images that take more memory than there is.
        """
        with _memory_told():
            return self._extract(image, masks)

    def _extract(self, image: Any, masks: Any) -> Features:
        if not isinstance(image, (list, tuple)):
            self._check_memory(image)
            batch = image_to_tensor(image, self.channels)
            fitting = masks_for(masks, [batch.shape[-2:]] * len(batch))
            return self._extract_batch(batch, stack_masks(fitting, self.device))
        if not image:
            raise ImageError('got an empty list of images, expected at least one')
        # a batch in the list counts as its images
        for item in image:
            self._check_memory(item)
        images = [one for item in image for one in image_to_tensor(item, self.channels).split(1)]
        fitting = masks_for(masks, [one.shape[-2:] for one in images])
        groups: dict[Any, list[int]] = {}
        for b, one in enumerate(images):
            together = self.device.type in FASTER_IN_BATCHES
            groups.setdefault((one.shape, one.device) if together else b, []).append(b)
        found: dict[int, Features] = {}
        for rows in groups.values():
            batch = torch.cat([images[b] for b in rows])
            shown = stack_masks([fitting[b] for b in rows], self.device)
            features = self._extract_batch(batch, shown)
            found |= {b: features.select(i) for i, b in enumerate(rows)}
        return Features.cat([found[b] for b in range(len(images))])

    def _check_memory(self, image: Any) -> None:
        """Refuse an image that fills the memory: where it is full, the system ends the process."""
        shape = tuple(getattr(image, 'shape', ()))
        sides = shape[:2] if isinstance(image, np.ndarray) else shape[-2:]
        if len(sides) < 2 or min(sides) < 1 or math.prod(sides) < SURELY_FITS:
            return
        worked_on = math.prod(self.working_size(*sides)) if self.device.type == 'cpu' else 0
        needed = PIXEL_BYTES * worked_on + 4 * self.channels * math.prod(sides)
        free = free_memory()
        if free is not None and needed > free:
            raise BadImageError(
                'memory',
                f'image is {sides[1]}x{sides[0]} pixels, which takes {1e-9 * needed:.0f} GB of '
                f'memory or more, and {1e-9 * free:.0f} GB are free; make it smaller, such as '
                'with the option resize',
            )

    def _extract_batch(
        self, image: Float[Tensor, 'b c h w'], masks: Bool[Tensor, 'b h w'] | None
    ) -> Features:
        height, width = image.shape[-2:]
        if min(height, width) < self.min_side:
            raise ImageError(
                f'image is {width}x{height} pixels; {self.name} needs at least '
                f'{self.min_side}x{self.min_side}'
            )
        timer = StageTimer(self.device)
        image = image.to(self.device)
        timer.end('transfer')
        size = self.working_size(height, width)
        if min(size) < self.min_side:
            raise ImageError(
                f'resize={self.config.resize} makes a {width}x{height} image {size[1]}x{size[0]}; '
                f'{self.name} needs at least {self.min_side} pixels a side'
            )
        if not self.config.multi_scale:
            return self._extract_level(image, size, masks)
        sizes = self.pyramid.sizes(size, self.min_side)
        if not self.pyramid.budget or self.config.max_num_keypoints < 0:
            levels = [self._extract_level(image, level, masks) for level in sizes]
        else:
            levels = self._extract_shares(image, sizes, masks)
        return _merge_levels(levels, self.config.max_num_keypoints)

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) at which an image is worked on by the options."""
        long_side = self.config.resize
        if long_side < 0:
            largest = MOST_ENLARGED * max(height, width)
            long_side = max(height, width, min(self.config.upsample_to, largest))
        return scaled_size(height, width, long_side)

    def _extract_shares(
        self,
        image: Float[Tensor, 'b c h w'],
        sizes: list[tuple[int, int]],
        masks: Bool[Tensor, 'b h w'] | None,
    ) -> list[Features]:
        """Extract a share of the keypoints on each level; the next gets what one leaves over."""
        levels = []
        taken = torch.zeros(len(image), dtype=torch.long, device=image.device)
        for upto, size in zip(
            self.pyramid.shares(sizes, self.config.max_num_keypoints), sizes, strict=True
        ):
            allowed = upto - taken
            if not allowed.any():  # too few keypoints are asked for to have a share here
                continue
            limited = self.with_options(max_num_keypoints=int(allowed.max()))
            found = limited._extract_level(image, size, masks)
            levels.append(found.first(allowed))
            taken += levels[-1].mask.sum(1)
        return levels

    def _extract_level(
        self,
        image: Float[Tensor, 'b c h w'],
        size: tuple[int, int],
        masks: Bool[Tensor, 'b h w'] | None,
    ) -> Features:
        """Extract at one scale; keypoints come back in pixels of the source image."""
        timer = StageTimer(self.device)
        source = image.shape[-2:]
        small = self.prepare(resize(image, size))
        small = pad_to_stride(small.to(next(self.parameters()).dtype), self.stride)
        maps = self(channels_last(small))
        timer.end('network')
        # half precision has no room for positions, whatever the network computes in
        exact = torch.promote_types(maps.score_map.dtype, torch.float32)
        maps = self.crop(replace(maps, score_map=maps.score_map.to(exact)), size)
        found = best_first(self._detect_shown(maps, size, masks))
        timer.end('detect')
        descriptors = self.describe(maps, found).float()
        timer.end('describe')
        keypoints = _in_source(found.keypoints, size, source)
        shown = found.mask[..., None]
        orientations = found.orientations
        return Features(
            keypoints=keypoints * shown,
            keypoint_scores=found.keypoint_scores.float() * found.mask,
            descriptors=descriptors * shown,
            mask=found.mask,
            image_size=keypoints.new_tensor([source[1], source[0]]).expand(len(image), 2),
            scales=found.mask * (source[1] / size[1]) if self.config.multi_scale else None,
            orientations=None if orientations is None else orientations.float() * found.mask,
        )

    def _detect_shown(
        self, maps: DenseMaps, size: tuple[int, int], masks: Bool[Tensor, 'b h w'] | None
    ) -> Keypoints:
        """Detect the best keypoints that the masks, in pixels of the source image, show."""
        if masks is None:
            return self.detect(maps)
        # All of them first: many of the best N may be hidden, and the pixel of a keypoint is known
        # after its refinement. Only the chosen ones are described, since that takes memory.
        every = self.with_options(max_num_keypoints=-1).detect(maps)
        shown = shown_at(masks, _in_source(every.keypoints, size, masks.shape[-2:]))
        return keep_first(every, shown, self.config.max_num_keypoints)


@contextmanager
def _memory_told() -> Iterator[None]:
    """Raise BadImageError where the CPU's memory is too small; torch has no class for that."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and CPU_ALLOCATION not in str(error):
            raise
        raise BadImageError(
            'memory',
            'image takes more memory than there is; make it smaller, such as with the option '
            'resize, or ask for fewer keypoints',
        ) from error


def _in_source(
    keypoints: Float[Tensor, 'b n 2'], size: tuple[int, int], source: tuple[int, int]
) -> Float[Tensor, 'b n 2']:
    """Move keypoints of an image of (height, width) `size` into the source that it was made of."""
    keypoints = rescale_points(keypoints.float(), size, source)
    if max(size) > max(source):  # the outermost pixels of an enlarged image were made up
        last = keypoints.new_tensor([source[1] - 1, source[0] - 1])
        keypoints = keypoints.clamp(min=torch.zeros_like(last), max=last)
    return keypoints


def _merge_levels(levels: list[Features], most: int) -> Features:
    """Join the keypoints of all scales of the same images, best first; keep at most `most`."""
    scores = torch.cat([level.keypoint_scores for level in levels], 1)
    mask = torch.cat([level.mask for level in levels], 1)
    count = int(mask.sum(1).max())
    if most >= 0:
        count = min(count, most)
    best = torch.where(mask, scores, -torch.inf).topk(count, dim=1).indices

    def pick(name: str) -> Tensor | None:
        values = [getattr(level, name) for level in levels]
        return None if values[0] is None else gather_rows(torch.cat(values, 1), best)

    names = ('keypoints', 'keypoint_scores', 'descriptors', 'mask', 'scales', 'orientations')
    return Features(image_size=levels[0].image_size, **{name: pick(name) for name in names})
