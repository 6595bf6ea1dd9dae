"""What the launch file starts, with real launch where it is installed and with stand-ins else."""

import importlib.util
from pathlib import Path
import sys
from types import ModuleType, SimpleNamespace

from kpfeat_core.errors import ConfigError
from kpfeat_ros import bringup
from kpfeat_ros.bringup import LaunchOptions
import pytest

LAUNCH_FILE = Path(__file__).resolve().parents[2] / 'launch/kpfeat.launch.py'


def recorded(kind: str):
    """Return a stand-in that keeps what it is made with."""
    return lambda *values, **named: SimpleNamespace(kind=kind, values=values, **named)


@pytest.fixture
def launch_file(monkeypatch):
    """Return the launch file as a module; what it imports are stand-ins."""
    names = {
        'launch': ['LaunchDescription'],
        'launch.actions': ['DeclareLaunchArgument', 'OpaqueFunction'],
        'launch_ros': [],
        'launch_ros.actions': ['Node'],
        'launch.substitutions': [],
    }
    for module_name, classes in names.items():
        module = ModuleType(module_name)
        for name in classes:
            setattr(module, name, recorded(name))
        monkeypatch.setitem(sys.modules, module_name, module)
    sys.modules['launch.substitutions'].LaunchConfiguration = lambda name: SimpleNamespace(
        perform=lambda context: context.launch_configurations[name]
    )
    spec = importlib.util.spec_from_file_location('kpfeat_launch', LAUNCH_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def started(launch_file, **given: str) -> list:
    """Return the actions for arguments as they are typed, all others at their defaults."""
    context = {name: default for name, default, _ in bringup.launch_arguments()} | given
    return launch_file.start(SimpleNamespace(launch_configurations=context))


def test_arguments_are_declared_with_default_and_description(launch_file) -> None:
    *arguments, function = launch_file.generate_launch_description().values[0]
    found = [(a.values[0], a.default_value, a.description) for a in arguments]
    assert found == bringup.launch_arguments()
    assert function.function is launch_file.start


def test_one_camera_gets_three_nodes_whose_defaults_are_those_of_the_parameter_file(
    launch_file,
) -> None:
    nodes = started(launch_file)
    assert [node.executable for node in nodes] == [
        'extractor_node',
        'matcher_node',
        'overlay_node',
    ]
    for node in nodes:
        assert node.parameters == [*bringup.find_params_files(), {}]
        assert node.remappings == [] and node.namespace == '/'


def test_each_of_several_cameras_gets_its_nodes_in_its_namespace(launch_file) -> None:
    nodes = started(launch_file, cameras='left, right', image='image_raw', namespace='/robot')
    assert [(node.namespace, node.name) for node in nodes] == [
        (f'/robot/{camera}', name)
        for camera in ('left', 'right')
        for name in ('extractor', 'matcher', 'overlay')
    ]
    assert nodes[3].remappings == [('image', 'image_raw')]


def test_namespace_of_the_launch_file_around_it_holds_for_nodes_and_their_topics(
    launch_file,
) -> None:
    given = {'cameras': 'l,r', 'pairs': 'l-r', 'ros_namespace': '/fleet', 'namespace': 'one'}
    nodes = started(launch_file, **given)
    assert nodes[0].namespace == '/fleet/one/l'
    assert ('features1', '/fleet/one/r/features') in nodes[-2].remappings
    (process,) = started(launch_file, composed='true', **given)
    assert bringup.parse_arguments(process.arguments)[0].namespace == 'fleet/one'


def test_composed_is_one_process_with_the_same_options(launch_file) -> None:
    (process,) = started(launch_file, composed='true', cameras='a,b', model='alike-n')
    options, _ = bringup.parse_arguments(process.arguments)
    assert options == LaunchOptions(composed=True, cameras='a,b', model='alike-n')


@pytest.mark.parametrize('cameras', ['left,left', 'left,', 'left,ri ght', 'a/b', ',', '1st'])
def test_names_that_are_none_or_not_different_are_refused(cameras) -> None:
    with pytest.raises(ConfigError, match='expected different names between commas'):
        bringup.plan_nodes(LaunchOptions(cameras=cameras))


def test_one_topic_for_all_cameras_is_refused_with_what_to_write() -> None:
    with pytest.raises(ConfigError, match='image_raw for /left/image_raw'):
        bringup.plan_nodes(LaunchOptions(cameras='left,right', image='/camera/image_raw'))
