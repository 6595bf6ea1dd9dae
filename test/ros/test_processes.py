"""Programs of ours as processes: how they start, run, are interrupted and end."""

import importlib.util
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import time

from kpfeat_ros import bringup
from kpfeat_ros.bringup import interrupted_later
import pytest

WAIT_S = 60.0
POLITE = [
    sys.executable,
    '-c',
    'import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: pass',
]


def test_end_of_one_process_stops_the_others_and_its_code_is_returned() -> None:
    assert bringup.run_processes([[sys.executable, '-c', 'exit(3)'], POLITE]) == 3


RUNS_ONE = 'import sys; from kpfeat_ros.bringup import run_processes as r; exit(r([sys.argv[1:]]))'
SIGNALS_ITS_PARENT = """
import os, sys, time
try:
    os.kill(os.getppid(), int(sys.argv[1]))
    os.kill(os.getppid(), int(sys.argv[1]))  # a terminal that is closed may say it twice
    time.sleep(1)
    sys.exit(3)
except KeyboardInterrupt:
    pass
"""


def run_one_that_signals(number: int, *before: str, ignored: tuple[int, ...] = ()) -> int:
    """Return the code of a program that runs a process which interrupts it, or 3 at last."""

    def heed() -> None:  # these tests may themselves have been started with nohup
        for each in (signal.SIGHUP, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN if each in ignored else signal.SIG_DFL)

    child = [sys.executable, '-c', SIGNALS_ITS_PARENT, str(int(number))]
    command = [*before, sys.executable, '-c', RUNS_ONE, *child]
    return subprocess.run(command, capture_output=True, check=False, preexec_fn=heed).returncode


@pytest.mark.parametrize(
    ('number', 'ignored'),
    [
        (signal.SIGINT, ()),
        (signal.SIGTERM, ()),
        (signal.SIGHUP, ()),
        (signal.SIGTERM, (signal.SIGINT,)),  # as in the background of a shell
    ],
)
def test_process_is_interrupted_when_its_parent_is_told_to_end(number, ignored) -> None:
    assert run_one_that_signals(number, ignored=ignored) == 0


def test_processes_started_with_nohup_outlive_the_terminal() -> None:
    assert run_one_that_signals(signal.SIGHUP, 'nohup') == 3


def test_process_that_ignores_the_interrupt_is_killed(monkeypatch) -> None:
    monkeypatch.setattr(bringup, 'STOP_TIMEOUT_S', 0.2)
    code = (
        'import signal, time; signal.signal(2, signal.SIG_IGN)\n'
        'print(1, flush=True); time.sleep(60)'
    )
    process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b'1\n'
    assert bringup.stop_processes([process]) == [-signal.SIGKILL]
    process.stdout.close()


def test_an_interrupt_waits_until_a_node_has_been_started() -> None:
    steps, before = [], signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            with interrupted_later():
                signal.raise_signal(signal.SIGINT)
                steps.append('started')
            steps.append('went on')
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert steps == ['started']


def test_importing_bringup_is_quick_enough_for_a_launch_file() -> None:
    code = 'import sys, kpfeat_ros.bringup; print({"torch", "rclpy", "cv2"} & set(sys.modules))'
    found = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == 'set()'


def test_settings_of_a_node_process_are_not_handed_on_by_a_launch_file() -> None:
    """What a launch process sets, all programs that it starts inherit."""
    code = 'import os, sys; before = dict(os.environ); import kpfeat_ros.bringup; '
    code += 'print(dict(os.environ) == before, "kpfeat_ros.process" in sys.modules)'
    plain = {k: v for k, v in os.environ.items() if not k.startswith(('OMP_', 'GOMP_'))}
    command = [sys.executable, '-c', code]
    done = subprocess.run(command, env=plain, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ['True', 'False']


@pytest.mark.parametrize('module', ['extractor_node', 'matcher_node', 'overlay_node'])
def test_modules_of_nodes_say_how_threads_wait_before_they_load_torch(module) -> None:
    code = f"""
import os, sys
class Watch:
    def find_spec(self, name, *_):
        if name == 'torch':
            print(os.environ.get('OMP_WAIT_POLICY'), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Watch())
import kpfeat_ros.{module}
"""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(('OMP_', 'GOMP_'))}
    command = [sys.executable, '-c', code]
    done = subprocess.run(command, env=plain, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {'PASSIVE'}


@pytest.mark.parametrize('given', [None, 'ACTIVE'])
def test_waiting_threads_sleep_unless_the_user_wants_otherwise(repository, given) -> None:
    """Nodes in separate processes must not take each other's cores while they wait."""
    environment = {k: v for k, v in os.environ.items() if k != 'OMP_WAIT_POLICY'}
    environment |= {'OMP_DISPLAY_ENV': 'TRUE'} | ({'OMP_WAIT_POLICY': given} if given else {})
    folder = Path(importlib.util.find_spec('torch').origin).parent / 'lib'
    library = next(map(str, folder.glob('libgomp*')), '')  # where there is one, torch loads it
    load = f'ctypes.CDLL({library!r})' if library else 'import torch'
    done = subprocess.run(
        [sys.executable, '-c', f'import ctypes, kpfeat_ros.process; {load}'],
        env=environment,
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    if 'OMP_WAIT_POLICY' not in done.stderr:
        pytest.skip('this build of torch uses an OpenMP that does not print its settings')
    assert f"OMP_WAIT_POLICY = '{given or 'PASSIVE'}'" in done.stderr


class Running:
    """A program of ours in a process, and all that it prints."""

    def __init__(self, start, words: list[str], log: Path, env=None) -> None:
        self.log = log
        with log.open('wb') as file:
            command = [sys.executable, *words]
            self.process = start(command, stdout=file, stderr=subprocess.STDOUT, env=env)

    def end(self, number: int = 0) -> tuple[int, str]:
        """Wait for the end, after a signal if one is given; gives the exit code and the log."""
        if number:
            self.process.send_signal(number)
        return self.process.wait(WAIT_S), self.log.read_text()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def launched(forks, tmp_path, request):
    """Start a program of ours; real: as a user does, not as a fork of what is imported already."""

    def start(*words: str, real: bool = False, env=None) -> Running:
        started = Running(subprocess.Popen if real else forks, words, tmp_path / 'log.txt', env)
        request.addfinalizer(started.kill)
        return started

    return start


@pytest.fixture
def weights_of_all(weights_file) -> list[str]:
    return ['--ros-args', '-p', f'weights:={weights_file}', '-p', 'warm_up_size:=64x64']


@pytest.mark.parametrize(('number', 'real'), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_node_of_its_own_process_ends_cleanly_when_interrupted(
    ros, launched, weights_of_all, number, real
) -> None:
    arguments = [*weights_of_all, '-p', 'model:=alike-t', '-r', 'image:=/camera/image_raw']
    node = launched('-m', 'kpfeat_ros.extractor_node', *arguments, real=real)
    ros.until(lambda: ros.probe.count_publishers('/features'), 'the node')
    if real:  # an impatient user
        for _ in range(3):
            node.process.send_signal(number)
            time.sleep(0.05)
    code, log = node.end(number)
    assert code == 0
    assert 'alike-t is ready on' in log
    assert 'Traceback' not in log


@pytest.mark.parametrize('after_s', [0.1, 0.6])
def test_interrupt_while_a_node_imports_is_a_clean_end(launched, ros_context, after_s) -> None:
    node = launched('-m', 'kpfeat_ros.extractor_node', real=True)
    while b'kpfeat_ros' not in Path(f'/proc/{node.process.pid}/cmdline').read_bytes():
        time.sleep(0.01)
    time.sleep(after_s)
    code, log = node.end(signal.SIGINT)
    assert (code, 'Traceback' in log) in {(0, False), (-signal.SIGINT, False)}


# Nodes as `python -m` runs them, forks of a process that has imported everything, which takes
# most of the time of a start. One that returned would take Python and torch apart, as always.
GROUP = """
import gc, os, runpy, signal, sys
from kpfeat_ros import bringup, extractor_node, matcher_node, overlay_node
from kpfeat_ros.options import LaunchOptions
signal.signal(signal.SIGINT, signal.default_int_handler)
options = LaunchOptions(cameras='left,right', pairs='left-right', namespace='stereo')
for plan in bringup.plan_nodes(options):
    if not os.fork():
        sys.argv = [plan.module, *plan.ros_arguments(), *sys.argv[1:]]
        runpy.run_module(plan.module, run_name='__main__', alter_sys=True)
        sys.exit(99)
signal.signal(signal.SIGINT, signal.SIG_IGN)
codes = []
while len(codes) < 8:
    codes.append(os.waitstatus_to_exitcode(os.wait()[1]))
print(codes)
"""


def test_all_nodes_of_two_cameras_end_by_one_interrupt_beside_busy_programs(
    ros, tmp_path, weights_of_all
) -> None:
    """`ros2 launch` waits five seconds before it sends SIGTERM, and five more for SIGKILL."""
    log = tmp_path / 'log'
    words = ['-W', 'ignore', '-c', GROUP, *weights_of_all, '-p', 'device:=cpu']
    with log.open('wb') as file:
        group = subprocess.Popen(
            [sys.executable, *words], stdout=file, stderr=file, start_new_session=True
        )
    busy: list[subprocess.Popen] = []
    try:
        outputs = ('left/features', 'right/matches', 'left_right/image_matches')
        ros.until(
            lambda: (
                len(ros.names()) >= 9
                and all(ros.probe.count_publishers(f'/stereo/{topic}') for topic in outputs)
            ),
            'all nodes',
        )
        ros.until(lambda: log.read_text().count('is ready on') == 2, 'both extractors')
        busy += [subprocess.Popen([sys.executable, '-c', 'while True: pass']) for _ in range(2)]
        begin = time.monotonic()
        os.killpg(group.pid, signal.SIGINT)
        group.wait(WAIT_S)
        took = time.monotonic() - begin
    finally:
        for process in [*busy, *([group] if group.poll() is None else [])]:
            process.kill()
            process.wait()
    assert log.read_text().splitlines()[-1] == str([0] * 8), log.read_text()
    assert 'Traceback' not in log.read_text()
    assert took < 4.0


@pytest.mark.parametrize(
    ('names', 'mode'), [(['left', 'right'], ['--composed']), (['left'], [])], ids=['two', 'real']
)
def test_nodes_of_each_camera_turn_its_images_into_features_and_pictures(
    ros, launched, weights_of_all, photo, names, mode
) -> None:
    from kpfeat.msg import Features
    from sensor_msgs.msg import Image

    options = ['--cameras', ','.join(names), '--image', 'image_raw', '--namespace', 'robot', *mode]
    nodes = launched('-m', 'kpfeat_ros.bringup', *options, *weights_of_all, real=not mode)
    found = {n: ros.listen(Features, f'/robot/{n}/features') for n in names}
    pictures = [ros.listen(Image, f'/robot/left/image_{n}') for n in ('keypoints', 'matches')]
    cameras = {name: ros.camera(f'/robot/{name}/image_raw') for name in found}
    ros.until(lambda: cameras['left'].get_subscription_count() == 2, 'extractor and overlay')
    ros.until(lambda: ros.probe.count_subscribers('/robot/left/matches'), 'the overlay')
    due = 0.0

    def shown() -> bool:
        nonlocal due
        if time.monotonic() > due:  # cameras of 5 Hz
            due = time.monotonic() + 0.2
            for name, camera in cameras.items():
                camera.publish(ros.image(photo if name == 'left' else photo[:64]))
        return all(pictures) and all(found.values())

    ros.until(shown, 'features of all, and pictures of keypoints and matches')
    assert [found[name][0].height for name in names] == [96, 64][: len(names)]
    assert pictures[0][0].width == 128
    code, log = nodes.end(signal.SIGINT)
    assert code == 0
    assert 'Traceback' not in log


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['extractor_node', '--ros-args', '-p', 'model:=sift'], "no model 'sift'"),
        (['extractor_node', '--ros-args', '-p', 'weights:=/none'], '/none'),
        (['matcher_node', '--ros-args', '--params-file', '/none'], 'params file'),
        (['matcher_node', '--ros-args', '-p', 'mode'], 'parameter override rule'),
        (['matcher_node', '-p', 'mode:=x'], 'expected --ros-args before'),
        (['bringup', '--params-file', '/none'], "no parameter file '/none'"),
        (['container', 'kpfeat::Absent'], "there is no component 'kpfeat::Absent'"),
        (['camera_node', '--ros-args', '-p', 'images:=/none'], "there is no folder '/none'"),
        (['camera_node', '--ros-args', '-p', 'video:=broken.mp4'], 'OpenCV can decode'),
        (['camera_node', '--ros-args', '-p', 'size:=wide'], "size is 'wide', expected WIDTHx"),
    ],
)
def test_mistake_of_the_user_is_one_sentence_and_exit_code_2(
    ros_context, launched, tmp_path, monkeypatch, arguments, sentence
) -> None:
    monkeypatch.chdir(tmp_path)
    Path('broken.mp4').write_bytes(b'not a video')
    code, log = launched('-m', f'kpfeat_ros.{arguments[0]}', *arguments[1:]).end()
    assert code == 2
    assert len(re.findall('^error: ', log, re.MULTILINE)) == 1
    assert log.strip().splitlines()[-1].startswith('error: ')
    assert sentence in log
    assert 'Traceback' not in log


@pytest.mark.parametrize(
    ('module', 'words'),
    [('matcher_node', '-p NAME:=VALUE'), ('container', 'kpfeat::ExtractorNode')],
)
def test_help_says_how_parameters_and_nodes_are_given(launched, module, words) -> None:
    code, log = launched('-m', f'kpfeat_ros.{module}', '--help').end()
    assert code == 0
    assert words in log


INTERRUPTED = """
import os, signal, sys, time
from kpfeat_ros.matcher_node import MatcherNode
from kpfeat_ros.node import run
import rclpy

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
    while rclpy.ok():
        time.sleep(0.01)

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
def test_interrupt_while_a_node_is_starting_is_a_clean_end(launched, when) -> None:
    code, log = launched('-c', INTERRUPTED.format(when=when)).end()
    assert 'Traceback' not in log
    assert code == 0, log


BUSY = """
import sys, time
from kpfeat_ros.extractor_node import ExtractorNode
from kpfeat_ros.node import run
import torch

class Node(ExtractorNode):
    def _extract(self, item):
        print('at work', flush=True)
        {work}

sys.exit(run([Node]))
"""
WORK = {
    'waiting': 'time.sleep(600)',
    'in one C++ call': 'torch.linalg.svd(torch.rand(2500, 2500, dtype=torch.float64))',
    'in many C++ calls': 'while True: torch.rand(300, 300) @ torch.rand(300, 300)',
    'in Python': 'while True: pass',
}


@pytest.fixture
def busy(ros, launched, weights_of_all, photo):
    """Start an extractor process that never ends its first image."""
    from kpfeat.msg import Features

    def started(work: str) -> Running:
        node = launched('-c', BUSY.format(work=WORK[work]), *weights_of_all, '-p', 'device:=cpu')
        ros.listen(Features, 'features')
        camera = ros.camera()

        def is_at_work() -> bool:
            camera.publish(ros.image(photo))
            return 'at work' in node.log.read_text()

        ros.until(is_at_work, 'the first image at work')
        return node

    return started


@pytest.mark.parametrize('work', WORK)
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_interrupt_in_mid_inference_is_a_clean_end(busy, work, number) -> None:
    code, log = busy(work).end(number)
    assert code == 0, log
    assert 'Traceback' not in log


def test_deactivation_in_mid_inference_does_not_wait_for_it(ros, busy) -> None:
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState, GetState

    node = busy('waiting')
    for label in ('deactivate', 'cleanup', 'configure', 'activate'):
        wanted = Transition(label=label)
        assert ros.call(ChangeState, '/extractor/change_state', transition=wanted).success
    assert ros.call(GetState, '/extractor/get_state').current_state.label == 'active'
    assert node.process.poll() is None


@pytest.fixture
def container(launched, others):
    """Start a container that finds the package of somebody else."""
    path = f'{others}:{os.environ.get("PYTHONPATH", "")}'

    def start(*arguments: str) -> Running:
        return launched(
            '-m', 'kpfeat_ros.container', *arguments, env={**os.environ, 'PYTHONPATH': path}
        )

    return start


def test_given_nodes_follow_the_command_line_but_keep_their_names() -> None:
    from kpfeat_ros.container import package_of, without_names

    words = [
        '--ros-args',
        '-r',
        '__node:=box',
        '-r',
        '__ns:=/a',
        '--remap',
        '__name:=b',
        '-p',
        'c:=1',
    ]
    assert without_names(words) == ['--ros-args', '-r', '__ns:=/a', '-p', 'c:=1']
    assert package_of('kpfeat::ExtractorNode') == 'kpfeat'
    assert package_of('a.b:Class') == 'a'


def test_container_starts_the_nodes_of_command_line_and_parameter_and_ends_on_interrupt(
    ros, container
) -> None:
    running = container(
        'one=others_nodes:Plain',
        *('--ros-args', '-r', '__node:=box', '-r', '__ns:=/a', '-r', 'out:=changed'),
        *('-p', "components:=['others::Open']"),
    )
    wanted = {'/a/box', '/a/one', '/a/open'}
    ros.until(lambda: wanted <= set(ros.names()) or running.process.poll() is not None, 'nodes')
    ros.until(lambda: ros.probe.count_publishers('/a/changed'), 'the remapped topic')
    code, log = running.end(signal.SIGINT)
    assert code == 0, log


def test_container_that_is_interrupted_while_it_loads_ends(ros, container) -> None:
    running = container('others_nodes:Slow')
    ros.until(lambda: '/ComponentManager' in ros.names(), 'the container')
    assert running.end(signal.SIGINT)[0] in (0, -signal.SIGINT)


def cpu_seconds(pid: int) -> float:
    """Return the time that a process has had on the processors so far."""
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


@pytest.mark.skipif(not Path('/proc/self/stat').exists(), reason='there is no /proc')
def test_idle_node_beside_a_stream_of_images_hardly_needs_the_processor(
    ros, launched, weights_of_all, record_property
) -> None:
    import numpy as np
    from sensor_msgs.msg import Image

    node = launched('-m', 'kpfeat_ros.extractor_node', *weights_of_all)
    ros.until(lambda: ros.probe.count_publishers('/features'), 'the node')
    camera = ros.probe.create_publisher(Image, 'image', 10)
    image = ros.image(np.zeros((480, 640, 3), np.uint8))
    timer = ros.probe.create_timer(1 / 30, lambda: camera.publish(image))
    ros.spin(0.5)  # the end of its start
    before, begin = cpu_seconds(node.process.pid), time.monotonic()
    ros.spin(3.0)
    share = (cpu_seconds(node.process.pid) - before) / (time.monotonic() - begin)
    timer.cancel()
    assert node.end(signal.SIGTERM)[0] == 0
    record_property('cpu_percent', 100 * share)
    print(f'idle: {100 * share:.1f} % of one core')
    assert share < 0.013  # receiving and dropping them takes twice that
