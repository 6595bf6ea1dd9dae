"""The script that tries changes of a training's options."""

from pathlib import Path
import subprocess
import sys

import pytest
from small_runs import rows, SMALL, write_photographs

SCRIPT = Path(__file__).parents[2] / 'training/search.py'


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp('photographs'), 5)


def search(photographs, out, *words):
    sets = [word for key, value in SMALL.items() for word in ('--set', f'{key}={value}')]
    command = [sys.executable, SCRIPT, 'alike-t', '--data', photographs, '--out', out, *sets]
    return subprocess.run([*command, *words], capture_output=True, text=True)


def results(out):
    return {(row['trial'], row['seed']): row for row in rows(out / 'search.csv')}


def test_every_trial_is_trained_and_measured_once(photographs, tmp_path) -> None:
    pytest.importorskip('lightning_fabric', reason='training needs Lightning Fabric')
    words = ('--steps', '2', '--seeds', '2', '--try', 'learning_rate=0.05,any_rotation=1.0')
    ended = search(photographs, tmp_path, *words)
    assert ended.returncode == 0, ended.stderr
    first = results(tmp_path)
    trial = 'learning_rate=0.05,any_rotation=1.0'
    assert set(first) == {(name, seed) for name in ('unchanged', trial) for seed in '01'}
    assert first['unchanged', '0']['matches'] != first[trial, '0']['matches']
    assert first['unchanged', '0']['matches'] != first['unchanged', '1']['matches']
    assert 'mma3' in ended.stdout and trial in ended.stdout.replace('\n', '')

    again = search(photographs, tmp_path, *words, '--try', 'ema=0.5')
    assert again.returncode == 0, again.stderr
    assert again.stdout.count(', seed ') == 2  # the new one alone
    assert {key: results(tmp_path)[key] for key in first} == first


def test_results_of_other_settings_are_not_taken_for_these(photographs, tmp_path) -> None:
    pytest.importorskip('lightning_fabric', reason='training needs Lightning Fabric')
    assert search(photographs, tmp_path, '--steps', '2').returncode == 0
    ended = search(photographs, tmp_path, '--steps', '3')
    assert ended.returncode == 1 and 'steps 2 -> 3' in ended.stderr


def test_a_trial_that_is_no_option_is_named(photographs, tmp_path) -> None:
    ended = search(photographs, tmp_path, '--try', 'seed=3')
    assert ended.returncode == 1 and '--seeds' in ended.stderr
    ended = search(photographs, tmp_path, '--try', 'nothing')
    assert ended.returncode == 1 and "got 'nothing'" in ended.stderr
