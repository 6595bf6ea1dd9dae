"""The script that tries changes of a training's options."""

import csv
from pathlib import Path
import subprocess
import sys

import cv2
import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / 'training/search.py'
BASE = (
    'view_size=64', 'bank_side=96', 'batch_size=2', 'validation_pairs=2', 'validation_share=0.4',
    'threads=1', 'device=cpu', 'detected=20', 'random=10',
)  # fmt: skip


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('photographs')
    rng = np.random.default_rng(0)
    for i in range(5):
        coarse = rng.integers(0, 255, (8, 10, 3), np.uint8)
        image = cv2.resize(coarse, (96, 80), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f'{i}.png'), image)
    return folder


def search(photographs, out, *words):
    sets = [word for text in BASE for word in ('--set', text)]
    command = [sys.executable, SCRIPT, 'alike-t', '--data', photographs, '--out', out, *sets]
    return subprocess.run([*command, *words], capture_output=True, text=True)


def rows(out):
    with open(out / 'search.csv', newline='') as file:
        return {(row['trial'], row['seed']): row for row in csv.DictReader(file)}


def test_every_trial_is_trained_and_measured_once(photographs, tmp_path) -> None:
    pytest.importorskip('lightning_fabric', reason='training needs Lightning Fabric')
    words = ('--steps', '2', '--seeds', '2', '--try', 'learning_rate=0.05,any_rotation=1.0')
    ended = search(photographs, tmp_path, *words)
    assert ended.returncode == 0, ended.stderr
    first = rows(tmp_path)
    trial = 'learning_rate=0.05,any_rotation=1.0'
    assert set(first) == {(name, seed) for name in ('unchanged', trial) for seed in '01'}
    assert first['unchanged', '0']['matches'] != first[trial, '0']['matches']
    assert first['unchanged', '0']['matches'] != first['unchanged', '1']['matches']
    assert 'mma3' in ended.stdout and trial in ended.stdout.replace('\n', '')

    again = search(photographs, tmp_path, *words, '--try', 'ema=0.5')
    assert again.returncode == 0, again.stderr
    assert again.stdout.count(', seed ') == 2  # the new one alone
    assert {key: rows(tmp_path)[key] for key in first} == first


def test_a_trial_that_is_no_option_is_named(photographs, tmp_path) -> None:
    ended = search(photographs, tmp_path, '--try', 'seed=3')
    assert ended.returncode == 1 and '--seeds' in ended.stderr
    ended = search(photographs, tmp_path, '--try', 'nothing')
    assert ended.returncode == 1 and "got 'nothing'" in ended.stderr
