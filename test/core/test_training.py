"""The training loop: it learns, writes what it promises, and refuses what cannot work."""

from dataclasses import replace
import shutil
import signal
import subprocess
import sys
import textwrap

import cv2
from kpfeat_core.data.homography_pairs import make_pairs, PairConfig
from kpfeat_core.data.image_folder import load_bank
from kpfeat_core.data.photometric import PhotometricConfig
from kpfeat_core.errors import ConfigError, DataError
from kpfeat_core.factory import create_extractor
from kpfeat_core.io import find_images
from kpfeat_core.registry import build_extractor
from kpfeat_core.training import TrainConfig
from kpfeat_core.training.alike import AlikeLossConfig, AlikeRecipe
from kpfeat_core.training.recipe import parse_kind_weights
from kpfeat_core.training.runtime import learning_rate
import numpy as np
import pytest
from small_runs import fit, rows, run, SMALL, steps, write_photographs
import torch


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp('photographs'))


@pytest.fixture(scope='module')
def weights(photographs, tmp_path_factory):
    """Return the weights of a finished run, in its folder."""
    return run(photographs, tmp_path_factory.mktemp('run'), steps=6)


def test_a_run_writes_logs_curves_and_weights_that_load(weights) -> None:
    out = weights.parent
    assert steps(out / 'log.csv') == [1, 2, 3, 4, 5, 6]
    assert steps(out / 'validation.csv') == [3, 6]
    for name in ('pairs.jpg', 'curves.png', 'validation/0000003.jpg', 'validation/0000006.jpg'):
        assert cv2.imread(str(out / name)) is not None
    for row in rows(out / 'speed.csv'):
        assert 0 < float(row['data_share']) < 1
        assert float(row['examples_per_second']) > 0
    state = torch.load(out / 'last.pt', weights_only=True)
    rate = learning_rate(5, TrainConfig(**{k: SMALL[k] for k in ('warmup_steps',)}, steps=6))
    assert state['optimizer']['param_groups'][0]['lr'] == rate > 0
    torch.manual_seed(SMALL['seed'])
    first = build_extractor('alike-t').state_dict()['conv1.weight']
    learnt = state['recipe']['extractor.conv1.weight']
    average = state['average']['module.conv1.weight']
    assert 0 < (average - first).norm() < (learnt - first).norm()
    extractor = create_extractor('alike-t', weights=str(weights))
    assert extractor.extract(np.zeros((64, 64), np.uint8)).descriptor_dim == 64


def test_the_summary_names_the_best_validation_and_the_changed_options(weights) -> None:
    summary = weights.with_name('summary.md').read_text()
    best = max(rows(weights.with_name('validation.csv')), key=lambda row: float(row['score']))
    assert '6 steps' in summary
    assert f'best validation at step {best["step"]}: ' in summary
    assert 'view_size=64' in summary
    assert 'shade_share' not in summary


def test_no_steps_validate_what_the_run_would_begin_with(photographs, weights, tmp_path) -> None:
    run(photographs, tmp_path, steps=0, start=str(weights))
    found, trained = (rows(path / 'validation.csv') for path in (tmp_path, weights.parent))
    best = max(trained, key=lambda row: float(row['score']))
    assert [(row['step'], row['mma3']) for row in found] == [('0', best['mma3'])]
    assert not (tmp_path / 'log.csv').exists()


def test_a_run_without_matplotlib_only_lacks_its_curves_and_broken_photographs(
    photographs, tmp_path, monkeypatch, capsys
) -> None:
    shutil.copytree(photographs, tmp_path / 'photographs')
    (tmp_path / 'photographs/broken.png').write_bytes(b'no')
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    assert run(tmp_path / 'photographs', tmp_path / 'run', steps=1).exists()
    assert not (tmp_path / 'run/curves.png').exists()
    said = capsys.readouterr().out.replace('\n', '')
    assert 'no curves.png: it needs matplotlib' in said
    assert 'left out 1 unreadable or tiny images' in said and 'broken.png' in said
    assert 'best validation at step' in said


def test_a_run_gives_the_signal_back_to_whom_it_belonged(photographs, tmp_path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    run(photographs, tmp_path / 'done', steps=1)
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(OSError):  # a file where the pictures should go
        (tmp_path / 'broken').mkdir()
        (tmp_path / 'broken/validation').touch()
        run(photographs, tmp_path / 'broken', steps=1)
    assert signal.getsignal(signal.SIGTERM) is before


def test_half_precision_goes_on_after_an_overflow(photographs, tmp_path) -> None:
    run(photographs, tmp_path, steps=6, precision='16-mixed')
    skipped = [float(row['skipped']) for row in rows(tmp_path / 'log.csv')]
    assert skipped[0] == 1  # the scale begins with 65536, and halves until a step succeeds
    assert skipped[-1] == 0


def test_unknown_models_options_and_folders_are_refused(photographs, tmp_path) -> None:
    from kpfeat_core.training import train

    with pytest.raises(ConfigError, match='no recipe'):
        train('alike-x', photographs, tmp_path)
    with pytest.raises(ConfigError, match='unknown training option'):
        train('alike-t', photographs, tmp_path, learning_rat=1)
    with pytest.raises(DataError, match='no folder'):
        run(tmp_path / 'none', tmp_path / 'out')
    with pytest.raises(ConfigError, match='view_size is 70, expected a multiple of 32'):
        run(photographs, tmp_path / 'odd', view_size=70)
    with pytest.raises(ConfigError, match='stride is 65, expected at most view_size'):
        run(photographs, tmp_path / 'odd', stride=65)
    assert not (tmp_path / 'odd').exists()


@pytest.mark.parametrize('text', ['photo:2', 'photo=x', 'photo=1=2', 'photo=-1', 'photo=nan'])
def test_weights_of_kinds_that_cannot_be_are_refused(text) -> None:
    assert parse_kind_weights('photo=2,texture=0') == {'photo': 2, 'texture': 0}
    with pytest.raises(ConfigError, match=f"kind_weights is '{text}'"):
        parse_kind_weights(text)


def test_the_rate_warms_up_stays_and_falls_to_nothing() -> None:
    config = TrainConfig(steps=100, warmup_steps=10, decay_share=0.2, learning_rate=1.0)
    assert learning_rate(0, config) == pytest.approx(0.1)
    assert learning_rate(50, config) == 1.0
    assert learning_rate(90, config) == pytest.approx(0.5)
    assert learning_rate(99, config) == pytest.approx(0.05)


@pytest.fixture(scope='module')
def pairs(photographs):
    bank = load_bank(find_images(photographs), 128)
    generator = torch.Generator().manual_seed(0)
    return make_pairs(bank, 2, PairConfig(view_size=64), PhotometricConfig(), generator)


@pytest.mark.parametrize('stride', [1, 4])
def test_a_few_steps_on_one_pair_lower_the_loss(pairs, stride) -> None:
    torch.manual_seed(0)
    recipe = AlikeRecipe(
        build_extractor('alike-t'), AlikeLossConfig(detected=20, random=20, stride=stride)
    )
    totals = [parts['total'] for parts in fit(recipe, pairs, 25, 3e-3)]
    assert all(np.isfinite(totals))
    assert totals[-1] < 0.8 * totals[0]


def test_fewer_pixels_estimate_the_same_nre(pairs) -> None:
    torch.manual_seed(0)
    extractor = build_extractor('alike-t')
    values = []
    for stride in (1, 2, 4):
        recipe = AlikeRecipe(extractor, AlikeLossConfig(detected=20, random=20, stride=stride))
        draws = [recipe(pairs, torch.Generator().manual_seed(0))['nre'].item() for _ in range(3)]
        values.append(np.mean(draws))
    assert values[1] == pytest.approx(values[0], rel=0.05)
    assert values[2] == pytest.approx(values[0], rel=0.1)


def test_pairs_without_common_pixels_give_finite_losses(pairs) -> None:
    far = torch.eye(3).repeat(2, 1, 1)
    far[:, 0, 2] = 1e4
    blind = replace(pairs, H_0to1=far, valid=torch.zeros_like(pairs.valid))
    recipe = AlikeRecipe(build_extractor('alike-t'), AlikeLossConfig(detected=20, random=20))
    parts = recipe(blind, torch.Generator().manual_seed(0))
    parts['total'].backward()
    assert all(torch.isfinite(value) for value in parts.values())
    assert all(torch.isfinite(p.grad).all() for p in recipe.parameters() if p.grad is not None)


def test_a_large_pair_with_many_points_trains_in_less_than_a_gigabyte() -> None:
    # 800 points and all 320 x 320 pixels: 328 MB for one similarity map if it were ever whole
    script = textwrap.dedent("""
        import resource, torch
        from kpfeat_core.data.view_pairs import PairBatch
        from kpfeat_core.registry import build_extractor
        from kpfeat_core.training.alike import AlikeLossConfig, AlikeRecipe
        torch.set_num_threads(1)
        config = AlikeLossConfig(detected=400, random=400, stride=1)
        recipe = AlikeRecipe(build_extractor('alike-t'), config)
        images = torch.rand(2, 1, 3, 320, 320)
        seen = torch.ones(2, 1, 320, 320, dtype=torch.bool)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        recipe(PairBatch(images, torch.eye(3)[None], seen), torch.Generator())['total'].backward()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """)
    done = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, check=True
    )
    assert int(done.stdout.split()[-1]) * 1024 < 9e8
