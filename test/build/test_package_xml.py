"""What `rosdep install` is asked for exists, and covers what is imported."""

import ast
from pathlib import Path
import re
import sys
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ElementTree.parse(ROOT / 'package.xml').getroot()
GUIDE = (ROOT / 'docs' / 'installation.md').read_text()
DISTRIBUTIONS = ('humble', 'jazzy', 'kilted')

# Looked up in ros/rosdistro as of 2026-08-22, with `rosdep install --simulate` for Humble on
# Ubuntu 22.04 and for Jazzy and Kilted on 24.04. The first are ROS packages released for all
# three, the others keys of rosdep/python.yaml that stand for an Ubuntu package of the same name.
RELEASED = [
    'ament_cmake',
    'ament_cmake_pytest',
    'ament_cmake_python',
    'composition_interfaces',
    'cv_bridge',
    'diagnostic_msgs',
    'foxglove_msgs',
    'geometry_msgs',
    'launch',
    'launch_ros',
    'lifecycle_msgs',
    'rcl_interfaces',
    'rclpy',
    'rosgraph_msgs',
    'rosidl_default_generators',
    'rosidl_default_runtime',
    'sensor_msgs',
    'sensor_msgs_py',
    'std_msgs',
    'std_srvs',
    'visualization_msgs',
]
KEYS = {
    'cv2': 'python3-opencv',
    'h5py': 'python3-h5py',
    'jinja2': 'python3-jinja2',
    'matplotlib': 'python3-matplotlib',
    'numpy': 'python3-numpy',
    'pytest': 'python3-pytest',
    'rich': 'python3-rich',
    'typer': 'python3-typer',
    'yaml': 'python3-yaml',
}
TOO_OLD = {('python3-typer', 'humble'): '0.4, where 0.9 is needed'}
# No key that works: one pip line instead.
WITH_PIP = {
    'av': 'there is no key; only for videos',
    'pycolmap': 'there is no key; only for COLMAP',
    'ray': 'there is no key; only for clusters',
    'torch': 'python3-torch is a key, yet Ubuntu 24.04 has no such package',
    'safetensors': 'there is no key',
    'jaxtyping': 'there is no key; only checks annotations in tests',
    'lz4': 'there is no key; only for bags',
    'mcap': 'there is no key; only for bags',
    'rosbags': 'its key asks pip, which Ubuntu 24.04 refuses; only for bags',
    'zstandard': 'there is no key; only for bags',
    'lightning_fabric': 'there is no key; only for training on several GPUs',
}
COMES_WITH = {'markupsafe': 'jinja2', 'ruamel': 'rosbags'}  # which depend on them
OWN = {'kpfeat', 'kpfeat_core', 'kpfeat_ros', 'photographs'}


def dependencies(distribution: str) -> list[str]:
    """Return what package.xml asks for on a distribution."""
    kept = []
    for element in MANIFEST:
        if not element.tag.endswith('depend'):
            continue
        condition = element.get('condition', '')
        if condition:
            sign, name = re.fullmatch(r'\$ROS_DISTRO (==|!=) (\w+)', condition).groups()
            if (distribution == name) != (sign == '=='):
                continue
        kept.append(element.text)
    return kept


def imported() -> dict[str, str]:
    """Return the modules that the two packages import from elsewhere, each with a place."""
    found = {}
    for path in [*ROOT.glob('kpfeat_*/**/*.py'), *ROOT.glob('launch/*.py')]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in names:
                found[name.split('.')[0]] = str(path.relative_to(ROOT))
    return {k: v for k, v in found.items() if k not in sys.stdlib_module_names and k not in OWN}


def test_the_manifest_is_of_format_3() -> None:
    assert MANIFEST.get('format') == '3'  # the first with conditions


@pytest.mark.parametrize('distribution', DISTRIBUTIONS)
def test_every_dependency_is_a_key_that_rosdep_can_install(distribution) -> None:
    asked = dependencies(distribution)
    assert sorted(set(asked) - {*RELEASED, *KEYS.values()}) == [], 'look them up, then list them'
    assert sorted(asked) == sorted(set(asked)), 'twice'


@pytest.mark.parametrize(('key', 'distribution'), TOO_OLD)
def test_a_package_that_is_too_old_is_not_asked_for(key, distribution) -> None:
    assert key not in dependencies(distribution)
    assert any(key in dependencies(other) for other in DISTRIBUTIONS)


def test_everything_imported_is_asked_for_or_in_the_guide() -> None:
    asked = dependencies('jazzy')
    for name, place in imported().items():
        module = COMES_WITH.get(name, name)
        if module in WITH_PIP:
            package = module.replace('_', '-')
            # in one paragraph
            assert re.search(rf'(?s)pip install (?:(?!\n\n).)*?\b{package}\b', GUIDE), (
                f'{place}: {WITH_PIP[module]}'
            )
        else:
            assert KEYS.get(module, module) in asked, f'imported in {place}'


def test_what_pip_must_bring_is_not_asked_of_rosdep() -> None:
    asked = {name for distribution in DISTRIBUTIONS for name in dependencies(distribution)}
    assert asked.isdisjoint(f'python3-{name}' for name in WITH_PIP)
