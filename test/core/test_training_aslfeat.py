"""ASLFeat learns, in one stage and in the published two."""

from dataclasses import replace

from kpfeat_core.config import make_config
from kpfeat_core.data.view_pairs import PairBatch
from kpfeat_core.errors import ConfigError
from kpfeat_core.factory import create_extractor
from kpfeat_core.geometry import warp_points
from kpfeat_core.models.aslfeat import AslFeat
from kpfeat_core.training.aslfeat import (
    AslFeatLossConfig,
    AslFeatRecipe,
    LAST_LAYERS,
    sample_correspondences,
)
from kpfeat_core.training.recipe import Options
from kpfeat_core.weights.files import read_architecture, save_weights
import pytest
from small_runs import fit, seen_twice, smooth_pictures, train_small, write_pictures
import torch

SIDE = 64
H_0TO1 = torch.tensor([[[0.98, -0.17, 9.0], [0.17, 0.98, -6.0], [1e-4, -2e-4, 1.0]]])


@pytest.fixture(scope='module')
def pairs() -> PairBatch:
    return seen_twice(smooth_pictures(2, SIDE, 4), H_0TO1)


def recipe_for(**options) -> AslFeatRecipe:
    options = {'correspondences': 100, 'deform': 'none'} | options
    built = Options.build(AslFeatRecipe, options)
    torch.manual_seed(0)
    recipe = AslFeatRecipe(AslFeatRecipe.build('aslfeat', built), built.loss)
    return recipe.to(memory_format=torch.channels_last).train()


def test_correspondences_are_true_visible_and_different(pairs) -> None:
    points = sample_correspondences(pairs, 300, torch.Generator().manual_seed(0))
    assert points.mask.all()
    expected = warp_points(points.keypoints0, pairs.H_0to1)
    torch.testing.assert_close(points.keypoints1, expected)
    assert points.keypoints1.min() >= 0 and points.keypoints1.max() <= SIDE - 1
    assert len(points.keypoints0[0].unique(dim=0)) == 300
    spread = points.keypoints0[0].std(0)
    assert (spread > SIDE / 6).all()


def test_what_is_no_photograph_has_no_correspondences(pairs) -> None:
    valid = pairs.valid.clone()
    valid[0, :, :, 30:] = False
    valid[1, :, 40:] = False
    hidden = replace(pairs, valid=valid)
    points = sample_correspondences(hidden, SIDE * SIDE, torch.Generator().manual_seed(0))
    assert 100 < points.mask.sum() < points.mask.numel()
    assert points.keypoints0[points.mask][:, 0].max() < 30
    assert points.keypoints1[points.mask][:, 1].max() < 40.5
    assert not points.keypoints0[~points.mask].any()


@pytest.mark.parametrize('loss', ['contrastive', 'triplet', 'circle'])
def test_pairs_that_hardly_overlap_cost_nothing_and_give_no_gradient(pairs, loss) -> None:
    far = pairs.H_0to1.clone()
    far[:, 0, 2] = 1e4
    recipe = recipe_for(loss=loss, deform='s')
    parts = recipe(replace(pairs, H_0to1=far), torch.Generator().manual_seed(0))
    parts['total'].backward()
    assert parts['total'] == 0
    gradients = [p.grad for p in recipe.parameters() if p.grad is not None]
    assert gradients and all(not gradient.any() for gradient in gradients)


def test_a_pair_with_few_points_does_not_change_the_loss_of_the_other(pairs) -> None:
    valid = pairs.valid.clone()
    valid[0, 1] = False
    valid[0, 1, 30:33, 30:33] = True
    alone = replace(pairs, valid=valid)
    recipe = recipe_for().eval()
    with torch.no_grad():
        counted = recipe_for(fewest=5).eval()(alone, torch.Generator().manual_seed(0))['total']
        total = recipe(alone, torch.Generator().manual_seed(0))['total']
        both = recipe(pairs, torch.Generator().manual_seed(0))['total']
    assert total > 0 and total not in (counted, both)


@pytest.mark.parametrize(('deform', 'steps'), [('none', 25), ('s', 15)])
def test_a_few_steps_on_one_batch_teach_aslfeat_to_match_it(pairs, deform, steps) -> None:
    recipe = recipe_for(deform=deform)
    history = fit(recipe, pairs, steps, 3e-3)
    assert history[-1]['total'] < 0.6 * history[0]['total']
    assert history[-1]['nearest'] > 2 * history[0]['nearest']


def test_the_second_stage_changes_the_last_layers_alone(pairs) -> None:
    recipe = recipe_for(deform='s', trained='last')
    before = {name: value.clone() for name, value in recipe.extractor.state_dict().items()}
    optimizer = torch.optim.SGD(recipe.parameters(), 0.1)
    recipe(pairs, torch.Generator().manual_seed(0))['total'].backward()
    optimizer.step()
    changed = {
        name.split('.')[0]
        for name, value in recipe.extractor.state_dict().items()
        if not torch.equal(value, before[name]) and not name.endswith('instance_max')
    }
    assert changed == set(LAST_LAYERS)


def test_the_second_stage_begins_where_the_first_ended(pairs, tmp_path) -> None:
    first = recipe_for(deform='none')
    first(pairs, torch.Generator().manual_seed(0))  # statistics of its own
    path = tmp_path / 'first.safetensors'
    save_weights(first.extractor, path)
    second = recipe_for(deform='a').extractor.eval()
    assert 'straight kernels' in AslFeatRecipe.begin(second, path)
    with torch.no_grad():
        image = second.prepare(pairs.images[0, :, :1])
        for name in ('score_map', 'descriptor_maps'):
            expected, found = (
                getattr(net(image), name) for net in (first.extractor.eval(), second)
            )
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_options_that_do_not_exist_are_refused() -> None:
    for options in ({'deform': 'auto'}, {'trained': 'first'}, {'loss': 'hinge'}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            make_config(AslFeatLossConfig, options)


def test_both_stages_run_from_the_command_to_weights_that_load(tmp_path) -> None:
    folder = write_pictures(tmp_path / 'photographs', smooth_pictures(8, 96, 4))
    small = {
        'view_size': 48, 'batch_size': 2, 'correspondences': 50, 'validation_pairs': 1,
        'bank_side': 96,
    }  # fmt: skip
    first = train_small('aslfeat', folder, tmp_path / '1', **small, steps=2, deform='none')
    second = train_small(
        'aslfeat', folder, tmp_path / '2', **small, steps=2, deform='u', trained='last',
        start=str(first), precision='bf16-mixed',
    )  # fmt: skip
    assert read_architecture(first) == {'deform': 'none'}
    extractor = create_extractor('aslfeat', str(second))
    assert isinstance(extractor, AslFeat) and extractor.config.deform == 'u'
    earlier = create_extractor('aslfeat', str(first))
    assert torch.equal(extractor.conv4.weight, earlier.conv4.weight)
    assert not torch.equal(extractor.conv6.weight, 2 * earlier.conv6.weight)
