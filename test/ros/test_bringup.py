"""What a launch file decides, without `launch`; and real processes started and stopped."""

from dataclasses import fields
import importlib.util
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import time

from kpfeat_core.errors import ConfigError
from kpfeat_ros import bringup
from kpfeat_ros.bringup import LaunchOptions, NodePlan
import pytest

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 60.0


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


def test_importing_bringup_is_quick_enough_for_a_launch_file() -> None:
    code = 'import sys, kpfeat_ros.bringup; print({"torch", "rclpy", "cv2"} & set(sys.modules))'
    found = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == 'set()'


def test_launch_file_holds_no_defaults_of_its_own() -> None:
    source = (ROOT / 'launch/kpfeat.launch.py').read_text()
    names = '|'.join(field.name for field in fields(LaunchOptions))
    assert not re.search(rf"'({names})'", source)


def test_launch_file_describes_its_arguments() -> None:
    pytest.importorskip('launch_ros', reason='launch and launch_ros are not installed')
    path = ROOT / 'launch/kpfeat.launch.py'
    spec = importlib.util.spec_from_file_location('kpfeat_launch', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    description = module.generate_launch_description()
    names = [argument.name for argument in description.get_launch_arguments()]
    assert names == [field.name for field in fields(LaunchOptions)]


class Running:
    """A command in a process, with what it prints."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        with log.open('w') as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """Send a signal; gives the exit code and all that was printed."""
        self.process.send_signal(number)
        code = self.process.wait(WAIT_S)
        return code, self.log.read_text()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def run(tmp_path, request):
    def running(*arguments: str) -> Running:
        started = Running([sys.executable, '-m', *arguments], tmp_path / 'log.txt')
        request.addfinalizer(started.kill)
        return started

    return running


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_node_of_its_own_process_ends_cleanly_when_interrupted(
    ros, run, weights_file, number
) -> None:
    arguments = ['--ros-args', '-p', 'model:=alike-t', '-p', f'weights:={weights_file}']
    node = run('kpfeat_ros.extractor_node', *arguments, '-r', 'image:=/camera/image_raw')
    ros.until(lambda: ros.probe.count_publishers('/features'), 'the node')
    code, log = node.end(number)
    assert code == 0
    assert 'alike-t is ready on' in log
    assert 'Traceback' not in log


@pytest.mark.parametrize('mode', [['--composed'], []])
def test_all_three_nodes_turn_images_into_pictures(ros, run, weights_file, photo, mode) -> None:
    from sensor_msgs.msg import Image

    options = ['--image', '/camera/image_raw', '--namespace', 'robot', *mode]
    nodes = run('kpfeat_ros.bringup', *options, '--ros-args', '-p', f'weights:={weights_file}')
    keypoints = ros.listen(Image, '/robot/image_keypoints')
    matches = ros.listen(Image, '/robot/image_matches')
    camera = ros.camera('/camera/image_raw')
    ros.until(lambda: camera.get_subscription_count() == 2, 'extractor and overlay')
    ros.until(lambda: ros.probe.count_subscribers('/robot/matches'), 'the overlay')
    last = [0.0]

    def shown() -> bool:
        if time.monotonic() - last[0] > 0.2:  # a camera of 5 Hz
            camera.publish(ros.image(photo))
            last[0] = time.monotonic()
        return bool(keypoints and matches)

    ros.until(shown, 'pictures of keypoints and matches')
    assert keypoints[0].width == 128
    code, log = nodes.end()
    assert code == 0
    assert 'Traceback' not in log


@pytest.mark.parametrize('mode', [['--composed'], []])
def test_each_of_two_cameras_has_features_of_its_own(ros, run, weights_file, photo, mode) -> None:
    from kpfeat.msg import Features

    options = ['--cameras', 'left,right', '--image', 'image_raw', *mode]
    nodes = run('kpfeat_ros.bringup', *options, '--ros-args', '-p', f'weights:={weights_file}')
    found = {name: ros.listen(Features, f'/{name}/features') for name in ('left', 'right')}
    for name, picture in (('left', photo), ('right', photo[:64])):
        camera = ros.camera(f'/{name}/image_raw')
        ros.spin(0.5)  # until both ends know of each other
        camera.publish(ros.image(picture))
        ros.until(lambda: found[name], f'features of {name}')  # noqa: B023
    assert [message.height for name in found for message in found[name]] == [96, 64]
    assert nodes.end()[0] == 0


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['kpfeat_ros.extractor_node', '--ros-args', '-p', 'model:=sift'], "no model 'sift'"),
        (['kpfeat_ros.extractor_node', '--ros-args', '-p', 'weights:=/none'], '/none'),
        (['kpfeat_ros.matcher_node', '--ros-args', '--params-file', '/none'], 'params file'),
        (['kpfeat_ros.matcher_node', '--ros-args', '-p', 'mode'], 'parameter override rule'),
        (['kpfeat_ros.matcher_node', '-p', 'mode:=x'], 'expected --ros-args before'),
        (['kpfeat_ros.bringup', '--params-file', '/none'], "no parameter file '/none'"),
    ],
)
def test_mistake_of_the_user_is_one_sentence_and_exit_code_2(
    ros, run, arguments, sentence
) -> None:
    node = run(*arguments)
    code = node.process.wait(WAIT_S)
    log = node.log.read_text()
    assert code == 2
    assert len(re.findall('^error: ', log, re.MULTILINE)) == 1
    assert sentence in log
    assert 'Traceback' not in log


INTERRUPTED = """
import os, signal, sys, time
from kpfeat_ros.matcher_node import MatcherNode
from kpfeat_ros.node import run

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.5)  # until the signal has ended ROS

class Node(MatcherNode):
    def configure(self):
        if '{when}' == 'configure':
            interrupt()
        super().configure()

    def activate(self):
        super().activate()
        if '{when}' == 'activate':
            interrupt()

def make():
    if '{when}' == 'before':
        interrupt()
    return Node()

sys.exit(run([make], []))
"""


@pytest.mark.parametrize('when', ['before', 'configure', 'activate'])
def test_interrupt_while_a_node_is_starting_is_a_clean_end(ros, when) -> None:
    code = INTERRUPTED.format(when=when)
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert 'Traceback' not in done.stderr
    assert done.returncode == 0, done.stderr


def test_help_says_how_parameters_are_given(run) -> None:
    node = run('kpfeat_ros.matcher_node', '--help')
    assert node.process.wait(WAIT_S) == 0
    assert '-p NAME:=VALUE' in node.log.read_text()
