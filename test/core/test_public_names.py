"""`import kpfeat_core` is cheap, and offers what the README uses."""

import os
import subprocess
import sys

import kpfeat_core


def test_every_public_name_exists() -> None:
    for name in kpfeat_core.__all__:
        assert getattr(kpfeat_core, name) is not None


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, kpfeat_core; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0


def test_the_command_lets_waiting_threads_sleep_unless_told_otherwise() -> None:
    code = "import os, kpfeat_core.cli; print(os.environ['OMP_WAIT_POLICY'])"
    for given, expected in (({}, 'PASSIVE'), ({'OMP_WAIT_POLICY': 'ACTIVE'}, 'ACTIVE')):
        rest = {k: v for k, v in os.environ.items() if k != 'OMP_WAIT_POLICY'}
        done = subprocess.run(
            [sys.executable, '-c', code], env=rest | given, capture_output=True, text=True
        )
        assert done.stdout.strip() == expected
