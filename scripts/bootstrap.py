"""
Make what kpfeat needs to run from its own folder, then run a command in it.

    python3 scripts/bootstrap.py prepare jazzy
    python3 scripts/bootstrap.py run jazzy -- python -m kpfeat_ros.demo
    python3 scripts/bootstrap.py test jazzy -- python -m pytest

`test` is `run` with the interfaces that tests need and the wheels lack. An environment is a
virtual environment with ROS 2 and PyTorch as wheels, and the messages compiled with colcon. Each
step leaves a stamp, so that it is done again only when what it was made from has changed, and is
finished when it was interrupted. Standard library only, Python 3.8 or newer.
"""

import argparse
from collections.abc import Iterator
import contextlib
from dataclasses import dataclass
import fcntl
import hashlib
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys

from machine import (
    check_machine,
    choose_python,
    find_pythons,
    install_system_packages,
    missing_tools,
    probe,
)
from progress import run_logged, say, StepError

ROOT = Path(__file__).resolve().parents[1]
FOLDERS_INSTALLED = ('kpfeat_core', 'kpfeat_ros', 'launch', 'config', 'rviz', 'foxglove')


@dataclass(frozen=True)
class Place:
    """Where the environment of one ROS distribution lies."""

    distribution: str
    root: Path = ROOT

    @property
    def suffix(self) -> str:
        """Return what is added to the folders' names: nothing for the default distribution."""
        return '' if self.distribution == 'jazzy' else f'-{self.distribution}'

    @property
    def venv(self) -> Path:
        return self.root / f'.venv{self.suffix}'

    @property
    def build(self) -> Path:
        return self.root / f'build{self.suffix}'

    @property
    def install(self) -> Path:
        return self.root / f'install{self.suffix}'

    @property
    def test_interfaces(self) -> Path:
        """Return where interfaces for tests only are compiled."""
        return self.build / 'test_interfaces'

    @property
    def python(self) -> Path:
        return self.venv / 'bin' / 'python'

    @property
    def stamp(self) -> Path:
        """Return the file that is there once the virtual environment is finished."""
        return self.venv / 'kpfeat.stamp'

    @property
    def ros_requirements(self) -> 'list[Path]':
        """Return the lists of ROS packages to install."""
        folder = self.root / 'requirements'
        return [folder / f'ros-{kind}-{self.distribution}.txt' for kind in ('run', 'build')]

    @property
    def requirements(self) -> 'list[Path]':
        """Return all lists of packages to install."""
        folder = self.root / 'requirements'
        names = ('core', 'train', 'bags', 'video', 'colmap', 'cluster', 'dev')
        return [*(folder / f'{name}.txt' for name in names), *self.ros_requirements]

    @property
    def constraints(self) -> Path:
        return self.root / 'requirements' / 'constraints.txt'


def digest(files: 'list[Path]', *words: str) -> str:
    """Hash the content of files, with their names, and words."""
    total = hashlib.sha256()
    for file in sorted(files):
        total.update(f'\0{file.name}\0'.encode() + file.read_bytes())
    total.update('\0'.join(words).encode())
    return total.hexdigest()


def is_current(stamp: Path, key: str) -> bool:
    """Say whether a step was finished from the same inputs."""
    return stamp.is_file() and stamp.read_text() == key


def mend_paths(venv: Path, include: str, numpy_include: str) -> int:
    """
    Write this machine's header folders into the CMake files of the wheels.

    They name those of the machine that built the wheels. Returns the number of files changed.
    """
    changed = 0
    for file in venv.glob('share/**/*.cmake'):
        text = file.read_text()
        mended = re.sub(r'/opt/python/[^/;"]+/lib/[^/;"]+/[^;"]*?/include', numpy_include, text)
        mended = re.sub(r'/opt/python/[^/;"]+/include/python[0-9.]+', include, mended)
        if mended != text:
            file.write_text(mended)
            changed += 1
    return changed


def is_whole(place: Place) -> bool:
    """Say whether the virtual environment was finished, runs, and stands where it was made."""
    pip = place.venv / 'bin' / 'pip'
    if not (place.stamp.is_file() and pip.is_file() and str(place.python) in pip.read_text()):
        return False
    return probe(str(place.python)) is not None


def make_environment(place: Place) -> None:
    """Create the virtual environment and install everything, unless that is current."""
    inputs = [*place.requirements, place.constraints, place.root / 'pyproject.toml']
    key = digest([*inputs, Path(__file__)])
    whole = is_whole(place)
    if whole and is_current(place.stamp, key):
        return
    check_machine()
    log = place.root / f'.venv{place.suffix}.log'
    log.unlink(missing_ok=True)
    python = choose_python(find_pythons())
    install_system_packages([*missing_tools(), *python.missing_packages], log)
    if not whole:  # half a package looks installed to pip, so an interrupted run starts afresh
        command = [python.path, '-m', 'venv', '--clear', str(place.venv)]
        run_logged(f'creating {place.venv.name} with {python.path}', command, log)
    place.stamp.unlink(missing_ok=True)
    pip = [str(place.python), '-m', 'pip', '--no-input', '--disable-pip-version-check', 'install']
    lists = [word for file in place.requirements for word in ('-r', str(file))]
    run_logged(
        f'installing ROS 2 {place.distribution.capitalize()}, PyTorch and the rest',
        [*pip, '-c', str(place.constraints), *lists],
        log,
    )
    headers = 'import numpy, sysconfig; print(sysconfig.get_path("include")); '
    headers += 'print(numpy.get_include())'
    answer = subprocess.run([place.python, '-c', headers], stdout=subprocess.PIPE, check=True)
    mend_paths(place.venv, *answer.stdout.decode().splitlines())
    own = ['--no-deps', '--no-build-isolation', '--editable', str(place.root)]
    run_logged('installing the command kpfeat', [*pip, *own], log)
    place.stamp.write_text(key)


def environment_variables(
    place: Place, before: 'dict[str, str]', tests: bool = False
) -> 'dict[str, str]':
    """
    Return the variables to run with, as if install/setup.bash had been sourced.

    Those of another ROS installation are left out, for its packages do not fit these. tests: with
    the interfaces for tests, where there are any.
    """
    foreign = ('AMENT_', 'CMAKE_PREFIX', 'COLCON_', 'PYTHONHOME', 'PYTHONPATH', 'RMW_')
    foreign += ('ROS_DISTRO', 'ROS_VERSION', 'ROS_PYTHON_VERSION', 'LD_LIBRARY_PATH')
    variables = {k: v for k, v in before.items() if not k.startswith(foreign)}
    packages = [place.install / 'kpfeat']
    packages += sorted(place.test_interfaces.glob('install/*_interfaces')) if tests else []
    modules = [str(m) for package in packages for m in package.glob('lib/python3*/site-packages')]
    variables.update(
        AMENT_PREFIX_PATH=':'.join(map(str, [*packages, place.venv])),
        CMAKE_PREFIX_PATH=str(place.venv),
        LD_LIBRARY_PATH=':'.join(str(package / 'lib') for package in packages),
        PATH=f'{place.venv / "bin"}:{before.get("PATH", os.defpath)}',
        PYTHONPATH=':'.join([str(place.root), *modules]),
        ROS_DISTRO=place.distribution,
        VIRTUAL_ENV=str(place.venv),
    )
    return variables


def build_messages(place: Place) -> None:
    """Compile the messages with colcon, and link the Python files, unless that is current."""
    environment = digest(place.ros_requirements, str(place.python), os.path.realpath(place.python))
    key = digest(*build_inputs(place.root), environment)
    stamp = place.install / 'kpfeat.stamp'
    if is_current(stamp, key):
        return
    made_with = place.build / 'environment.stamp'
    if not is_current(made_with, environment):  # CMake remembers the paths of the old one
        shutil.rmtree(place.build, ignore_errors=True)
        shutil.rmtree(place.install, ignore_errors=True)
    place.build.mkdir(exist_ok=True)
    made_with.write_text(environment)
    title = f'compiling the messages for ROS 2 {place.distribution.capitalize()}'
    compile_package(place, title, place.root, place.build, place.install)
    stamp.write_text(key)


def build_test_interfaces(place: Place) -> None:
    """Compile the interface packages of test/ros, unless that is current or ROS has them."""
    environment = digest(place.ros_requirements, str(place.python), os.path.realpath(place.python))
    for folder in sorted(place.root.glob('test/ros/*_interfaces')):
        stamp = place.test_interfaces / f'{folder.name}.stamp'
        key = digest([file for file in folder.rglob('*') if file.is_file()], environment)
        if (place.venv / 'share' / folder.name).is_dir() or is_current(stamp, key):
            continue
        place.test_interfaces.mkdir(exist_ok=True)
        title = f'compiling {folder.name}, for tests'
        install = place.test_interfaces / 'install'
        compile_package(place, title, folder, place.test_interfaces, install)
        stamp.write_text(key)


def compile_package(place: Place, title: str, folder: Path, build: Path, install: Path) -> None:
    """Build the ROS package in a folder with colcon."""
    log = build / 'colcon.log'
    log.unlink(missing_ok=True)
    variables = environment_variables(place, dict(os.environ))
    variables['AMENT_PREFIX_PATH'] = str(place.venv)
    command = [str(place.venv / 'bin' / 'colcon'), '--log-base', str(build / 'log')]
    command += ['build', '--symlink-install', '--event-handlers', 'console_direct+']
    command += ['--base-paths', str(folder)]
    command += ['--build-base', str(build), '--install-base', str(install)]
    command += ['--cmake-args', f'-DPython3_EXECUTABLE={place.python}']
    run_logged(title, command, log, variables)


def build_inputs(root: Path) -> 'tuple[list[Path], str]':
    """Return the files that the build depends on, and the names of those it only links."""
    sources = [root / 'CMakeLists.txt', root / 'package.xml', *(root / 'scripts').glob('*.in')]
    sources += [*root.glob('msg/*.msg'), *root.glob('srv/*.srv')]
    linked = [path for name in FOLDERS_INSTALLED for path in (root / name).rglob('*')]
    names = sorted(str(p.relative_to(root)) for p in linked if '__pycache__' not in p.parts)
    return sources, '\n'.join(names)


@contextlib.contextmanager
def locked(root: Path) -> Iterator:
    """Let one run at a time prepare a folder."""
    with (root / '.venv.lock').open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say('waiting: another run prepares this folder')
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def prepare(place: Place, tests: bool = False) -> None:
    """Bring environment and messages up to date; does nothing where they are."""
    with locked(place.root):
        make_environment(place)
        build_messages(place)
        if tests:
            build_test_interfaces(place)


def main(arguments: 'list[str]') -> int:
    """Prepare, and run a command if one is given; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument('verb', choices=['prepare', 'run', 'test'])
    parser.add_argument('distribution', choices=['jazzy', 'kilted'])
    parser.add_argument('command', nargs=argparse.REMAINDER, help='after --')
    options = parser.parse_args(arguments)
    command = [word for i, word in enumerate(options.command) if i or word != '--']
    if (options.verb == 'prepare') == bool(command):
        parser.error('run needs a command after --, as test does, and prepare takes none')
    place, tests = Place(options.distribution), options.verb == 'test'
    try:
        prepare(place, tests)
    except StepError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('stopped; the same command goes on from here', file=sys.stderr)
        return 130
    if not command:
        say(f'ready: {place.venv.name} and {place.install.name}')
        return 0
    variables = environment_variables(place, dict(os.environ), tests)
    os.chdir(place.root)
    sys.stdout.flush()
    os.execvpe(command[0], command, variables)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
