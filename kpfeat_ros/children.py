"""Node processes that end with the program that started them; free of ROS."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
import signal
import subprocess

from kpfeat_core.errors import KpfeatError

from .bringup import NodePlan
from .processes import ENDING, stop_processes

USER_ERROR = 2  # what a node ends with if the user asked for the impossible


class NodeEndedError(KpfeatError):
    """A node process that ended although nobody stopped it; `code` is its exit code."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


@contextmanager
def interrupted_later() -> Iterator[None]:
    """Let signals that end a program wait: one inside Popen would lose the process it started."""
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in ENDING}
    heeded = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in heeded:
        signal.signal(number, lambda got, _: came.append(got))
    try:
        yield
    finally:
        for number, handler in heeded.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


class Children:
    """
    Processes of nodes, each with a log file; a context manager that stops what still runs.

    Each is in a session of its own, so that Ctrl-C reaches them from here only, and in order.
    """

    def __init__(self, log_folder: Path) -> None:
        self._folder = log_folder
        self._running: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> 'Children':
        return self

    def __exit__(self, *error: object) -> None:
        stop_processes(list(self._running.values()))

    def start(self, plan: NodePlan) -> None:
        """Start the process of a node; from the main thread."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with self.log(plan.name).open('wb') as log, interrupted_later():
            self._running[plan.name] = subprocess.Popen(
                plan.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def log(self, name: str) -> Path:
        """Return the file with all that a node wrote."""
        return self._folder / f'{name}.log'

    def check(self) -> None:
        """Raise NodeEndedError if a process has ended by itself, with the last it had to say."""
        for name, process in self._running.items():
            code = process.poll()
            if code is None:
                continue
            said = last_line(self.log(name))
            if code == USER_ERROR and said.startswith('error: '):
                raise NodeEndedError(f'the {name} node says: {said.removeprefix("error: ")}', code)
            how = f'was killed by signal {-code}' if code < 0 else f'ended with code {code}'
            raise NodeEndedError(
                f"the {name} node {how}; its last words: '{said}'; all of them: {self.log(name)}",
                code,
            )


def last_line(log: Path) -> str:
    """Return the last line of a log that is not empty; '' if there is none."""
    lines = log.read_text(errors='replace').splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), '')
