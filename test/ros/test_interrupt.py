"""A node process ends when it is told to, also while its network is at work."""

import signal
import subprocess
import sys

import pytest

WAIT_S = 60.0

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
    'in one C++ call': 'torch.linalg.svd(torch.rand(4000, 4000, dtype=torch.float64))',
    'in many C++ calls': 'while True: torch.rand(300, 300) @ torch.rand(300, 300)',
    'in Python': 'while True: pass',
}


@pytest.fixture
def busy(ros, weights_file, photo, tmp_path):
    """Start an extractor process that never ends its first image; gives process and log."""
    from kpfeat.msg import Features

    processes = []

    def started(work: str, *arguments: str):
        log = tmp_path / 'log'
        command = [sys.executable, '-c', BUSY.format(work=WORK[work]), '--ros-args']
        command += ['-p', f'weights:={weights_file}', '-p', 'device:=cpu', *arguments]
        with log.open('wb') as file:
            processes.append(subprocess.Popen(command, stdout=file, stderr=file))
        ros.listen(Features, 'features')
        camera = ros.camera()

        def is_at_work() -> bool:
            camera.publish(ros.image(photo))
            return 'at work' in log.read_text()

        ros.until(is_at_work, 'the first image at work')
        return processes[0], log

    yield started
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize('work', WORK)
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_interrupt_in_mid_inference_is_a_clean_end(busy, work, number) -> None:
    process, log = busy(work)
    process.send_signal(number)
    assert process.wait(WAIT_S) == 0, log.read_text()
    assert 'Traceback' not in log.read_text()


def test_deactivation_in_mid_inference_does_not_wait_for_it(ros, busy) -> None:
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState, GetState

    process, _ = busy('waiting')
    for label in ('deactivate', 'cleanup', 'configure', 'activate'):
        wanted = Transition(label=label)
        assert ros.call(ChangeState, '/extractor/change_state', transition=wanted).success
    assert ros.call(GetState, '/extractor/get_state').current_state.label == 'active'
    assert process.poll() is None
