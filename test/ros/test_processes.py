"""Processes that belong together: one ends, is interrupted or hangs, and no other stays."""

import signal
import subprocess
import sys

from kpfeat_ros import bringup as processes
from kpfeat_ros.bringup import interrupted_later
import pytest

POLITE = [
    sys.executable,
    '-c',
    'import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: pass',
]


def test_end_of_one_process_stops_the_others_and_its_code_is_returned() -> None:
    assert processes.run_processes([[sys.executable, '-c', 'exit(3)'], POLITE]) == 3


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


def run_one_that_signals(number: int, *before: str, ignores: tuple[int, ...] = ()) -> int:
    """Return the code of a program that runs a process which interrupts it, or 3 at last."""

    def heed() -> None:  # these tests may themselves have been started with nohup
        for each in (signal.SIGHUP, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN if each in ignores else signal.SIG_DFL)

    child = [sys.executable, '-c', SIGNALS_ITS_PARENT, str(int(number))]
    command = [*before, sys.executable, '-c', RUNS_ONE, *child]
    return subprocess.run(command, capture_output=True, check=False, preexec_fn=heed).returncode


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_process_is_interrupted_when_its_parent_is_told_to_end(number) -> None:
    assert run_one_that_signals(number) == 0


def test_process_is_interrupted_also_where_its_parent_ignores_that() -> None:
    assert run_one_that_signals(signal.SIGTERM, ignores=(signal.SIGINT,)) == 0


def test_processes_started_with_nohup_outlive_the_terminal() -> None:
    assert run_one_that_signals(signal.SIGHUP, 'nohup') == 3


def test_process_that_ignores_the_interrupt_is_killed(monkeypatch) -> None:
    monkeypatch.setattr(processes, 'STOP_TIMEOUT_S', 0.2)
    code = (
        'import signal, time; signal.signal(2, signal.SIG_IGN)\n'
        'print(1, flush=True); time.sleep(60)'
    )
    process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b'1\n'
    assert processes.stop_processes([process]) == [-signal.SIGKILL]
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
