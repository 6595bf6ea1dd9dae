"""Training in several processes, and being told to stop."""

import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest
from small_runs import write_photographs
import torch

pytest.importorskip('lightning_fabric', reason='training needs Lightning Fabric')
import gradient  # noqa: E402 - it needs that package

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    return os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}


def test_two_processes_give_the_gradient_of_one(tmp_path) -> None:
    gradient.main(tmp_path / '1.pt')
    together = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    together += ['--nproc_per_node=2', gradient.__file__, tmp_path / '2.pt']
    done = subprocess.run(list(map(str, together)), env=environment(), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    expected, found = (torch.load(tmp_path / f'{n}.pt') for n in (1, 2))
    assert any(value.abs().max() > 0 for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-3, msg=name)


def test_a_run_told_to_stop_saves_its_last_step_and_goes_on_from_it(tmp_path) -> None:
    (tmp_path / 'photographs').mkdir()
    photographs = write_photographs(tmp_path / 'photographs', 4)
    words = [sys.executable, '-m', 'kpfeat_core.cli', 'train', 'alike-t']
    words += ['--data', photographs, '--out', tmp_path / 'run']
    words += ['--steps', 100000, '--batch-size', 1, '--threads', 1]
    words += ['--validation-share', 0.4, '--validation-pairs', 1, '--log-every', 1]
    words += ['--set', 'view_size=64', '--set', 'detected=10', '--set', 'random=5']
    process = subprocess.Popen(
        list(map(str, words)), env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    log = tmp_path / 'run/log.csv'
    while process.poll() is None and not (log.exists() and log.read_text().count('\n') > 3):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    error = process.communicate()[1].decode()
    assert process.returncode == 2 and 'stopped by a signal at step' in error, error[-2000:]
    step = torch.load(tmp_path / 'run/last.pt', weights_only=True)['step']
    assert f'step {step};' in error and step >= 3
