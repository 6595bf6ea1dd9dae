"""The demo as a user runs it: real processes over real DDS, and every way it can fail."""

import importlib.util
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import time

import cv2
from kpfeat_core.errors import ConfigError
from kpfeat_core.image import read_image, write_image
from kpfeat_ros.demo import large_images, main, parse, plan_demo
import numpy as np
import pytest

SMALL = ['--size', '160x120', '--max-keypoints', '100', '--device', 'cpu']


@pytest.fixture
def demo(tmp_path, repository, weights_file, ros_context):
    """Run the demo to its end; prepare: Python statements that run before."""

    def run(*arguments: str, prepare: str = '') -> subprocess.CompletedProcess:
        return subprocess.run(
            command(tmp_path, weights_file, arguments, prepare),
            capture_output=True,
            text=True,
            cwd=repository,
        )

    return run


def command(out: Path, weights: str, arguments, prepare: str = '') -> list[str]:
    given = [*SMALL, '--weights', weights, '--out', str(out / 'out')]
    given += ['--domain-id', os.environ['ROS_DOMAIN_ID'], *arguments]
    program = f'from kpfeat_ros import demo\n{prepare}\nimport sys\nsys.exit(demo.main({given!r}))'
    return [sys.executable, '-c', program]


def value(text: str, name: str) -> str:
    """Return the value beside a name in the printed table."""
    return re.search(rf'{re.escape(name)}\s+│\s+(.+?)\s+│', text).group(1)


def error_of(done: subprocess.CompletedProcess) -> str:
    """Return the only line on stderr."""
    assert done.stdout.count('Traceback') == done.stderr.count('Traceback') == 0
    lines = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_virtual_camera_gives_numbers_pictures_and_accuracy(demo, tmp_path) -> None:
    done = demo('--seconds', '2')
    assert done.returncode == 0, done.stderr
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
    done = demo('--seconds', '1', '--images', str(tmp_path / '2024'))
    assert done.returncode == 0, done.stderr
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
    done = demo('--device', 'cuda:77')
    assert done.returncode == 2
    assert "the extractor node says: device 'cuda:77' is not there" in error_of(done)


def test_node_that_dies_fails_the_demo_and_names_its_log(demo, tmp_path) -> None:
    kill = (
        'import threading, subprocess\n'
        'starts = demo.ProcessGroup.start\n'
        'def start(self, plan):\n'
        '    starts(self, plan)\n'
        "    if plan.name == 'matcher': self._running['matcher'].kill()\n"
        'demo.ProcessGroup.start = start'
    )
    done = demo(prepare=kill)
    assert done.returncode == 1
    assert 'the matcher node was killed by signal 9' in error_of(done)
    assert str(tmp_path / 'out/logs/matcher.log') in error_of(done)


def test_demo_without_any_images_fails_in_words(demo) -> None:
    done = demo('--rate', '0.001', prepare='demo.FIRST_MATCHES_TIMEOUT_S = 2.0')
    assert done.returncode == 1
    assert 'waited 2 s in vain: no matches; the camera says: ' in error_of(done)
    assert "nothing received on '/camera/image_raw'" in error_of(done)


def test_ctrl_c_stops_all_nodes(ros_context, tmp_path, repository, weights_file) -> None:
    words = command(tmp_path, weights_file, ['--seconds', '60'])
    process = subprocess.Popen(
        words, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    log = tmp_path / 'out/logs/camera.log'  # the last node to start
    while process.poll() is None and not log.exists():
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.splitlines()[-1] == 'interrupted; all nodes are stopped'
    assert 'Traceback' not in errors
    assert nodes_with(weights_file) == []


def nodes_with(text: str) -> list[str]:
    """Return the command lines of running processes that hold a text."""
    found = []
    for file in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            line = file.read_bytes().replace(b'\0', b' ').decode(errors='replace')
        except OSError:  # it has just ended
            continue
        if text in line:
            found.append(line)
    return found


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
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name: None if name == 'rclpy' else find(name)
    )
    assert main([]) == 2
    assert (
        "error: the Python module 'rclpy' is missing; run `make demo`" in capsys.readouterr().err
    )
