"""`import kpfeat_core` is cheap, and offers what the README uses."""

import subprocess
import sys

import kpfeat_core


def test_every_public_name_exists() -> None:
    for name in kpfeat_core.__all__:
        assert getattr(kpfeat_core, name) is not None


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, kpfeat_core; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
