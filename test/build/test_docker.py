"""The image is built from files that are there and sent, with packages that exist."""

from fnmatch import fnmatch
import os
from pathlib import Path
import re
import subprocess

from kpfeat_core.runtime import NEEDED

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / 'docker' / 'Dockerfile').read_text()
IGNORE = (ROOT / '.dockerignore').read_text()
SENT = [line[1:] for line in IGNORE.splitlines() if line.startswith('!')]


def is_sent(path: str) -> bool:
    """Say whether a file of the repository reaches the build."""
    if fnmatch(path, '*__pycache__*'):
        return False
    return any(path == kept or path.startswith(f'{kept}/') for kept in SENT)


def copied() -> list[str]:
    """Return what the Dockerfile copies from the repository."""
    lines = re.findall(r'^COPY (?!--from)(.+)$', DOCKERFILE, re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1]]


def test_what_is_copied_is_there_and_sent() -> None:
    assert '.' in copied()
    for name in set(copied()) - {'.'}:
        assert (ROOT / name).is_file()
        assert is_sent(name), 'missing in .dockerignore'


def test_everything_is_left_out_but_what_is_named() -> None:
    assert '*' in IGNORE.splitlines()
    assert IGNORE.splitlines()[-1] == '**/__pycache__', 'rules below it could bring caches back'
    assert [name for name in SENT if not (ROOT / name).exists()] == []


def test_what_cmake_installs_is_sent() -> None:
    text = (ROOT / 'CMakeLists.txt').read_text()
    folders = re.search(r'foreach\(folder (.+)\)', text)[1].split()
    packages = re.findall(r'ament_python_install_package\((\w+)\)', text)
    files = re.search(r'install\(FILES (.+) DESTINATION', text)[1].split()
    messages = re.findall(r'^  (\w+/\w+\.(?:msg|srv))$', text, re.MULTILINE)
    templates = re.findall(r'configure_file\((\S+)', text)
    assert packages and messages and templates
    for name in [*folders, *packages, *files, *messages, *templates, 'CMakeLists.txt']:
        assert is_sent(name), f'add !{name} to .dockerignore'


def test_the_image_stands_on_the_official_one() -> None:
    assert set(re.findall(r'^FROM (\S+)', DOCKERFILE, re.MULTILINE)) == {'ros:${ROS_DISTRO}'}
    assert 'ARG ROS_DISTRO=jazzy\n' in DOCKERFILE


def test_pip_brings_what_rosdep_cannot() -> None:
    text = DOCKERFILE.replace('\\\n', ' ')
    found = {
        word for line in re.findall(r'pip install (.+?)(?:&&|\n)', text) for word in line.split()
    }
    packages = {word.strip("'") for word in found if not word.startswith('-')}
    assert packages == {NEEDED[name] for name in ('torch', 'safetensors', 'typer')}


def test_the_command_runs_where_the_workspace_is_sourced(tmp_path) -> None:
    script = ROOT / 'docker' / 'entrypoint.sh'
    assert os.access(script, os.X_OK)
    (tmp_path / 'setup.bash').write_text('export SOURCED=yes\n')
    text = script.read_text().replace('/opt/kpfeat/', f'{tmp_path}/')
    command = ['bash', '-c', text, 'entrypoint', 'sh', '-c', 'echo $SOURCED; exit 3']
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ('yes\n', 3)
