"""
Processes of nodes that start at once: forks of a server that has imported everything already.

Python with torch and rclpy takes seconds to import. `ForkServer` runs this file once, and each
`start` forks it, as if `python -m MODULE` or `python -c CODE` had been started.
"""

from contextlib import suppress
import gc
import importlib
import json
import os
from pathlib import Path
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from typing import Any

MODULES = ('bringup', 'camera_node', 'container', 'demo', 'extractor_node', 'matcher_node')
MODULES += ('observer', 'overlay_node')
SOCKET = 'KPFEAT_TEST_FORKS'  # variable with the address of the server


class Forked:
    """A process that the server started, with what tests use of subprocess.Popen."""

    def __init__(self, pid: int) -> None:
        self.pid, self.returncode = pid, None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = ask(poll=self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired(f'process {self.pid}', timeout)
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def ask(**request: Any) -> Any:
    """Send a request to the server and return its answer."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(os.environ[SOCKET])
        with client.makefile('rw') as stream:
            print(json.dumps(request), file=stream, flush=True)
            return json.loads(stream.readline())


def start(command: list[str], stdout: Any = None, env: Any = None, **_: Any) -> Forked:
    """Start a command, [sys.executable, '-m' or '-c', ...]; stdout: an open file, stderr too."""
    variables = dict(os.environ if env is None else env)
    out = os.devnull if stdout is None else str(Path(stdout.name).absolute())
    return Forked(ask(start=list(command[1:]), out=out, env=variables, cwd=os.getcwd()))


def running() -> list[int]:
    """Return the processes that were started and have not ended."""
    return ask(running=True)


class ForkServer:
    """The server, for as long as it is open."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        os.environ[SOCKET] = f'{self._folder.name}/socket'
        # it ends when this pipe does
        self._process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE)
        while not os.path.exists(os.environ[SOCKET]):
            assert self._process.poll() is None, 'the fork server has ended'
            time.sleep(0.02)

    def close(self) -> None:
        self._process.communicate()
        self._folder.cleanup()


def serve(listener: socket.socket) -> dict | None:
    """Answer requests until stdin ends; in a fork, return what it is to do."""
    codes: dict[int, int | None] = {}
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            for pid in [pid for pid, code in codes.items() if code is None]:
                os.kill(pid, signal.SIGKILL)  # ours, and not waited for: it exists
            return None
        client, _ = listener.accept()
        with suppress(OSError, ValueError), client, client.makefile('rw') as stream:
            request = json.loads(stream.readline())  # a client may be interrupted at any time
            for pid in [pid for pid, code in codes.items() if code is None]:
                ended, status = os.waitpid(pid, os.WNOHANG)
                codes[pid] = os.waitstatus_to_exitcode(status) if ended else None
            if 'poll' in request:
                answer = codes[request['poll']]
            elif 'running' in request:
                answer = [pid for pid, code in codes.items() if code is None]
            else:
                answer = os.fork()
                if not answer:
                    return request
                codes[answer] = None
            print(json.dumps(answer), file=stream, flush=True)


def run(request: dict) -> None:
    """Take over streams, variables and arguments, and do what the command would."""
    os.setsid()
    out = os.open(request['out'], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(out, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(request['env'])
    os.chdir(request['cwd'])
    flag, target, *arguments = request['start']
    sys.argv = [target if flag == '-m' else '-c', *arguments]
    sys.path[0] = request['cwd']
    sys.path[1:1] = [p for p in os.environ.get('PYTHONPATH', '').split(':') if p not in sys.path]
    try:
        if flag == '-m':
            sys.exit(importlib.import_module(target).main())
        exec(target, {'__name__': '__main__'})
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # to take all that was imported apart costs more than the rest


if __name__ == '__main__':
    for name in MODULES:
        importlib.import_module(f'kpfeat_ros.{name}')
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.environ[SOCKET] + '.new')
    server.listen(64)
    os.rename(os.environ[SOCKET] + '.new', os.environ[SOCKET])
    gc.collect()
    gc.freeze()  # forks share these pages
    wanted = serve(server)
    server.close()
    if wanted is not None:
        run(wanted)
