"""The demo as a user runs it: real processes over real DDS, and every way it can fail."""

import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple

import cv2
from kpfeat_core.errors import ConfigError
from kpfeat_core.image import read_image, write_image
from kpfeat_ros.demo import large_images, main, parse, plan_demo
import numpy as np
import pytest
import ros_forks

SMALL = ['--size', '160x120', '--max-keypoints', '100', '--device', 'cpu']


class Done(NamedTuple):
    """A demo that has ended: its exit code and what it printed."""

    returncode: int
    stdout: str


class Demo:
    """Runs the demo; nodes are forks as well, unless it is real: then all is as users start it."""

    def __init__(self, forks, folder: Path, weights: str) -> None:
        self._forks, self._folder = forks, folder
        self._given = [*SMALL, '--weights', weights, '--out', str(folder / 'out')]
        self._given += ['--domain-id', os.environ['ROS_DOMAIN_ID']]

    def start(self, *arguments: str, prepare: str = '', real: bool = False) -> Any:
        """Start it; prepare: Python statements that run before."""
        program = f'from kpfeat_ros import bringup, demo\nimport sys, __main__\n{prepare}\n'
        if not real:
            program += 'bringup.start_process = __main__.start\n'
        program += f'sys.exit(demo.main({[*self._given, *arguments]!r}))'
        with (self._folder / 'log').open('wb') as log:
            start = subprocess.Popen if real else self._forks
            return start([sys.executable, '-c', program], stdout=log, stderr=subprocess.STDOUT)

    def run(self, *arguments: str, **options: Any) -> Done:
        """Run it to its end."""
        code = self.start(*arguments, **options).wait()
        return Done(code, self.log())

    def log(self) -> str:
        return (self._folder / 'log').read_text()


@pytest.fixture
def demo(tmp_path, forks, weights_file) -> Demo:
    return Demo(forks, tmp_path, weights_file)


def value(text: str, name: str) -> str:
    """Return the value beside a name in the printed table."""
    return re.search(rf'{re.escape(name)}\s+│\s+(.+?)\s+│', text).group(1)


def error_of(done: Done) -> str:
    """Return the only line of an error."""
    assert 'Traceback' not in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith('error: ')]
    return line


def test_virtual_camera_gives_numbers_pictures_and_accuracy(demo, tmp_path) -> None:
    done = demo.run('--seconds', '1', real=True)
    assert done.returncode == 0, done.stdout
    assert int(value(done.stdout, 'pairs matched')) >= 3
    assert float(value(done.stdout, 'rate').removesuffix(' Hz')) > 1
    assert 'median' in value(done.stdout, 'latency, image stamp to matches')
    assert int(value(done.stdout, 'keypoints of an image')) == 100
    share = float(value(done.stdout, 'matches within 3 px of the truth').removesuffix('%'))
    assert 0 < share <= 100
    assert read_image(tmp_path / 'out/keypoints.png').shape == (120, 160, 3)
    assert read_image(tmp_path / 'out/matches.png').shape[0] == 120
    found, frame = cv2.VideoCapture(str(tmp_path / 'out/matches.mp4')).read()
    assert found
    assert frame.shape[0] == 120
    for name in ('keypoints.png', 'matches.png', 'matches.mp4'):
        assert f'wrote {tmp_path / "out" / name}' in done.stdout


def test_folder_of_images_is_shown_without_a_truth(demo, tmp_path, photo) -> None:
    gray = np.repeat(photo[..., :1], 3, axis=2)
    write_image(tmp_path / '2024' / 'a.png', gray)
    done = demo.run('--seconds', '0.5', '--images', str(tmp_path / '2024'))
    assert done.returncode == 0, done.stdout
    assert int(value(done.stdout, 'matches of a pair')) > 50
    assert 'truth' not in done.stdout
    picture = read_image(tmp_path / 'out/keypoints.png').astype(int)
    assert (picture.max(2) - picture.min(2) > 60).sum() > 100  # colours come from drawing only


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['--images', '/there/is/none'], "there is no folder '/there/is/none'"),
        (['--video', 'none.mp4'], "there is no video 'none.mp4'"),
        (['--model', 'sift2000'], "there is no model 'sift2000'"),
        (['--weights', 'none.safetensors'], 'none.safetensors'),
        (['--seconds', '0'], 'seconds is 0.0, expected at least 0.5'),
        (['--size', 'full'], 'size is full, expected WIDTHxHEIGHT'),
    ],
)
def test_mistakes_are_said_before_any_node_starts(
    ros_context, weights_file, tmp_path, capsys, arguments, sentence
) -> None:
    given = [*SMALL, '--weights', weights_file, '--out', str(tmp_path / 'out'), *arguments]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ')
    assert sentence in error
    assert not (tmp_path / 'out').exists()


def test_node_that_refuses_says_why_through_the_demo(demo) -> None:
    done = demo.run('--device', 'cuda:77')
    assert done.returncode == 2
    assert "the extractor node says: device 'cuda:77' is not there" in error_of(done)


def test_node_that_dies_fails_the_demo_and_names_its_log(demo, tmp_path) -> None:
    kill = (
        'import threading, subprocess\n'
        'starts = bringup.ProcessGroup.start\n'
        'def start(self, plan):\n'
        '    starts(self, plan)\n'
        "    if plan.name == 'matcher': self._running['matcher'].kill()\n"
        'bringup.ProcessGroup.start = start'
    )
    done = demo.run(prepare=kill)
    assert done.returncode == 1
    assert 'the matcher node was killed by signal 9' in error_of(done)
    assert str(tmp_path / 'out/logs/matcher.log') in error_of(done)


def test_demo_without_any_images_fails_in_words(demo) -> None:
    done = demo.run('--rate', '0.001', prepare='demo.FIRST_MATCHES_TIMEOUT_S = 2.0')
    assert done.returncode == 1
    assert 'waited 2 s in vain: no matches; the camera says: ' in error_of(done)
    assert "nothing received on '/camera/image_raw'" in error_of(done)


def test_ctrl_c_stops_all_nodes(demo, tmp_path) -> None:
    process = demo.start('--seconds', '60')
    while process.poll() is None and not (tmp_path / 'out/logs/camera.log').exists():
        time.sleep(0.02)  # the last node to start
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert demo.log().splitlines()[-1] == 'interrupted; all nodes are stopped'
    assert 'Traceback' not in demo.log()
    assert ros_forks.running() == []


def test_names_that_look_like_numbers_reach_the_nodes_as_texts() -> None:
    options, source = parse(['--images', '2024', '--model', '7'])
    camera, nodes = plan_demo(options, source)
    assert camera.parameters['images'] == '"2024"'
    assert nodes[0].parameters['model'] == '"7"'
    assert nodes[0].parameters['max_num_keypoints'] == '1024'
    assert nodes[0].remappings == {'image': '/camera/image_raw'}


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match='domain_id is 1000'):
        parse(['--domain-id', '1000'])


def test_fast_dds_gets_room_for_images_under_the_name_its_release_knows() -> None:
    jazzy, kilted = (large_images({'ROS_DISTRO': name}) for name in ('jazzy', 'kilted'))
    assert list(jazzy) == ['FASTRTPS_DEFAULT_PROFILES_FILE']
    assert list(kilted) == ['FASTDDS_DEFAULT_PROFILES_FILE']
    assert Path(*jazzy.values()).is_file()


def test_settings_of_fast_dds_that_the_user_made_stay() -> None:
    assert large_images({'FASTDDS_DEFAULT_PROFILES_FILE': 'mine.xml'}) == {}


def test_missing_ros_is_said_in_words(monkeypatch, capsys) -> None:
    monkeypatch.setattr('kpfeat_core.runtime.find_spec', lambda name: None)
    assert main([]) == 2
    error = capsys.readouterr().err
    assert "error: the Python module 'rclpy' is missing: source a ROS 2 workspace" in error
