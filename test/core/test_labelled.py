"""Labels move with what they label, whatever becomes of the image."""

import cv2
from kpfeat_core.adaptation import make_labels
from kpfeat_core.config import ExtractorConfig
from kpfeat_core.data.config import AdaptConfig, homography_config
from kpfeat_core.data.homographies import view_homographies
from kpfeat_core.data.image_folder import ImageBank
from kpfeat_core.data.labelled import (
    label_path,
    LabelledBank,
    LabelledImages,
    LabelledPairs,
    load_labelled,
    warp_labelled,
)
from kpfeat_core.errors import DataError
from kpfeat_core.geometry import inside, pixel_grid, warp_points
from kpfeat_core.io import expand_images, find_images, write_npz
from kpfeat_core.models.base import DenseMaps, Extractor
from made_room import seeded
import numpy as np
import pytest
import torch

SIDE = 64


def spots(points: torch.Tensor, height: int, width: int, sigma: float = 2.0) -> torch.Tensor:
    """Render a bright spot at each (x, y) of points (N, 2); (H, W)."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    pixels = torch.stack([x, y], -1).float()
    distance = (pixels[:, :, None] - points).square().sum(-1)
    return (-distance / (2 * sigma**2)).exp().amax(-1)


def peak(image: torch.Tensor, x: float, y: float, reach: int = 4) -> torch.Tensor:
    """Return the center of mass of the spot around (x, y)."""
    column, row = round(x), round(y)
    window = image[row - reach : row + reach + 1, column - reach : column + reach + 1] ** 2
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32)
    center = torch.stack([(window.sum(0) * steps).sum(), (window.sum(1) * steps).sum()])
    return center / window.sum() + torch.tensor([column, row])


def check_spots(batch: LabelledImages, within_px: float) -> int:
    """Compare labels with the spots in the images; returns how many were compared."""
    compared = 0
    for image, points, mask, valid in zip(
        batch.images[:, 0], batch.keypoints, batch.mask, batch.valid, strict=True
    ):
        for x, y in points[mask & inside(points, *image.shape, margin=6)].tolist():
            around = valid[round(y) - 6 : round(y) + 7, round(x) - 6 : round(x) + 7]
            if around.all():
                error = (peak(image, x, y) - torch.tensor([x, y])).norm()
                assert error < within_px
                compared += 1
    return compared


def test_the_keypoint_map_marks_the_nearest_pixels_and_no_padding() -> None:
    points = torch.tensor([[[0.0, 0.0], [3.4, 1.6], [0, 0]], [[5, 6], [0, 0], [0, 0]]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    batch = LabelledImages(
        torch.zeros(2, 1, 8, 8), points, mask, torch.ones(2, 8, 8, dtype=torch.bool)
    )
    assert batch.keypoint_map().nonzero().tolist() == [[0, 0, 0], [0, 2, 3], [1, 6, 5]]


def test_labels_move_with_their_image() -> None:
    points = torch.tensor([[20.0, 20], [40.3, 25.7], [30, 50], [60, 40]])
    image = spots(points, 72, 80)
    batch = LabelledImages(
        image.repeat(12, 1, 1, 1),
        points.repeat(12, 1, 1),
        torch.ones(12, 4, dtype=torch.bool),
        torch.ones(12, 72, 80, dtype=torch.bool),
    )
    moved = warp_labelled(batch, homography_config('superpoint-synthetic'), 2, seeded())
    assert check_spots(moved, 0.15) > 15
    assert not moved.valid.all() and moved.valid.any((1, 2)).all()
    assert (moved.keypoints[~moved.mask] == 0).all()


def test_what_mirrors_an_image_does_not_count_nor_does_its_margin() -> None:
    batch = LabelledImages(
        torch.rand(8, 1, 64, 64, generator=seeded()),
        torch.zeros(8, 0, 2),
        torch.zeros(8, 0, dtype=torch.bool),
        torch.ones(8, 64, 64, dtype=torch.bool),
    )
    config = homography_config('superpoint-synthetic')
    masks = [warp_labelled(batch, config, margin, seeded()).valid for margin in (0, 3)]
    assert (masks[1] <= masks[0]).all() and masks[1].sum() < masks[0].sum()
    y, x = torch.nonzero(~masks[0][0], as_tuple=True)
    column, row = int(x[0]), int(y[0])
    around = masks[1][0, max(row - 3, 0) : row + 4, max(column - 3, 0) : column + 4]
    assert not around.any()


def test_parts_of_a_batch_make_the_whole() -> None:
    images = torch.rand(4, 1, 8, 8)
    valid = torch.ones(4, 8, 8, dtype=torch.bool)
    batch = LabelledImages(images, torch.rand(4, 3, 2), torch.rand(4, 3) > 0.5, valid)
    halves = [batch.part(index, 2) for index in (0, 1)]
    assert torch.equal(torch.stack([h.images for h in halves], 1).flatten(0, 1), images)
    pairs = LabelledPairs(
        torch.rand(2, 4, 3, 8, 8),
        torch.rand(4, 3, 3),
        valid.repeat(2, 1, 1, 1),
        torch.rand(2, 4, 3, 2),
        torch.rand(2, 4, 3) > 0.5,
    )
    half = pairs.part(1, 2)
    assert torch.equal(half.H_0to1, pairs.H_0to1[1::2])
    assert torch.equal(half.view(1).keypoints, pairs.keypoints[1, 1::2])


class Brightest(Extractor):
    """Brightness is the score."""

    name, stride, channels, descriptor_dim = 'brightest', 8, 1, 0

    def __init__(self) -> None:
        super().__init__(ExtractorConfig())
        self.none = torch.nn.Parameter(torch.zeros(1))

    def forward(self, image):
        return DenseMaps(image[:, 0], ())


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    """Spots on two photographs of other proportions, one in a folder of its own."""
    folder = tmp_path_factory.mktemp('photographs')
    for name, (height, width) in {'wide.png': (96, 160), 'more/tall.png': (150, 100)}.items():
        points = [(x + y / 7, y) for x in range(18, width - 15, 30) for y in range(16, height, 27)]
        points = torch.tensor([(x, y) for x, y in points if y < height - 15])
        (folder / name).parent.mkdir(exist_ok=True)
        picture = (spots(points, height, width) * 255).numpy().astype(np.uint8)
        cv2.imwrite(str(folder / name), picture)
    return folder


@pytest.fixture(scope='module')
def labels(photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp('labels')
    images = expand_images([str(photographs)], by_stem=True)
    config = AdaptConfig(num=1, detection_threshold=0.5, sub_pixel=True, resize=-1)
    for done in make_labels(Brightest(), images, folder, config):
        assert not done.problem and done.keypoints >= 4
    return folder


def test_labels_of_photographs_of_any_size_lie_on_what_they_label(photographs, labels) -> None:
    for side in (160, 120):
        bank = load_labelled(photographs, labels, find_images(photographs), side)
        index = torch.arange(2).repeat(8)
        homographies, H_0to1 = view_homographies(
            bank.photographs.sizes[index],
            SIDE,
            (0.7, 1.0),
            homography_config('superpoint-pair'),
            seeded(),
        )
        views = [bank.views(index, h, SIDE, 2) for h in homographies]
        assert [check_spots(view, 0.3) > 15 for view in views] == [True, True]
        moved = warp_points(views[0].keypoints, H_0to1)
        both = views[0].mask & views[1].mask
        assert both.any()
        apart = (moved - views[1].keypoints)[both].norm(dim=-1)
        assert apart.max() < 1e-2


def test_labels_stay_where_the_corner_of_the_photograph_is_behind_the_view() -> None:
    sizes, config = torch.tensor([[320.0, 180.0]]), homography_config('superpoint-pair')
    (_, drawn), _ = view_homographies(sizes.expand(5000, -1), SIDE, (0.6, 1.0), config, seeded())
    drawn = drawn[torch.linalg.inv(drawn)[:, 2, 2] < 0][:8]
    assert len(drawn) == 8
    levels = torch.zeros(1, 3, 320, 320), torch.zeros(1, 3, 160, 160)
    places = pixel_grid(18, 32) * 10
    bank = LabelledBank(
        ImageBank(levels, sizes, torch.ones(1), ('black',)),
        places[None],
        torch.tensor([len(places)]),
    )
    view = bank.views(torch.zeros(8, dtype=torch.long), drawn, SIDE, 2)
    assert (view.mask.sum(1) > 20).all()
    back = warp_points(view.keypoints, drawn) - places
    assert back[view.mask].abs().max() < 0.1


def test_views_lie_in_the_photograph_and_cover_their_share() -> None:
    sizes = torch.tensor([[101.0, 201.0]]).repeat(50, 1)
    config = homography_config('superpoint-pair')
    homographies, _ = view_homographies(sizes, SIDE, (0.5, 1.0), config, seeded())
    ends = torch.tensor([[0.0, 0], [SIDE - 1, SIDE - 1]]).repeat(50, 1, 1)
    first, last = warp_points(ends, homographies[0]).unbind(1)
    assert (first >= -1e-3).all() and (last <= sizes - 1 + 1e-3).all()
    covered = (last - first) / 100
    assert 0.5 <= covered.min() < 0.6 and 0.9 < covered.max() <= 1.001
    torch.testing.assert_close(covered[:, 0], covered[:, 1])


def test_photographs_without_labels_are_left_out_and_other_ones_refused(
    photographs, labels, tmp_path
) -> None:
    paths = find_images(photographs)
    with pytest.raises(DataError, match='none of the photographs'):
        load_labelled(photographs, labels, [])
    with pytest.raises(DataError, match='index'):
        load_labelled(photographs, tmp_path, paths)
    for name in ('wide.png', 'other.png'):
        cv2.imwrite(str(tmp_path / name), np.zeros((96, 160), np.uint8))
    assert len(load_labelled(tmp_path, labels, find_images(tmp_path))) == 1
    cv2.imwrite(str(tmp_path / 'wide.png'), np.zeros((160, 160), np.uint8))
    with pytest.raises(DataError, match='other proportions'):
        load_labelled(tmp_path, labels, find_images(tmp_path))
    (tmp_path / 'wide.png').write_bytes(b'broken')
    cv2.imwrite(str(tmp_path / 'more.png'), np.zeros((96, 160), np.uint8))
    with pytest.raises(DataError, match='none of 1 images|cannot be used'):
        load_labelled(tmp_path, labels, [tmp_path / 'wide.png'])


def test_labels_that_are_not_complete_are_refused(photographs, tmp_path) -> None:
    images = expand_images([str(photographs)], by_stem=True)
    running = make_labels(Brightest(), images, tmp_path, AdaptConfig(num=1))
    next(running)
    with pytest.raises(DataError, match='not complete'):
        load_labelled(photographs, tmp_path, find_images(photographs))
    running.close()
    list(make_labels(Brightest(), images, tmp_path, AdaptConfig(num=1)))
    write_npz(label_path(tmp_path, 'wide.png'), {'keypoints': np.zeros((0, 2))})
    with pytest.raises(DataError, match='holds no labels'):
        load_labelled(photographs, tmp_path, find_images(photographs))
