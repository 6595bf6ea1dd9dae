"""KP2D's objective: the published values, and that it learns."""

from dataclasses import replace

from fill import fill
from kpfeat_core.config import make_config
from kpfeat_core.data.homography_pairs import make_pairs, PairConfig
from kpfeat_core.data.image_folder import ImageBank
from kpfeat_core.data.photometric import PhotometricConfig
from kpfeat_core.data.view_pairs import PairBatch
from kpfeat_core.geometry import inside, pixel_grid, sample, warp_points
from kpfeat_core.models.base import DenseMaps
from kpfeat_core.models.kp2d import Kp2d, Kp2dConfig
from kpfeat_core.training.kp2d import Kp2dLossConfig, Kp2dRecipe, published_pairs
from kpfeat_core.training.recipe import Options
from kpfeat_core.weights.checkpoints import load_checkpoint
import numpy as np
import pytest
from safetensors.torch import load_file
from small_runs import fit, killed_at, settle, train_small, write_photographs
import torch
import torch.nn.functional as F

HEIGHT, WIDTH = 240, 320
PUBLISHED = {
    'consistency': 1.0,
    'infonce': 0.0,
    'triplet': 2.0,
    'rejection_from': 0.0,
    'rejection_points': 'lowest',
    'score_border_px': 0.0,
}


def as_pairs(H_0to1, valid) -> PairBatch:
    """Return pairs of nothing but their geometry."""
    return PairBatch(torch.zeros(valid.shape[:2] + (3,) + valid.shape[2:]), H_0to1, valid)


@pytest.fixture(scope='module')
def golden(reference):
    return np.load(reference / 'golden/kp2d_fill.npz')


@pytest.fixture(scope='module')
def parts(reference, golden) -> dict[str, float]:
    """Return the parts of the loss with the fixed weights, in training without dropout."""
    names = ('image_synth_240x320', 'image_synth8_240x320')
    images = [np.load(reference / f'golden/{name}.npz')['rgb'] for name in names]
    targets = torch.stack([torch.from_numpy(i).permute(2, 0, 1) / 255 for i in images])
    to_unit = torch.tensor([[2 / (WIDTH - 1), 0, -1], [0, 2 / (HEIGHT - 1), -1], [0, 0, 1]])
    H_0to1 = torch.linalg.inv(to_unit) @ torch.from_numpy(golden['loss_H']).float() @ to_unit
    places = warp_points(pixel_grid(HEIGHT, WIDTH).expand(2, -1, -1), H_0to1)
    sources = sample(targets, places).mT.reshape(targets.shape)

    torch.manual_seed(0)
    extractor = Kp2d(Kp2dConfig(upstream_sampling=True))
    recipe = Kp2dRecipe(extractor, make_config(Kp2dLossConfig, PUBLISHED))
    fill(extractor)
    fill(recipe.io_net)
    recipe.train()
    valid = torch.ones(2, 2, HEIGHT, WIDTH, dtype=torch.bool)
    with torch.no_grad():
        maps = [recipe.see(views) for views in (sources, targets)]  # statistics of each alone
        return {k: float(v) for k, v in recipe.compare(*maps, as_pairs(H_0to1, valid)).items()}


def test_detection_losses_are_the_published_ones(golden, parts) -> None:
    found = parts['localization'] + parts['score'] + parts['consistency']
    assert found == pytest.approx(float(golden['loss_det']), rel=1e-5)


def test_the_triplet_loss_and_the_recall_are_the_published_ones(golden, parts) -> None:
    difference = float(golden['loss_v2'] - golden['loss_det'])
    assert 2 * parts['triplet'] == pytest.approx(difference, rel=1e-4)
    assert parts['recall'] == pytest.approx(float(golden['recall_v4']), rel=1e-6)


def test_the_loss_of_every_version_is_the_published_one(golden, parts) -> None:
    detection = parts['localization'] + parts['score'] + parts['consistency']
    without_io_net = detection + 2 * parts['triplet']
    assert without_io_net == pytest.approx(float(golden['loss_v2']), rel=1e-5)
    assert parts['total'] == pytest.approx(float(golden['loss_v4']), rel=1e-4)
    without_triplets = detection + parts['rejection']
    assert without_triplets == pytest.approx(float(golden['loss_v3']), rel=1e-4)


SIDE, CELLS = 96, 12
ONE_CELL = torch.tensor([[[1.0, 0, 8], [0, 1, 0], [0, 0, 1]]])  # to the right


@pytest.fixture
def recipe() -> Kp2dRecipe:
    torch.manual_seed(0)
    return Kp2dRecipe(Kp2d(Kp2dConfig()), make_config(Kp2dLossConfig, {}))


@pytest.fixture
def views() -> tuple[DenseMaps, DenseMaps]:
    """Return maps of a scene, and of the same moved to the right by one cell."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(1, CELLS, CELLS + 1, generator=generator)
    features = torch.randn(1, 256, 2 * CELLS, 2 * CELLS + 2, generator=generator)
    centers = (pixel_grid(CELLS, CELLS) * 8 + 3.5).view(1, CELLS, CELLS, 2)
    return (
        DenseMaps(scores[..., 1:], (features[..., 2:],), centers),
        DenseMaps(scores[..., :-1], (features[..., :-2],), centers),
    )


def compare(recipe, maps0, maps1, H_0to1=ONE_CELL, valid=None) -> dict[str, float]:
    if valid is None:
        valid = torch.ones(2, 1, SIDE, SIDE, dtype=torch.bool)
    with torch.no_grad():
        parts = recipe.compare(maps0, maps1, as_pairs(H_0to1, valid))
        return {k: float(v) for k, v in parts.items()}


def test_maps_that_move_with_the_image_have_no_error_and_others_do(recipe, views) -> None:
    right = compare(recipe, *views)
    assert right['localization'] == pytest.approx(0, abs=1e-4)
    assert right['consistency'] == pytest.approx(0, abs=1e-9)
    assert right['recall'] == 1
    wrong = compare(recipe, *views[::-1])
    assert wrong['consistency'] > 0.05
    assert wrong['recall'] < 0.1
    assert wrong['triplet'] > right['triplet'] + 0.1


def test_io_net_waits_for_a_share_of_right_matches(views) -> None:
    found = []
    for share in (0.0, 0.2, 1.0):
        config = make_config(Kp2dLossConfig, {'rejection_from': share})
        found.append(compare(Kp2dRecipe(Kp2d(Kp2dConfig()), config), *views)['rejection'])
    assert found[0] > 0 and found[1] > 0 and found[2] == 0


def test_the_published_reading_of_maps_is_off_near_borders(views) -> None:
    extractor = Kp2d(Kp2dConfig(upstream_sampling=True))
    parts = compare(Kp2dRecipe(extractor, make_config(Kp2dLossConfig, {})), *views)
    assert parts['consistency'] > 1e-4


@pytest.mark.parametrize('view', [0, 1])
def test_what_lies_outside_the_photograph_changes_nothing(recipe, views, view) -> None:
    valid = torch.ones(2, 1, SIDE, SIDE, dtype=torch.bool)
    valid[view, :, :, 48:] = False
    expected = compare(recipe, *views, valid=valid)
    changed = list(views)
    noise = torch.rand(1, CELLS, CELLS)
    noise[..., :6] = 0  # the cell at the border is read by its neighbors
    features = views[view].descriptor_maps[0].clone()
    features[..., 14:] += torch.randn(features[..., 14:].shape)
    changed[view] = replace(
        views[view],
        score_map=views[view].score_map + noise * (torch.arange(CELLS) > 6),
        descriptor_maps=(features,),
        positions=views[view].positions + noise[..., None],
    )
    found = compare(recipe, *changed, valid=valid)
    for name in ('localization', 'score', 'consistency', 'triplet', 'recall'):
        assert found[name] == pytest.approx(expected[name], abs=1e-6), name
    assert compare(recipe, *changed)['consistency'] > 1e-3


def gradients(recipe, batch: PairBatch) -> list[torch.Tensor | None]:
    recipe.train()
    recipe(batch, torch.Generator())['total'].backward()
    return [p.grad for p in recipe.parameters() if p.requires_grad]


def noise_batch(H_0to1: torch.Tensor, shown: bool) -> PairBatch:
    images = torch.rand(2, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return PairBatch(images, H_0to1, torch.full((2, 1, 64, 64), shown))


def test_a_batch_of_which_nothing_is_known_teaches_nothing(recipe) -> None:
    found = gradients(recipe, noise_batch(torch.eye(3)[None], shown=False))
    assert all(g is not None and g.abs().sum() == 0 for g in found)


def test_points_behind_the_horizon_do_not_spoil_the_gradient(recipe) -> None:
    H_0to1 = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [-1 / 40, 0, 1]]])
    found = gradients(recipe, noise_batch(H_0to1, shown=True))
    assert all(g is not None and g.isfinite().all() for g in found)
    assert any(g.abs().sum() > 0 for g in found)


@pytest.fixture(scope='module')
def bank() -> ImageBank:
    """Return two pictures of colored squares."""
    coarse = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    levels = [(F.interpolate(coarse, side) * 255).to(torch.uint8) for side in (160, 80)]
    return ImageBank(tuple(levels), torch.full((2, 2), 160.0), torch.ones(2), ('a', 'b'))


def test_published_pairs_show_a_part_of_the_other_view(bank) -> None:
    nothing = ('brightness', 'contrast', 'gamma', 'saturation', 'tint', 'gray_share')
    nothing += ('shade_share', 'blur_share', 'noisy_share')
    values = dict.fromkeys(nothing, 0.0) | {'view_size': 96, 'sampler': 'published'}
    options = Options.build(Kp2dRecipe, values)
    batch = Kp2dRecipe.sample(options, bank, 4, torch.Generator().manual_seed(0))
    grid = pixel_grid(96, 96).expand(4, -1, -1)
    there = warp_points(grid, batch.H_0to1)
    assert inside(there, 96, 96, margin=-1e-3).all()
    read = sample(batch.images[1], there, 'border').mT.reshape(batch.images[0].shape)
    assert float((read - batch.images[0]).abs().mean()) < 0.05
    again = published_pairs(bank, 4, options, torch.Generator().manual_seed(0))
    assert torch.equal(batch.images, again.images)


def run(folder, out, **options):
    """Train for a step or some on the photographs in a folder."""
    small = {
        'view_size': 64, 'batch_size': 1, 'bank_side': 128, 'validation_pairs': 1, 'dropout': 0.2
    }  # fmt: skip
    return train_small('kp2d', folder, out, **small | options)


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp('photographs'), 4)


@pytest.fixture(scope='module')
def whole(photographs, tmp_path_factory):
    """Return the weights of a run that nothing disturbed."""
    return run(photographs, tmp_path_factory.mktemp('whole'), steps=2)


def test_io_net_is_kept_to_go_on_but_not_in_the_weights(whole) -> None:
    kept = load_checkpoint(whole.with_name('last.pt'))['recipe']
    assert 'io_net.p_out.weight' in kept and 'extractor.conv1a.0.weight' in kept
    assert load_file(whole).keys() == Kp2d(Kp2dConfig()).state_dict().keys()


def test_a_resumed_run_drops_the_channels_of_an_unbroken_one(photographs, whole, tmp_path) -> None:
    with killed_at(1), pytest.raises(KeyboardInterrupt):
        run(photographs, tmp_path, steps=2)
    run(photographs, tmp_path, steps=2)
    states = [load_checkpoint(path / 'last.pt') for path in (whole.parent, tmp_path)]
    for name, value in states[0]['recipe'].items():
        assert torch.equal(value, states[1]['recipe'][name]), name


def test_half_precision_has_losses_in_single_precision(recipe) -> None:
    recipe.train()
    batch = noise_batch(torch.eye(3)[None], shown=True)
    with torch.autocast('cpu', torch.bfloat16):
        parts = recipe(batch, torch.Generator())
    assert all(v.dtype == torch.float32 and v.isfinite() for v in parts.values())
    assert parts['localization'] > 0


def test_it_learns_two_pairs_by_heart(bank) -> None:
    """In 24 steps the recall becomes twice as high, and keypoints come nearer by a fifth."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    config = PairConfig(view_size=64, any_rotation=0.0, max_zoom=1.3, rotation_deg=10.0, shift=0.1)
    pairs = make_pairs(bank, 2, config, PhotometricConfig(noise=0.01), generator)
    recipe = Kp2dRecipe(Kp2d(Kp2dConfig()), make_config(Kp2dLossConfig, {}))
    recipe = recipe.to(memory_format=torch.channels_last).train()
    rows = fit(recipe, pairs, 24, 1e-3)
    first = rows[0]
    last = {k: sum(row[k] for row in rows[-5:]) / 5 for k in first}
    assert last['recall'] > 2 * first['recall']
    assert last['localization'] < first['localization'] / 1.25
    assert last['score'] < 0
    settle(recipe, pairs)
    with torch.no_grad():
        found = recipe.eval()(pairs, generator)
    assert found['recall'] > 2 * first['recall']
    assert found['localization'] < first['localization'] / 1.25
