"""MagicPoint and SuperPoint learn what their labels say, from shapes and from photographs."""

from dataclasses import replace

import cv2
from kpfeat_core.adaptation import make_labels
from kpfeat_core.data.config import AdaptConfig, PRIMITIVES, ShapesConfig
from kpfeat_core.data.labelled import LabelledImages, LabelledPairs, read_index, read_labels
from kpfeat_core.errors import ConfigError, DataError, WeightsError
from kpfeat_core.factory import create_extractor
from kpfeat_core.geometry import warp_points
from kpfeat_core.io import expand_images
from kpfeat_core.models.superpoint import cell_scores
from kpfeat_core.registry import build_extractor
from kpfeat_core.training import magicpoint
from kpfeat_core.training.magicpoint import detector_terms, MagicPointLossConfig, MagicPointRecipe
from kpfeat_core.training.recipe import Options
from kpfeat_core.training.superpoint import SuperPointLossConfig, SuperPointRecipe
from kpfeat_core.training.validation import validate
from kpfeat_core.weights.files import save_weights, sha256
from made_room import seeded
import numpy as np
import pytest
from small_runs import fit, rows, train_small
import torch

SHAPES = ShapesConfig(
    train=1, val=1, height=64, width=80, draw_height=256, draw_width=320, blur_px=5,
    smooth_px=(30, 90),
)  # fmt: skip
RUN = {
    'batch_size': 2, 'validate_every': 2, 'warmup_steps': 2, 'validation_pairs': 2, 'steps': 2
}  # fmt: skip
ON_PHOTOGRAPHS = {'view_size': 64, 'bank_side': 96, 'validation_share': 0.4}


@pytest.fixture(scope='module', autouse=True)
def small_shapes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(magicpoint, 'SHAPES', SHAPES)
        yield


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('photographs')
    rng = np.random.default_rng(0)
    for i in range(8):
        coarse = rng.integers(0, 255, (8, 10, 3), np.uint8)
        image = cv2.resize(coarse, (96, 80), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f'{i}.png'), image)
    return folder


@pytest.fixture(scope='module')
def labels(photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp('labels')
    images = expand_images([str(photographs)], by_stem=True)
    config = AdaptConfig(num=1, max_num_keypoints=12, resize=-1, nms_radius=8)
    list(make_labels(create_extractor('alike-t'), images, folder, config))
    return folder


def options(recipe, **values) -> Options:
    return Options.build(recipe, values)


def run(model, data, out, **values):
    return train_small(model, data, out, **RUN | values)


def test_magicpoint_learns_the_corners_of_a_few_shapes() -> None:
    torch.manual_seed(0)
    chosen = options(MagicPointRecipe)
    bank = MagicPointRecipe.load(None, chosen)[0].material
    batch = bank.draw([PRIMITIVES.index(p) for p in ('polygon', 'star', 'cube', 'checkerboard')])
    recipe = MagicPointRecipe(MagicPointRecipe.build('magicpoint', chosen), chosen.loss)
    before = MagicPointRecipe.validate(recipe.extractor, batch)
    log = fit(recipe, batch, 28, 3e-3)
    after = MagicPointRecipe.validate(recipe.extractor, batch)
    assert log[-1]['detector'] < log[0]['detector'] / 4
    assert log[-1]['keypoint_accuracy'] > 0.9 and log[-1]['dustbin_accuracy'] > 0.95
    assert before['score'] < 0.1 and after['score'] > 0.7
    assert after['localization_px'] < 0.8
    assert recipe.extractor.training


def test_labels_that_are_spread_teach_positions_between_pixels(photographs, labels) -> None:
    off_px = {}
    for sigma in (0.0, 0.7):
        torch.manual_seed(0)
        chosen = options(
            MagicPointRecipe, labels=str(labels), label_sigma_px=sigma, **ON_PHOTOGRAPHS
        )
        material, _ = MagicPointRecipe.load(photographs, chosen)
        batch = material.sample(2, seeded(2))
        recipe = MagicPointRecipe(MagicPointRecipe.build('magicpoint', chosen), chosen.loss)
        fit(recipe, batch, 50, 3e-3)
        found = recipe.extractor.eval().with_options(upsample_to=-1).extract(batch.images)
        distance = torch.cdist(batch.keypoints, found.keypoints).min(2).values
        near = distance[batch.mask & (distance < 2)]
        assert len(near) > 0.6 * batch.mask.sum()
        off_px[sigma] = near.mean().item()
    assert off_px[0.0] > 0.3  # a whole pixel is 0.38 px off on average
    assert off_px[0.7] < off_px[0.0] / 2


def test_superpoint_learns_to_match_two_views_of_a_few_photographs(photographs, labels) -> None:
    torch.manual_seed(0)
    chosen = options(SuperPointRecipe, labels=str(labels), **ON_PHOTOGRAPHS)
    material, _ = SuperPointRecipe.load(photographs, chosen)
    batch = material.sample(2, seeded(2))
    recipe = SuperPointRecipe(SuperPointRecipe.build('superpoint', chosen), chosen.loss)
    before = validate(recipe.extractor, batch, 10)
    log = fit(recipe, batch, 35, 2e-3)
    after = validate(recipe.extractor, batch, 10)
    assert log[-1]['detector'] < log[0]['detector'] / 4
    assert log[-1]['descriptor'] < log[0]['descriptor'] / 5
    assert after['mma3'] > 2 * before['mma3']
    assert after['repeatability'] > 1.5 * before['repeatability']


@pytest.mark.parametrize('kind', ['normalized', 'paper', 'sparse', 'softmax'])
def test_every_descriptor_loss_has_finite_gradients(photographs, labels, kind) -> None:
    chosen = options(
        SuperPointRecipe, labels=str(labels), descriptor_loss=kind, positives=20, **ON_PHOTOGRAPHS
    )
    material, _ = SuperPointRecipe.load(photographs, chosen)
    batch = material.sample(2, seeded())
    recipe = SuperPointRecipe(build_extractor('superpoint'), chosen.loss)
    parts = recipe(batch, seeded())
    assert parts['total'].item() == pytest.approx(
        2 * parts['detector'].item() + parts['descriptor'].item(), rel=1e-5
    )
    parts['total'].backward()
    gradients = [p.grad for p in recipe.extractor.descriptor.parameters()]
    assert all(torch.isfinite(g).all() for g in gradients)
    assert any(g.abs().max() > 0 for g in gradients)
    recipe.config = replace(chosen.loss, descriptor_weight=0.0)
    assert recipe(batch, seeded())['descriptor'] == 0


def test_a_batch_without_labels_or_valid_pixels_gives_finite_losses() -> None:
    nothing = torch.zeros(2, 2, 0, 2)
    batch = LabelledPairs(
        torch.rand(2, 2, 3, 32, 32),
        torch.eye(3).repeat(2, 1, 1),
        torch.zeros(2, 2, 32, 32, dtype=torch.bool),
        nothing,
        nothing[..., 0].bool(),
    )
    recipe = SuperPointRecipe(build_extractor('superpoint'), SuperPointLossConfig())
    parts = recipe(batch, seeded())
    parts['total'].backward()
    assert all(torch.isfinite(value) for value in parts.values())
    assert MagicPointRecipe.validate(recipe.extractor, batch.view(0))['score'] == 0


@pytest.mark.parametrize('sigma', [0.0, 0.2])
def test_logits_that_know_the_labels_have_hardly_any_loss(sigma) -> None:
    points = torch.tensor([[[3.0, 4], [20, 9], [0, 0]]])
    mask = torch.tensor([[True, True, False]])
    valid = torch.ones(1, 16, 24, dtype=torch.bool)
    valid[:, :8, 8:16] = False
    batch = LabelledImages(torch.zeros(1, 1, 16, 24), points, mask, valid)
    logits = torch.zeros(1, 65, 2, 3)
    logits[:, 64] = 20
    for x, y in ((3, 4), (20, 9)):
        logits[0, :, y // 8, x // 8] = 0
        logits[0, y % 8 * 8 + x % 8, y // 8, x // 8] = 20
    assert cell_scores(logits)[0, 9, 20] > 0.99
    logits[0, 5, 0, 1] = 40  # a mistake where nothing counts
    config = MagicPointLossConfig(label_sigma_px=sigma)
    parts = detector_terms(logits, batch, config, seeded())
    assert parts['detector'] < 1e-3
    assert parts['keypoint_accuracy'] == parts['dustbin_accuracy'] == 1
    assert detector_terms(logits.flip(3), batch, config, seeded())['detector'] > 1


def test_validation_images_of_shapes_are_as_they_were_drawn() -> None:
    chosen = options(MagicPointRecipe)
    training, validation = MagicPointRecipe.load(None, chosen)
    assert len(training) == len(validation) == 9
    drawn = validation.sample(6, seeded())
    plain = validation.material.sample(6, seeded())
    assert torch.equal(drawn.images, plain.images) and drawn.valid.all()
    changed = training.sample(6, seeded())
    assert changed.images.shape == plain.images.shape and not changed.valid.all()
    again = training.sample(6, seeded())
    assert torch.equal(changed.images, again.images)


@pytest.mark.parametrize('choice', [{}, {'geometry': 'camera', 'photometric': 'camera'}])
def test_pairs_know_how_their_views_differ(photographs, labels, choice) -> None:
    chosen = options(SuperPointRecipe, labels=str(labels), **choice, **ON_PHOTOGRAPHS)
    material, _ = SuperPointRecipe.load(photographs, chosen)
    batch = material.sample(6, seeded())
    assert batch.images.shape == (2, 6, 3, 64, 64)
    moved = warp_points(batch.keypoints[0], batch.H_0to1)
    both = batch.mask.all(0)
    assert both.sum() > 5
    assert (moved - batch.keypoints[1])[both].norm(dim=-1).max() < 0.01


def test_all_three_stages_run_one_after_the_other(photographs, labels, tmp_path) -> None:
    first = run('magicpoint', None, tmp_path / '1')
    assert rows(tmp_path / '1/validation.csv')[-1].keys() >= {'ap', 'localization_px', 'score'}
    assert cv2.imread(str(tmp_path / '1/pairs.jpg')) is not None
    second = run(
        'magicpoint', photographs, tmp_path / '2', start=str(first), labels=str(labels),
        **ON_PHOTOGRAPHS,
    )  # fmt: skip
    third = run(
        'superpoint', photographs, tmp_path / '3', start=str(second), labels=str(labels),
        **ON_PHOTOGRAPHS,
    )  # fmt: skip
    features = create_extractor('superpoint', str(third)).extract(np.zeros((64, 64), np.uint8))
    assert features.descriptor_dim == 256


def test_each_round_of_adaptation_asks_the_detector_that_the_round_before_taught(
    photographs, tmp_path
) -> None:
    images = expand_images([str(photographs)], by_stem=True)
    config = AdaptConfig(num=2, max_num_keypoints=12, resize=-1, detection_threshold=0.0)
    weights, labelled = run('magicpoint', None, tmp_path / '0'), []
    for number in ('1', '2'):
        folder = tmp_path / f'labels{number}'
        detector = create_extractor('magicpoint', str(weights))
        list(make_labels(detector, images, folder, config, weights_sha256=sha256(weights)))
        assert read_index(folder)['weights_sha256'] == sha256(weights)
        labelled.append([read_labels(folder / f'{i}.npz')['keypoints'] for i in range(8)])
        weights = run(
            'magicpoint', photographs, tmp_path / number, start=str(weights), labels=str(folder),
            learning_rate=0.01, **ON_PHOTOGRAPHS,
        )  # fmt: skip
    assert all(len(keypoints) > 0 for keypoints in labelled[0] + labelled[1])
    same = [np.array_equal(*pair) for pair in zip(*labelled, strict=True)]
    assert not all(same)
    joint = run(
        'superpoint', photographs, tmp_path / 'joint', start=str(weights),
        labels=str(tmp_path / 'labels2'), **ON_PHOTOGRAPHS,
    )  # fmt: skip
    assert create_extractor('superpoint', str(joint)).descriptor_dim == 256


def test_a_run_begins_with_the_weights_of_another_and_says_so(tmp_path, capsys) -> None:
    torch.manual_seed(7)
    other = build_extractor('magicpoint')
    save_weights(other, tmp_path / 'start.safetensors')
    start = {'start': str(tmp_path / 'start.safetensors'), 'learning_rate': 0.0, 'ema': 0.0}
    weights = run('magicpoint', None, tmp_path / 'run', **start)
    assert 'begins with the weights in' in capsys.readouterr().out
    begun = create_extractor('magicpoint', str(weights)).state_dict()
    for name, value in other.named_parameters():
        assert torch.equal(begun[name], value), name
    (tmp_path / 'start.safetensors').unlink()  # no more needed to go on
    run('magicpoint', None, tmp_path / 'run', **start | {'steps': 3})


def test_superpoint_takes_magicpoints_weights_and_nothing_that_is_not_its_own(tmp_path) -> None:
    magicpoint, superpoint = build_extractor('magicpoint'), build_extractor('superpoint')
    save_weights(magicpoint, tmp_path / 'magicpoint.safetensors')
    descriptor = superpoint.descriptor[0].conv.weight.clone()
    note = SuperPointRecipe.begin(superpoint, tmp_path / 'magicpoint.safetensors')
    assert 'the descriptor head is random' in note
    for name, value in magicpoint.state_dict().items():
        assert torch.equal(superpoint.state_dict()[name], value)
    assert torch.equal(superpoint.descriptor[0].conv.weight, descriptor)
    save_weights(build_extractor('alike-t'), tmp_path / 'alike.safetensors')
    for name in ('alike.safetensors', 'none.safetensors'):
        with pytest.raises(WeightsError, match=name):
            SuperPointRecipe.begin(superpoint, tmp_path / name)
    with pytest.raises(WeightsError, match='model superpoint, expected model magicpoint'):
        save_weights(superpoint, tmp_path / 'superpoint.safetensors')
        MagicPointRecipe.begin(magicpoint, tmp_path / 'superpoint.safetensors')


def test_what_cannot_be_trained_is_refused(photographs, tmp_path) -> None:
    with pytest.raises(ConfigError, match='kpfeat adapt'):
        run('superpoint', photographs, tmp_path / 'a')
    with pytest.raises(ConfigError, match='photometric=camera is for photographs'):
        run('magicpoint', None, tmp_path / 'a', photometric='camera')
    with pytest.raises(ConfigError, match='geometry'):
        run('magicpoint', None, tmp_path / 'a', geometry='none')
    with pytest.raises(ConfigError, match='labels=FOLDER'):
        run('magicpoint', photographs, tmp_path / 'a')
    with pytest.raises(ConfigError, match='--data FOLDER'):
        run('magicpoint', None, tmp_path / 'a', labels='labels')
    with pytest.raises(DataError, match='index'):
        run('superpoint', photographs, tmp_path / 'b', labels=str(tmp_path), **ON_PHOTOGRAPHS)


def test_options_of_version_0_1_are_read_under_their_old_names(photographs, labels) -> None:
    old = {'homographies': 'camera', 'light': 'superpoint-augment', 'labels': str(labels)}
    with pytest.warns(FutureWarning, match="'light' is called 'photometric' now"):
        chosen = options(SuperPointRecipe, **old)
    assert chosen.pairs.geometry == 'camera'
    assert chosen.photometric.photometric == 'superpoint-augment'
