"""`kpfeat train`, as a user sees it."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from run_kpfeat import assert_one_error, run


def test_train_refuses_what_it_does_not_know_before_it_starts(tmp_path):
    words = ('train', 'alike-t', '--data', tmp_path, '--out', tmp_path / 'run')
    assert_one_error(run(*words, '--set', 'color=1'), "unknown training option 'color'")
    assert_one_error(run(*words, '--steps', 0), 'steps is 0')


@pytest.mark.parametrize(
    ('text', 'complaint'),
    [
        ('steps: [', 'no YAML file'),
        ('just words', 'holds no options'),
        ('nothing: 1', "unknown training option 'nothing'"),
        pytest.param('steps: many', "steps is 'many', expected int", marks=pytest.mark.unchecked),
    ],
)
def test_a_recipe_that_cannot_be_is_one_sentence(photos, tmp_path, text, complaint):
    pytest.importorskip('lightning_fabric', reason='training needs Lightning Fabric')
    (tmp_path / 'r.yaml').write_text(text)
    words = ('--data', photos, '--out', tmp_path / 'run', '--recipe', tmp_path / 'r.yaml')
    assert_one_error(run('train', 'alike-t', *words), complaint)


def test_recipes_of_this_repository_have_known_options_and_their_command():
    from kpfeat_core.training import recipe_class
    from kpfeat_core.training.recipe import Options, read_recipe

    paths = sorted((Path(__file__).parents[2] / 'training/recipes').glob('*.yaml'))
    assert paths
    for path in paths:
        words = path.read_text().splitlines()[0].split()
        assert words[:3] == ['#', 'kpfeat', 'train'] and f'training/recipes/{path.name}' in words
        recipe = recipe_class(words[3])
        Options.build(recipe, read_recipe(path))


def test_train_writes_weights_that_extract_takes(photos, tmp_path):
    pytest.importorskip('lightning_fabric', reason='training needs Lightning Fabric')
    pictures = tmp_path / 'pictures'
    pictures.mkdir()
    for index in range(12):
        noise = np.random.default_rng(index).integers(0, 255, (20, 20, 3), np.uint8)
        cv2.imwrite(str(pictures / f'{index}.png'), cv2.resize(noise, (96, 96)))
    words = ('--data', pictures, '--out', tmp_path / 'run', '--steps', 2, '--batch-size', 1)
    sizes = ('--set', 'view_size=64', '--set', 'detected=20', '--set', 'random=10')
    share = ('--validation-share', '0.3', '--validation-pairs', 1, '--device', 'cpu')
    result = run('train', 'alike-t', *words, *sizes, *share)
    assert result.exit_code == 0, result.output
    weights = tmp_path / 'run/alike-t.safetensors'
    assert run('weights', 'verify', weights).exit_code == 0
    result = run('extract', photos / 'a.png', '-w', weights, '-o', tmp_path / 'out')
    assert result.exit_code == 0


def test_train_lists_the_options_of_pairs_and_losses():
    result = run('train', '--list-options', COLUMNS='140')
    assert result.exit_code == 0
    lines = [' '.join(line.split()) for line in result.stdout.splitlines()]
    for line in (
        'any_rotation 0.3 share of pairs turned by any angle',
        'margin 1.0 how much farther the hardest negative is to be',
        'reprojection 1.0 weight of the reprojection loss',
        'steps 60000 optimizer steps in all; 0 validates `start` alone',
        'rooms_move 0.9 longest way between the views, as a share of the depth that they show',
    ):
        assert line in lines
