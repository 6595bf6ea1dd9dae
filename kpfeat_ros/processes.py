"""Processes that are started and stopped together; free of ROS."""

from collections.abc import Sequence
import signal
import subprocess
import time

# Ctrl-C, `kill`, and a terminal or ssh connection that is closed
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOP_TIMEOUT_S = 10.0  # on a busy machine a node may take more than five


def run_processes(commands: Sequence[Sequence[str]]) -> int:
    """
    Run commands until a signal of ENDING, or until one of them ends; then stop the others.

    Gives 0 if all ended well, else the code of the one that ended first.
    """
    asked: list[int] = []  # signals that came; a second one must not cut the stopping short
    heeded = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]  # nohup
    before = {number: signal.signal(number, lambda got, _: asked.append(got)) for number in heeded}
    # each in a session of its own: Ctrl-C reaches them once, from here, not twice
    processes = [subprocess.Popen(command, start_new_session=True) for command in commands]
    while not asked and all(process.poll() is None for process in processes):
        time.sleep(0.05)
    first = next((code for code in (p.poll() for p in processes) if code is not None), 0)
    codes = stop_processes(processes)
    for number, handler in before.items():
        signal.signal(number, handler)
    return first or next((code for code in codes if code), 0)


def stop_processes(processes: Sequence[subprocess.Popen]) -> list[int]:
    """Interrupt, then kill what has not ended in time; gives the exit codes."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.send_signal(signal.SIGINT)
    for process in running:
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
    return [process.wait() for process in processes]
