"""HardNet learns, from patches that show the same points as Key.Net would see them."""

from dataclasses import replace
import math

import cv2
from kpfeat_core.data import patch_pairs
from kpfeat_core.data.homography_pairs import SampledViews
from kpfeat_core.data.image_folder import ImageBank
from kpfeat_core.data.patch_pairs import make_patch_pairs, PatchPairConfig, PatchReader
from kpfeat_core.data.view_pairs import PairBatch
from kpfeat_core.errors import ConfigError
from kpfeat_core.factory import create_extractor
from kpfeat_core.geometry import warp_points
from kpfeat_core.image import resize
from kpfeat_core.models.keynet import HardNet
from kpfeat_core.patches import extract_patches
from kpfeat_core.registry import build_extractor
from kpfeat_core.training.keynet import (
    HardNetLossConfig,
    HardNetRecipe,
    level_sizes,
    validate_patches,
)
from kpfeat_core.training.recipe import Options
from kpfeat_core.weights.files import save_weights
from made_room import CALM
import numpy as np
import pytest
from small_runs import fit, rows, seen_twice, smooth_pictures, train_small, write_pictures
import torch

SIDE = 160
SIZES = [(226, 226), (160, 160), (113, 113), (80, 80)]
EXACT = {'position_px': 0.0, 'scale_jitter': 1.0, 'turn_deg': 0.0}
SMALL = {
    'view_size': 96, 'batch_size': 2, 'patches': 12, 'bank_side': 128, 'validation_pairs': 2,
    'validate_every': 2, 'warmup_steps': 2, 'decay_share': 0.0,
}  # fmt: skip


def pairs_of(homography: torch.Tensor, count: int = 2) -> PairBatch:
    """Show pictures twice, the second time under a homography."""
    return seen_twice(smooth_pictures(count, SIDE, 5), homography)


def similarity(scale: float, degrees: float) -> torch.Tensor:
    """Scale and turn about the middle of a view."""
    c, s = (scale * f(math.radians(degrees)) for f in (math.cos, math.sin))
    m = (SIDE - 1) / 2
    return torch.tensor([[[c, -s, m - c * m + s * m], [s, c, m - s * m - c * m], [0, 0, 1]]])


def draw(pairs: PairBatch, **options) -> patch_pairs.PatchBatch:
    config = PatchPairConfig(**EXACT | {'patches': 40} | options)
    to_photograph = torch.stack([torch.eye(3).expand_as(pairs.H_0to1)] * 2)  # as view 0
    drawn = SampledViews(torch.arange(len(pairs)), to_photograph, pairs.H_0to1)
    return make_patch_pairs(pairs, drawn, SIZES, config, torch.Generator().manual_seed(0))


def likeness(batch: patch_pairs.PatchBatch) -> torch.Tensor:
    """Return the correlation of the patches of each pair."""
    flat = batch.patches.flatten(2)
    flat = flat - flat.mean(2, keepdim=True)
    return torch.cosine_similarity(*flat, dim=1)


def test_the_same_view_twice_gives_the_same_patches() -> None:
    batch = draw(pairs_of(torch.eye(3)[None]))
    assert batch.patches.shape == (2, 80, 1, 32, 32)
    torch.testing.assert_close(*batch.patches, atol=1e-5, rtol=0)


@pytest.mark.parametrize('orientation', ['upright', 'gradient'])
@pytest.mark.parametrize(('scale', 'degrees'), [(1.0, 90.0), (2**0.5, 25.0), (0.5, -60.0)])
def test_patches_of_turned_and_zoomed_views_show_the_same(orientation, scale, degrees) -> None:
    options = {'orientation': orientation}
    if orientation == 'gradient':
        options['turn_deg'] = 5.0  # of which three times may be wrong
    like = likeness(draw(pairs_of(similarity(scale, degrees)), **options))
    assert len(like) > 15
    assert like.median() > (0.97 if orientation == 'upright' else 0.9)


def test_turned_patches_are_turned_as_much_as_asked() -> None:
    straight = likeness(draw(pairs_of(torch.eye(3)[None])))
    turned = likeness(draw(pairs_of(torch.eye(3)[None]), turn_deg=40.0))
    assert straight.median() > 0.999 and turned.median() < 0.9


def test_patches_are_those_that_the_extractor_reads() -> None:
    views = smooth_pictures(1, SIDE, 5)[:, :1]
    reader = PatchReader(views, SIZES, 44.0)
    keypoints = torch.tensor([[[60.2, 75.9], [100.0, 60.5]]])
    for index, size in enumerate(SIZES):
        level = torch.full((1, 2), index)
        places = patch_pairs._Places(keypoints, level, torch.zeros(1, 2))
        small = resize(views, size)
        points = (keypoints + 0.5) * (size[0] / SIDE) - 0.5
        expected = extract_patches(small, points, 44.0)
        torch.testing.assert_close(reader.read(places, 32), expected, atol=1e-5, rtol=0)


def test_affinities_are_the_derivatives_of_the_homography() -> None:
    H = torch.tensor([[[1.1, 0.2, 5.0], [-0.1, 0.9, -3.0], [1e-3, -2e-3, 1.0]]]).double()
    point = torch.tensor([30.0, 50.0]).double()
    expected = torch.autograd.functional.jacobian(
        lambda p: warp_points(p[None, None], H)[0, 0], point
    )
    found = patch_pairs.local_affinities(point[None, None], H)[0, 0]
    torch.testing.assert_close(found, expected)


def test_views_without_anything_in_common_give_no_patches_and_no_loss() -> None:
    far = torch.eye(3)[None].clone()
    far[:, 0, 2] = 1e4
    batch = draw(replace(pairs_of(torch.eye(3)[None]), H_0to1=far.expand(2, -1, -1)))
    assert len(batch.photograph) == 0
    recipe = HardNetRecipe(HardNet(), HardNetLossConfig())
    recipe(batch, torch.Generator())['total'].backward()
    assert all(not parameter.grad.any() for parameter in recipe.parameters())


def test_only_patches_of_one_photograph_lie_at_the_same_place() -> None:
    batch = patch_pairs.PatchBatch(
        torch.zeros(2, 4, 1, 32, 32),
        torch.tensor([0, 0, 1, 0]),
        torch.tensor([[10.0, 10], [13, 14], [10, 10], [24, 10]]),
        torch.tensor([1.0, 1.0, 1.0, 2.0]),
    )
    found = (batch.same_place(8.0) & ~torch.eye(4, dtype=torch.bool)).nonzero().tolist()
    assert found == [[0, 1], [0, 3], [1, 0], [1, 3], [3, 0], [3, 1]]  # 14 px are 7 of level 3
    assert batch.part(1, 2).photograph.tolist() == [0, 0]


def test_places_are_those_on_the_photograph_which_may_be_drawn_twice() -> None:
    # how bright a patch is says where on the photograph it lies
    ramp = torch.arange(240).byte().expand(1, 3, 240, -1)
    bank = ImageBank(
        (ramp, ramp[..., ::2, ::2]), torch.tensor([[240.0, 240.0]]), torch.ones(1), ('ramp',)
    )
    options = Options.build(HardNetRecipe, vars(CALM) | {'view_size': 160, 'patches': 30})
    batch = HardNetRecipe.sample(options, bank, 2, torch.Generator().manual_seed(0))
    assert (batch.photograph == 0).all()
    error = batch.patches[0].mean((1, 2, 3)) * 255 - batch.keypoints[:, 0]
    assert len(error) > 40 and error.abs().median() < 1
    assert batch.pixel.min() > 0.2 and batch.pixel.max() < 6


def test_a_few_steps_on_one_batch_teach_hardnet_to_match_it() -> None:
    torch.manual_seed(0)
    pairs = pairs_of(similarity(1.2, 15.0))
    noise = 0.25 * torch.randn(pairs.images.shape, generator=torch.Generator().manual_seed(0))
    batch = draw(replace(pairs, images=pairs.images + noise), patches=20, turn_deg=20.0)
    recipe = HardNetRecipe(HardNet(), HardNetLossConfig()).to(memory_format=torch.channels_last)
    before = validate_patches(recipe.extractor, batch)
    totals = [parts['total'] for parts in fit(recipe, batch, 12, 3e-3)]
    after = validate_patches(recipe.extractor, batch)
    assert totals[-1] < 0.7 * totals[0]
    assert 1 - after['nearest'] < 0.5 * (1 - before['nearest'])


def test_validation_knows_perfect_and_worthless_matches() -> None:
    batch = draw(pairs_of(torch.eye(3)[None]))
    perfect = validate_patches(HardNet(), batch)
    assert perfect['nearest'] == 1 and perfect['fpr95'] == 0
    mixed = replace(batch, patches=torch.stack([batch.patches[0], batch.patches[1].flip(0)]))
    worthless = validate_patches(HardNet(), mixed)
    assert worthless['nearest'] < 0.2 and worthless['fpr95'] > 0.5


def test_views_too_small_for_patches_are_refused() -> None:
    options = Options.build(HardNetRecipe, {'view_size': 40})
    with pytest.raises(ConfigError, match='view_size is 40, expected at least 46'):
        HardNetRecipe.check(options, HardNet(), 'photographs')
    smallest = Options.build(HardNetRecipe, {'view_size': 46})
    assert level_sizes(smallest) == [(65, 65), (46, 46)]


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('photographs')
    return write_pictures(folder, smooth_pictures(8, 128, 5))


def run(photographs, out, **options):
    return train_small('hardnet', photographs, out, **SMALL | options)


def test_a_run_makes_the_descriptor_of_keynet(photographs, tmp_path) -> None:
    weights = run(photographs, tmp_path / 'run', steps=2, precision='bf16-mixed')
    assert weights.name == 'hardnet.safetensors'
    sheet = cv2.imread(str(tmp_path / 'run/pairs.jpg'))
    assert sheet is not None and sheet.std() > 10
    assert 0 < float(rows(tmp_path / 'run/validation.csv')[0]['nearest']) <= 1
    save_weights(build_extractor('keynet'), tmp_path / 'keynet.safetensors')
    extractor = create_extractor(
        'keynet', str(tmp_path / 'keynet.safetensors'), descriptor_weights=str(weights)
    )
    image = smooth_pictures(1, 128, 5)[0].numpy().transpose(1, 2, 0)
    descriptors = extractor.extract(np.ascontiguousarray(image)).descriptors
    assert descriptors.shape[2] == 128
    torch.testing.assert_close(descriptors.norm(dim=2), torch.ones(descriptors.shape[:2]))


def test_a_run_that_was_cut_in_two_drops_the_same_units(photographs, tmp_path) -> None:
    run(photographs, tmp_path / 'whole', steps=2)
    run(photographs, tmp_path / 'cut', steps=1)
    torch.rand(7)
    run(photographs, tmp_path / 'cut', steps=2)
    whole, cut = (
        torch.load(tmp_path / name / 'last.pt', weights_only=True)['recipe']
        for name in ('whole', 'cut')
    )
    for name, value in whole.items():
        assert torch.equal(value, cut[name]), name
