"""Images with known keypoints: photographs with pseudo-labels, and random views of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .config import HomographyConfig
from .homographies import sample_homographies
from .homography_pairs import render_views
from .image_folder import ImageBank, load_bank, no_progress, Progress
from .view_pairs import PairBatch
from ..axes import Bool, Float, Int
from ..errors import DataError
from ..geometry import inside, unwarp_points, warp_image, warp_points
from ..image import rescale_points
from ..io import read_npz
from ..keypoints import max_filter

INDEX = 'index.json'
FORMAT_VERSION = 1


@dataclass(frozen=True)
class LabelledImages:
    """
    Images (B, C, H, W) in [0, 1] and their keypoints.

    keypoints (B, P, 2) are (x, y) pixels, mask (B, P) tells which are real and inside; valid
    (B, H, W) where the absence of a keypoint means that there is none.
    """

    images: Float[Tensor, 'b c h w']
    keypoints: Float[Tensor, 'b p 2']
    mask: Bool[Tensor, 'b p']
    valid: Bool[Tensor, 'b h w']

    def __len__(self) -> int:
        return len(self.images)

    def part(self, index: int, count: int) -> 'LabelledImages':
        """Return the index-th of `count` equal shares, for training in several processes."""
        own = slice(index, None, count)
        return LabelledImages(**{name: value[own] for name, value in vars(self).items()})

    def keypoint_map(self) -> Bool[Tensor, 'b h w']:
        """Mark the pixel that is nearest to each keypoint."""
        height, width = self.valid.shape[1:]
        x, y = self.keypoints.where(self.mask[..., None], 0).round().long().unbind(-1)
        marks = self.mask.new_zeros(len(self), height * width)
        # many padded keypoints write to pixel 0: none of them may erase a real one
        marks = marks.byte().scatter_reduce(1, y * width + x, self.mask.byte(), 'amax')
        return marks.bool().view(self.valid.shape)


@dataclass(frozen=True)
class LabelledPairs(PairBatch):
    """
    Two views of each of B photographs, with their keypoints.

    keypoints (2, B, P, 2) are (x, y) pixels of the views, mask (2, B, P) tells which are real and
    inside. Where `valid` is true, the absence of a keypoint means that there is none.
    """

    keypoints: Float[Tensor, '2 b p 2']
    mask: Bool[Tensor, '2 b p']

    def part(self, index: int, count: int) -> 'LabelledPairs':
        """Return the index-th of `count` equal shares, for training in several processes."""
        own = slice(index, None, count)
        pairs = {name: value[:, own] for name, value in vars(self).items()}
        return LabelledPairs(**pairs | {'H_0to1': self.H_0to1[own]})

    def view(self, index: int) -> LabelledImages:
        """Return view 0 or 1 of each pair."""
        return LabelledImages(
            self.images[index], self.keypoints[index], self.mask[index], self.valid[index]
        )


@dataclass(frozen=True)
class LabelledBank:
    """
    Photographs and their keypoints (K, P, 2), in pixels of level 0 of the bank.

    Those after the first counts (K,) of a photograph are padding.
    """

    photographs: ImageBank
    keypoints: Float[Tensor, 'k p 2']
    counts: Int[Tensor, ' k']

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the photographs."""
        return self.photographs.names

    def to(self, device: torch.device | str) -> 'LabelledBank':
        """Move all photographs and keypoints to a device."""
        return LabelledBank(*(value.to(device) for value in vars(self).values()))

    def views(
        self,
        index: Int[Tensor, ' b'],
        homographies: Float[Tensor, 'b 3 3'],
        side: int,
        margin: int,
    ) -> LabelledImages:
        """
        Render photographs `index` under homographies from the pixels of square views to theirs.

        margin: keypoints count this many pixels away from where the photograph ends.
        """
        images, seen = render_views(self.photographs, index, homographies, side)
        places = torch.arange(self.keypoints.shape[1], device=index.device)
        mask = places < self.counts[index, None]
        points = unwarp_points(self.keypoints[index], homographies)
        return LabelledImages(images, *_kept(points, mask, side, side), _erode(seen, margin))


def load_labelled(
    folder: Path | str,
    labels: Path | str,
    paths: Sequence[Path],
    side: int = 320,
    kinds: Mapping[str, str] | None = None,
    kind_weights: Mapping[str, float] | None = None,
    progress: Progress = no_progress,
) -> LabelledBank:
    """
    Read those of the photographs `paths` below a folder that `kpfeat adapt` has labelled.

    labels: the folder that it wrote for the same folder of photographs, which may have been of
    another size or file format then. side and the others as in `load_bank`. Raises DataError
    where the run that labelled them is not complete, or labels and photographs do not belong
    together.
    """
    labelled = _labelled_names(labels)
    paths = [path for path in paths if path.relative_to(folder).with_suffix('') in labelled]
    if not paths:
        raise DataError(
            f"none of the photographs in '{folder}' has labels in '{labels}'; make them with "
            f'`kpfeat adapt {folder} --out {labels}`, from the same folder'
        )
    bank = load_bank(paths, side, kinds, kind_weights, progress)
    if len(bank) != len(paths):
        raise DataError(
            f"{len(paths) - len(bank)} photographs in '{folder}' have labels and cannot be used; "
            'restore them, or label the folder again'
        )
    rows = []
    for path, size in zip(paths, bank.sizes.long().tolist(), strict=True):
        arrays = read_labels(label_path(labels, path.relative_to(folder)))
        width, height = arrays['image_size'].astype(int).tolist()
        if abs(width * size[1] / size[0] - height) > 2 + max(width / size[0], height / size[1]):
            raise DataError(
                f"'{path}' has other proportions ({size[0]}x{size[1]} in memory) than when it was "
                f'labelled ({width}x{height}); label the folder again'
            )
        points = torch.from_numpy(arrays['keypoints']).float().view(1, -1, 2)
        rows.append(rescale_points(points, (height, width), (size[1], size[0]))[0])
    counts = torch.tensor([len(row) for row in rows])
    return LabelledBank(bank, torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), counts)


def _labelled_names(labels: Path | str) -> set[Path]:
    """Return the names of the photographs that have labels, without their endings."""
    index = read_index(labels)
    if 'images' not in index:
        raise DataError(
            f"the labels in '{labels}' are not complete; repeat the `kpfeat adapt` command that "
            'made them, it goes on where it was stopped'
        )
    return {Path(name).with_suffix('') for name in index['images']}


def warp_labelled(
    batch: LabelledImages,
    config: HomographyConfig,
    margin: int,
    generator: torch.Generator,
) -> LabelledImages:
    """
    Move images and keypoints by a random homography each.

    What lies beyond the image mirrors it, and does not count, nor do the last `margin` pixels
    before.
    """
    height, width = batch.images.shape[2:]
    H_0to1 = sample_homographies(config, len(batch), (height, width), generator)
    images = warp_image(batch.images, H_0to1, (height, width), padding='reflection')
    seen = warp_image(batch.valid[:, None].float(), H_0to1, (height, width))[:, 0] > 0.999
    points = warp_points(batch.keypoints, H_0to1)
    return LabelledImages(images, *_kept(points, batch.mask, height, width), _erode(seen, margin))


def _kept(points: Tensor, mask: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return points, zeros where they are not on a pixel of the image, and which of them are."""
    mask = mask & inside(points.round(), height, width)  # NaN is nowhere
    return points.where(mask[..., None], 0), mask


def _erode(seen: Bool[Tensor, 'b h w'], margin: int) -> Bool[Tensor, 'b h w']:
    """Leave out what is nearer than `margin` pixels to the unseen, in x and in y."""
    return ~max_filter(~seen, margin)


def label_path(out: Path | str, name: Path | str) -> Path:
    """Return where the labels of a photograph lie."""
    return Path(out) / Path(name).with_suffix('.npz')


def read_labels(path: Path | str) -> dict[str, np.ndarray]:
    """Read a file that `make_labels` wrote: what `label_image` gives; raises DataError."""
    arrays = read_npz(path)
    missing = {'keypoints', 'keypoint_scores', 'image_size', 'work_size'} - arrays.keys()
    if missing:
        raise DataError(f"'{path}' holds no labels: it lacks {', '.join(sorted(missing))}")
    return arrays


def read_index(out: Path | str) -> dict[str, Any]:
    """
    Read the index of a folder of labels; raises DataError.

    It holds model, weights_sha256, model_options, options and homographies, and when the run is
    complete, images (name to number of keypoints) and skipped (name to reason).
    """
    path = Path(out) / INDEX
    try:
        index = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the index of labels '{path}': {error}") from error
    if not isinstance(index, dict) or index.get('format') != 'kpfeat labels':
        raise DataError(f"'{path}' is no index of labels; take another folder")
    return index
