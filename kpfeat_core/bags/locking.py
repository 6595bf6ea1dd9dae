"""One run at a time where results are written."""

from contextlib import suppress
import fcntl
import os
from pathlib import Path
from typing import TextIO

from ..errors import DataError


class InUseError(DataError):
    """Another process is at work on the same output."""


def lock(path: Path) -> TextIO:
    """
    Open a file to read and append, which is locked until it is closed or the process ends.

    The folder is made where it is missing. Whoever holds the lock may delete the file. Raises
    InUseError where another process holds it.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open('a+', encoding='utf-8')
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise InUseError(
                f"another run is writing to '{path.parent}'; wait for it, or choose another --out"
            ) from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # it was deleted after it was opened: the lock of it keeps nobody out
