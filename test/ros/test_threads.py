"""Nodes in separate processes must not take each other's cores while they wait."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize('given', [None, 'ACTIVE'])
def test_waiting_threads_sleep_unless_the_user_wants_otherwise(repository, given) -> None:
    environment = {k: v for k, v in os.environ.items() if k != 'OMP_WAIT_POLICY'}
    environment |= {'OMP_DISPLAY_ENV': 'TRUE'} | ({'OMP_WAIT_POLICY': given} if given else {})
    done = subprocess.run(
        [sys.executable, '-c', 'import kpfeat_ros.images'],
        env=environment,
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    if 'OMP_WAIT_POLICY' not in done.stderr:
        pytest.skip('this build of torch uses an OpenMP that does not print its settings')
    assert f"OMP_WAIT_POLICY = '{given or 'PASSIVE'}'" in done.stderr
