"""CMake configures the package whichever way a distribution of ROS treats headers."""

import os
from pathlib import Path
import shutil
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Those of Python and NumPy: ROS from wheels exports them, ROS from packages keeps them to itself.
NOTHING_EXPORTED = """
function(target_include_directories)
  list(TRANSFORM ARGN REPLACE "^PUBLIC$" PRIVATE)
  _target_include_directories(${ARGN})
endfunction()
"""


@pytest.mark.slow
def test_package_configures_where_python_messages_export_no_headers(tmp_path) -> None:
    if 'AMENT_PREFIX_PATH' not in os.environ or not shutil.which('cmake'):
        pytest.skip('needs cmake and a ROS workspace that is sourced')
    changed = tmp_path / 'nothing_exported.cmake'
    changed.write_text(NOTHING_EXPORTED)
    command = ['cmake', '-S', str(ROOT), '-B', str(tmp_path / 'build'), '-DBUILD_TESTING=OFF']
    command += [f'-DPython3_EXECUTABLE={sys.executable}', f'-DCMAKE_PROJECT_INCLUDE={changed}']
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
