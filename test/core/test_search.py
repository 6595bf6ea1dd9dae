"""The script that tries changes of a training's options."""

import pytest
from run_script import run_script
from small_runs import rows, SMALL, write_photographs


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp('photographs'), 5)


def search(photographs, out, *words):
    sets = [word for key, value in SMALL.items() for word in ('--set', f'{key}={value}')]
    return run_script('search.py', 'alike-t', '--data', photographs, '--out', out, *sets, *words)


def results(out):
    return {(row['trial'], row['seed']): row for row in rows(out / 'search.csv')}


def test_every_trial_is_trained_and_measured_once(photographs, tmp_path, capfd) -> None:
    pytest.importorskip('lightning_fabric', reason='training needs Lightning Fabric')
    words = ('--steps', '2', '--seeds', '2', '--try', 'learning_rate=0.05,any_rotation=1.0')
    assert search(photographs, tmp_path, *words).code == 0
    said = capfd.readouterr().out
    first = results(tmp_path)
    trial = 'learning_rate=0.05,any_rotation=1.0'
    assert set(first) == {(name, seed) for name in ('unchanged', trial) for seed in '01'}
    assert first['unchanged', '0']['matches'] != first[trial, '0']['matches']
    assert first['unchanged', '0']['matches'] != first['unchanged', '1']['matches']
    assert 'mma3' in said and trial in said.replace('\n', '')

    assert search(photographs, tmp_path, *words, '--try', 'ema=0.5').code == 0
    assert capfd.readouterr().out.count(', seed ') == 2  # the new one alone
    assert {key: results(tmp_path)[key] for key in first} == first

    ended = search(photographs, tmp_path, '--steps', '3')
    assert ended.code == 1 and 'steps 2 -> 3' in ended.error


@pytest.mark.parametrize(('trial', 'error'), [('seed=3', '--seeds'), ('nothing', "got 'nothing'")])
def test_a_trial_that_is_no_option_is_named(photographs, tmp_path, trial, error) -> None:
    ended = search(photographs, tmp_path, '--try', trial)
    assert ended.code == 1 and error in ended.error
