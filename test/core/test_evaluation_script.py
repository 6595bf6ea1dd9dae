"""The evaluation script as a user runs it."""

import json
from pathlib import Path
import subprocess
import sys

import cv2
import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / 'benchmarks/evaluate_planar.py'


def run(*arguments):
    pytest.importorskip('rich')
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def shared_folder(tmp_path):
    """Write one sequence where the script looks for it: a picture and its shift by 5 pixels."""
    folder = tmp_path / 'data/eval/oxford/v_shift'
    folder.mkdir(parents=True)
    scene = np.random.default_rng(0).integers(0, 256, (30, 40), np.uint8)
    scene = cv2.resize(scene, (320, 240), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(folder / '1.png'), scene[:, :300])
    cv2.imwrite(str(folder / '2.png'), scene[:, 5:305])
    np.savetxt(folder / 'H_1_2', [[1, 0, -5], [0, 1, 0], [0, 0, 1]])
    return tmp_path


def test_the_script_writes_what_it_measured_and_how(shared_folder):
    out = shared_folder / 'new/results.jsonl'
    done = run(
        '--shared', shared_folder, '--data', 'oxford', '--extractors', 'a=sift,orb',
        '--reference', 'a', '--out', out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 'MMA@3' in done.stdout and 'v_shift' in done.stdout and 'reaches of a' in done.stdout
    sift, orb = (json.loads(line) for line in out.read_text().splitlines())
    assert (sift['extractor'], orb['extractor']) == ('a', 'orb')
    assert sift['means']['MMA@3'] > 0.9 and sift['pairs'] == 1
    assert {'commit', 'command', 'machine', 'torch', 'intervals_95', 'protocol'} <= sift.keys()


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (('--extractors', 'surf'), "there is no model 'surf'"),
        (('--extractors', 'sift,sift'), 'labels must differ'),
        (('--extractors', 'sift', '--data', 'kitti'), "there is no data set 'kitti'"),
        (('--extractors', 'alike-t:missing.pth'), "there is no checkpoint 'missing.pth'"),
    ],
)
def test_a_mistake_is_one_sentence(shared_folder, arguments, words):
    done = run('--shared', shared_folder, *arguments)
    assert done.returncode == 2
    assert words in done.stderr and 'Traceback' not in done.stderr
