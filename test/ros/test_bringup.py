"""What is started for which options, and what the launch file makes of that."""

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
    given = ('extractor', parameters, {'image': '/c'}, ['p.yaml', 'q.yaml'], '/robot')
    plan = NodePlan(*given, defaults={'nms_radius': 3})
    names = '--ros-args -p nms_radius:=3 --ros-args -r __node:=extractor -r __ns:=/robot'
    files, chosen = (
        '--params-file p.yaml --params-file q.yaml',
        '-p model:=alike-t -p stereo:=true',
    )
    assert ' '.join(plan.ros_arguments()) == f'{names} {files} {chosen} -r image:=/c'
    outside = ' '.join(plan.command(['--ros-args', '-p', 'x:=1']))
    more = '--ros-args -p x:=1 --ros-args'
    assert outside.endswith(f'{names} {files} {more} {chosen} -r image:=/c')


def test_missing_parameter_file_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="no parameter file '/no/such.yaml'"):
        bringup.plan_nodes(LaunchOptions(params_file='/no/such.yaml'))


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


def test_installed_file_of_ours_comes_before_that_of_the_source_tree(
    tmp_path, monkeypatch
) -> None:
    installed = tmp_path / 'share/kpfeat/config/kpfeat.yaml'
    installed.parent.mkdir(parents=True)
    installed.touch()
    monkeypatch.setenv('AMENT_PREFIX_PATH', f'/nowhere{os.pathsep}{tmp_path}')
    assert bringup.find_config('kpfeat.yaml') == str(installed)
    monkeypatch.setenv('AMENT_PREFIX_PATH', '')
    # `colcon test` imports the installed module, which has no source tree around it
    monkeypatch.setattr(bringup, '__file__', str(ROOT / 'kpfeat_ros/bringup.py'))
    assert bringup.find_config('kpfeat.yaml') == str(ROOT / 'config/kpfeat.yaml')


def test_launch_arguments_become_the_same_options() -> None:
    texts = {argument.name: argument.default for argument in bringup.launch_arguments()}
    assert bringup.options_from_texts(texts) == LaunchOptions()
    assert bringup.options_from_texts(texts | {'composed': 'True'}).composed
    with pytest.raises(ConfigError, match="composed is 'perhaps'"):
        bringup.options_from_texts(texts | {'composed': 'perhaps'})
    assert all(argument.help for argument in bringup.launch_arguments())


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
    shared = {'namespace', 'respawn', 'use_sim_time'}  # with the arguments of Node
    names = {argument.name for argument in bringup.launch_arguments()} - shared
    assert not re.search(rf"'({'|'.join(names)})'", source)


def load_launch_file() -> ModuleType:
    spec = importlib.util.spec_from_file_location('kpfeat_launch', LAUNCH_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_launch_file_describes_its_arguments_to_launch() -> None:
    pytest.importorskip('launch_ros', reason='launch and launch_ros are not installed')
    description = load_launch_file().generate_launch_description()
    names = [argument.name for argument in description.get_launch_arguments()]
    assert names == [argument.name for argument in bringup.launch_arguments()]


def recorded(kind: str):
    """Return a stand-in that keeps what it is made with."""
    return lambda *values, **named: SimpleNamespace(kind=kind, values=values, **named)


@pytest.fixture
def launch_file(monkeypatch):
    """Return the launch file as a module; what it imports are stand-ins."""
    names = {
        'launch': ['LaunchDescription'],
        'launch.actions': ['DeclareLaunchArgument', 'LogInfo', 'OpaqueFunction', 'Shutdown'],
        'launch_ros': [],
        'launch_ros.actions': ['LoadComposableNodes', 'Node'],
        'launch_ros.descriptions': ['ComposableNode'],
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
    context = {each.name: each.default for each in bringup.launch_arguments()} | given
    return launch_file.start(SimpleNamespace(launch_configurations=context))


def test_arguments_are_declared_with_default_description_and_choices(launch_file) -> None:
    *arguments, function = launch_file.generate_launch_description().values[0]
    found = [
        (a.values[0], a.default_value, a.description, tuple(a.choices or ())) for a in arguments
    ]
    assert found == bringup.launch_arguments()
    assert function.function is launch_file.start


def test_one_camera_gets_three_nodes_with_their_own_defaults(launch_file) -> None:
    nodes = started(launch_file)
    assert [node.executable for node in nodes] == [
        'extractor_node',
        'matcher_node',
        'overlay_node',
    ]
    for node in nodes:
        assert node.parameters == [{}]
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


def words_of(action, for_all: dict, tmp_path: Path) -> list[str]:
    """Return the command line that launch_ros makes of a Node action; for_all: SetParameter."""
    yaml = pytest.importorskip('yaml', reason='PyYAML is not installed')
    name = getattr(action, 'name', '')
    words = [*action.arguments, '--ros-args']
    words += ['-r', f'__node:={name}', '-r', f'__ns:={action.namespace}'] if name else []
    for key, value in for_all.items():
        words += ['-p', f'{key}:={value}']
    for number, each in enumerate(action.parameters):
        if isinstance(each, dict):
            file = tmp_path / f'{name}{number}.yaml'
            key = f'{action.namespace.rstrip("/")}/{name}' if name else '/**'
            file.write_text(yaml.safe_dump({key: {'ros__parameters': each}}))
            each = str(file)
        words += ['--params-file', each]
    for old, new in getattr(action, 'remappings', ()):
        words += ['-r', f'{old}:={new}']
    return words


USERS_FILE = """
/**:
  ros__parameters: {jpeg_quality: 40, mutual: false, geometry: none}
/**/overlay:
  ros__parameters: {jpeg_quality: 30}
/robot/left_right/stereo_matcher:
  ros__parameters: {geometry: homography}
"""
STEREO = {'cameras': 'left,right', 'pairs': 'left-right', 'namespace': 'robot'}


def values_of_nodes(ros, actions, for_all: dict, tmp_path: Path) -> dict[str, dict]:
    """Start the overlay of the left camera and the matcher of the pair; gives their parameters."""
    from kpfeat_ros.matcher_node import MatcherNode
    from kpfeat_ros.overlay_node import OverlayNode

    wanted = {'/robot/left/overlay': OverlayNode, '/robot/left_right/stereo_matcher': MatcherNode}
    if len(actions) == 1 and actions[0].kind == 'Node':
        options, given = bringup.parse_arguments(words_of(actions[0], for_all, tmp_path))
        plans = bringup.plan_nodes(options)
        made = {plan.full_name: plan.node_options(given) for plan in plans}
    elif actions[0].kind == 'Node':
        made = {
            f'{action.namespace}/{action.name}': {'cli_args': words_of(action, for_all, tmp_path)}
            for action in actions
        }
    else:
        nodes = actions[0].composable_node_descriptions
        given = {f'{n.namespace}/{n.name}': for_all | n.parameters[0] for n in nodes}
        return {name.rpartition('/')[2]: given[name] for name in wanted}
    found = {}
    for name, cls in wanted.items():
        node = ros.add(cls(**made[name]))
        assert node.get_fully_qualified_name() == name
        found[node.get_name()] = {
            key: parameter.value for key, parameter in node.get_parameters_by_prefix('').items()
        }
    return found


@pytest.mark.parametrize('form', [{}, {'composed': 'true'}, {'container': '/box'}], ids=str)
@pytest.mark.parametrize(
    ('file', 'for_all', 'given', 'quality', 'geometry'),
    [
        (False, {}, {}, None, 'fundamental'),
        (False, {'jpeg_quality': 55, 'geometry': 'none'}, {}, 55, 'none'),
        (True, {'jpeg_quality': 55}, {}, 30, 'homography'),
        (True, {}, {'geometry': 'fundamental'}, 30, 'fundamental'),
    ],
    ids=['nothing', 'SetParameter', 'file', 'argument'],
)
def test_parameters_obey_the_order_of_ros_in_all_forms(
    ros, launch_file, tmp_path, form, file, for_all, given, quality, geometry
) -> None:
    """What surrounds the launch file counts less than its files, and arguments most."""
    if file:
        (tmp_path / 'user.yaml').write_text(USERS_FILE)
        given = {**given, 'params_file': str(tmp_path / 'user.yaml')}
    configurations = {'global_params': list(for_all.items())}
    actions = started(launch_file, **STEREO, **form, **given, **configurations)
    found = values_of_nodes(ros, actions, for_all, tmp_path)
    usual = found['overlay'].get('jpeg_quality', 80)
    assert usual == (quality or 80)
    assert found['stereo_matcher']['geometry'] == geometry
    assert found['stereo_matcher']['mode'] == 'stereo'
    if file:
        assert found['stereo_matcher']['mutual'] is False


def test_nodes_are_loaded_into_a_container_that_runs(launch_file) -> None:
    (action,) = started(launch_file, container='/box', max_num_keypoints='500', image='raw')
    assert action.kind == 'LoadComposableNodes' and action.target_container == '/box'
    nodes = action.composable_node_descriptions
    plugins = ['kpfeat::ExtractorNode', 'kpfeat::MatcherNode', 'kpfeat::OverlayNode']
    assert [node.plugin for node in nodes] == plugins
    assert nodes[0].parameters == [{'max_num_keypoints': 500}]
    assert nodes[0].remappings == [('image', 'raw')]
    with pytest.raises(ConfigError, match='both composed and container'):
        started(launch_file, container='/box', composed='true')


def test_file_that_holds_no_parameters_is_refused_in_words(tmp_path) -> None:
    for text in ('overlay: 3', 'a: {b: 1}', '[1', '- x'):
        (tmp_path / 'x.yaml').write_text(text)
        with pytest.raises(ConfigError, match='is no parameter file, expected node names'):
            bringup.parameters_in(str(tmp_path / 'x.yaml'), '/overlay')


def test_names_of_nodes_in_a_file_may_hold_wildcards(tmp_path) -> None:
    file = tmp_path / 'x.yaml'
    for pattern, there in (
        ('/**', True),
        ('/**/overlay', True),
        ('/a/*/overlay', True),
        ('/*/overlay', False),
        ('/a/b/overlay', True),
        ('overlay', False),
    ):
        file.write_text(f'{pattern}: {{ros__parameters: {{x: {{y: 1}}}}}}')
        assert bringup.parameters_in(str(file), '/a/b/overlay') == ({'x.y': 1} if there else {})


def test_end_of_a_node_ends_the_launch_with_its_reason_unless_it_starts_again(launch_file) -> None:
    node, *_ = started(launch_file)
    event = SimpleNamespace(process_name='extractor-1', returncode=2)
    log, shutdown = node.on_exit(event, SimpleNamespace(is_shutdown=False))
    assert shutdown.reason == log.msg
    assert 'extractor-1 ended with code 2' in log.msg
    assert node.on_exit(event, SimpleNamespace(is_shutdown=True)) == []
    for form in ({}, {'composed': 'true'}):
        again, *_ = started(launch_file, respawn='true', **form)
        assert again.respawn is True and again.respawn_delay > 0
        assert not hasattr(again, 'on_exit')


def test_log_level_and_autostart_reach_all_nodes_in_both_forms(launch_file) -> None:
    nodes = started(launch_file, log_level='debug', autostart='false')
    for node in nodes:
        assert node.arguments[-3:] == ['--ros-args', '--log-level', 'debug']
        assert node.parameters[-1]['autostart'] is False
    (process,) = started(launch_file, log_level='debug', autostart='false', composed='true')
    options, ros = bringup.parse_arguments(process.arguments)
    assert ros == ['--ros-args', '--log-level', 'debug']
    assert options.autostart is False


def test_frequent_parameters_reach_the_nodes_that_have_them() -> None:
    texts = {'max_num_keypoints': '300', 'mode': 'reference', 'geometry': 'none', **STEREO}
    plans = bringup.plan_nodes(bringup.options_from_texts(texts))
    found = {plan.name: plan.parameters for plan in plans}
    assert found['extractor'] == {'max_num_keypoints': 300}
    assert found['matcher'] == {'mode': 'reference', 'geometry': 'none'}
    assert found['stereo_matcher'] == {'mode': 'stereo', 'geometry': 'none'}
    with pytest.raises(ConfigError, match="max_num_keypoints is 'all', expected a whole number"):
        bringup.plan_nodes(LaunchOptions(max_num_keypoints='all'))


def test_rviz_shows_the_topics_of_the_first_camera(launch_file) -> None:
    *_, viewer = started(launch_file, rviz='true', cameras='a,b', namespace='robot')
    assert viewer.executable == 'rviz2' and Path(viewer.arguments[1]).is_file()
    assert ('/image_matches', '/robot/a/image_matches') in viewer.remappings
    *_, viewer = started(launch_file, rviz='true')
    assert viewer.remappings == []
    topics = set(re.findall(r'Value: (/\w+)', Path(viewer.arguments[1]).read_text()))
    assert topics == {f'/{topic}' for topic in bringup.VIEWED}
