"""Rules of the house that a machine can check."""

import ast
from pathlib import Path
import re
import subprocess

import house
from house import imports
import pytest

ROOT = Path(__file__).resolve().parents[1]
ROS = ('rclpy', 'kpfeat', 'kpfeat_ros', 'ament_index_python', 'launch', 'launch_ros', 'cv_bridge')
ROS_MESSAGES = re.compile(r'\w+_msgs|\w+_srvs|\w+_interfaces')
CORE = sorted((ROOT / 'kpfeat_core').rglob('*.py'))
NODES = sorted((ROOT / 'kpfeat_ros').glob('*_node.py'))


def is_ros(module: str) -> bool:
    top = module.split('.')[0]
    return top in ROS or ROS_MESSAGES.fullmatch(top) is not None


@pytest.mark.parametrize('path', CORE, ids=lambda p: str(p.relative_to(ROOT)))
def test_core_imports_no_ros(path) -> None:
    wrong = {module for module in imports(path) if is_ros(module)}
    if path.name == 'cli.py':
        # `kpfeat demo` is a door to the ROS demo: it opens it once it has seen that rclpy is there
        wrong -= {'kpfeat_ros.demo', 'kpfeat_ros.demo.main'}
    assert not wrong


@pytest.mark.parametrize('path', NODES, ids=lambda p: p.name)
def test_nodes_compute_nothing(path) -> None:
    tops = {module.split('.')[0] for module in imports(path)}
    assert not tops & {'torch', 'numpy', 'cv2', 'scipy'}


def test_no_module_imports_one_of_a_higher_storey() -> None:
    assert house.upward_imports(house.import_graph()) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert house.circles(house.import_graph()) == []


def test_no_two_folders_import_each_other() -> None:
    assert house.two_way_pairs(house.import_graph()) == []


def test_no_class_name_has_two_meanings() -> None:
    assert house.twin_classes() == {}


def test_circles_and_upward_imports_are_found(tmp_path) -> None:
    for name, text in {
        '__init__': '',
        'errors': 'from . import models\nfrom .models import alike\n',
        'models/__init__': '',
        'models/alike': 'def f():\n    from ..errors import KpfeatError\n',
    }.items():
        path = tmp_path / 'kpfeat_core' / f'{name}.py'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    graph = house.import_graph(tmp_path)
    assert house.circles(graph) == [['kpfeat_core.errors', 'kpfeat_core.models.alike']]
    assert house.two_way_pairs(graph) == [('errors', 'models')]
    assert house.upward_imports(graph) == ['kpfeat_core.errors imports kpfeat_core.models.alike']


def test_imports_are_found_however_they_are_written(tmp_path) -> None:
    path = tmp_path / 'kpfeat_core' / 'models' / 'a.py'
    path.parent.mkdir(parents=True)
    path.write_text(
        'def f():\n    import rclpy.node\nfrom ..training import engine\nfrom . import base\n'
        'from sensor_msgs.msg import Image\n'
    )
    found = set(imports(path, tmp_path))
    assert {'rclpy.node', 'kpfeat_core.training', 'kpfeat_core.models.base'} <= found
    assert {module for module in found if is_ros(module)} == {
        'rclpy.node',
        'sensor_msgs.msg',
        'sensor_msgs.msg.Image',
    }


@pytest.mark.parametrize('path', sorted(ROOT.glob('msg/*.msg')), ids=lambda p: p.name)
def test_every_field_of_a_message_is_explained(path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith('#'), 'a message starts with what it is'
    for line in filter(None, map(str.strip, lines)):
        if not line.startswith('#'):
            assert re.search(r'  # \w.{3,}', line), f'say shape and unit after: {line}'


def test_every_message_is_compiled() -> None:
    text = (ROOT / 'CMakeLists.txt').read_text()
    for path in [*ROOT.glob('msg/*.msg'), *ROOT.glob('srv/*.srv')]:
        assert f'{path.parent.name}/{path.name}' in text


def test_every_node_can_be_run_by_name() -> None:
    assert NODES
    for path in NODES:
        functions = {n.name for n in ast.parse(path.read_text()).body if hasattr(n, 'name')}
        assert 'main' in functions, f'`ros2 run kpfeat {path.stem}` calls main() of {path.name}'


def test_no_file_names_a_package_index() -> None:
    hosts = ('pypi' + '.org', 'files.python' + 'hosted', 'download.' + 'pytorch', 'index' + '-url')
    done = subprocess.run(
        ['git', 'grep', '-lIE', '|'.join(map(re.escape, hosts))], cwd=ROOT, capture_output=True
    )
    if done.returncode > 1:
        pytest.skip('this is no git checkout')
    assert done.stdout.decode().split() == []


def test_the_ros_package_asks_for_every_ros_package_that_is_imported() -> None:
    text = (ROOT / 'package.xml').read_text()
    asked = set(re.findall(r'<(?:exec_)?depend>(\w+)</', text))
    files = [*(ROOT / 'kpfeat_ros').rglob('*.py'), *(ROOT / 'launch').glob('*.py')]
    used = {module.split('.')[0] for path in files for module in imports(path) if is_ros(module)}
    assert sorted(used - asked - {'kpfeat', 'kpfeat_ros'}) == []


def test_every_source_of_photographs_is_named_to_those_who_ship_the_weights() -> None:
    lines = (ROOT / 'docs/photographs.md').read_text().splitlines()
    rows = [line for line in lines if line.startswith('| ')][1:]
    sources = [row.split('|')[1].split()[1] for row in rows]
    named = (ROOT / 'THIRD_PARTY.md').read_text()
    assert len(sources) > 30 and [source for source in sources if source not in named] == []
