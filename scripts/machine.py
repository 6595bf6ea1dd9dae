"""What this machine has: a Python to work with, and the programs that compile messages."""

from dataclasses import dataclass
import os
from pathlib import Path
import platform
import shutil
import subprocess
import sys

from progress import run_logged, StepError

PYTHONS = ((3, 10), (3, 11), (3, 12), (3, 13))  # there are wheels of ROS 2 for these

PROBE = (
    'import importlib.util as u, os, sys, sysconfig as s; '
    'print(sys.version_info[0], sys.version_info[1], '
    'int(u.find_spec("ensurepip") is not None and u.find_spec("venv") is not None), '
    'int(os.path.exists(os.path.join(s.get_path("include"), "Python.h"))), '
    'os.path.realpath(sys.executable))'
)


@dataclass(frozen=True)
class Python:
    """An interpreter: its version, and whether it can make environments and compile."""

    version: 'tuple[int, int]'
    has_venv: bool
    has_headers: bool
    path: str

    @property
    def missing_packages(self) -> 'list[str]':
        """Return the system packages that complete it."""
        name = f'python{self.version[0]}.{self.version[1]}'
        venv = [] if self.has_venv else [f'{name}-venv']
        return venv if self.has_headers else [*venv, f'{name}-dev']


def probe(command: str) -> 'Python | None':
    """Ask an interpreter what it is; None where it does not run."""
    try:
        done = subprocess.run(
            [command, '-c', PROBE], capture_output=True, text=True, timeout=60, check=True
        )
        major, minor, venv, headers, path = done.stdout.strip().split(maxsplit=4)
        version = int(major), int(minor)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return Python(version, venv == '1', headers == '1', path)


def choose_python(found: 'list[Python]') -> Python:
    """Take the first usable interpreter that lacks least; raises StepError."""
    usable = [python for python in found if python.version in PYTHONS]
    if not usable:
        have = ', '.join(sorted({f'{p.version[0]}.{p.version[1]}' for p in found})) or 'none'
        raise StepError(
            f'Python 3.10, 3.11, 3.12 or 3.13 is needed, and found was: {have}; install one '
            '(on Debian 12: apt-get install python3) or name it with KPFEAT_PYTHON=/path/to/python'
        )
    return min(usable, key=lambda python: len(python.missing_packages))


def find_pythons() -> 'list[Python]':
    """Probe the interpreters of this machine, the preferred ones first."""
    if 'KPFEAT_PYTHON' in os.environ:
        names = [os.environ['KPFEAT_PYTHON']]
    else:
        names = [sys.executable, 'python3', 'python3.11', 'python3.12', 'python3.10', 'python3.13']
        names += ['/usr/bin/python3']
    return [python for python in map(probe, dict.fromkeys(names)) if python]


def check_machine(system: str = platform.system(), machine: str = platform.machine()) -> None:
    """Refuse machines that there are no wheels for; raises StepError."""
    if (system, machine) != ('Linux', 'x86_64'):
        raise StepError(
            f'ROS 2 comes as wheels for Linux on x86-64 only, and this is {system} on {machine}; '
            'install ROS 2 here and build with colcon, as docs/installation.md says'
        )


def missing_tools() -> 'list[str]':
    """Return the system packages without which nothing can be compiled."""
    tools = {'cmake': ('cmake',), 'g++': ('c++', 'g++'), 'make': ('make',)}
    return [name for name, programs in tools.items() if not any(map(shutil.which, programs))]


def apt_prefix(has_apt: bool, user: int, has_sudo: bool, packages: 'list[str]') -> 'list[str]':
    """Return what apt-get is called through; raises StepError where it cannot be called."""
    names = ' '.join(packages)
    if not has_apt:
        raise StepError(f'these programs are missing: {names}; install them, there is no apt-get')
    if user == 0:
        return []
    if not has_sudo:
        raise StepError(
            f'system packages are missing and only root may install them; run as root: '
            f'apt-get install {names}'
        )
    return ['sudo']


def install_system_packages(packages: 'list[str]', log: Path) -> None:
    """Install Debian packages; raises StepError in one sentence."""
    if not packages:
        return
    prefix = apt_prefix(
        bool(shutil.which('apt-get')), os.geteuid(), bool(shutil.which('sudo')), packages
    )
    environment = {**os.environ, 'DEBIAN_FRONTEND': 'noninteractive'}
    apt = [*prefix, 'apt-get', '-y', '-o', 'DPkg::Lock::Timeout=120']
    run_logged('updating the list of system packages', [*apt, 'update'], log, environment)
    install = [*apt, 'install', '--no-install-recommends', *packages]
    run_logged(f'installing system packages: {" ".join(packages)}', install, log, environment)
