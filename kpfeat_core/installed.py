"""What must be installed before anything here runs; imports none of it."""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
import re
import sys

# Modules, and what pip calls them: the list of requirements/core.txt.
NEEDED = {
    'cv2': 'opencv-python-headless',
    'numpy': 'numpy',
    'rich': 'rich',
    'safetensors': 'safetensors',
    'torch': 'torch>=2.1',
    'typer': 'typer>=0.9',
}
NODES_NEED = ('rclpy', 'kpfeat')


def leave_if_missing(nodes: bool = False) -> None:
    """
    End the process with one sentence and code 2 where something is missing.

    Programs call this before they import the rest, which would end in a traceback. nodes: ask
    for ROS and the compiled messages as well.
    """
    text = what_is_missing() or (nodes and what_nodes_miss())
    if text:
        print(f'error: {text}', file=sys.stderr)
        sys.exit(2)


def what_is_missing() -> str:
    """Say which packages are missing or too old and how to get them; '' if none is."""
    found = {module: _why_not(module, package) for module, package in NEEDED.items()}
    wanted = [module for module, why in found.items() if why]
    if not wanted:
        return ''
    packages = ' '.join(f"'{p}'" if '>' in p else p for p in map(NEEDED.get, wanted))
    return (
        f'{", ".join(found[module] for module in wanted)}; install with: {sys.executable} -m pip '
        f'install {packages} (where pip refuses, in a virtual environment: docs/installation.md)'
    )


def what_nodes_miss() -> str:
    """Say which part of ROS a node lacks; '' if none."""
    for module in NODES_NEED:
        if find_spec(module) is None:
            return (
                f"the Python module '{module}' is missing: source a ROS 2 workspace in which "
                'kpfeat is built, or use `make shell` in the repository'
            )
    return ''


def _why_not(module: str, package: str) -> str:
    if find_spec(module) is None:
        return f'{module} is not installed'
    name, _, least = package.partition('>=')
    try:
        found = version(name)
    except PackageNotFoundError:  # built by hand, or under another name
        return ''
    if _numbers(found) >= _numbers(least):
        return ''
    return f'{name} is {found}, expected {least} or newer'


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r'\d+', text)[:2]))
