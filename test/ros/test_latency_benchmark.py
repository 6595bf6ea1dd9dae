"""The benchmark of latency as a user runs it, with nodes over real DDS and very few images."""

import json
from pathlib import Path
import signal
import sys
import time

import pytest
import ros_forks

SCRIPT = 'benchmarks/latency.py'
SMALL = ['--sizes', '64x48', '--keypoints', '50', '--device', 'cpu', '--rate', '20']


class Benchmark:
    """Runs the script, with a model that nobody trained; the nodes it starts are forks as well."""

    def __init__(self, forks, log: Path, weights: str) -> None:
        self._forks, self._log = forks, log
        self._given = [SCRIPT, *SMALL, '--weights', weights]

    def start(self, *arguments: str, hidden: str = '') -> ros_forks.Forked:
        """Start it; hidden: modules that it does not find."""
        program = (
            f'import runpy, sys, __main__\nsys.path.insert(0, "benchmarks")\n'
            f'from kpfeat_ros import bringup\nbringup.start_process = __main__.start\n'
            f'sys.modules.update(dict.fromkeys({hidden.split()!r}))\n'
            f'sys.argv = {[*self._given, *arguments]!r}\n'
            f"runpy.run_path({SCRIPT!r}, run_name='__main__')"
        )
        with self._log.open('wb') as log:
            return self._forks([sys.executable, '-c', program], stdout=log)

    def said(self) -> str:
        return self._log.read_text()


@pytest.fixture
def benchmark(forks, tmp_path, weights_file, repository, monkeypatch) -> Benchmark:
    monkeypatch.chdir(repository)
    return Benchmark(forks, tmp_path / 'log', weights_file)


def test_parts_of_the_latency_are_no_more_than_the_whole(benchmark, tmp_path) -> None:
    out = tmp_path / 'latency.jsonl'
    # one image: medians of several need not add up
    process = benchmark.start('--frames', '1', '--out', str(out), '--markdown')
    assert process.wait() == 0, benchmark.said()
    assert '| milliseconds | 64x48, separate | 64x48, composed |' in benchmark.said()
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


def test_ctrl_c_stops_everything_that_was_started(benchmark) -> None:
    process = benchmark.start('--frames', '10000')
    while process.poll() is None and len(ros_forks.running()) < 3:  # itself and two nodes
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert 'interrupted; all nodes are stopped' in benchmark.said()
    assert ros_forks.running() == []


@pytest.mark.parametrize(
    ('arguments', 'hidden', 'words'),
    [
        (['--sizes', 'full'], '', ['error: ', 'expected WIDTHxHEIGHT']),
        (['--arrangements', 'stacked'], '', ["'stacked', expected separate or composed"]),
        ([], 'rclpy', ['rclpy', 'source']),
    ],
)
def test_mistakes_are_said_in_a_sentence(benchmark, arguments, hidden, words) -> None:
    assert benchmark.start(*arguments, hidden=hidden).wait(60) == 2
    said = benchmark.said().replace('\n', ' ')
    assert all(word in said for word in words), said
    assert 'Traceback' not in said
