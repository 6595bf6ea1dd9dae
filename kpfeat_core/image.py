"""Images in and out of tensors, and resizing with exact coordinates."""

from collections.abc import Sequence
import math
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F

from .axes import Bool, Float
from .errors import ImageError
from .geometry import flat_index

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, the weights of OpenCV's RGB to gray
ImageLike = np.ndarray | Tensor
# Markers of JPEG (ITU-T T.81, annex B)
START_OF_IMAGE, START_OF_SCAN, END_OF_IMAGE = b'\xff\xd8', b'\xff\xda', b'\xff\xd9'
MaskLike = np.ndarray | Tensor


def read_image(path: Path | str, upright: bool = True, all_bits: bool = False) -> np.ndarray:
    """
    Read a file as (H, W, 3) uint8 RGB; raises ImageError.

    upright: turn the picture by the file's EXIF data, as viewers do; COLMAP and hloc do not.
    all_bits: give files of 16 bits as float32 in 0..1; else only the upper 8 are kept. Gray is
    repeated, transparency is dropped.
    """
    flags = cv2.IMREAD_COLOR
    flags |= 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
    flags |= cv2.IMREAD_ANYDEPTH if all_bits else 0
    path = Path(path)
    try:  # not cv2.imread: it cannot tell a missing file from a broken one, nor read odd paths
        if path.is_dir():
            raise ImageError(f"'{path}' is a folder, expected an image; name one of its files")
        if not path.is_file():
            raise ImageError(f"there is no file '{path}'")
        image = decode_picture(np.fromfile(path, np.uint8), flags)
    except OSError as error:
        raise ImageError(f"'{path}' cannot be read: {error.strerror or error}") from error
    except cv2.error as error:
        raise ImageError(f"'{path}' cannot be decoded: {decoding_problem(error)}") from error
    if image is None:
        raise ImageError(f"'{path}' is not an image that OpenCV can decode, or it is cut off")
    if image.dtype == np.uint16:
        image = image.astype(np.float32) / 65535
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def write_image(path: Path | str, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB in the format of the file's ending; raises ImageError."""
    path = Path(path)
    if image.dtype != np.uint8:
        raise ImageError(f'image has type {image.dtype}, expected uint8; `to_rgb8` makes it so')
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        done, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error:
        done = False
    if not done:
        raise ImageError(f"cannot write '{path}': use an ending such as .png or .jpg")
    path.write_bytes(data)  # its errors have a reason, unlike those of tofile


def image_to_tensor(image: ImageLike, channels: int = 3) -> Float[Tensor, 'b c h w']:
    """
    Turn an image, or a batch of one size, into (B, channels, H, W) float32 in [0, 1].

    image: array (H, W), (H, W, 1), (H, W, 3) RGB, or tensor (H, W), (C, H, W), (B, C, H, W);
    uint8 in 0..255 or floating point in 0..1. Gray is repeated for 3 channels, RGB becomes
    gray by ITU-R BT.601 for 1.

    Raises ImageError for any other shape or type, for empty images, and for NaN or infinity.
    """
    if isinstance(image, np.ndarray):
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
            raise ImageError(f'image has shape {image.shape}, expected (H, W) or (H, W, 3) RGB')
        if image.dtype not in (np.uint8, np.float16, np.float32, np.float64):
            raise ImageError(
                f'image has type {image.dtype}, expected uint8, or float in 0 to 1; divide it by '
                'its full scale, 65535 for 16 bits'
            )
        # a copy of read-only arrays, such as a message's data, which torch warns about
        array = np.require(image, requirements=('C', 'W'))
        tensor = torch.from_numpy(array)
        # the batch axis comes first: added later, its stride would hide from the convolutions
        # that the channels already come last, and they would take a path 15 times slower
        tensor = tensor[None, None] if tensor.ndim == 2 else tensor[None].permute(0, 3, 1, 2)
    elif isinstance(image, Tensor):
        tensor = image[None] if image.ndim == 2 else image
    else:
        raise ImageError(
            f'got {type(image).__name__}, expected an array or a tensor; `read_image` reads files'
        )
    if tensor.ndim == 3:
        tensor = tensor[None]
    if tensor.ndim != 4 or tensor.shape[1] not in (1, 3):
        raise ImageError(
            f'image has shape {tuple(image.shape)}, expected (C, H, W) or (B, C, H, W), C 1 or 3'
        )
    if tensor.numel() == 0:
        raise ImageError(f'image has shape {tuple(image.shape)}: it is empty')
    return match_channels(_to_unit_range(tensor), channels)


def _to_unit_range(tensor: Tensor) -> Tensor:
    if tensor.dtype == torch.uint8:
        return tensor.float() / 255.0
    if not tensor.is_floating_point():
        raise ImageError(f'image has type {tensor.dtype}, expected uint8 or float')
    low, high = tensor.aminmax()  # NaN propagates to both
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise ImageError('image holds NaN or infinite values; replace them first')
    if low < -1e-3 or high > 1.0 + 1e-3:
        raise ImageError(
            f'float image spans {float(low):g} to {float(high):g}, expected 0 to 1; divide it '
            'by its full scale, or pass uint8'
        )
    return tensor.float()


def match_channels(
    tensor: Float[Tensor, 'b c h w'], channels: int
) -> Float[Tensor, 'b channels h w']:
    """Repeat gray for 3 channels; turn RGB into gray by ITU-R BT.601 for 1."""
    if tensor.shape[1] == channels:
        return tensor
    if channels == 3:
        return tensor.expand(-1, 3, -1, -1)
    red, green, blue = tensor.split(1, 1)  # this way gray images keep their values exactly
    return green + LUMA[0] * (red - green) + LUMA[2] * (blue - green)


def channels_last(image: Float[Tensor, 'b c h w']) -> Float[Tensor, 'b c h w']:
    """
    Let channels come last in memory, with which convolutions on a CPU are 2 to 15 times faster.

    `contiguous` leaves images of one channel as they are, and convolutions go by their strides.
    """
    if image.shape[1] == 1:
        return image.contiguous()[:, 0, :, :, None].permute(0, 3, 1, 2)
    return image.contiguous(memory_format=torch.channels_last)


def pad_to_stride(image: Float[Tensor, 'b c h w'], stride: int) -> Float[Tensor, 'b c h2 w2']:
    """Add zeros at the right and the bottom until both sides divide by the stride."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % stride, 0, -height % stride))


def scaled_size(height: int, width: int, long_side: int) -> tuple[int, int]:
    """Return (height, width) with the given long side; -1 keeps the size."""
    if long_side < 0:
        return height, width
    scale = long_side / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize(image: Float[Tensor, 'b c h w'], size: tuple[int, int]) -> Float[Tensor, 'b c h2 w2']:
    """Resize to (height, width), bilinear, with pixel areas aligned and antialiased."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.interpolate(image, size, mode='bilinear', align_corners=False, antialias=True)


def gaussian_blur(
    images: Float[Tensor, 'b c h w'], sigma: float | Float[Tensor, ' b'], radius: int | None = None
) -> Float[Tensor, 'b c h w']:
    """
    Blur images with a Gaussian: one sigma in pixels for all of them, or one for each.

    radius: how far it reaches, by default three sigma; needed where sigma is a tensor.
    """
    if radius is None:
        radius = max(1, math.ceil(3 * sigma))
    x = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    width = sigma[:, None] if isinstance(sigma, Tensor) else sigma
    weights = torch.exp(-x.square() / (2 * width**2))
    return filter_separably(images, weights / weights.sum(-1, keepdim=True))


def filter_separably(
    images: Float[Tensor, 'b c h w'], weights: Tensor, padding: str = 'replicate'
) -> Float[Tensor, 'b c h w']:
    """Apply a filter (2 r + 1,), or one for each image (B, 2 r + 1), to rows and then columns."""
    channels, radius = images.shape[1], weights.shape[-1] // 2
    padded = F.pad(images, (radius,) * 4, padding)
    if weights.ndim == 1:
        kernel = weights.expand(channels, 1, 1, -1)
        rows = F.conv2d(channels_last(padded), kernel, groups=channels)
        return F.conv2d(rows, kernel.mT, groups=channels)
    kernel = weights.repeat_interleave(channels, 0)[:, None, None]
    rows = F.conv2d(padded.flatten(0, 1)[None], kernel, groups=len(kernel))
    return F.conv2d(rows, kernel.mT, groups=len(kernel)).view(images.shape)


def upsample_rows(
    maps: Float[Tensor, 'b c h w'], size: tuple[int, int], rows: slice
) -> Float[Tensor, 'b c r w2']:
    """Return some rows of the maps upsampled to (height, width), bilinear, corners aligned."""
    count = rows.stop - rows.start
    if count < size[0]:
        last = maps.shape[2] - 1
        y = torch.arange(rows.start, rows.stop, device=maps.device) * (last / max(size[0] - 1, 1))
        low = y.long().clamp(max=max(last - 1, 0))
        share = (y - low).to(maps.dtype)[:, None, None]
        lines = maps.permute(0, 2, 3, 1)  # keeps channels last where they are
        lines = torch.lerp(lines[:, low], lines[:, (low + 1).clamp(max=last)], share)
        maps = lines.permute(0, 3, 1, 2)
    return F.interpolate(maps, (count, size[1]), mode='bilinear', align_corners=True)


def rescale_points(
    points: Float[Tensor, '... 2'], from_size: Sequence[int], to_size: Sequence[int]
) -> Float[Tensor, '... 2']:
    """
    Move points with an image that `resize` brought from one (height, width) to another.

    The outer edges of both images coincide (pixel areas align): x' = (x + 0.5) w'/w - 0.5.
    """
    scale = points.new_tensor([to_size[1] / from_size[1], to_size[0] / from_size[0]])
    return (points + 0.5) * scale - 0.5


def decoding_problem(error: cv2.error) -> str:
    """Return in words why OpenCV raised an error for a picture that it was to decode."""
    if 'IMAGE_PIXELS' in str(error) or 'IMAGE_WIDTH' in str(error) or 'IMAGE_HEIGHT' in str(error):
        return 'it claims more pixels than OpenCV takes, or it is damaged'
    return 'it is empty or damaged'


def decode_picture(data: np.ndarray, flags: int) -> np.ndarray | None:
    """
    Decode a file's bytes (N,) as cv2.imdecode does; None for no picture and for one cut off.

    Of a JPEG file that is cut off, OpenCV 4.6 makes a picture whose last rows are repeated to its
    full height, and would have features found there. Raises cv2.error.
    """
    return None if _is_cut_jpeg(data.tobytes()) else cv2.imdecode(data, flags)


def _is_cut_jpeg(data: bytes) -> bool:
    if not data.startswith(START_OF_IMAGE):
        return False
    place = len(START_OF_IMAGE)
    # over the segments before the pixels: a thumbnail among them has an end of its own
    while data[place : place + 1] == b'\xff' and data[place : place + 2] != START_OF_SCAN:
        place += 2 + int.from_bytes(data[place + 2 : place + 4], 'big')
    return data.find(END_OF_IMAGE, place) < 0


def fit(image: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Reduce an image so that it fits into (width, height), keeping its shape; never enlarge."""
    height, width = image.shape[:2]
    scale = 1.0 if size is None else min(size[0] / width, size[1] / height)
    if scale >= 1:
        return image
    smaller = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)


def masks_for(
    masks: MaskLike | Sequence[MaskLike | None] | None, sizes: Sequence[tuple[int, int]]
) -> list[Bool[Tensor, 'h w'] | None]:
    """
    Return the mask of each of several images of these (height, width); None shows all.

    masks: one (H, W) for all images, or one for each.

    Raises ImageError where a mask does not fit its image.
    """
    if masks is None or getattr(masks, 'ndim', 3) != 3:
        masks = [masks] * len(sizes)
    if len(masks) != len(sizes):
        raise ImageError(
            f'got {len(masks)} masks for {len(sizes)} images, expected one (H, W) for all of '
            'them, or a list with one, or None, for each'
        )
    return [m if m is None else _to_tensor(m, *s) for m, s in zip(masks, sizes, strict=True)]


def _to_tensor(mask: MaskLike, height: int, width: int) -> Bool[Tensor, 'h w']:
    if isinstance(mask, np.ndarray) and mask.dtype == bool:
        mask = torch.from_numpy(np.require(mask, requirements=('C', 'W')))
    if getattr(mask, 'dtype', None) != torch.bool:
        found = getattr(mask, 'dtype', type(mask).__name__)
        raise ImageError(f'mask is of {found}, expected bool; `mask > 0` makes it of a picture')
    if tuple(mask.shape) != (height, width):
        raise ImageError(
            f'mask has shape {tuple(mask.shape)}, expected {(height, width)} as its image'
        )
    return mask


def stack_masks(
    masks: Sequence[Bool[Tensor, 'h w'] | None], device: torch.device
) -> Bool[Tensor, 'b h w'] | None:
    """Join the masks of images of one size; None where there is none at all."""
    given = [mask for mask in masks if mask is not None]
    if not given:
        return None
    shown = torch.ones_like(given[0])
    return torch.stack([(shown if mask is None else mask).to(device) for mask in masks])


def shown_at(masks: Bool[Tensor, 'b h w'], points: Float[Tensor, 'b n 2']) -> Bool[Tensor, 'b n']:
    """Return at which (x, y) the nearest pixel of the mask is true."""
    height, width = masks.shape[1:]
    last = points.new_tensor([width - 1, height - 1])
    nearest = points.round().clamp(min=torch.zeros_like(last), max=last)
    return masks.flatten(1).gather(1, flat_index(nearest, width))
