"""What is missing is said in one sentence, before anything fails in the middle."""

import os
from pathlib import Path
import subprocess
import sys

from kpfeat_core import runtime as installed
import pytest

ROOT = Path(__file__).resolve().parents[2]
NODES = sorted(path.stem for path in (ROOT / 'kpfeat_ros').glob('*_node.py'))


def run_without(missing: str, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run Python as if a module were not installed."""
    (tmp_path / 'sitecustomize.py').write_text(f'import sys\nsys.modules[{missing!r}] = None\n')
    path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get('PYTHONPATH', '')])
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, 'PYTHONPATH': path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )


def program(module: str, tmp_path: Path) -> str:
    """Write the program that CMake makes for `ros2 run kpfeat`."""
    text = (ROOT / 'scripts' / 'entry_point.in').read_text()
    path = tmp_path / module.rpartition('.')[2]
    path.write_text(text.replace('@ENTRY_MODULE@', module))
    return str(path)


def check_sentence(done: subprocess.CompletedProcess, *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.count('\n') == 1, 'one sentence, no traceback'
    assert done.stderr.startswith('error: ')
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize('module', [f'kpfeat_ros.{name}' for name in [*NODES, 'container']])
def test_a_node_without_torch_says_how_to_install_it(module, tmp_path) -> None:
    check_sentence(
        run_without('torch', tmp_path, '-m', module),
        'torch is not installed',
        "-m pip install 'torch>=2.1'",
    )


@pytest.mark.parametrize(
    'module', ['kpfeat_ros.extractor_node', 'kpfeat_ros.container', 'kpfeat_core.cli']
)
@pytest.mark.parametrize('missing', ['torch', 'safetensors', 'rich', 'cv2'])
def test_programs_of_ros2_run_say_what_they_miss(module, missing, tmp_path) -> None:
    done = run_without(missing, tmp_path, program(module, tmp_path))
    check_sentence(done, f'{missing} is not installed', '-m pip install')


@pytest.mark.parametrize('missing', ['rclpy', 'kpfeat'])
def test_a_node_without_ros_says_so(missing, tmp_path) -> None:
    if missing == 'kpfeat' and installed.what_nodes_miss():
        pytest.skip('rclpy is not installed, so that is said first')
    done = run_without(missing, tmp_path, '-m', 'kpfeat_ros.extractor_node')
    check_sentence(done, f"'{missing}' is missing", 'source a ROS 2 workspace')


def test_the_command_line_needs_no_ros(tmp_path) -> None:
    done = run_without('rclpy', tmp_path, program('kpfeat_core.cli', tmp_path), '--version')
    assert (done.returncode, done.stderr) == (0, '')


def test_importing_the_package_never_ends_a_process(tmp_path) -> None:
    done = run_without('torch', tmp_path, '-c', 'import kpfeat_ros; print("alive")')
    assert done.stdout == 'alive\n'


def test_one_that_is_too_old_is_named_with_the_version_needed(monkeypatch) -> None:
    versions = {'torch': '1.13.1', 'typer': '0.12.5'}
    monkeypatch.setattr('importlib.metadata.version', lambda name: versions.get(name, '1.0'))
    text = installed.what_is_missing()
    assert text.startswith('torch is 1.13.1, expected 2.1 or newer; install with: ')
    assert 'typer' not in text


def test_nothing_is_said_where_all_is_there() -> None:
    assert installed.what_is_missing() == ''


def test_programs_ask_for_what_pip_installs() -> None:
    lines = (ROOT / 'requirements' / 'core.txt').read_text().splitlines()
    wanted = {line.strip() for line in lines if line.strip() and not line.startswith('#')}
    assert set(installed.NEEDED.values()) == wanted
