"""Training in several processes, and being told to stop."""

import os
from pathlib import Path
import signal
import subprocess
import sys
import threading

import pytest
from run_kpfeat import run as run_kpfeat
from small_runs import write_photographs
import torch

pytest.importorskip('lightning_fabric', reason='training needs Lightning Fabric')
import gradient  # noqa: E402, I100 - it needs that package

ROOT = Path(__file__).parents[2]


def test_two_processes_give_the_gradient_of_one(tmp_path) -> None:
    gradient.main(tmp_path / '1.pt')
    together = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    together += ['--nproc_per_node=2', gradient.__file__, tmp_path / '2.pt']
    environment = os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(
        list(map(str, together)), env=environment, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    expected, found = (torch.load(tmp_path / f'{n}.pt') for n in (1, 2))
    assert any(value.abs().max() > 0 for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-3, msg=name)


@pytest.fixture
def unheard():
    """Let a signal that nobody waits for do nothing, in place of ending the tests."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_run_told_to_stop_saves_its_last_step_and_goes_on_from_it(tmp_path, unheard) -> None:
    (tmp_path / 'photographs').mkdir()
    photographs = write_photographs(tmp_path / 'photographs', 4)
    words = ['--data', photographs, '--out', tmp_path / 'run', '--steps', 100, '--batch-size', 1]
    words += ['--validation-share', 0.4, '--validation-pairs', 1, '--log-every', 1]
    words += ['--set', 'view_size=64', '--set', 'detected=10', '--set', 'random=5']
    log, ended = tmp_path / 'run/log.csv', threading.Event()

    def tell() -> None:
        while not (log.exists() and log.read_text().count('\n') > 3) and not ended.wait(0.01):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=tell).start()
    result = run_kpfeat('train', 'alike-t', *words)
    ended.set()
    assert result.exit_code == 2 and 'stopped by a signal at step' in result.stderr, result.output
    step = torch.load(tmp_path / 'run/last.pt', weights_only=True)['step']
    assert f'step {step};' in result.stderr and 3 <= step < 100
