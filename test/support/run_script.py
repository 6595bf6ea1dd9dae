"""A script of training/ in the process of a test."""

from pathlib import Path
import runpy
import sys
from typing import NamedTuple

import pytest

FOLDER = Path(__file__).resolve().parents[2] / 'training'


class Ended(NamedTuple):
    """How a script ended: its exit code, and what it said when it ended with a mistake."""

    code: int
    error: str


def run_script(name, *words) -> Ended:
    """Run a script with these words as its command line would."""
    path = str(FOLDER / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [path, *map(str, words)])
        try:
            runpy.run_path(path, run_name='__main__')
        except SystemExit as ended:
            code = ended.code or 0
            return Ended(code, '') if isinstance(code, int) else Ended(1, code)
    return Ended(0, '')


def load_script(name) -> dict:
    """Return the functions of a script."""
    return runpy.run_path(str(FOLDER / name))
