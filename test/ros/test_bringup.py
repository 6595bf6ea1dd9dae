"""What is started for which options, and what the launch file makes of that."""

from dataclasses import fields
import importlib.util
import os
from pathlib import Path
import re
import sys
from types import ModuleType, SimpleNamespace

from kpfeat_core.errors import ConfigError
from kpfeat_ros import bringup
from kpfeat_ros.bringup import NodePlan
from kpfeat_ros.options import LaunchOptions
import pytest

ROOT = Path(__file__).resolve().parents[2]
LAUNCH_FILE = ROOT / 'launch/kpfeat.launch.py'


def test_plan_is_extractor_matcher_and_overlay() -> None:
    plans = bringup.plan_nodes(LaunchOptions())
    assert [plan.executable for plan in plans] == [
        'extractor_node',
        'matcher_node',
        'overlay_node',
    ]
    for plan in plans:
        assert importlib.util.find_spec(plan.module) is not None


def test_only_what_was_chosen_overrides_the_parameter_file() -> None:
    plans = bringup.plan_nodes(LaunchOptions())
    assert [plan.parameters for plan in plans] == [{}, {}, {}]
    assert [plan.remappings for plan in plans] == [{}, {}, {}]
    chosen = bringup.plan_nodes(LaunchOptions(model='alike-n', device='cpu'))
    assert chosen[0].parameters == {'model': 'alike-n', 'device': 'cpu'}
    assert chosen[1].parameters == {}


def test_choices_reach_the_nodes_that_have_them_also_those_of_pairs() -> None:
    texts = {
        'weights': 'mine.safetensors',
        'image_transport': 'compressed',
        'use_sim_time': 'true',
        'cameras': 'left,right',
        'pairs': 'left-right',
    }
    plans = bringup.plan_nodes(bringup.options_from_texts(texts))
    found = {plan.name: plan.parameters for plan in plans}
    clock = {'use_sim_time': True}
    images = clock | {'image_transport': 'compressed'}
    assert found == {
        'extractor': images | {'weights': 'mine.safetensors'},
        'matcher': clock,
        'overlay': images,
        'stereo_matcher': clock | {'mode': 'stereo'},
        'stereo_overlay': images | {'stereo': True},
    }


def test_image_topic_is_remapped_for_the_nodes_that_see_images() -> None:
    plans = bringup.plan_nodes(LaunchOptions(image='/camera/image_raw'))
    remapped = {plan.name: plan.remappings for plan in plans}
    image = {'image': '/camera/image_raw'}
    assert remapped == {'extractor': image, 'matcher': {}, 'overlay': image}


def test_depth_topic_is_remapped_for_the_overlay_alone() -> None:
    plans = bringup.plan_nodes(LaunchOptions(depth='/camera/depth'))
    assert [plan.remappings for plan in plans] == [{}, {}, {'depth': '/camera/depth'}]
    with pytest.raises(ConfigError, match='such as depth for /left/depth'):
        bringup.plan_nodes(LaunchOptions(cameras='left,right', depth='/camera/depth'))


def test_ros_arguments_come_with_the_most_specific_last() -> None:
    parameters = {'model': 'alike-t', 'stereo': True}
    plan = NodePlan('extractor', parameters, {'image': '/c'}, ['p.yaml', 'q.yaml'], '/robot')
    assert ' '.join(plan.ros_arguments()) == (
        '--ros-args -r __node:=extractor -r __ns:=/robot --params-file p.yaml '
        '--params-file q.yaml -p model:=alike-t -p stereo:=true -r image:=/c'
    )
    assert plan.command(['-p', 'x:=1'])[-2:] == ['-p', 'x:=1']


def test_missing_parameter_file_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="no parameter file '/no/such.yaml'"):
        bringup.plan_nodes(LaunchOptions(params_file='/no/such.yaml'))


def test_given_parameter_file_comes_after_that_which_is_installed(tmp_path) -> None:
    given = tmp_path / 'mine.yaml'
    given.touch()
    (plan, *_) = bringup.plan_nodes(LaunchOptions(params_file=str(given)))
    installed, mine = plan.params_files
    assert installed.endswith('config/kpfeat.yaml') and mine == str(given)


def test_pair_of_cameras_gets_matcher_and_overlay_between_their_topics() -> None:
    options = LaunchOptions(
        cameras='left,right', pairs='left-right', image='raw', namespace='robot'
    )
    matcher, overlay = bringup.plan_nodes(options)[-2:]
    assert [p.executable for p in (matcher, overlay)] == ['matcher_node', 'overlay_node']
    assert {p.namespace for p in (matcher, overlay)} == {'/robot/left_right'}
    assert matcher.parameters == {'mode': 'stereo'} and overlay.parameters == {'stereo': True}
    assert matcher.remappings == {
        'features0': '/robot/left/features',
        'features1': '/robot/right/features',
    }
    assert overlay.remappings == {'image': '/robot/left/raw', 'image1': '/robot/right/raw'}


@pytest.mark.parametrize(
    'pairs', ['left', 'left-left', 'left-rear', 'left-right-left', 'a-b', 'left-right,left-right']
)
def test_pair_that_is_not_two_of_the_cameras_is_refused(pairs) -> None:
    with pytest.raises(ConfigError, match='expected two of the cameras'):
        bringup.plan_nodes(LaunchOptions(cameras='left,right', pairs=pairs))


def test_one_extractor_serves_all_cameras_and_the_others_are_as_before() -> None:
    options = LaunchOptions(cameras='left,right', one_extractor=True, image='raw')
    plans = bringup.plan_nodes(options)
    extractors = [plan for plan in plans if plan.executable == 'extractor_node']
    (extractor,) = extractors
    assert extractor.namespace == '/' and extractor.parameters == {'cameras': 'left,right'}
    assert extractor.remappings == {'left/image': 'left/raw', 'right/image': 'right/raw'}
    assert [plan.namespace for plan in plans[1:]] == ['/left', '/left', '/right', '/right']


def test_installed_parameter_file_comes_before_that_of_the_source_tree(
    tmp_path, monkeypatch
) -> None:
    installed = tmp_path / 'share/kpfeat/config/kpfeat.yaml'
    installed.parent.mkdir(parents=True)
    installed.touch()
    monkeypatch.setenv('AMENT_PREFIX_PATH', f'/nowhere{os.pathsep}{tmp_path}')
    assert bringup.find_params_files() == (str(installed),)
    monkeypatch.setenv('AMENT_PREFIX_PATH', '')
    # `colcon test` imports the installed module, which has no source tree around it
    monkeypatch.setattr(bringup, '__file__', str(ROOT / 'kpfeat_ros/bringup.py'))
    assert bringup.find_params_files() == (str(ROOT / 'config/kpfeat.yaml'),)


def test_launch_arguments_become_the_same_options() -> None:
    texts = {name: default for name, default, _ in bringup.launch_arguments()}
    assert bringup.options_from_texts(texts) == LaunchOptions()
    assert bringup.options_from_texts(texts | {'composed': 'True'}).composed
    with pytest.raises(ConfigError, match="composed is 'perhaps'"):
        bringup.options_from_texts(texts | {'composed': 'perhaps'})
    assert all(description for _, _, description in bringup.launch_arguments())


def test_composed_arguments_repeat_what_was_chosen() -> None:
    options = LaunchOptions(
        model='alike-n', cameras='a,b', params_file='p.yaml', composed=True, one_extractor=True
    )
    assert bringup.parse_arguments(bringup.composed_arguments(options)) == (options, [])


def test_command_line_is_split_at_ros_args() -> None:
    options, ros = bringup.parse_arguments(
        ['--model', 'alike-s', '--composed', '--ros-args', '-p', 'nms_radius:=4']
    )
    assert options == LaunchOptions(model='alike-s', composed=True)
    assert ros == ['--ros-args', '-p', 'nms_radius:=4']


def test_launch_file_holds_no_defaults_of_its_own() -> None:
    source = LAUNCH_FILE.read_text()
    names = '|'.join(field.name for field in fields(LaunchOptions))
    assert not re.search(rf"'({names})'", source)


def load_launch_file() -> ModuleType:
    spec = importlib.util.spec_from_file_location('kpfeat_launch', LAUNCH_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_launch_file_describes_its_arguments_to_launch() -> None:
    pytest.importorskip('launch_ros', reason='launch and launch_ros are not installed')
    description = load_launch_file().generate_launch_description()
    names = [argument.name for argument in description.get_launch_arguments()]
    assert names == [field.name for field in fields(LaunchOptions)]


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
    return load_launch_file()


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
