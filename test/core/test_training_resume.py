"""Runs go on where they stopped, and folders hold one run each."""

import json
import shutil

from kpfeat_core.errors import ConfigError, WeightsError
from kpfeat_core.training.alike import AlikeRecipe
from kpfeat_core.weights.files import read_weights
import pytest
from small_runs import killed_at, rows, run, steps, write_photographs
import torch


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp('photographs'))


@pytest.fixture(scope='module')
def runs(photographs, tmp_path_factory):
    """Return a function that copies a finished run of some steps into a folder."""
    made = {}

    def copy(steps, out):
        if steps not in made:
            made[steps] = tmp_path_factory.mktemp('run')
            run(photographs, made[steps], steps=steps)
        shutil.copytree(made[steps], out, dirs_exist_ok=True)

    return copy


def load(path):
    return torch.load(path, weights_only=True)


def score(monkeypatch, scores):
    """Give validations the scores of a list, one after the other."""
    left = iter(scores)
    monkeypatch.setattr(AlikeRecipe, 'validate', lambda *_: {'score': next(left)})


def test_a_row_of_the_log_averages_the_steps_since_a_run_resumed(photographs, tmp_path) -> None:
    run(photographs, tmp_path / 'whole', steps=4)
    with killed_at(3), pytest.raises(KeyboardInterrupt):
        run(photographs, tmp_path / 'broken', steps=4, log_every=2)
    run(photographs, tmp_path / 'broken', steps=4, log_every=2)
    alone = rows(tmp_path / 'whole' / 'log.csv')[-1]
    assert rows(tmp_path / 'broken' / 'log.csv')[-1]['nre'] == alone['nre']


@pytest.mark.parametrize('precision', ['32-true', '16-mixed'])
def test_an_interrupted_run_resumes_to_the_weights_of_an_unbroken_one(
    photographs, tmp_path, precision
) -> None:
    options = {'steps': 6, 'checkpoint_seconds': 1, 'precision': precision}
    run(photographs, tmp_path / 'whole', **options)
    with killed_at(4), pytest.raises(KeyboardInterrupt):
        run(photographs, tmp_path / 'broken', **options)
    run(photographs, tmp_path / 'broken', **options)
    states = [load(tmp_path / name / 'last.pt') for name in ('whole', 'broken')]
    assert states[0]['scaler'] == states[1]['scaler']
    for part in ('recipe', 'average'):
        for key, value in states[0][part].items():
            assert torch.equal(value, states[1][part][key]), key
    assert states[0]['step'] == states[1]['step'] == 6
    logs = [rows(tmp_path / name / 'log.csv') for name in ('whole', 'broken')]
    for row in (row for log in logs for row in log):
        del row['seconds']
    assert logs[0] == logs[1]


@pytest.mark.parametrize('longer', [9, 10, 16])
def test_more_steps_go_on_from_before_the_decay(
    photographs, runs, tmp_path, capsys, longer
) -> None:
    runs(8, tmp_path)
    capsys.readouterr()
    run(photographs, tmp_path, steps=longer)
    assert f'resuming at step 6 of {longer}' in capsys.readouterr().out
    assert load(tmp_path / 'last.pt')['step'] == longer


def test_a_run_that_was_killed_as_it_went_on_goes_on_from_before_the_decay(
    photographs, runs, tmp_path, capsys
) -> None:
    runs(8, tmp_path)
    with killed_at(7, saved=False), pytest.raises(KeyboardInterrupt):
        run(photographs, tmp_path, steps=9)
    capsys.readouterr()
    run(photographs, tmp_path, steps=9)
    assert 'resuming at step 6 of 9' in capsys.readouterr().out
    assert steps(tmp_path / 'log.csv') == [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_a_rate_that_should_have_fallen_earlier_is_refused(photographs, runs, tmp_path) -> None:
    runs(8, tmp_path)
    with pytest.raises(ConfigError, match='from step 6, but with steps 6 .* falls from step 4'):
        run(photographs, tmp_path, steps=6)
    assert steps(tmp_path / 'log.csv')[-1] == 8
    (tmp_path / 'before_decay.pt').unlink()
    with pytest.raises(ConfigError, match=r"before_decay.pt' is missing"):
        run(photographs, tmp_path, steps=16)
    run(photographs, tmp_path, steps=8)


def test_a_longer_run_keeps_the_better_weights_of_the_shorter_one(
    photographs, tmp_path, monkeypatch
) -> None:
    score(monkeypatch, [0.1, 0.2, 0.9, 0.3, 0.4, 0.95, 0.5])
    weights = run(photographs, tmp_path, steps=8)
    run(photographs, tmp_path, steps=10)
    assert read_weights(weights)[1]['steps'] == '8'
    assert 'best validation at step 8: score 0.9' in (tmp_path / 'summary.md').read_text()
    run(photographs, tmp_path, steps=12)
    assert read_weights(weights)[1]['steps'] == '9'


def test_weights_are_written_again_where_they_were_left_behind(
    photographs, runs, tmp_path
) -> None:
    runs(2, tmp_path)
    (tmp_path / 'alike-t.safetensors').unlink()
    assert run(photographs, tmp_path, steps=3).exists()


def test_a_folder_with_another_run_is_not_overwritten(photographs, runs, tmp_path) -> None:
    runs(2, tmp_path)
    before = (tmp_path / 'config.json').read_text()
    with pytest.raises(ConfigError, match='learning_rate'):
        run(photographs, tmp_path, steps=2, learning_rate=0.5)
    assert (tmp_path / 'config.json').read_text() == before
    assert json.loads(before)['seed'] == 5
    (tmp_path / 'config.json').unlink()  # the checkpoint holds the options as well
    with pytest.raises(ConfigError, match=r'learning_rate 0.002 -> 0.5'):
        run(photographs, tmp_path, steps=2, learning_rate=0.5)
    state = load(tmp_path / 'last.pt')
    del state['options']
    torch.save(state, tmp_path / 'last.pt')
    with pytest.raises(ConfigError, match=r'config.json. is missing'):
        run(photographs, tmp_path, steps=2)


def test_a_run_whose_files_are_damaged_says_which(photographs, runs, tmp_path) -> None:
    runs(2, tmp_path)
    with open(tmp_path / 'log.csv', 'a') as file:
        file.write('3,0.1')  # cut off, as after a power failure
    run(photographs, tmp_path, steps=3)
    assert steps(tmp_path / 'log.csv') == [1, 2, 3]
    (tmp_path / 'config.json').write_text('broken')
    state = load(tmp_path / 'last.pt')
    del state['options']  # as in checkpoints of older runs
    torch.save(state, tmp_path / 'last.pt')
    with pytest.raises(ConfigError, match="config.json' is damaged"):
        run(photographs, tmp_path, steps=3)
    (tmp_path / 'last.pt').write_text('broken')
    with pytest.raises(WeightsError, match="last.pt'"):
        run(photographs, tmp_path, steps=3)


def test_a_run_that_was_killed_before_its_first_checkpoint_leaves_no_rows(
    photographs, tmp_path
) -> None:
    with killed_at(4, saved=False), pytest.raises(KeyboardInterrupt):
        run(photographs, tmp_path, steps=16, seed=6)
    assert steps(tmp_path / 'log.csv') == [1, 2, 3, 4]
    (tmp_path / 'validation/notes.txt').touch()
    run(photographs, tmp_path, steps=2)
    for name in ('log.csv', 'speed.csv'):
        assert steps(tmp_path / name) == [1, 2]
    assert steps(tmp_path / 'validation.csv') == [2]
    assert {p.name for p in (tmp_path / 'validation').iterdir()} == {'0000002.jpg', 'notes.txt'}
    assert ': 2 steps in' in (tmp_path / 'summary.md').read_text()


def test_validating_other_weights_in_a_folder_forgets_the_first(
    photographs, runs, tmp_path
) -> None:
    for name, count in (('a', 8), ('b', 2)):
        runs(count, tmp_path / name)
        start = str(tmp_path / name / 'alike-t.safetensors')
        run(photographs, tmp_path / 'c', steps=0, start=start)
    found, expected = (rows(tmp_path / name / 'validation.csv') for name in ('c', 'b'))
    assert [row['score'] for row in found] == [row['score'] for row in expected]


def test_a_run_goes_on_with_the_same_photographs_alone(photographs, runs, tmp_path) -> None:
    runs(2, tmp_path / 'run')
    (tmp_path / 'packed').mkdir()
    for path in photographs.iterdir():
        shutil.copy(path, tmp_path / 'packed' / f'{path.stem}.webp')  # OpenCV tells by the content
    run(tmp_path / 'packed', tmp_path / 'run', steps=3)
    assert steps(tmp_path / 'run/log.csv') == [1, 2, 3]
    written = (tmp_path / 'run/config.json').read_text()
    assert json.loads(written)['images'].startswith('8, ')
    (tmp_path / 'packed/9.webp').write_bytes((photographs / '1.png').read_bytes())
    with pytest.raises(ConfigError, match="images '8, .* -> '9, "):
        run(tmp_path / 'packed', tmp_path / 'run', steps=4)
    assert steps(tmp_path / 'run/log.csv') == [1, 2, 3]
    assert (tmp_path / 'run/config.json').read_text() == written


def test_runs_of_version_0_1_go_on_and_their_columns_have_their_names_of_today(
    photographs, runs, tmp_path
) -> None:
    runs(8, tmp_path)
    table = tmp_path / 'validation.csv'
    before = rows(table)
    table.write_text(table.read_text().replace(',correct,', ',right,'))
    for name in ('last.pt', 'before_decay.pt'):
        state = load(tmp_path / name) | {'best': 0.1}
        del state['scaler'], state['options']['images']
        torch.save(state, tmp_path / name)
    run(photographs, tmp_path, steps=9)
    assert load(tmp_path / 'last.pt')['options']['images'].startswith('8, ')
    assert [row['correct'] for row in rows(table)[:2]] == [row['correct'] for row in before[:2]]


def test_a_run_inside_its_photographs_is_refused(photographs) -> None:
    with pytest.raises(ConfigError, match='would learn from the pictures it writes'):
        run(photographs, photographs / 'run', steps=1)
    assert not (photographs / 'run').exists()
