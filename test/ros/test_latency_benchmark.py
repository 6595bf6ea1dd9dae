"""The benchmark of latency as a user runs it, with nodes over real DDS and very few images."""

import json
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest

SMALL = ['--sizes', '64x48', '--keypoints', '50', '--device', 'cpu', '--rate', '20']
SCRIPT = 'benchmarks/latency.py'


@pytest.fixture
def command(ros_context, weights_file) -> list[str]:
    """Return how the benchmark is started, with a model that nobody trained."""
    return [sys.executable, SCRIPT, *SMALL, '--weights', weights_file]


def nodes_with(text: str) -> list[Path]:
    """Return the running processes whose command line holds a text."""
    found = []
    for file in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            if text.encode() in file.read_bytes():
                found.append(file.parent)
        except OSError:  # it has just ended
            continue
    return found


def test_parts_of_the_latency_are_no_more_than_the_whole(command, repository, tmp_path) -> None:
    out = tmp_path / 'latency.jsonl'
    done = subprocess.run(
        # one image: medians of several need not add up
        [*command, '--frames', '1', '--out', str(out), '--markdown'],
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '| milliseconds | 64x48, separate | 64x48, composed |' in done.stdout
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line['arrangement'] for line in lines] == ['separate', 'composed']
    for line in lines:
        parts, total = line['parts_ms'], line['features_ms']['median']
        assert sum(parts.values()) == pytest.approx(total)
        inside = ('decode', 'transfer', 'network', 'detect', 'describe')
        assert all(parts[name] > 0 for name in inside)
        # what is left over is rounded, in diagnostics, to hundredths
        assert parts['image to the worker'] > -0.1
        assert parts['rest of extract'] > -0.1
        assert sum(parts[name] for name in inside) < total
        assert line['received'] == 1
        assert 0 < line['overhead_of_same_images_ms'] < total < line['matches_ms']['median'] * 1.5
        assert line['extract_alone_ms']['median'] > 0
        assert {'commit', 'load_average', 'rmw'} <= set(line)


def test_ctrl_c_stops_everything_that_was_started(command, repository, weights_file) -> None:
    process = subprocess.Popen(
        [*command, '--frames', '10000'], cwd=repository, stdout=subprocess.PIPE, text=True
    )
    while process.poll() is None and len(nodes_with(weights_file)) < 2:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130
    assert 'interrupted; all nodes are stopped' in output
    assert nodes_with(weights_file) == []


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['--sizes', 'full'], 'expected WIDTHxHEIGHT'),
        (['--arrangements', 'stacked'], "arrangement is 'stacked', expected separate or composed"),
    ],
)
def test_mistakes_are_said_in_a_sentence(command, repository, arguments, sentence) -> None:
    done = subprocess.run([*command, *arguments], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 2
    assert 'error: ' in done.stdout
    assert sentence in done.stdout.replace('\n', ' ')
    assert 'Traceback' not in done.stdout + done.stderr


def test_without_ros_it_says_what_to_do(repository) -> None:
    program = (
        'import runpy, sys\n'
        "sys.modules['rclpy'] = None\n"
        "sys.path.insert(0, 'benchmarks')\n"
        f'sys.argv = [{SCRIPT!r}]\n'
        f"runpy.run_path({SCRIPT!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, '-c', program], cwd=repository, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert 'rclpy' in done.stdout
    assert 'source' in done.stdout
