"""Training on scenes with depth and poses."""

import cv2
from kpfeat_core.data.depth_pairs import make_depth_pairs
from kpfeat_core.data.homography_pairs import PairConfig
from kpfeat_core.errors import ConfigError, DataError
from kpfeat_core.registry import build_extractor
from kpfeat_core.training.alike import AlikeLossConfig, AlikeRecipe
from made_room import CALM, EXACT, seeded
import pytest
from small_runs import fit, train_small
import torch


def test_a_few_steps_on_a_scene_lower_every_loss(room_bank) -> None:
    config = PairConfig(view_size=96)
    batch = make_depth_pairs(room_bank, 2, config, EXACT.rules, CALM, seeded())
    torch.manual_seed(0)
    recipe = AlikeRecipe(
        build_extractor('alike-t'), AlikeLossConfig(detected=50, random=50, stride=4)
    )
    history = fit(recipe, batch, 30, 3e-3)
    assert all(p.grad.isfinite().all() for p in recipe.parameters() if p.grad is not None)
    assert 0.1 < history[0]['covisible'] < 0.9
    assert history[-1]['total'] < 0.7 * history[0]['total']
    assert history[-1]['nre'] < 0.7 * history[0]['nre']


RUN = {
    'view_size': 64, 'batch_size': 2, 'detected': 20, 'random': 20, 'bank_side': 128, 'steps': 3,
    'validation_pairs': 2, 'validate_every': 3,
}  # fmt: skip


def test_a_folder_of_scenes_trains_alike_and_is_refused_by_others(tmp_path, room_folder) -> None:
    with pytest.raises(DataError, match='holds one scene .* expected two'):
        train_small('alike-t', room_folder, tmp_path / 'run', **RUN)
    scenes = tmp_path / 'scenes'
    scenes.mkdir()
    for name in ('first', 'second'):
        (scenes / name).symlink_to(room_folder)
    weights = train_small('alike-t', scenes, tmp_path / 'run', **RUN)
    assert weights.is_file()
    assert cv2.imread(str(tmp_path / 'run/pairs.jpg')) is not None
    others = {k: v for k, v in RUN.items() if k not in ('detected', 'random')}
    assert train_small('keynet-tiny', scenes, tmp_path / 'keynet', **others).is_file()
    with pytest.raises(DataError, match='which this model does not train on'):
        train_small('hardnet', scenes, tmp_path / 'other', **others | {'view_size': 256})
    with pytest.raises(ConfigError, match='depth_tolerance is -1.0'):
        train_small('alike-t', scenes, tmp_path / 'x', **RUN | {'depth_tolerance': -1.0})
