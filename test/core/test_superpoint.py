"""SuperPoint's own geometry, layouts and shortcuts, checked without any published weights."""

from kpfeat_core.errors import ShapeError
from kpfeat_core.factory import create_extractor, create_matcher
from kpfeat_core.keypoints import Keypoints
from kpfeat_core.models import superpoint
from kpfeat_core.models.base import DenseMaps
from kpfeat_core.registry import build_extractor
from kpfeat_core.weights.importing import import_checkpoint
import numpy as np
import pytest
import torch
from torch import nn
import torch.nn.functional as F

FLIPS = {
    'left and right': lambda maps: maps.flip(-1),
    'top and bottom': lambda maps: maps.flip(-2),
    'rows and columns': lambda maps: maps.mT,
}


def lived_in(name: str = 'superpoint', **options):
    """Return an extractor with random weights and batch statistics, some scales negative."""
    torch.manual_seed(0)
    extractor = build_extractor(name, **options).eval()
    for module in extractor.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return extractor


def image(height: int, width: int) -> torch.Tensor:
    return torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(1))


def swap(channels: int) -> torch.Tensor:
    """Pair up channels, so that a flip may exchange them; one channel is its own partner."""
    return torch.arange(channels).roll(channels // 2)


def symmetrize(extractor, flip) -> None:
    """Make the network commute with a flip that exchanges channels in pairs."""
    pixels = flip(torch.arange(64).view(8, 8)).flatten()
    cell = torch.cat([pixels, torch.tensor([64])])
    for layer in extractor.modules():
        if not isinstance(layer, superpoint.ConvReluNorm):
            continue
        outputs, inputs = layer.conv.out_channels, layer.conv.in_channels
        out = cell if outputs == 65 else swap(outputs)
        weight = layer.conv.weight.data
        layer.conv.weight.data = (weight + flip(weight[out][:, swap(inputs)])) / 2
        bn = layer.bn
        for values in (layer.conv.bias, bn.weight, bn.bias, bn.running_mean, bn.running_var):
            values.data = (values.data + values.data[out]) / 2


@pytest.mark.parametrize('flip', FLIPS.values(), ids=FLIPS)
def test_a_flipped_image_gives_the_flipped_features(flip) -> None:
    extractor = lived_in(nms_radius=6, max_num_keypoints=-1, upsample_to=-1)
    symmetrize(extractor, flip)
    picture = image(96, 96)
    one, other = (extractor.extract(view).numpy() for view in (picture, flip(picture)))
    where = flip(torch.arange(96.0 * 96).view(96, 96)).flatten()  # flipped pixel to pixel
    corners = torch.tensor([[0.0, 0], [95, 0], [0, 95]])
    index = (corners[:, 1] * 96 + corners[:, 0]).long()
    to = torch.stack([where[index] % 96, where[index].div(96, rounding_mode='floor')], -1)
    back = (to[1:] - to[0]) / 95  # x' and y' axes of the flip
    moved = other['keypoints'] @ back.numpy() + to[0].numpy()
    assert len(moved) == len(one['keypoints']) > 20
    distance = np.linalg.norm(one['keypoints'][:, None] - moved, axis=-1)
    nearest = distance.argmin(1)
    assert distance.min(1).max() < 1e-3
    expected = one['descriptors'][:, swap(256).numpy()]
    np.testing.assert_allclose(other['descriptors'][nearest], expected, atol=1e-3)


def test_channels_are_the_pixels_of_a_cell_and_the_dustbin_comes_last() -> None:
    logits = torch.full((1, 65, 3, 4), -20.0)
    logits[:, 64] = 20.0
    logits[0, 8 * 5 + 2, 1, 3] = 60.0  # row 5, column 2 of the cell in row 1, column 3
    scores = superpoint.cell_scores(logits)
    assert scores.shape == (1, 24, 32)
    assert scores.max() == scores[0, 8 + 5, 24 + 2] == 1
    assert scores.sum() == pytest.approx(1)
    assert superpoint.cell_scores(logits.half()).dtype == torch.float32


def test_a_cell_has_its_centre_between_its_middle_pixels() -> None:
    extractor = build_extractor('superpoint')
    cells = F.normalize(torch.randn(1, 256, 4, 5), dim=1)
    maps = DenseMaps(torch.zeros(1, 32, 40), (cells,))
    points = torch.tensor([[[19.5, 11.5], [23.5, 11.5], [0.0, 0.0], [39.0, 31.0]]])
    found = extractor.describe(maps, Keypoints.at(points))[0]
    between = F.normalize(cells[0, :, 1, 2] + cells[0, :, 1, 3], dim=0)
    expected = [cells[0, :, 1, 2], between, cells[0, :, 0, 0], cells[0, :, 3, 4]]
    torch.testing.assert_close(found, torch.stack(expected))


def test_blobs_of_a_score_map_are_found_between_pixels_if_asked() -> None:
    centres = torch.tensor([[20.3, 30.6], [50.8, 13.2]])
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(80.0), indexing='ij')
    heights = (0.6, 0.03)  # a weak one moves as far as a strong one
    score_map = sum(
        h * (-((x - c[0]) ** 2 + (y - c[1]) ** 2) / 2).exp()
        for c, h in zip(centres, heights, strict=True)
    )
    maps = DenseMaps(score_map[None] + 1e-4, ())
    extractor = build_extractor('superpoint')
    found = extractor.detect(maps)
    assert (found.keypoints[0] - centres).abs().max() < 0.1
    assert (found.keypoint_scores[0] - torch.tensor(heights)).abs().max() < 0.1
    whole = extractor.with_options(sub_pixel=False).detect(maps)
    assert whole.keypoints[0].tolist() == centres.round().tolist()


def test_suppression_fast_and_exact_keep_the_same_peaks_where_they_are_far_apart() -> None:
    extractor = lived_in(nms_radius=2, max_num_keypoints=300, sub_pixel=False)
    fast = extractor.extract(image(96, 128)).numpy()['keypoints']
    exact = extractor.with_options(nms='exact').extract(image(96, 128)).numpy()['keypoints']
    gaps = np.abs(exact[:, None] - exact).max(-1) + 99 * np.eye(len(exact))
    assert gaps.min() > 2
    assert len(set(map(tuple, fast)) & set(map(tuple, exact))) > 0.97 * len(exact)


@pytest.mark.parametrize('rows', [2, 6, 16, 34])
def test_strips_of_rows_give_what_the_whole_image_gives(monkeypatch, rows) -> None:
    extractor = lived_in()
    picture = torch.cat([image(64, 96), image(64, 96).flip(-1)])
    whole = extractor(picture)  # with gradients, in one piece
    monkeypatch.setattr(superpoint, 'strip_rows', lambda *sizes: rows)
    strips = extractor(picture)
    torch.testing.assert_close(strips.score_map, whole.score_map)
    torch.testing.assert_close(strips.descriptor_maps[0], whole.descriptor_maps[0])


def test_large_images_go_in_strips_in_inference_only(monkeypatch) -> None:
    extractor = lived_in()
    stage, large = extractor.backbone[0], torch.empty(1, 1, 480, 2000)
    rows = []
    note = lambda stage, x, n, reach: rows.append(n) or x  # noqa: E731
    monkeypatch.setattr(superpoint, 'halve_in_strips', note)
    superpoint._shrink(stage, large)
    with torch.no_grad():
        superpoint._shrink(stage, large)
        superpoint._shrink(stage.train(), large)
    assert rows == [480, 16, 480]


def test_the_order_is_convolution_relu_normalisation_and_only_training_moves_its_statistics() -> (
    None
):
    extractor = lived_in()
    before = extractor.backbone[0][0].bn.running_mean.clone()
    x = picture = image(32, 40)
    for i, stage in enumerate(extractor.backbone):
        for layer in stage:
            x = layer.bn(F.relu(layer.conv(x)))
        x = F.max_pool2d(x, 2) if i < 3 else x
    first, last = extractor.detector
    expected = last.bn(last.conv(first.bn(F.relu(first.conv(x)))))
    torch.testing.assert_close(extractor.heads(picture)[0], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(extractor.backbone[0][0].bn.running_mean, before)
    extractor.train()(picture)
    assert not torch.equal(extractor.backbone[0][0].bn.running_mean, before)


class BatchNormFirst(nn.Module):
    """The third published layout: convolution, batch normalisation, ReLU."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 64, 64, 128, 128)
        pairs = [self.pair(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)]
        self.inc = self.wrap(self.wrap(pairs[0], 'conv'), 'conv')
        for i, pair in enumerate(pairs[1:], 1):
            down = nn.Sequential(nn.MaxPool2d(2), self.wrap(pair, 'conv'))
            self.add_module(f'down{i}', self.wrap(down, 'mpconv'))
        for head, outputs in (('P', 65), ('D', 256)):
            for letter, conv in (
                ('a', nn.Conv2d(128, 256, 3, padding=1)),
                ('b', nn.Conv2d(256, outputs, 1)),
            ):
                self.add_module(f'conv{head}{letter}', conv)
                self.add_module(f'bn{head}{letter}', nn.BatchNorm2d(conv.out_channels))

    @staticmethod
    def wrap(inner: nn.Module, name: str) -> nn.Module:
        outer = nn.Module()
        outer.add_module(name, inner)
        return outer

    @staticmethod
    def pair(inputs: int, outputs: int) -> nn.Sequential:
        layers = []
        for i in (inputs, outputs):
            layers += [nn.Conv2d(i, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        return nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.inc.conv.conv(x)
        for down in (self.down1, self.down2, self.down3):
            pool, pair = down.mpconv
            x = pair.conv(pool(x))
        detector = self.bnPb(self.convPb(F.relu(self.bnPa(self.convPa(x)))))
        return detector, self.bnDb(self.convDb(F.relu(self.bnDa(self.convDa(x)))))


def test_normalisation_before_the_relu_is_imported_exactly(tmp_path) -> None:
    torch.manual_seed(0)
    published = BatchNormFirst().train()
    for _ in range(3):
        published(torch.rand(4, 1, 32, 40))
    content = {'n_iter': 3, 'loss': 0.5, 'model_state_dict': published.state_dict()}
    torch.save(content, tmp_path / 'published.pth.tar')
    out = import_checkpoint(tmp_path / 'published.pth.tar', 'superpoint', tmp_path / 'a.st')
    extractor = create_extractor('superpoint', str(out))
    with torch.no_grad():
        expected, found = published.eval()(image(32, 40)), extractor.heads(image(32, 40))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_checkpoints_that_are_incomplete_or_do_not_fit_are_refused_by_names(refused) -> None:
    state = BatchNormFirst().state_dict()
    wrong = state | {'bnPa.weight': torch.ones(255)}
    refused(wrong, 'superpoint', r'shapes \[\(255,\), \(256,\)\]')
    more = state | {'up1.weight': torch.zeros(2)}
    refused(more, 'superpoint', r'it has unknown up1\.weight')
    del state['inc.conv.conv.1.running_var']
    refused(state, 'superpoint', r'lacks inc\.conv\.conv\.1\.running_var')
    one = {'conv1a.weight': torch.zeros(64, 1, 3, 3)}
    refused(one, 'superpoint', r'lacks conv1a\.bias')
    detector = build_extractor('magicpoint').state_dict()
    refused(detector, 'superpoint', r'superpoint: it lacks descriptor\.0')


def test_magicpoint_finds_what_superpoint_finds_and_describes_and_matches_nothing() -> None:
    whole, alone = lived_in(), lived_in('magicpoint')
    alone.load_state_dict(alone.convert_checkpoint(whole.state_dict())[0])
    expected, found = (e.extract(image(64, 80)) for e in (whole, alone))
    assert torch.equal(found.keypoints, expected.keypoints)
    assert found.descriptor_dim == alone.descriptor_dim == 0
    scaled = alone.with_options(multi_scale=True).extract(image(64, 80))
    assert scaled.descriptors.shape == (*scaled.mask.shape, 0)
    for pair in ((found, found), (found, expected), (expected, found)):
        with pytest.raises(ShapeError, match='features have no descriptors'):
            create_matcher().match(*pair)
