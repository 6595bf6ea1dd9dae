"""Long commands, told in short lines: what runs, how long, and in one sentence why it failed."""

import os
from pathlib import Path
import re
import subprocess
import sys
import threading
import time

HEARTBEAT_S = 20.0  # between lines where the output is no terminal

# What the log of a failed command shows -> what the user should know; the first that is found.
NO_PACKAGE = (
    "there is no package '{0}' for this Python, or the package index cannot be reached: "
    'check the network'
)
REASONS = (
    (r'Could not find a version that satisfies the requirement (\S+)', NO_PACKAGE),
    (r'No matching distribution found for (\S+)', NO_PACKAGE),
    (r'No space left on device|not enough free space', 'the disk is full'),
    (
        r'Temporary failure (?:in name resolution|resolving)|Network is unreachable'
        r'|NewConnectionError|NameResolutionError|Connection refused|Could not connect',
        'the network cannot be reached',
    ),
    (r'Unable to locate package (\S+)', "apt-get knows no package '{0}'"),
    (r"Package '(\S+)' has no installation candidate", "apt-get knows no package '{0}'"),
    (r'Permission denied|are you root|a password is required', 'the rights to do so are missing'),
)


class StepError(Exception):
    """A step failed; the text is one sentence for the user."""


def say(text: str) -> None:
    """Print one line of progress."""
    print(f'kpfeat: {text}', flush=True)


def explain(log_text: str) -> str:
    """Return why a command failed as far as its output shows; '' if it does not."""
    for pattern, sentence in REASONS:
        found = re.search(pattern, log_text)
        if found:
            return sentence.format(*(group for group in found.groups() if group))
    return ''


def run_logged(
    title: str, command: 'list[str]', log: Path, variables: 'dict[str, str] | None' = None
) -> None:
    """
    Run a command with its output in a log file and its progress on the screen.

    Raises StepError with the reason that the output shows, and where to read on.
    """
    say(f'{title} ...')
    start = time.monotonic()
    with log.open('ab') as file:
        begin = file.tell()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=variables,
        )
        done = threading.Event()
        watcher = threading.Thread(target=_watch, args=(log, begin, start, done), daemon=True)
        watcher.start()
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            done.set()
            watcher.join()
    if code:
        reason = explain(_tail(log, begin)) or f'{Path(command[0]).name} gave up'
        raise StepError(f'{title} failed: {reason}; all of its output is in {log}')
    say(f'    done in {time.monotonic() - start:.0f} s')


def _tail(log: Path, begin: int) -> str:
    with log.open('rb') as file:
        file.seek(begin)
        return file.read().decode(errors='replace')


def _watch(log: Path, begin: int, start: float, done: threading.Event) -> None:
    """Show time and newest line of the log until done; in place on a terminal."""
    terminal = sys.stdout.isatty()
    while not done.wait(0.5 if terminal else HEARTBEAT_S):
        lines = _tail(log, begin).replace('\r', '\n').split('\n')
        newest = next((line.strip() for line in reversed(lines) if line.strip()), '')
        text = f'    {time.monotonic() - start:4.0f} s  {newest}'
        if terminal:
            width = os.get_terminal_size().columns - 1
            print(f'\r\033[K{text[:width]}', end='', flush=True)
        else:
            print(text[:99], flush=True)
    if terminal:
        print('\r\033[K', end='', flush=True)
